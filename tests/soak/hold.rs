//! Owners that hold the lock of a socket for a while: a send takes it and then waits for memory (userfaultfd).

use std::io;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use crate::shared::{Hold, Work, add};
use crate::sys::{self, Fd};

/// How long it may take until a send waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// A send that holds a lock.
pub struct Holding {
    pub hold: &'static Hold,
    pub until_ms: u64,
    memory: LateMemory,
    send: thread::JoinHandle<()>,
}

impl Holding {
    /// `None` if the send has failed at once, or there is no such memory.
    pub fn start(work: &'static Work, fd: Fd, cookie: u64, is_udp: bool, ms: u64) -> Option<Self> {
        let memory = LateMemory::new().ok()?;
        let hold = &work.holds[work.held.load(SeqCst) as usize % work.holds.len()];
        hold.cookie.store(cookie, SeqCst);
        hold.fate.store(0, SeqCst);
        // TCP copies under the lock; UDP does if more is to follow.
        let flags = if is_udp { libc::MSG_MORE } else { 0 };
        let at = memory.address;
        let send = thread::spawn(move || {
            // SAFETY: a page that is mapped until this thread was joined; only the kernel reads it.
            unsafe { libc::send(fd, at as *const libc::c_void, 1000, flags | libc::MSG_NOSIGNAL) };
        });
        if !memory.is_waited_for(|| send.is_finished()) {
            hold.cookie.store(0, SeqCst);
            // The page comes, so that the send ends.
            memory.arrive();
            let _ = send.join();
            return None;
        }
        add(&work.held, 1);
        Some(Self { hold, until_ms: sys::now_ms() + ms, memory, send })
    }

    /// Returns when the lock is free.
    pub fn let_go(self) {
        self.memory.arrive();
        // It may fail: the socket may be dead by now.
        let _ = self.send.join();
    }
}

/// A page that is not there until it is told to be.
struct LateMemory {
    uffd: Fd,
    address: usize,
}

// linux/userfaultfd.h
const UFFD_API: u64 = 0xaa;
const UFFDIO_API: libc::Ioctl = 0xc018_aa3f_u32 as libc::Ioctl;
const UFFDIO_REGISTER: libc::Ioctl = 0xc020_aa00_u32 as libc::Ioctl;
const UFFDIO_ZEROPAGE: libc::Ioctl = 0xc020_aa04_u32 as libc::Ioctl;
const REGISTER_MODE_MISSING: u64 = 1;
const PAGE: usize = 4096;

impl LateMemory {
    fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers, and returns a new descriptor.
        let uffd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) } as Fd;
        if uffd < 0 {
            return Err(io::Error::last_os_error());
        }
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new private mapping touches nothing that is there.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, protection, flags, -1, 0) };
        if page == libc::MAP_FAILED {
            sys::close(uffd);
            return Err(io::Error::last_os_error());
        }
        let memory = Self { uffd, address: page as usize };
        // struct uffdio_api; struct uffdio_register
        memory.call(UFFDIO_API, &mut [UFFD_API, 0, 0])?;
        memory.call(UFFDIO_REGISTER, &mut [memory.address as u64, PAGE as u64, REGISTER_MODE_MISSING, 0])?;
        Ok(memory)
    }

    fn call(&self, request: libc::Ioctl, argument: &mut [u64]) -> io::Result<()> {
        // SAFETY: the argument is as long as the request says, or longer, and outlives the call.
        match unsafe { libc::ioctl(self.uffd, request, argument.as_mut_ptr()) } {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn is_waited_for(&self, has_ended: impl Fn() -> bool) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while !sys::is_readable(self.uffd, 5) {
            if has_ended() || Instant::now() > deadline {
                return false;
            }
        }
        true
    }

    fn arrive(&self) {
        // It fails if the page is there.
        let _ = self.call(UFFDIO_ZEROPAGE, &mut [self.address as u64, PAGE as u64, 0, 0]);
    }
}

impl Drop for LateMemory {
    fn drop(&mut self) {
        sys::close(self.uffd);
        // SAFETY: the mapping is this one's own, and the thread that used it was joined.
        unsafe { libc::munmap(self.address as *mut libc::c_void, PAGE) };
    }
}
