//! The system calls of a worker, with as little around them as can be.

use std::io;
use std::mem::{size_of, zeroed};

pub type Fd = libc::c_int;

/// An address of either family.
#[derive(Clone, Copy)]
pub struct Address {
    storage: libc::sockaddr_in6,
    length: libc::socklen_t,
}

impl Address {
    pub fn v4(addr: [u8; 4], port: u16) -> Self {
        // SAFETY: all zeros is a value of these plain structs.
        let mut address =
            Self { storage: unsafe { zeroed() }, length: size_of::<libc::sockaddr_in>() as u32 };
        let v4 = libc::sockaddr_in {
            sin_family: libc::AF_INET as u16,
            sin_port: port.to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(addr) },
            sin_zero: [0; 8],
        };
        // SAFETY: sockaddr_in6 is larger than sockaddr_in and aligned at least alike.
        unsafe { (&raw mut address.storage).cast::<libc::sockaddr_in>().write(v4) };
        address
    }

    pub fn v6(addr: [u8; 16], port: u16) -> Self {
        // SAFETY: all zeros is a value of this plain struct.
        let mut v6: libc::sockaddr_in6 = unsafe { zeroed() };
        v6.sin6_family = libc::AF_INET6 as u16;
        v6.sin6_port = port.to_be();
        v6.sin6_addr.s6_addr = addr;
        Self { storage: v6, length: size_of::<libc::sockaddr_in6>() as u32 }
    }

    fn unspecified() -> Self {
        // SAFETY: all zeros is a value, AF_UNSPEC.
        Self { storage: unsafe { zeroed() }, length: size_of::<libc::sockaddr_in6>() as u32 }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the struct is plain integers without padding, all of it is written, and it is as long as is said.
        unsafe { std::slice::from_raw_parts((&raw const self.storage).cast(), self.length as usize) }
    }

    fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

fn check(result: libc::c_int) -> Result<libc::c_int, i32> {
    if result < 0 { Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)) } else { Ok(result) }
}

pub fn socket(domain: libc::c_int, kind: libc::c_int) -> Result<Fd, i32> {
    // SAFETY: no pointers.
    check(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, 0) })
}

pub fn connect(fd: Fd, to: &Address) -> Result<(), i32> {
    // SAFETY: the address is as long as is said and outlives the call.
    check(unsafe { libc::connect(fd, to.as_ptr(), to.length) }).map(drop)
}

pub fn disconnect(fd: Fd) -> Result<(), i32> {
    connect(fd, &Address::unspecified())
}

pub fn bind(fd: Fd, to: &Address) -> Result<(), i32> {
    // SAFETY: as connect.
    check(unsafe { libc::bind(fd, to.as_ptr(), to.length) }).map(drop)
}

pub fn listen(fd: Fd) -> Result<(), i32> {
    // SAFETY: no pointers.
    check(unsafe { libc::listen(fd, 128) }).map(drop)
}

pub fn accept(fd: Fd) -> Result<Fd, i32> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no address is asked for.
    check(unsafe { libc::accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), flags) })
}

pub fn send_to(fd: Fd, to: &Address) -> Result<(), i32> {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: one byte of a static, and the address as above.
    let sent = unsafe { libc::sendto(fd, b"x".as_ptr().cast(), 1, flags, to.as_ptr(), to.length) };
    check(sent as libc::c_int).map(drop)
}

/// ECT(0), one of the ECN bits.
const ECN: libc::c_int = 2;

/// `sendmsg(2)` without a name and with a control message, as QUIC does for each packet.
pub fn send_marked(fd: Fd, is_v6: bool) -> Result<(), i32> {
    let (level, kind) = match is_v6 {
        true => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
        false => (libc::IPPROTO_IP, libc::IP_TOS),
    };
    let mut byte = b'x';
    let mut part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // Room for one header and an int, aligned as a header is.
    let mut control = [0_u64; 4];
    // SAFETY: all zeros is an empty message.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // SAFETY: the control buffer has room for one header and an int; CMSG_* stay inside it.
    unsafe {
        message.msg_controllen = libc::CMSG_SPACE(size_of::<libc::c_int>() as u32) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<libc::c_int>() as u32) as _;
        libc::CMSG_DATA(header).cast::<libc::c_int>().write_unaligned(ECN);
    }
    // SAFETY: everything the message points to lives until the call has returned, which only reads it.
    let sent = unsafe { libc::sendmsg(fd, &raw const message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) };
    check(sent as libc::c_int).map(drop)
}

pub fn close(fd: Fd) {
    // SAFETY: the caller owns the descriptor and gives it up.
    unsafe { libc::close(fd) };
}

pub fn dup(fd: Fd) -> Result<Fd, i32> {
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) })
}

type GetName = unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

fn port(fd: Fd, get: GetName) -> Option<u16> {
    // SAFETY: all zeros is a value of this plain struct.
    let mut name: libc::sockaddr_in6 = unsafe { zeroed() };
    let mut length = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
    // SAFETY: the name is writable and as long as is said.
    let found = unsafe { get(fd, (&raw mut name).cast(), &raw mut length) == 0 };
    // The port is at the same place in both families.
    found.then(|| u16::from_be(name.sin6_port))
}

/// The peer; `None`: there is none.
pub fn peer(fd: Fd) -> Option<Address> {
    // SAFETY: all zeros is a value of this plain struct.
    let mut storage: libc::sockaddr_in6 = unsafe { zeroed() };
    let mut length = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
    // SAFETY: the name is writable and as long as is said.
    let found = unsafe { libc::getpeername(fd, (&raw mut storage).cast(), &raw mut length) == 0 };
    found.then_some(Address { storage, length })
}

/// The port of the peer; `None`: there is none.
pub fn peer_port(fd: Fd) -> Option<u16> {
    port(fd, libc::getpeername)
}

pub fn local_port(fd: Fd) -> u16 {
    port(fd, libc::getsockname).unwrap_or_default()
}

/// Waits until there is something to read, or the time is over; false then.
pub fn is_readable(fd: Fd, timeout_ms: i32) -> bool {
    let mut entry = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, as is said.
    unsafe { libc::poll(&raw mut entry, 1, timeout_ms) > 0 }
}

fn number(fd: Fd, option: libc::c_int) -> u64 {
    let mut number = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the value is writable and as long as is said.
    unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, option, (&raw mut number).cast(), &raw mut length) };
    number
}

pub fn cookie(fd: Fd) -> u64 {
    number(fd, libc::SO_COOKIE)
}

/// The cookie of the netns that the socket is in; 0 if it is no socket.
pub fn netns_cookie(fd: Fd) -> u64 {
    number(fd, libc::SO_NETNS_COOKIE)
}

/// A copy of each descriptor that another process has, one after the other. Stops at the first that is wanted.
pub fn has_descriptor(pid: u32, wanted: impl Fn(Fd) -> bool) -> io::Result<bool> {
    // SAFETY: no pointers.
    let process = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as Fd;
    check(process).map_err(io::Error::from_raw_os_error)?;
    let mut found = false;
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let number: Option<Fd> = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(number) = number else { continue };
        // SAFETY: no pointers.
        let copy = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process, number, 0) } as Fd;
        // It may be closed by now.
        if copy >= 0 {
            found = wanted(copy);
            close(copy);
        }
        if found {
            break;
        }
    }
    close(process);
    Ok(found)
}

/// A close that sends a reset: nothing of the connection stays behind, and its port is free.
pub fn close_with_reset(fd: Fd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let length = size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: the value is as long as is said.
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), length) };
    close(fd);
}

/// Moves this process (of one thread) to a new netns, in which `lo` is up.
pub fn enter_new_netns() -> Result<(), i32> {
    // SAFETY: no pointers.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
    let fd = socket(libc::AF_UNIX, libc::SOCK_DGRAM)?;
    // SAFETY: all zeros is a value; the union holds the flags that SIOCSIFFLAGS reads.
    let up = unsafe {
        let mut request: libc::ifreq = zeroed();
        request.ifr_name[..2].copy_from_slice(&[b'l' as libc::c_char, b'o' as libc::c_char]);
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
        check(libc::ioctl(fd, libc::SIOCSIFFLAGS, &raw const request))
    };
    close(fd);
    up.map(drop)
}

/// `CLOCK_MONOTONIC`, as the witness reads it, nanoseconds.
pub fn now_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// The clock that the whole soak shares, milliseconds: the one that costs least.
pub fn now_ms() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC_COARSE) / 1_000_000
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    // SAFETY: all zeros is a value; the struct is writable.
    unsafe {
        let mut now: libc::timespec = zeroed();
        libc::clock_gettime(clock, &raw mut now);
        now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
    }
}
