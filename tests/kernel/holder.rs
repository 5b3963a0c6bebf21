//! Holding the lock of a socket that another process owns.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::panic::resume_unwind;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use skreap_testbed::LateMemory;

/// The socket with this cookie of another process, as a descriptor of our own.
pub fn descriptor_of(pid: u32, cookie: u64) -> Result<OwnedFd> {
    // SAFETY: no pointers.
    let process = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }).context("pidfd_open")?;
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let number: i32 = entry?.file_name().to_string_lossy().parse()?;
        // SAFETY: no pointers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
        let Ok(fd) = owned(fd) else {
            continue;
        };
        let mut found = 0_u64;
        let mut length = size_of::<u64>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes into `found`.
        let ret = unsafe {
            libc::getsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_COOKIE,
                std::ptr::from_mut(&mut found).cast(),
                &mut length,
            )
        };
        if ret == 0 && found == cookie {
            return Ok(fd);
        }
    }
    anyhow::bail!("process {pid} has no socket with cookie {cookie}")
}

/// A send that holds the lock of its socket while it waits for the page that it sends.
pub struct LockHolder {
    memory: LateMemory,
    sender: Option<JoinHandle<io::Result<usize>>>,
}

impl LockHolder {
    /// Returns once the lock is held.
    pub fn take(socket: OwnedFd) -> Result<Self> {
        let memory = LateMemory::new().context("userfaultfd")?;
        let page = memory.page();
        // UDP takes the lock only for a message that is to be continued.
        let sender = thread::spawn(move || page.send(socket.as_raw_fd(), libc::MSG_MORE));
        ensure!(memory.is_waited_for(|| sender.is_finished())?, "the send never waited for its page");
        Ok(Self { memory, sender: Some(sender) })
    }

    /// Lets go of the lock, and waits until the send is done.
    pub fn release(mut self) -> Result<()> {
        self.end().context("the send that held the lock")
    }

    fn end(&mut self) -> io::Result<()> {
        let Some(sender) = self.sender.take() else {
            return Ok(());
        };
        self.memory.arrive()?;
        sender.join().unwrap_or_else(|panic| resume_unwind(panic)).map(drop)
    }
}

impl Drop for LockHolder {
    /// Nobody may wait for ever, also after a failure.
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("the send that held the lock: {error}");
        }
    }
}

/// Waits until the thread sleeps in this system call without heeding signals, as those do that wait for a socket's lock.
pub fn wait_until_asleep_in(pid: u32, thread: i32, syscall: libc::c_long) -> Result<()> {
    let task = format!("/proc/{pid}/task/{thread}");
    let deadline = Instant::now() + Duration::from_secs(30);
    // One look may meet a short wait for something else.
    let mut looks = 0;
    while looks < 5 {
        let status = fs::read_to_string(format!("{task}/status"))?;
        let sleeps = status.lines().any(|line| line.starts_with("State:\tD"));
        // "running", or the number first.
        let call = fs::read_to_string(format!("{task}/syscall"))?;
        if sleeps && call.split_whitespace().next() == Some(&syscall.to_string()) {
            looks += 1;
        } else {
            looks = 0;
        }
        ensure!(
            Instant::now() < deadline,
            "thread {thread} does not wait in system call {syscall}: {call}{status}"
        );
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
