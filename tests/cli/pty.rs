//! A pseudo-terminal, and commands that run on one.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail, ensure};

use crate::process::PATIENCE;

/// Both ends, 80 by 24.
pub struct Pty {
    pub master: File,
    pub slave: OwnedFd,
}

impl Pty {
    pub fn new() -> Result<Self> {
        Self::sized(80, 24)
    }

    pub fn sized(columns: u16, rows: u16) -> Result<Self> {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let (mut master, mut slave) = (-1, -1);
        // SAFETY: both numbers are written, the size is only read, and no name or settings are asked for.
        let result = unsafe {
            libc::openpty(
                &raw mut master,
                &raw mut slave,
                std::ptr::null_mut(),
                std::ptr::null(),
                &raw const size,
            )
        };
        ensure!(result == 0, "openpty: {}", std::io::Error::last_os_error());
        for fd in [master, slave] {
            // SAFETY: a descriptor of ours; a child that inherits the master would keep the terminal alive.
            ensure!(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } == 0, "fcntl");
        }
        // SAFETY: fresh descriptors that nobody else owns.
        Ok(unsafe { Self { master: File::from_raw_fd(master), slave: OwnedFd::from_raw_fd(slave) } })
    }

    /// The local flags: whether it echoes and edits lines.
    pub fn local_flags(&self) -> Result<u32> {
        // SAFETY: termios is integers only, for which 0 is a value.
        let mut settings: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open, and the settings are written whole.
        let result = unsafe { libc::tcgetattr(self.slave.as_raw_fd(), &raw mut settings) };
        ensure!(result == 0, "tcgetattr: {}", std::io::Error::last_os_error());
        Ok(settings.c_lflag)
    }

    /// Lets it take no more output: who writes is blocked.
    pub fn stop_output(&self) -> Result<()> {
        // SAFETY: takes no pointers.
        let result = unsafe { libc::tcflow(self.slave.as_raw_fd(), libc::TCOOFF) };
        ensure!(result == 0, "tcflow: {}", std::io::Error::last_os_error());
        Ok(())
    }

    /// What the screen was sent, until it contains all of this.
    pub fn read_until(&mut self, words: &[&str]) -> Result<String> {
        let mut screen = Vec::new();
        let mut buffer = [0; 4096];
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = String::from_utf8_lossy(&screen);
            if words.iter().all(|word| text.contains(word)) {
                return Ok(text.into_owned());
            }
            if Instant::now() > deadline {
                let end: String =
                    text.chars().rev().take(500).collect::<Vec<_>>().into_iter().rev().collect();
                bail!("no {words:?} on the screen, which was sent {} bytes: … {end:?}", screen.len());
            }
            let mut entry = libc::pollfd { fd: self.master.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one entry, which outlives the call.
            if unsafe { libc::poll(&raw mut entry, 1, 100) } < 1 {
                continue;
            }
            let n = self.master.read(&mut buffer)?;
            screen.extend_from_slice(buffer.get(..n).unwrap_or_default());
        }
    }

    /// The rest of what the screen was sent, up to the end of the last user of the terminal.
    pub fn read_to_end(self) -> String {
        let Self { mut master, slave } = self;
        drop(slave);
        let mut screen = Vec::new();
        let mut buffer = [0; 4096];
        // The end is an error.
        while let Ok(n @ 1..) = master.read(&mut buffer) {
            screen.extend_from_slice(buffer.get(..n).unwrap_or_default());
        }
        String::from_utf8_lossy(&screen).into_owned()
    }
}

/// Who gets a hangup when the terminal goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hangup {
    /// The command: it leads the session of the terminal.
    Sent,
    /// The same, but it was started with hangups ignored (nohup).
    Ignored,
    /// Nobody: the terminal is not that of its session.
    NotSent,
}

/// Lets a command whose stdin is a terminal lead the session of that terminal, or not.
pub fn in_session(command: &mut Command, hangup: Hangup) {
    if hangup == Hangup::NotSent {
        return;
    }
    let lead = move || {
        // SAFETY: none of these takes pointers; the descriptor is stdin.
        let failed = unsafe {
            if hangup == Hangup::Ignored {
                libc::signal(libc::SIGHUP, libc::SIG_IGN);
            }
            libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0
        };
        if failed { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: only system calls.
    unsafe { command.pre_exec(lead) };
}
