//! What the index does not know completely: marks, and how they are taken back.

use std::os::fd::{AsFd as _, OwnedFd};

use crate::Error;
use crate::skel::types::{skreap_marks, skreap_marks_what};
use crate::walk::run;

/// How much of the index is marked as not known completely.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Marks of backends some membership of which could not be recorded; backends with the same hash share one.
    pub backends: u64,
    /// Sockets of any backend may be missing.
    pub everything: bool,
    /// Those of [`backends`](Self::backends), now or before they were healed, where some of the memberships were of
    /// sockets that had only sent: these stay, since no search can tell whom a socket has sent to.
    pub sent: u64,
}

impl Marks {
    /// True if connected sockets may be missing.
    #[must_use]
    pub fn any(&self) -> bool {
        self.everything || self.backends > 0
    }
}

/// Sets marks, and takes them back.
///
/// To take back: [`turn`](Self::turn); let an RCU grace period pass, and the time that a `connect()` may take from its
/// hook to its effect; put every socket there is into the index ([`Bootstrap`](crate::Bootstrap)); if none was out of
/// reach, [`clear`](Self::clear). One thread at a time may do that.
#[derive(Debug)]
pub struct Marker {
    program: OwnedFd,
    version: u32,
}

impl Marker {
    pub(crate) fn new(program: OwnedFd, version: u32) -> Self {
        Self { program, version }
    }

    /// What is marked from now on is told apart from what is marked already.
    ///
    /// # Errors
    /// [`Error::Mark`] with the kernel's errno.
    pub fn turn(&self) -> Result<(), Error> {
        self.run(skreap_marks_what::SKREAP_MARKS_TURN)
    }

    /// Takes back what was marked before the last turn.
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
        run(self.program.as_fd(), as_bytes(&mut ctx)).map_err(Error::Mark)
    }
}

fn as_bytes(ctx: &mut skreap_marks) -> &mut [u8] {
    // SAFETY: the struct is plain integers without padding (asserted in abi.h), so its bytes may be read; the program
    // writes a number to `error` only, any value of which is one of that integer.
    unsafe { std::slice::from_raw_parts_mut(std::ptr::from_mut(ctx).cast::<u8>(), size_of::<skreap_marks>()) }
}
