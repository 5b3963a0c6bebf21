//! How a socket was recorded.

use std::os::fd::{AsFd as _, OwnedFd};

use crate::Error;
use crate::object::failure;
use crate::prog::run;
use crate::skel::types::skreap_sent;

/// What the record of a socket says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is closed, or was never recorded.
    Gone,
    /// It has never sent to an address.
    Never,
    /// It has sent to an address, or has had too many peers to tell.
    Perhaps,
}

/// Runs the program that looks a record up.
#[derive(Debug)]
pub struct SentLooker {
    program: OwnedFd,
    version: u32,
}

impl SentLooker {
    pub(crate) fn new(program: OwnedFd, version: u32) -> Self {
        Self { program, version }
    }

    /// What the record of the socket with this cookie says.
    ///
    /// # Errors
    /// [`Error::Object`] with the kernel's errno.
    pub fn look(&self, cookie: u64) -> Result<Sent, Error> {
        let mut ctx = skreap_sent { version: self.version, cookie, ..skreap_sent::default() };
        run(self.program.as_fd(), &mut ctx).map_err(failure("program skreap_sent"))?;
        Ok(match (ctx.nodes, ctx.sent) {
            (0, _) => Sent::Gone,
            (_, 0) => Sent::Never,
            _ => Sent::Perhaps,
        })
    }
}
