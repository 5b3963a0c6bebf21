//! The eventfd that wakes a thread out of its epoll set.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// An eventfd: readable from [`Waker::wake`] until [`Waker::clear`].
pub(super) struct Waker(EventFd);

impl Waker {
    pub(super) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(EventFd::from_flags(flags)?))
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Makes it readable. It cannot fail but for a full counter, which is readable too.
    pub(super) fn wake(&self) {
        let _ = self.0.write(1);
    }

    /// Takes the wake-ups so far.
    pub(super) fn clear(&self) {
        let _ = self.0.read();
    }
}
