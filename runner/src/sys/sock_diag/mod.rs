//! `NETLINK_SOCK_DIAG`: dumping sockets, and destroying exactly those that are named, in any netns.
//!
//! The requests are packed here and not by a netlink crate: none supports SOCK_DESTROY or filters,
//! and the cost of this path is the point of the program. netlink-packet-core parses the responses.

mod destroy;
mod dump;
mod look;
mod made;
mod per_netns;

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd as _, OwnedFd};

use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};
use skreap_bpf::fault::{self, Point};

use crate::sys::netns::{self, NetnsId, Opened, Way};
use crate::sys::privileges::{self, Raised};

#[cfg(feature = "fuzzing")]
pub(crate) use destroy::Errors;
pub use destroy::{BATCH, Verdict};
pub(crate) use dump::Made;
#[cfg(feature = "fuzzing")]
pub(crate) use dump::datagram;
pub use dump::{Dump, DumpEnd, Filter, InetDiag};
pub use per_netns::DiagSockets;

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
const REQUEST_BYTES: usize = 16 + 56;

/// A diag socket in one netns.
#[derive(Debug)]
pub struct DiagSocket {
    socket: Socket,
    request: Vec<u8>,
    answer: Vec<u8>,
    /// Verdicts of the last batch, while its failures have not been read.
    uncollected: Range<usize>,
}

impl DiagSocket {
    /// Opens one in the netns of the calling thread.
    ///
    /// # Errors
    /// The errno of the socket calls; `EPROTONOSUPPORT` on a kernel without CONFIG_INET_DIAG.
    pub fn open() -> io::Result<Self> {
        let diag = Self::open_to_destroy()?;
        diag.socket.set_cap_ack(true)?;
        diag.socket.set_non_blocking(true)?;
        Ok(diag)
    }

    /// One that has cost two system calls: to [destroy](Self::destroy) and to [look](Self::look) with,
    /// which wait for nothing, and not for dumps. It is connected, so that no other program in the
    /// netns can send to it.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_to_destroy() -> io::Result<Self> {
        fault::at(Point::DiagOpen)?;
        let socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            request: Vec::with_capacity(BATCH * REQUEST_BYTES),
            answer: Vec::with_capacity(4096),
            uncollected: 0..0,
        })
    }
}

impl DiagSocket {
    /// Moves the calling thread into the netns and opens one there; makes sure it is that netns and not a successor with its
    /// number.
    ///
    /// # Errors
    /// The errno of opening or entering the netns, or of the socket calls; `ESTALE` if the netns is gone.
    pub(crate) fn open_in(id: NetnsId, open: impl Fn(NetnsId) -> io::Result<OwnedFd>) -> io::Result<Self> {
        netns::enter(&open(id)?)?;
        let diag = Self::open()?;
        match diag.netns_cookie() {
            Ok(cookie) if cookie == id.cookie => Ok(diag),
            Ok(_) => Err(io::Error::from_raw_os_error(libc::ESTALE)),
            Err(e) => Err(e),
        }
    }

    fn netns_cookie(&self) -> io::Result<u64> {
        fault::at(Point::DiagCookie)?;
        netns::cookie_of_socket(&self.socket.as_raw_fd())
    }
}

/// A thread on its way through several netns. Privileges are raised once for all of them.
pub(crate) struct Round {
    _raised: Raised,
}

impl Round {
    /// The calling thread is about to leave its netns.
    pub(crate) fn start() -> Self {
        Self { _raised: privileges::raise() }
    }

    /// Moves the thread into the netns and opens a diag socket there, to destroy and to look with; makes
    /// sure that it is that netns and not a successor with its number.
    ///
    /// # Errors
    /// As [`DiagSocket::open_in`].
    pub(crate) fn enter(&self, id: NetnsId, way: Way) -> io::Result<DiagSocket> {
        let Opened { netns, certain } = netns::open_by(id, way)?;
        netns::enter(&netns)?;
        drop(netns);
        let diag = DiagSocket::open_to_destroy()?;
        if certain || diag.netns_cookie()? == id.cookie {
            Ok(diag)
        } else {
            Err(io::Error::from_raw_os_error(libc::ESTALE))
        }
    }

    /// Moves the thread back.
    ///
    /// # Errors
    /// The errno of setns(2).
    pub(crate) fn end(self, home: &OwnedFd) -> io::Result<()> {
        netns::enter(home)
    }
}

/// Appends `struct nlmsghdr`; `length` is that of the whole message.
fn put_header(buffer: &mut Vec<u8>, length: usize, message_type: u16, flags: u16, sequence: u32) {
    buffer.extend_from_slice(&(length as u32).to_ne_bytes());
    buffer.extend_from_slice(&message_type.to_ne_bytes());
    buffer.extend_from_slice(&flags.to_ne_bytes());
    buffer.extend_from_slice(&sequence.to_ne_bytes());
    // port id: the kernel
    buffer.extend_from_slice(&0_u32.to_ne_bytes());
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
