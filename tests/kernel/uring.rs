//! A ring of io_uring with room for one request.

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, ensure};

/// Of linux/io_uring.h.
const OFF_SQ_RING: libc::off_t = 0;
const OFF_CQ_RING: libc::off_t = 0x800_0000;
const OFF_SQES: libc::off_t = 0x1000_0000;
const OP_RECV: u8 = 27;
const SQE: usize = 64;
const CQE: usize = 16;

/// `struct io_sqring_offsets` and `struct io_cqring_offsets`: what differs in them is not used here.
#[repr(C)]
#[derive(Default)]
struct Offsets {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    fifth: u32,
    sixth: u32,
    seventh: u32,
    reserved: u32,
    user_addr: u64,
}

/// `struct io_uring_params`.
#[repr(C)]
#[derive(Default)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: [u32; 5],
    reserved: [u32; 3],
    sq: Offsets,
    cq: Offsets,
}

/// `struct io_uring_sqe` of a receive.
#[repr(C)]
struct Receive {
    opcode: u8,
    flags: u8,
    ioprio: u16,
    fd: i32,
    off: u64,
    addr: u64,
    len: u32,
    msg_flags: u32,
    user_data: u64,
    rest: [u64; 3],
}

/// Memory that is shared with the kernel.
struct Shared {
    at: *mut u8,
    length: usize,
}

impl Shared {
    fn map(ring: &OwnedFd, length: usize, offset: libc::off_t) -> io::Result<Self> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
        // SAFETY: a new mapping, anywhere.
        let at =
            unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, ring.as_raw_fd(), offset) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { at: at.cast(), length })
    }

    fn number(&self, offset: u32) -> &AtomicU32 {
        assert!(offset as usize + size_of::<u32>() <= self.length);
        // SAFETY: inside the mapping, aligned as the kernel aligns it, and alive while `self` is.
        unsafe { AtomicU32::from_ptr(self.at.add(offset as usize).cast()) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nothing refers to any more.
        unsafe { libc::munmap(self.at.cast(), self.length) };
    }
}

/// The ring, and the buffer of its request.
pub struct Ring {
    ring: OwnedFd,
    params: Params,
    sq: Shared,
    cq: Shared,
    sqes: Shared,
    buffer: Box<[u8; 128]>,
}

impl Ring {
    /// `None` if the kernel has no io_uring, or refuses it.
    pub fn new() -> Result<Option<Self>> {
        let mut params = Params::default();
        assert!(size_of::<Params>() == 120 && size_of::<Receive>() == SQE);
        // SAFETY: the kernel writes `params`, which has its size.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, &raw mut params) };
        if fd < 0 {
            let error = io::Error::last_os_error();
            ensure!(matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)), "io_uring: {error}");
            return Ok(None);
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let ring = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        // The seventh offset is that of the array of the one queue, the sixth that of the entries of the other.
        let array = params.sq.seventh as usize;
        let sq = Shared::map(&ring, array + 4 * params.sq_entries as usize, OFF_SQ_RING)?;
        let cqes = params.cq.sixth as usize;
        let cq = Shared::map(&ring, cqes + CQE * params.cq_entries as usize, OFF_CQ_RING)?;
        let sqes = Shared::map(&ring, SQE * params.sq_entries as usize, OFF_SQES)?;
        Ok(Some(Self { ring, params, sq, cq, sqes, buffer: Box::new([0; 128]) }))
    }

    /// Begins to receive a datagram. The one before must have ended.
    pub fn receive(&mut self, socket: &UdpSocket) -> Result<()> {
        let request = Receive {
            opcode: OP_RECV,
            flags: 0,
            ioprio: 0,
            fd: socket.as_raw_fd(),
            off: 0,
            addr: self.buffer.as_mut_ptr().expose_provenance() as u64,
            len: self.buffer.len() as u32,
            msg_flags: 0,
            user_data: 1,
            rest: [0; 3],
        };
        // SAFETY: the first place of the queue, which the kernel does not read before the call below; the buffer lives as long
        // as the ring.
        unsafe { self.sqes.at.cast::<Receive>().write(request) };
        let tail = self.sq.number(self.params.sq.tail);
        let place = tail.load(Ordering::Relaxed) & (self.params.sq_entries - 1);
        self.sq.number(self.params.sq.seventh + 4 * place).store(0, Ordering::Relaxed);
        tail.fetch_add(1, Ordering::Release);
        let null = std::ptr::null::<u8>();
        // SAFETY: one request, which is there; no set of signals.
        let taken =
            unsafe { libc::syscall(libc::SYS_io_uring_enter, self.ring.as_raw_fd(), 1, 0, 0, null, 0) };
        ensure!(taken == 1, "io_uring_enter: {taken}, {}", io::Error::last_os_error());
        Ok(())
    }

    /// What came of it: a datagram, or an errno; `None` if it has not ended in time.
    pub fn ended(&mut self, timeout_ms: i32) -> Result<Option<Result<String, i32>>> {
        let mut poll = libc::pollfd { fd: self.ring.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: the kernel writes one entry.
        let ready = unsafe { libc::poll(&mut poll, 1, timeout_ms) };
        ensure!(ready >= 0, "poll: {}", io::Error::last_os_error());
        let (head, tail) = (self.cq.number(self.params.cq.head), self.cq.number(self.params.cq.tail));
        let at = head.load(Ordering::Relaxed);
        if at == tail.load(Ordering::Acquire) {
            return Ok(None);
        }
        let place = self.params.cq.sixth + CQE as u32 * (at & (self.params.cq_entries - 1));
        // After the 8 bytes of `user_data`.
        let result = self.cq.number(place + 8).load(Ordering::Relaxed).cast_signed();
        head.fetch_add(1, Ordering::Release);
        Ok(Some(match usize::try_from(result) {
            Ok(length) => Ok(String::from_utf8_lossy(&self.buffer[..length]).into_owned()),
            Err(_) => Err(-result),
        }))
    }
}
