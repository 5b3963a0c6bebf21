//! Safe wrappers of the socket and namespace calls that the standard library lacks.
//!
//! Each function is one system call on borrowed descriptors and returns [`io::Result`]; the
//! callers, which know its purpose, add context.

use std::ffi::CString;
use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use libc::{c_int, c_void, socklen_t};

/// `SO_NETNS_COOKIE` (`include/uapi/asm-generic/socket.h`, since 5.14).
const SO_NETNS_COOKIE: c_int = 71;
/// `SIOCGSKNS` (`include/uapi/linux/sockios.h`): the netns of a socket, as a descriptor.
const SIOCGSKNS: libc::Ioctl = 0x894C;

/// Turns the kernel's -1 into the error in `errno`.
pub(super) fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Like [`check`] for calls that return a size.
pub(super) fn check_size(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Takes ownership of a descriptor a system call has just returned.
pub(super) fn owned(result: c_int) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: the kernel has just made `fd` for this caller; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The errno of `error`, or `EIO` for an error that did not come from the kernel.
pub(super) fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// Nanoseconds of `CLOCK_MONOTONIC`, comparable between the processes of one machine.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid, writable timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// A path as a C string; a NUL inside becomes `EINVAL`.
pub(super) fn c_path(path: &Path) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

// --- addresses -----------------------------------------------------------------------

/// A `sockaddr` of either family in the form the kernel takes.
#[derive(Clone, Copy)]
pub(super) struct RawAddr {
    storage: libc::sockaddr_storage,
    len: socklen_t,
}

/// `size_of` as the kernel's length type.
const fn len_of<T>() -> socklen_t {
    // Socket options and addresses are a few dozen bytes: no truncation.
    size_of::<T>() as socklen_t
}

impl RawAddr {
    /// Room for an address the kernel will fill in.
    pub(super) fn empty() -> Self {
        // SAFETY: sockaddr_storage is plain data; all zeros is AF_UNSPEC.
        let storage = unsafe { mem::zeroed() };
        Self { storage, len: len_of::<libc::sockaddr_storage>() }
    }

    pub(super) fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    fn as_mut_ptr(&mut self) -> *mut libc::sockaddr {
        (&raw mut self.storage).cast()
    }

    /// The address, unless it is of another family than IPv4 and IPv6.
    pub(super) fn to_socket_addr(self) -> Option<SocketAddr> {
        match c_int::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says that the storage holds a sockaddr_in.
                let v4: &libc::sockaddr_in = unsafe { &*(&raw const self.storage).cast() };
                let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: the family says that the storage holds a sockaddr_in6.
                let v6: &libc::sockaddr_in6 = unsafe { &*(&raw const self.storage).cast() };
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                let port = u16::from_be(v6.sin6_port);
                Some(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

impl From<SocketAddr> for RawAddr {
    fn from(addr: SocketAddr) -> Self {
        let mut raw = Self::empty();
        match addr {
            SocketAddr::V4(addr) => {
                let v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: addr.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from(*addr.ip()).to_be() },
                    sin_zero: [0; 8],
                };
                // SAFETY: sockaddr_storage is larger than, and aligned for, every sockaddr.
                unsafe { (&raw mut raw.storage).cast::<libc::sockaddr_in>().write(v4) };
                raw.len = len_of::<libc::sockaddr_in>();
            }
            SocketAddr::V6(addr) => {
                let v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: addr.port().to_be(),
                    sin6_flowinfo: addr.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: addr.ip().octets() },
                    sin6_scope_id: addr.scope_id(),
                };
                // SAFETY: sockaddr_storage is larger than, and aligned for, every sockaddr.
                unsafe { (&raw mut raw.storage).cast::<libc::sockaddr_in6>().write(v6) };
                raw.len = len_of::<libc::sockaddr_in6>();
            }
        }
        raw
    }
}

// --- sockets -------------------------------------------------------------------------

/// `socket(2)`, close-on-exec.
pub(super) fn socket(domain: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: socket takes no pointers.
    owned(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) })
}

/// `bind(2)`.
pub(super) fn bind(fd: BorrowedFd<'_>, addr: SocketAddr) -> io::Result<()> {
    let raw = RawAddr::from(addr);
    // SAFETY: `raw` holds a sockaddr of `raw.len` bytes that outlives the call.
    check(unsafe { libc::bind(fd.as_raw_fd(), raw.as_ptr(), raw.len) }).map(drop)
}

/// `connect(2)`.
pub(super) fn connect(fd: BorrowedFd<'_>, addr: SocketAddr) -> io::Result<()> {
    connect_raw(fd, &RawAddr::from(addr))
}

/// `connect(2)` to `AF_UNSPEC`, which takes the peer away.
pub(super) fn disconnect(fd: BorrowedFd<'_>) -> io::Result<()> {
    connect_raw(fd, &RawAddr::empty())
}

fn connect_raw(fd: BorrowedFd<'_>, raw: &RawAddr) -> io::Result<()> {
    // SAFETY: `raw` holds a sockaddr of `raw.len` bytes that outlives the call.
    check(unsafe { libc::connect(fd.as_raw_fd(), raw.as_ptr(), raw.len) }).map(drop)
}

/// `listen(2)`.
pub(super) fn listen(fd: BorrowedFd<'_>, backlog: c_int) -> io::Result<()> {
    // SAFETY: listen takes no pointers.
    check(unsafe { libc::listen(fd.as_raw_fd(), backlog) }).map(drop)
}

/// `accept4(2)`, close-on-exec plus `flags`.
pub(super) fn accept(fd: BorrowedFd<'_>, flags: c_int) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
    let mut peer = RawAddr::empty();
    let len = &raw mut peer.len;
    let flags = flags | libc::SOCK_CLOEXEC;
    // SAFETY: `peer` is writable for the length it announces.
    let accepted = unsafe { libc::accept4(fd.as_raw_fd(), peer.as_mut_ptr(), len, flags) };
    Ok((owned(accepted)?, peer.to_socket_addr()))
}

/// `shutdown(2)`.
pub(super) fn shutdown(fd: BorrowedFd<'_>, how: c_int) -> io::Result<()> {
    // SAFETY: shutdown takes no pointers.
    check(unsafe { libc::shutdown(fd.as_raw_fd(), how) }).map(drop)
}

/// `send(2)`, without SIGPIPE.
pub(super) fn send(fd: BorrowedFd<'_>, bytes: &[u8], flags: c_int) -> io::Result<usize> {
    let flags = flags | libc::MSG_NOSIGNAL;
    // SAFETY: the pointer and the length are those of `bytes`.
    check_size(unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) })
}

/// ECT(0), one of the ECN bits.
const ECN: c_int = 2;

/// `sendmsg(2)` without a name and with a control message for the ECN bits, without SIGPIPE.
pub(super) fn send_marked(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let (level, kind) = match option::<c_int>(fd, libc::SOL_SOCKET, libc::SO_DOMAIN)? {
        libc::AF_INET6 => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
        _ => (libc::IPPROTO_IP, libc::IP_TOS),
    };
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast::<c_void>(), iov_len: bytes.len() };
    // Room for one header and an int, aligned as a header is.
    let mut control = [0_u64; 4];
    // SAFETY: msghdr is plain data; all zeros is an empty message.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // SAFETY: the control buffer has room for one header and an int; CMSG_* stay inside it.
    unsafe {
        message.msg_controllen = libc::CMSG_SPACE(size_of::<c_int>() as u32) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<c_int>() as u32) as _;
        libc::CMSG_DATA(header).cast::<c_int>().write_unaligned(ECN);
    }
    // SAFETY: everything the message points to lives until the call has returned, which only reads it.
    check_size(unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) })
}

/// `sendto(2)`, without SIGPIPE.
pub(super) fn send_to(fd: BorrowedFd<'_>, bytes: &[u8], flags: c_int, addr: SocketAddr) -> io::Result<usize> {
    let raw = RawAddr::from(addr);
    let flags = flags | libc::MSG_NOSIGNAL;
    // SAFETY: pointers and lengths are those of `bytes` and of `raw`, which outlive the call.
    check_size(unsafe {
        libc::sendto(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags, raw.as_ptr(), raw.len)
    })
}

/// `sendmmsg(2)`: `bytes` to every address, in one call; returns how many were sent.
pub(super) fn send_to_many(fd: BorrowedFd<'_>, bytes: &[u8], addrs: &[SocketAddr]) -> io::Result<usize> {
    let mut names: Vec<RawAddr> = addrs.iter().copied().map(RawAddr::from).collect();
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast::<c_void>(), iov_len: bytes.len() };
    let part: *mut libc::iovec = &raw mut part;
    let mut messages: Vec<libc::mmsghdr> = names
        .iter_mut()
        .map(|name| {
            // SAFETY: mmsghdr is plain data; all zeros is an empty message.
            let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
            message.msg_hdr.msg_name = name.as_mut_ptr().cast();
            message.msg_hdr.msg_namelen = name.len;
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
            message
        })
        .collect();
    let count = u32::try_from(messages.len()).unwrap_or(u32::MAX);
    // SAFETY: the headers point into `names`, `part` and `bytes`, which live until the
    // call has returned; sendmmsg only reads through them.
    let sent =
        unsafe { libc::sendmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), count, libc::MSG_NOSIGNAL as _) };
    check(sent).map(|sent| sent.unsigned_abs() as usize)
}

/// `recvfrom(2)`.
pub(super) fn recv_from(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: c_int,
) -> io::Result<(usize, Option<SocketAddr>)> {
    let mut from = RawAddr::empty();
    let len = &raw mut from.len;
    // SAFETY: `buffer` and `from` are writable for the lengths given.
    let size = check_size(unsafe {
        libc::recvfrom(
            fd.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            flags,
            from.as_mut_ptr(),
            len,
        )
    })?;
    Ok((size, from.to_socket_addr()))
}

/// `recv(2)`.
pub(super) fn recv(fd: BorrowedFd<'_>, buffer: &mut [u8], flags: c_int) -> io::Result<usize> {
    // SAFETY: pointer and length are those of `buffer`.
    check_size(unsafe { libc::recv(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), flags) })
}

/// `getpeername(2)`; `None` while the socket has no peer.
pub(super) fn peer(fd: BorrowedFd<'_>) -> Option<SocketAddr> {
    let mut raw = RawAddr::empty();
    let len = &raw mut raw.len;
    // SAFETY: `raw` is writable for the length it announces.
    check(unsafe { libc::getpeername(fd.as_raw_fd(), raw.as_mut_ptr(), len) }).ok()?;
    raw.to_socket_addr()
}

/// `getsockname(2)`.
pub(super) fn local(fd: BorrowedFd<'_>) -> Option<SocketAddr> {
    let mut raw = RawAddr::empty();
    let len = &raw mut raw.len;
    // SAFETY: `raw` is writable for the length it announces.
    check(unsafe { libc::getsockname(fd.as_raw_fd(), raw.as_mut_ptr(), len) }).ok()?;
    raw.to_socket_addr()
}

// --- socket options ------------------------------------------------------------------

/// Values that any bit pattern makes valid, so that the kernel may fill them in.
///
/// # Safety
/// Only for types without padding whose every bit pattern is valid.
unsafe trait Plain: Copy {}
// SAFETY: every bit pattern of an integer is valid.
unsafe impl Plain for c_int {}
// SAFETY: every bit pattern of an integer is valid.
unsafe impl Plain for u64 {}
// SAFETY: two integers of the same width, without padding.
unsafe impl Plain for libc::timeval {}

fn option<T: Plain>(fd: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut len = len_of::<T>();
    // SAFETY: `value` is writable for `len` bytes.
    check(unsafe {
        let value = value.as_mut_ptr().cast();
        libc::getsockopt(fd.as_raw_fd(), level, name, value, &raw mut len)
    })?;
    // SAFETY: zeroed before, filled in by the kernel, and T is Plain.
    Ok(unsafe { value.assume_init() })
}

fn set_option<T: Plain>(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: T) -> io::Result<()> {
    set_option_bytes(fd, level, name, (&raw const value).cast(), len_of::<T>())
}

fn set_option_bytes(
    fd: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> io::Result<()> {
    // SAFETY: the two callers in this file pass a pointer that is readable for `len` bytes.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value, len) }).map(drop)
}

/// Sets an integer option of level `SOL_SOCKET`.
pub(super) fn set_socket_flag(fd: BorrowedFd<'_>, name: c_int, value: c_int) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, name, value)
}

/// `SO_BINDTODEVICE`.
pub(super) fn bind_to_device(fd: BorrowedFd<'_>, device: &str) -> io::Result<()> {
    let len = socklen_t::try_from(device.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    set_option_bytes(fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, device.as_ptr().cast(), len)
}

/// `SO_COOKIE`. The kernel makes the cookie at this call if the socket has none yet.
pub(super) fn cookie(fd: BorrowedFd<'_>) -> io::Result<u64> {
    option(fd, libc::SOL_SOCKET, libc::SO_COOKIE)
}

/// `SO_NETNS_COOKIE`.
pub(super) fn netns_cookie(fd: BorrowedFd<'_>) -> io::Result<u64> {
    option(fd, libc::SOL_SOCKET, SO_NETNS_COOKIE)
}

/// `SO_ERROR`: the pending errno or 0. Reading it clears it.
pub(super) fn take_error(fd: BorrowedFd<'_>) -> io::Result<i32> {
    option(fd, libc::SOL_SOCKET, libc::SO_ERROR)
}

/// `SO_RCVTIMEO`; zero waits for ever.
pub(super) fn set_receive_timeout(fd: BorrowedFd<'_>, timeout_ms: u64) -> io::Result<()> {
    let value = libc::timeval {
        tv_sec: libc::time_t::try_from(timeout_ms / 1000).unwrap_or(libc::time_t::MAX),
        tv_usec: (timeout_ms % 1000 * 1000) as libc::suseconds_t,
    };
    set_option(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, value)
}

/// `SO_SNDBUF`; the kernel doubles it.
pub(super) fn set_send_buffer(fd: BorrowedFd<'_>, bytes: c_int) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, bytes)
}

/// The `tcpi_state` of `TCP_INFO`, or `None` if this is not a TCP socket.
pub(super) fn tcp_state(fd: BorrowedFd<'_>) -> Option<u8> {
    let mut state = 0u8;
    let mut len = len_of::<u8>();
    // SAFETY: `state` is writable for one byte; the kernel cuts TCP_INFO to `len`, and
    // tcpi_state is its first byte.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut state).cast(),
            &raw mut len,
        )
    })
    .ok()?;
    Some(state)
}

// --- descriptors ---------------------------------------------------------------------

/// Whether `O_NONBLOCK` is set.
pub(super) fn is_nonblocking(fd: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: F_GETFL takes no pointer.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    Ok(flags & libc::O_NONBLOCK != 0)
}

/// Clears close-on-exec, so that the next program keeps the descriptor.
pub(super) fn keep_on_exec(fd: RawFd) -> io::Result<()> {
    // SAFETY: F_SETFD takes no pointer; a wrong descriptor gives EBADF.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }).map(drop)
}

/// An entry for [`poll`].
pub(super) fn poll_entry(fd: BorrowedFd<'_>, events: i16) -> libc::pollfd {
    libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 }
}

/// `poll(2)`; a signal counts as "nothing yet".
pub(super) fn poll(entries: &mut [libc::pollfd], timeout_ms: c_int) -> io::Result<usize> {
    let count = entries.len() as libc::nfds_t;
    // SAFETY: pointer and count are those of `entries`.
    match check(unsafe { libc::poll(entries.as_mut_ptr(), count, timeout_ms) }) {
        Ok(ready) => Ok(ready.unsigned_abs() as usize),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        Err(error) => Err(error),
    }
}

// --- namespaces ----------------------------------------------------------------------

/// Moves the calling thread into a netns.
pub(super) fn enter_netns(netns: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: setns takes no pointers.
    check(unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// Gives the calling thread a new netns.
pub(super) fn unshare_netns() -> io::Result<()> {
    // SAFETY: unshare takes no pointers; CLONE_NEWNET concerns this thread only.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map(drop)
}

/// The netns of a socket (`SIOCGSKNS`).
pub(super) fn netns_of_socket(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: SIOCGSKNS takes no argument and returns a new descriptor.
    owned(unsafe { libc::ioctl(fd.as_raw_fd(), SIOCGSKNS) })
}

/// `mount(2)` without data; `source` may be a word such as `none`.
pub(super) fn mount(source: &Path, target: &Path, flags: libc::c_ulong) -> io::Result<()> {
    let (source, target) = (c_path(source)?, c_path(target)?);
    // SAFETY: source and target are NUL-terminated and outlive the call; a bind mount or
    // a change of propagation ignores type and data.
    check(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), c"none".as_ptr(), flags, std::ptr::null()) })
        .map(drop)
}

/// `umount2(2)`, lazily: processes inside do not hold it up.
pub(super) fn unmount(target: &Path) -> io::Result<()> {
    let target = c_path(target)?;
    // SAFETY: `target` is NUL-terminated and outlives the call.
    check(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) }).map(drop)
}

/// The index of a device in the netns of the calling thread.
pub(super) fn device_index(name: &str) -> io::Result<u32> {
    let name = CString::new(name).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: `name` is NUL-terminated and outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}
