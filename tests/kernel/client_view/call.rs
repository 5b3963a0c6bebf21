//! System calls as a client makes them, one by one, and what each returned.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use skreap::core::errno_name;
use skreap_testbed::Cgroup;

/// How long a call that has nothing to return waits.
pub const WAIT: Duration = Duration::from_millis(100);
/// How long one waits that is to be woken.
pub const LONG: Duration = Duration::from_secs(10);

/// What a call came to.
type Outcome = Result<i64, i32>;

/// A socket of a client.
pub struct Socket(OwnedFd);

/// Opens a socket in a netns; in a cgroup, if one is named. Both belong to the socket for good.
pub fn open(netns: BorrowedFd<'_>, cgroup: Option<&Cgroup>, domain: i32, kind: i32) -> Result<Socket> {
    let inside = cgroup.map(Inside::enter).transpose()?;
    // A thread of its own: setns() must never move one that others run on.
    let fd = thread::scope(|scope| {
        let opened = scope.spawn(|| {
            // SAFETY: takes no pointers; the descriptor is borrowed and so open.
            checked(unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) }.into())?;
            // SAFETY: takes no pointers.
            checked(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, 0) }.into())
        });
        opened.join().unwrap_or(Err(libc::EINVAL))
    });
    drop(inside);
    let fd = fd.map_err(io::Error::from_raw_os_error).context("cannot open a socket")?;
    // SAFETY: a fresh descriptor that nobody else owns; descriptors fit into an int.
    let socket = Socket(unsafe { OwnedFd::from_raw_fd(fd as i32) });
    socket.wait_at_most(WAIT);
    Ok(socket)
}

/// This process in another cgroup, until it is dropped.
struct Inside {
    home: String,
}

impl Inside {
    fn enter(cgroup: &Cgroup) -> Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::")).context("no cgroup2")?;
        let home = format!("{}{own}/cgroup.procs", skreap_testbed::cgroup2_root()?.display());
        fs::write(cgroup.path().join("cgroup.procs"), "0").context("cannot enter the cgroup")?;
        Ok(Self { home })
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if let Err(e) = fs::write(&self.home, "0") {
            eprintln!("cannot go back to {}: {e}", self.home);
        }
    }
}

fn checked(returned: i64) -> Outcome {
    if returned < 0 {
        Err(io::Error::last_os_error().raw_os_error().unwrap_or_default())
    } else {
        Ok(returned)
    }
}

/// `ok`, or the name of the error.
pub fn name(outcome: Outcome) -> String {
    match outcome {
        Ok(_) => "ok".to_owned(),
        Err(libc::EAGAIN) => "waits".to_owned(),
        Err(errno) => errno_name(errno).into_owned(),
    }
}

/// An address as the kernel takes it, and its length.
fn raw(addr: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: integers only, for which 0 is a value.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let at = (&raw mut storage).cast::<u8>();
    let port = addr.port().to_be();
    let length = match addr.ip() {
        IpAddr::V4(ip) => {
            let v4 = libc::sockaddr_in {
                sin_family: libc::AF_INET as u16,
                sin_port: port,
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage has room for every address, and is aligned for it.
            unsafe { at.cast::<libc::sockaddr_in>().write(v4) };
            size_of::<libc::sockaddr_in>()
        }
        IpAddr::V6(ip) => {
            let v6 = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as u16,
                sin6_port: port,
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: ip.octets() },
                sin6_scope_id: 0,
            };
            // SAFETY: as above.
            unsafe { at.cast::<libc::sockaddr_in6>().write(v6) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, length as libc::socklen_t)
}

impl Socket {
    fn fd(&self) -> i32 {
        self.0.as_raw_fd()
    }

    pub fn wait_at_most(&self, time: Duration) {
        let time = libc::timeval {
            tv_sec: time.as_secs() as libc::time_t,
            tv_usec: libc::suseconds_t::from(time.subsec_micros()),
        };
        for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
            // SAFETY: plain integers, readable for the given length.
            let bytes = unsafe { std::slice::from_raw_parts((&raw const time).cast(), size_of_val(&time)) };
            // A socket has these options whatever it is.
            let _ = self.set(libc::SOL_SOCKET, option, bytes);
        }
    }

    pub fn set(&self, level: i32, option: i32, value: &[u8]) -> Outcome {
        let length = value.len() as libc::socklen_t;
        // SAFETY: the value is readable for its length.
        checked(unsafe { libc::setsockopt(self.fd(), level, option, value.as_ptr().cast(), length) }.into())
    }

    /// What an option is, at most `N` bytes.
    pub fn get<const N: usize>(&self, level: i32, option: i32) -> Result<Vec<u8>, i32> {
        let mut value = [0_u8; N];
        let mut length = N as libc::socklen_t;
        // SAFETY: the value is writable for the length, which is written too.
        let got =
            unsafe { libc::getsockopt(self.fd(), level, option, value.as_mut_ptr().cast(), &raw mut length) };
        checked(got.into())?;
        Ok(value[..length as usize].to_vec())
    }

    /// `SO_ERROR`: `0`, or the name of the error, which is taken by that.
    pub fn error(&self) -> String {
        match self.get::<4>(libc::SOL_SOCKET, libc::SO_ERROR) {
            Ok(bytes) => match bytes.try_into().map(i32::from_ne_bytes) {
                Ok(0) => "0".to_owned(),
                Ok(errno) => name(Err(errno)),
                Err(_) => "?".to_owned(),
            },
            Err(errno) => name(Err(errno)),
        }
    }

    pub fn bind(&self, addr: SocketAddr) -> Outcome {
        let (storage, length) = raw(addr);
        // SAFETY: the address is readable for its length.
        checked(unsafe { libc::bind(self.fd(), (&raw const storage).cast(), length) }.into())
    }

    pub fn listen(&self, backlog: i32) -> Outcome {
        // SAFETY: takes no pointers.
        checked(unsafe { libc::listen(self.fd(), backlog) }.into())
    }

    pub fn accept(&self) -> Result<Self, i32> {
        self.wait_at_most(LONG);
        // SAFETY: no address is asked for.
        let fd = unsafe { libc::accept(self.fd(), std::ptr::null_mut(), std::ptr::null_mut()) };
        let fd = checked(fd.into())?;
        // SAFETY: a fresh descriptor that nobody else owns.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(fd as i32) });
        socket.wait_at_most(WAIT);
        Ok(socket)
    }

    pub fn connect(&self, addr: SocketAddr) -> Outcome {
        let (storage, length) = raw(addr);
        // SAFETY: the address is readable for its length.
        checked(unsafe { libc::connect(self.fd(), (&raw const storage).cast(), length) }.into())
    }

    /// `connect` to `AF_UNSPEC`.
    pub fn disconnect(&self) -> Outcome {
        // SAFETY: integers only, for which 0 is a value: AF_UNSPEC.
        let nowhere: libc::sockaddr = unsafe { std::mem::zeroed() };
        let length = size_of::<libc::sockaddr>() as libc::socklen_t;
        // SAFETY: the address is readable for its length.
        checked(unsafe { libc::connect(self.fd(), &raw const nowhere, length) }.into())
    }

    pub fn send(&self, bytes: &[u8]) -> Outcome {
        // SAFETY: the bytes are readable for their length.
        checked(
            unsafe { libc::send(self.fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) } as i64
        )
    }

    pub fn send_to(&self, bytes: &[u8], addr: SocketAddr) -> Outcome {
        let (storage, length) = raw(addr);
        let at = (&raw const storage).cast();
        // SAFETY: bytes and address are readable for their lengths.
        checked(unsafe { libc::sendto(self.fd(), bytes.as_ptr().cast(), bytes.len(), 0, at, length) } as i64)
    }

    pub fn recv(&self) -> Outcome {
        let mut buffer = [0_u8; 4096];
        // SAFETY: the buffer is writable for its length.
        checked(unsafe { libc::recv(self.fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) } as i64)
    }

    pub fn shutdown_write(&self) -> Outcome {
        // SAFETY: takes no pointers.
        checked(unsafe { libc::shutdown(self.fd(), libc::SHUT_WR) }.into())
    }

    /// What `poll` reports at once, or within this time, if anything.
    pub fn poll(&self, time: Duration) -> Vec<&'static str> {
        let events = libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP;
        self.poll_for(events, time)
    }

    /// As [`poll`](Self::poll), for who only reads.
    pub fn poll_in(&self, time: Duration) -> Vec<&'static str> {
        self.poll_for(libc::POLLIN, time)
    }

    fn poll_for(&self, events: i16, time: Duration) -> Vec<&'static str> {
        let mut entry = libc::pollfd { fd: self.fd(), events, revents: 0 };
        // SAFETY: one entry, which outlives the call.
        let _ = unsafe { libc::poll(&raw mut entry, 1, time.as_millis() as i32) };
        [
            (libc::POLLIN, "IN"),
            (libc::POLLOUT, "OUT"),
            (libc::POLLERR, "ERR"),
            (libc::POLLHUP, "HUP"),
            (libc::POLLRDHUP, "RDHUP"),
        ]
        .into_iter()
        .filter(|(bit, _)| entry.revents & bit != 0)
        .map(|(_, name)| name)
        .collect()
    }

    /// Local address and port.
    pub fn local(&self) -> Result<SocketAddr> {
        // SAFETY: integers only, for which 0 is a value.
        let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let mut length = size_of_val(&storage) as libc::socklen_t;
        // SAFETY: the address is writable for its length, which is written too.
        let got = unsafe { libc::getsockname(self.fd(), (&raw mut storage).cast(), &raw mut length) };
        checked(got.into()).map_err(io::Error::from_raw_os_error)?;
        if i32::from(storage.ss_family) == libc::AF_INET6 {
            // SAFETY: the family says what it is, and the storage is aligned for all.
            let v6 = unsafe { (&raw const storage).cast::<libc::sockaddr_in6>().read() };
            Ok(SocketAddr::new(IpAddr::from(v6.sin6_addr.s6_addr), u16::from_be(v6.sin6_port)))
        } else {
            // SAFETY: as above.
            let v4 = unsafe { (&raw const storage).cast::<libc::sockaddr_in>().read() };
            Ok(SocketAddr::new(IpAddr::from(v4.sin_addr.s_addr.to_ne_bytes()), u16::from_be(v4.sin_port)))
        }
    }

    /// `ok`, or the error of asking for the peer.
    pub fn peer(&self) -> Outcome {
        // SAFETY: integers only, for which 0 is a value.
        let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let mut length = size_of_val(&storage) as libc::socklen_t;
        // SAFETY: as for the local address.
        checked(unsafe { libc::getpeername(self.fd(), (&raw mut storage).cast(), &raw mut length) }.into())
    }
}
