//! Waking threads that wait for input when the service shuts down.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;

/// A signal to stop, given once and seen by all threads. It is a pipe whose write end is closed to
/// give the signal, so a thread can wait for it together with input.
#[derive(Clone, Debug)]
pub struct Stop {
    reader: Arc<io::PipeReader>,
    writer: Arc<Mutex<Option<io::PipeWriter>>>,
}

/// Result of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// There is something to read (or the end of it).
    Readable,
    /// The signal was given.
    Stopped,
}

impl Stop {
    /// A signal not given yet.
    ///
    /// # Errors
    /// The errno of pipe(2).
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        Ok(Self { reader: Arc::new(reader), writer: Arc::new(Mutex::new(Some(writer))) })
    }

    /// Gives the signal.
    pub fn give(&self) {
        drop(self.writer.lock().take());
    }

    /// True once the signal was given.
    #[must_use]
    pub fn given(&self) -> bool {
        self.writer.lock().is_none()
    }

    /// Waits for input or for the signal, whichever comes first; the signal wins.
    ///
    /// # Errors
    /// The errno of poll(2).
    pub fn wait_readable(&self, fd: BorrowedFd<'_>) -> io::Result<Wake> {
        let entry = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = [entry(self.reader.as_fd()), entry(fd)];
        loop {
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) => {
                    let stopped = fds[0].revents().is_some_and(|events| !events.is_empty());
                    return Ok(if stopped { Wake::Stopped } else { Wake::Readable });
                }
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Waits for that long, or until the signal is given.
    pub fn pause(&self, time: Duration) {
        let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        // An early end does no harm.
        let _ = poll(&mut [PollFd::new(self.reader.as_fd(), PollFlags::POLLIN)], timeout);
    }
}
