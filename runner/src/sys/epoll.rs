//! An epoll set.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// How many events one [`Epoll::wait`] takes at most.
const BATCH: usize = 512;

/// An epoll set; each descriptor in it has a token of the caller's choice.
pub(crate) struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: epoll_create1 takes no pointers.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the kernel has just made `fd` for this caller; nothing else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, events: vec![libc::epoll_event { events: 0, u64: 0 }; BATCH] })
    }

    fn control(&self, how: libc::c_int, fd: BorrowedFd<'_>, interest: i32, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest as u32, u64: token };
        // SAFETY: `event` is valid for the call, which copies it.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), how, fd.as_raw_fd(), &raw mut event) }).map(drop)
    }

    /// Adds `fd`. Errors and hang-ups are reported whatever the interest is.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, interest: i32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, interest, token)
    }

    /// Waits and returns the tokens that are ready, with their events; -1 waits for ever.
    /// A signal counts as "nothing yet".
    pub(crate) fn wait(&mut self, timeout_ms: i32) -> io::Result<Vec<(u64, i32)>> {
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

impl std::fmt::Debug for Epoll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Epoll").field(&self.fd).finish()
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
