//! Writing answers to readers that may have stopped reading.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

use super::stop::Stop;

/// Bytes that a pipe or socket accepts without blocking once poll(2) reports that it is writable:
/// one page.
const PIECE: usize = 4096;
/// Seconds that a reader may pause once the service shuts down.
const GRACE_SECONDS: u32 = 5;
/// Milliseconds between two looks at the signal.
const STEP: u16 = 1000;

/// An output that waits for its reader while the service runs, but does not delay its end.
#[derive(Debug)]
pub(super) struct Output {
    file: Arc<File>,
    stop: Stop,
}

impl Output {
    pub(super) fn new(file: Arc<File>, stop: Stop) -> Self {
        Self { file, stop }
    }

    fn wait_writable(&self) -> io::Result<()> {
        let mut left = GRACE_SECONDS;
        loop {
            match poll(&mut [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)], STEP) {
                // Also when the reader is gone: the write says so.
                Ok(1..) => return Ok(()),
                Ok(_) if self.stop.given() => {
                    left -= 1;
                    if left == 0 {
                        let message = format!("its reader has read nothing for {GRACE_SECONDS} s");
                        return Err(io::Error::new(io::ErrorKind::TimedOut, message));
                    }
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait_writable()?;
        self.file.write(bytes.get(..PIECE).unwrap_or(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
