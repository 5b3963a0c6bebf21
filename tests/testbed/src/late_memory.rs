//! Memory that is not there until it is told to be (userfaultfd): a send from it takes the lock of its socket, and then
//! waits with it.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sys;

/// How long it may take until a send waits.
const PATIENCE: Duration = Duration::from_secs(10);
const PAGE: usize = 4096;
/// Bytes of a send: a datagram that fits into any send buffer.
const SENT: usize = 1000;

// linux/userfaultfd.h
const UFFD_API: u64 = 0xaa;
const UFFDIO_API: libc::Ioctl = 0xc018_aa3f_u32 as libc::Ioctl;
const UFFDIO_REGISTER: libc::Ioctl = 0xc020_aa00_u32 as libc::Ioctl;
const UFFDIO_ZEROPAGE: libc::Ioctl = 0xc020_aa04_u32 as libc::Ioctl;
const REGISTER_MODE_MISSING: u64 = 1;

/// One page that arrives when it is told to.
#[derive(Debug)]
pub struct LateMemory {
    uffd: OwnedFd,
    page: Arc<LatePage>,
}

/// The page itself, mapped for as long as anybody has it.
#[derive(Debug)]
pub struct LatePage(NonNull<libc::c_void>);

// SAFETY: the mapping belongs to this value alone, and only the kernel reads it.
unsafe impl Send for LatePage {}
// SAFETY: as above.
unsafe impl Sync for LatePage {}

impl LateMemory {
    /// A page that nobody waits for yet.
    ///
    /// # Errors
    /// The errno of userfaultfd(2), mmap(2) or of the registration.
    pub fn new() -> io::Result<Self> {
        // A blocking one cannot be polled.
        // SAFETY: takes no pointers, and returns a new descriptor.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
        let uffd = sys::owned(fd as libc::c_int)?;
        let memory = Self { uffd, page: Arc::new(LatePage::map()?) };
        // struct uffdio_api; struct uffdio_register
        memory.call(UFFDIO_API, &mut [UFFD_API, 0, 0])?;
        let start = memory.page.0.as_ptr() as u64;
        memory.call(UFFDIO_REGISTER, &mut [start, PAGE as u64, REGISTER_MODE_MISSING, 0])?;
        Ok(memory)
    }

    /// The page, for the thread that sends from it.
    #[must_use]
    pub fn page(&self) -> Arc<LatePage> {
        Arc::clone(&self.page)
    }

    /// Returns once a send waits for it; false if the send ends without it.
    ///
    /// # Errors
    /// `TimedOut` if it does neither for ten seconds; the errno of poll(2).
    pub fn is_waited_for(&self, has_ended: impl Fn() -> bool) -> io::Result<bool> {
        let mut entry = [sys::poll_entry(self.uffd.as_fd(), libc::POLLIN)];
        let deadline = Instant::now() + PATIENCE;
        while sys::poll(&mut entry, 5)? == 0 {
            if has_ended() {
                return Ok(false);
            }
            if Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(true)
    }

    /// Has it arrive: whoever waits goes on.
    ///
    /// # Errors
    /// `EEXIST` if it is there.
    pub fn arrive(&self) -> io::Result<()> {
        // struct uffdio_zeropage
        self.call(UFFDIO_ZEROPAGE, &mut [self.page.0.as_ptr() as u64, PAGE as u64, 0, 0])
    }

    fn call(&self, request: libc::Ioctl, argument: &mut [u64]) -> io::Result<()> {
        // SAFETY: the argument is as long as the request says, or longer, and outlives the call.
        sys::check(unsafe { libc::ioctl(self.uffd.as_raw_fd(), request, argument.as_mut_ptr()) }).map(drop)
    }
}

impl LatePage {
    fn map() -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new private mapping touches nothing that is there.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, protection, flags, -1, 0) };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(page).map(Self).ok_or(io::ErrorKind::OutOfMemory.into())
    }

    /// Sends from it, and waits for it with the lock of the socket. A TCP socket copies under the lock; a UDP socket does
    /// if more is to follow (`MSG_MORE`).
    ///
    /// # Errors
    /// The errno of send(2).
    pub fn send(&self, socket: RawFd, flags: libc::c_int) -> io::Result<usize> {
        // SAFETY: the page is mapped for as long as self lives; only the kernel reads it.
        let sent = unsafe { libc::send(socket, self.0.as_ptr(), SENT, flags | libc::MSG_NOSIGNAL) };
        sys::check_size(sent)
    }
}

impl Drop for LatePage {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's own, and nobody sends from it any more.
        unsafe { libc::munmap(self.0.as_ptr(), PAGE) };
    }
}
