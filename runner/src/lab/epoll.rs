//! An epoll set and the eventfd that wakes its thread.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::sys::{check, owned};

/// How many events one [`Epoll::wait`] takes at most.
const BATCH: usize = 512;

/// An epoll set; each descriptor in it has a token of the caller's choice.
pub(super) struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: epoll_create1 takes no pointers.
        let fd = owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        Ok(Self { fd, events: vec![libc::epoll_event { events: 0, u64: 0 }; BATCH] })
    }

    fn control(&self, how: libc::c_int, fd: BorrowedFd<'_>, interest: i32, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest as u32, u64: token };
        // SAFETY: `event` is valid for the call, which copies it.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), how, fd.as_raw_fd(), &raw mut event) }).map(drop)
    }

    /// Adds `fd`. Errors and hang-ups are reported whatever the interest is.
    pub(super) fn add(&self, fd: BorrowedFd<'_>, interest: i32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, interest, token)
    }

    /// Changes the interest in `fd`, and arms a one-shot entry again.
    pub(super) fn modify(&self, fd: BorrowedFd<'_>, interest: i32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, interest, token)
    }

    /// Takes `fd` out. Needed where a duplicate of it may outlive its close.
    pub(super) fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, 0)
    }

    /// Waits and returns the tokens that are ready, with their events; -1 waits for ever.
    /// A signal counts as "nothing yet".
    pub(super) fn wait(&mut self, timeout_ms: i32) -> io::Result<Vec<(u64, i32)>> {
        let room = self.events.len() as libc::c_int;
        // SAFETY: the events are writable for `room` entries.
        let ready = check(unsafe {
            libc::epoll_wait(self.fd.as_raw_fd(), self.events.as_mut_ptr(), room, timeout_ms)
        });
        match ready {
            Ok(ready) => Ok(self
                .events
                .iter()
                .take(ready.unsigned_abs() as usize)
                .map(|event| (event.u64, event.events as i32))
                .collect()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

/// An eventfd: readable from [`Waker::wake`] until [`Waker::clear`].
pub(super) struct Waker(OwnedFd);

impl Waker {
    pub(super) fn new() -> io::Result<Self> {
        let flags = libc::EFD_CLOEXEC | libc::EFD_NONBLOCK;
        // SAFETY: eventfd takes no pointers.
        Ok(Self(owned(unsafe { libc::eventfd(0, flags) })?))
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Makes it readable. It cannot fail but for a full counter, which is readable too.
    pub(super) fn wake(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: pointer and length are those of `one`.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Takes the wake-ups so far.
    pub(super) fn clear(&self) {
        let mut count = [0u8; 8];
        // SAFETY: pointer and length are those of `count`.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}
