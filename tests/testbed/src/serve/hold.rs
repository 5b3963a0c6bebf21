//! Owners that hold the lock of a socket: a send takes it, and then waits for memory or for room.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use super::table::{Entry, Table};
use super::trouble::{Answer, Context, refused};
use crate::op::{Holding, Protocol};
use crate::sys;

/// How long it may take until a send waits.
const PATIENCE: Duration = Duration::from_secs(10);
/// A send buffer that a few datagrams fill.
const LITTLE_ROOM: libc::c_int = 4608;

/// The sends that hold a lock, by the handle of their socket.
#[derive(Default)]
pub(super) struct Holds(HashMap<u32, Hold>);

struct Hold {
    memory: Option<LateMemory>,
    send: thread::JoinHandle<io::Result<usize>>,
}

impl Holds {
    /// Returns when the lock is held.
    pub(super) fn start(&mut self, table: &Table, socket: u32, by: Holding) -> Answer<()> {
        let entry = table.get(socket)?;
        let about = || format!("hold the lock of socket {socket}");
        let hold = match by {
            Holding::Memory => hold_by_memory(entry),
            Holding::Room => hold_by_room(entry),
        };
        self.0.insert(socket, hold.at(about)?);
        Ok(())
    }

    /// Returns when the send has ended.
    pub(super) fn end(&mut self, socket: u32) -> Answer<()> {
        let hold = self.0.remove(&socket);
        let hold = hold.ok_or_else(|| refused(format!("find a held socket {socket}"), libc::ENOENT))?;
        if let Some(memory) = &hold.memory {
            memory.arrive().at(|| format!("let go of socket {socket}"))?;
        }
        // The send may fail: the socket may be dead by now.
        hold.send.join().map(drop).map_err(|_| refused("end a send".to_owned(), libc::EIO))
    }
}

/// TCP copies under the lock; UDP does if more is to follow.
fn hold_by_memory(entry: &Entry) -> io::Result<Hold> {
    let memory = LateMemory::new()?;
    let flags = if entry.protocol == Protocol::Udp { libc::MSG_MORE } else { 0 };
    let (fd, at) = (entry.fd.try_clone()?, memory.address);
    let send = thread::spawn(move || {
        // SAFETY: a page that is mapped for as long as the process lives; only the kernel reads it.
        let sent = unsafe {
            libc::send(fd.as_raw_fd(), at as *const libc::c_void, 1000, flags | libc::MSG_NOSIGNAL)
        };
        sys::check_size(sent)
    });
    if memory.is_waited_for(|| send.is_finished())? {
        return Ok(Hold { memory: Some(memory), send });
    }
    // It has failed before it came to the memory.
    send.join().map_err(|_| io::Error::from_raw_os_error(libc::EIO))??;
    Err(io::ErrorKind::InvalidInput.into())
}

/// Nobody tells where the peer is, so what was sent stays in the send buffer (for three seconds); a datagram that more is
/// to follow waits for room, and has the lock meanwhile.
fn hold_by_room(entry: &Entry) -> io::Result<Hold> {
    sys::set_send_buffer(entry.fd(), LITTLE_ROOM)?;
    let deadline = Instant::now() + PATIENCE;
    while sys::send(entry.fd(), &[0; 1000], libc::MSG_DONTWAIT).is_ok() {
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    let fd = entry.fd.try_clone()?;
    let send = thread::spawn(move || sys::send(fd.as_fd(), &[0; 1000], libc::MSG_MORE | libc::MSG_NOSIGNAL));
    // Nothing shows from outside that it waits.
    thread::sleep(Duration::from_millis(50));
    if send.is_finished() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(Hold { memory: None, send })
}

/// A page that is not there until it is told to be (userfaultfd).
struct LateMemory {
    uffd: OwnedFd,
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
        // A blocking one cannot be polled.
        // SAFETY: takes no pointers, and returns a new descriptor.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
        let uffd = sys::owned(fd as libc::c_int)?;
        // SAFETY: a new private mapping touches nothing that is there. It is never unmapped.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if page == libc::MAP_FAILED {
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
        sys::check(unsafe { libc::ioctl(self.uffd.as_raw_fd(), request, argument.as_mut_ptr()) }).map(drop)
    }

    /// False if the send ends without it.
    fn is_waited_for(&self, has_ended: impl Fn() -> bool) -> io::Result<bool> {
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

    fn arrive(&self) -> io::Result<()> {
        // struct uffdio_zeropage
        self.call(UFFDIO_ZEROPAGE, &mut [self.address as u64, PAGE as u64, 0, 0])
    }
}
