//! An epoll set.

use std::io;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::epoll::{EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// How many events one [`Epoll::wait`] takes at most.
const BATCH: usize = 512;

/// An epoll set; each descriptor in it has a token of the caller's choice.
#[derive(Debug)]
pub(super) struct Epoll {
    set: nix::sys::epoll::Epoll,
    events: Vec<EpollEvent>,
}

impl Epoll {
    pub(super) fn new() -> io::Result<Self> {
        let set = nix::sys::epoll::Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self { set, events: vec![EpollEvent::empty(); BATCH] })
    }

    /// Adds `fd`. Errors and hang-ups are reported whatever the interest is.
    pub(super) fn add(&self, fd: BorrowedFd<'_>, interest: i32, token: u64) -> io::Result<()> {
        Ok(self.set.add(fd, event(interest, token))?)
    }

    /// Changes the interest in `fd`, and arms a one-shot entry again.
    pub(super) fn modify(&self, fd: BorrowedFd<'_>, interest: i32, token: u64) -> io::Result<()> {
        Ok(self.set.modify(fd, &mut event(interest, token))?)
    }

    /// Takes `fd` out. Needed where a duplicate of it may outlive its close.
    pub(super) fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(self.set.delete(fd)?)
    }

    /// Waits and returns the tokens that are ready, with their events; -1 waits for ever.
    /// A signal counts as "nothing yet".
    pub(super) fn wait(&mut self, timeout_ms: i32) -> io::Result<Vec<(u64, i32)>> {
        let timeout = EpollTimeout::try_from(timeout_ms).map_err(|_| io::ErrorKind::InvalidInput)?;
        match self.set.wait(&mut self.events, timeout) {
            Ok(ready) => {
                let ready = self.events.iter().take(ready);
                Ok(ready.map(|event| (event.data(), event.events().bits())).collect())
            }
            Err(Errno::EINTR) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}

fn event(interest: i32, token: u64) -> EpollEvent {
    EpollEvent::new(EpollFlags::from_bits_retain(interest), token)
}
