//! Marks: the parts of the index that may be incomplete, and how marks are cleared.

use std::os::fd::{AsFd as _, OwnedFd};

use crate::Error;
use crate::prog::run;
use crate::skel::types::{skreap_marks, skreap_marks_what};

/// How much of the index is marked as possibly incomplete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Marks of backends that lack a membership; backends with the same hash share a mark.
    pub backends: u64,
    /// Sockets of any backend may be missing.
    pub everything: bool,
    /// The marks in [`backends`](Self::backends), current or healed, that include sockets which had
    /// only sent. They stay, because no search can find out which backends a socket has sent to.
    pub sent: u64,
}

impl Marks {
    /// True if connected sockets may be missing.
    #[must_use]
    pub fn any(&self) -> bool {
        self.everything || self.backends > 0
    }
}

/// Sets marks, and clears them.
///
/// To clear marks: call [`turn`](Self::turn); wait for an RCU grace period, and for the time that a
/// `connect()` may take from its hook to its effect; put every existing socket into the index
/// ([`Bootstrap`](crate::Bootstrap)); if every netns was reached, call [`clear`](Self::clear). Only
/// one thread at a time may do that.
#[derive(Debug)]
pub struct Marker {
    program: OwnedFd,
    version: u32,
}

impl Marker {
    pub(crate) fn new(program: OwnedFd, version: u32) -> Self {
        Self { program, version }
    }

    /// Starts a new generation: later marks are kept apart from the existing ones.
    ///
    /// # Errors
    /// [`Error::Mark`] with the kernel's errno.
    pub fn turn(&self) -> Result<(), Error> {
        self.run(skreap_marks_what::SKREAP_MARKS_TURN)
    }

    /// Clears the marks that were set before the last turn.
    ///
    /// # Errors
    /// [`Error::Mark`] with the kernel's errno.
    pub fn clear(&self) -> Result<(), Error> {
        self.run(skreap_marks_what::SKREAP_MARKS_CLEAR)
    }

    /// Marks everything: sockets of any backend may be missing.
    ///
    /// # Errors
    /// [`Error::Mark`] with the kernel's errno.
    pub fn everything(&self) -> Result<(), Error> {
        self.run(skreap_marks_what::SKREAP_MARKS_EVERYTHING)
    }

    fn run(&self, what: skreap_marks_what) -> Result<(), Error> {
        let mut ctx = skreap_marks { version: self.version, what, ..skreap_marks::default() };
        run(self.program.as_fd(), &mut ctx).map_err(Error::Mark)
    }
}
