//! Writing answers to readers that may have stopped reading.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;

use super::stop::Stop;

/// Bytes that a pipe or socket accepts without blocking once poll(2) reports that it is writable:
/// one page.
const PIECE: usize = 4096;
/// Seconds that a reader may pause once the service shuts down.
const GRACE_SECONDS: u32 = 5;

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
            let mut entry = libc::pollfd { fd: self.file.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
            // SAFETY: one valid entry, with a descriptor that is open as long as self.
            match unsafe { libc::poll(&raw mut entry, 1, 1000) } {
                // Also when the reader is gone: the write says so.
                1.. => return Ok(()),
                0 if self.stop.given() => {
                    left -= 1;
                    if left == 0 {
                        let message = format!("its reader has read nothing for {GRACE_SECONDS} s");
                        return Err(io::Error::new(io::ErrorKind::TimedOut, message));
                    }
                }
                0 => {}
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
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
