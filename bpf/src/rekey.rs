//! Recording a socket under the peer it really has.

use std::os::fd::{AsFd as _, OwnedFd};

use crate::Error;
use crate::fault::{self, Point};
use crate::prog::run;
use crate::skel::types::{skreap_rekey, skreap_rekeyed};

/// Result for one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rekeyed {
    /// Closed, or not in the index.
    Gone,
    /// Has no peer: a connect is pending or has failed, or the socket was disconnected or
    /// destroyed.
    NoPeer,
    /// Has no peer, and was never recorded by `connect()`.
    OnlySent,
    /// Was recorded under its live peer already.
    Known,
    /// Is recorded under its live peer now.
    Added {
        /// It had only one other membership, so that one is explained: it led to the live peer.
        only: bool,
    },
    /// There is no free node. Its live peer is incomplete.
    NoNode,
}

/// Runs the re-key program.
#[derive(Debug)]
pub struct Rekeyer {
    program: OwnedFd,
    version: u32,
}

impl Rekeyer {
    pub(crate) fn new(program: OwnedFd, version: u32) -> Self {
        Self { program, version }
    }

    /// Records the socket with this cookie under its live peer, if the index has it under other
    /// backends only. Its other memberships stay.
    ///
    /// # Errors
    /// [`Error::Rekey`] with the kernel's errno.
    pub fn rekey(&self, cookie: u64) -> Result<Rekeyed, Error> {
        let mut ctx = skreap_rekey { version: self.version, cookie, ..skreap_rekey::default() };
        fault::at(Point::Rekey).map_err(Error::Rekey)?;
        run(self.program.as_fd(), &mut ctx).map_err(Error::Rekey)?;
        Ok(match ctx.result {
            skreap_rekeyed::SKREAP_REKEY_ADDED => Rekeyed::Added { only: ctx.nodes == 1 },
            skreap_rekeyed::SKREAP_REKEY_KNOWN => Rekeyed::Known,
            skreap_rekeyed::SKREAP_REKEY_NO_PEER => Rekeyed::NoPeer,
            skreap_rekeyed::SKREAP_REKEY_ONLY_SENT => Rekeyed::OnlySent,
            skreap_rekeyed::SKREAP_REKEY_NO_NODE => Rekeyed::NoNode,
            _ => Rekeyed::Gone,
        })
    }
}
