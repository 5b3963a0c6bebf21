//! Holding the lock of a socket that another process owns.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::panic::resume_unwind;
use std::ptr::NonNull;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

const PAGE: usize = 4096;

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
    faults: OwnedFd,
    address: u64,
    sender: Option<JoinHandle<io::Result<()>>>,
}

impl LockHolder {
    /// Returns once the lock is held.
    pub fn take(socket: OwnedFd) -> Result<Self> {
        let (page, faults) = Page::new().context("userfaultfd")?;
        let address = page.0.as_ptr() as u64;
        let sender = Some(thread::spawn(move || page.send(&socket)));
        let holder = Self { faults, address, sender };
        // The kernel tells when somebody waits for the page.
        let mut poll = libc::pollfd { fd: holder.faults.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, as is said.
        let ready = unsafe { libc::poll(&mut poll, 1, 5000) };
        ensure!(ready == 1, "the send never waited for its page");
        Ok(holder)
    }

    /// Lets go of the lock, and waits until the send is done.
    pub fn release(mut self) -> Result<()> {
        self.end().context("the send that held the lock")
    }

    fn end(&mut self) -> io::Result<()> {
        let Some(sender) = self.sender.take() else {
            return Ok(());
        };
        let mut zero = ZeroPage { start: self.address, length: PAGE as u64, ..ZeroPage::default() };
        ioctl(&self.faults, UFFDIO_ZEROPAGE, &mut zero)?;
        sender.join().unwrap_or_else(|panic| resume_unwind(panic))
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

/// A page of memory that nobody has filled.
struct Page(NonNull<libc::c_void>);

// SAFETY: the mapping belongs to this value alone.
unsafe impl Send for Page {}

// linux/userfaultfd.h
const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_ZEROPAGE: u64 = 0xc020_aa04;
const UFFD_API: u64 = 0xaa;
const MODE_MISSING: u64 = 1;

#[derive(Default)]
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[derive(Default)]
#[repr(C)]
struct Register {
    start: u64,
    length: u64,
    mode: u64,
    ioctls: u64,
}

#[derive(Default)]
#[repr(C)]
struct ZeroPage {
    start: u64,
    length: u64,
    mode: u64,
    zeropage: i64,
}

impl Page {
    fn new() -> io::Result<(Self, OwnedFd)> {
        // SAFETY: no pointers.
        let faults =
            owned(unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) })?;
        ioctl(&faults, UFFDIO_API, &mut Api { api: UFFD_API, ..Api::default() })?;
        // SAFETY: a fresh mapping at an address of the kernel's choice overlaps nothing.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let page = Self(NonNull::new(address).ok_or(io::ErrorKind::OutOfMemory)?);
        let start = address as u64;
        let mut register = Register { start, length: PAGE as u64, mode: MODE_MISSING, ioctls: 0 };
        ioctl(&faults, UFFDIO_REGISTER, &mut register)?;
        Ok((page, faults))
    }

    /// UDP takes the lock only for a message that is to be continued.
    fn send(&self, socket: &OwnedFd) -> io::Result<()> {
        let flags = libc::MSG_NOSIGNAL | libc::MSG_MORE;
        // SAFETY: the page is mapped for as long as self lives.
        let sent = unsafe { libc::send(socket.as_raw_fd(), self.0.as_ptr(), 1024, flags) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in new(), and nothing refers to it.
        unsafe { libc::munmap(self.0.as_ptr(), PAGE) };
    }
}

fn ioctl<T>(fd: &OwnedFd, request: u64, argument: &mut T) -> io::Result<()> {
    // SAFETY: each request is called with the struct that linux/userfaultfd.h gives it.
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), request as libc::Ioctl, std::ptr::from_mut(argument)) };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
