//! Which parts of the index may be incomplete, and how that is cleared.

use std::os::fd::{AsFd as _, OwnedFd};

use crate::Error;
use crate::prog::run;
use crate::skel::types::{skreap_incomplete_action, skreap_incomplete_update};

/// How much of the index may be incomplete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IncompleteBits {
    /// Bits of backends that lack a membership; backends with the same hash share a bit.
    pub backends: u64,
    /// Sockets of any backend may be missing.
    pub everything: bool,
    /// The bits in [`backends`](Self::backends), current or healed, that include sockets which had
    /// only sent. They stay, because no search can find out which backends a socket has sent to.
    pub sent: u64,
}

impl IncompleteBits {
    /// True if connected sockets may be missing.
    #[must_use]
    pub fn any(&self) -> bool {
        self.everything || self.backends > 0
    }
}

/// Sets incomplete bits, and clears them.
///
/// To clear them: call [`flip`](Self::flip); wait for an RCU grace period, and for the time that a
/// `connect()` may take from its hook to its effect; put every existing socket into the index
/// ([`Bootstrap`](crate::Bootstrap)); if every netns was reached, call [`clear`](Self::clear). Only
/// one thread at a time may do that.
#[derive(Debug)]
pub struct IncompleteWriter {
    program: OwnedFd,
    version: u32,
}

impl IncompleteWriter {
    pub(crate) fn new(program: OwnedFd, version: u32) -> Self {
        Self { program, version }
    }

    /// Starts a new generation: later bits are kept apart from the existing ones.
    ///
    /// # Errors
    /// [`Error::Incomplete`] with the kernel's errno.
    pub fn flip(&self) -> Result<(), Error> {
        self.run(skreap_incomplete_action::SKREAP_INCOMPLETE_FLIP)
    }

    /// Clears the bits that were set before the last flip.
    ///
    /// # Errors
    /// [`Error::Incomplete`] with the kernel's errno.
    pub fn clear(&self) -> Result<(), Error> {
        self.run(skreap_incomplete_action::SKREAP_INCOMPLETE_CLEAR)
    }

    /// Makes everything incomplete: sockets of any backend may be missing.
    ///
    /// # Errors
    /// [`Error::Incomplete`] with the kernel's errno.
    pub fn everything(&self) -> Result<(), Error> {
        self.run(skreap_incomplete_action::SKREAP_INCOMPLETE_SET_ALL)
    }

    fn run(&self, what: skreap_incomplete_action) -> Result<(), Error> {
        let mut ctx =
            skreap_incomplete_update { version: self.version, what, ..skreap_incomplete_update::default() };
        run(self.program.as_fd(), &mut ctx).map_err(Error::Incomplete)
    }
}
