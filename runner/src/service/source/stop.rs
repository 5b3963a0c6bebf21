//! Waking threads that wait for input when the service shuts down.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

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
        let entry =
            |fd: BorrowedFd<'_>| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let mut fds = [entry(self.reader.as_fd()), entry(fd)];
        loop {
            // SAFETY: the array has as many entries as stated, with open descriptors.
            let n = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, -1) };
            if n >= 0 {
                let stopped = fds[0].revents != 0;
                return Ok(if stopped { Wake::Stopped } else { Wake::Readable });
            }
            let e = io::Error::last_os_error();
            if e.kind() != io::ErrorKind::Interrupted {
                return Err(e);
            }
        }
    }

    /// Waits for that long, or until the signal is given.
    pub fn pause(&self, time: Duration) {
        let mut entry =
            libc::pollfd { fd: self.reader.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let milliseconds = i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one valid entry, with a descriptor that is open as long as self. An early end
        // does no harm.
        unsafe { libc::poll(&raw mut entry, 1, milliseconds) };
    }
}
