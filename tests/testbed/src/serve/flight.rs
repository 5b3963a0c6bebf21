//! Sockets in flight: sent over a unix socket, and not received yet. No process has a descriptor of
//! them.

use std::collections::HashMap;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use super::table::Table;
use super::trouble::{Answer, Context, refused};
use crate::op::{Family, Protocol};
use crate::sys::check_size;

/// Room for the control message of one descriptor, aligned as `cmsghdr` wants it.
type Control = [u64; 4];

/// Both ends of the unix socket that a socket is in, by its handle.
#[derive(Default)]
pub(super) struct Flights(HashMap<u32, Flight>);

struct Flight {
    _from: UnixStream,
    to: UnixStream,
    protocol: Protocol,
    family: Family,
}

impl Flights {
    /// Sends a socket away and closes its descriptor.
    pub(super) fn start(&mut self, table: &mut Table, socket: u32) -> Answer<()> {
        let about = || format!("send socket {socket} over a unix socket");
        let (from, to) = UnixStream::pair().at(about)?;
        let entry = table.take(socket)?;
        send(&from, entry.fd.as_raw_fd()).at(about)?;
        self.0.insert(socket, Flight { _from: from, to, protocol: entry.protocol, family: entry.family });
        Ok(())
    }

    /// Receives it; it has a new handle.
    pub(super) fn land(&mut self, table: &mut Table, socket: u32) -> Answer<u32> {
        let flight = self.0.remove(&socket);
        let flight =
            flight.ok_or_else(|| refused(format!("find socket {socket} in flight"), libc::ENOENT))?;
        let fd = receive(&flight.to).at(|| format!("receive socket {socket} from a unix socket"))?;
        Ok(table.add(fd, flight.protocol, flight.family))
    }
}

/// A message of one byte with a control message.
fn message(byte: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: a msghdr of zeros is an empty one.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_iov = byte;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of::<Control>() as _;
    header
}

fn send(stream: &UnixStream, fd: RawFd) -> io::Result<()> {
    let mut byte = 0_u8;
    let mut part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let mut control: Control = [0; 4];
    let mut header = message(&mut part, &mut control);
    // SAFETY: the control buffer is aligned and has room for one descriptor; CMSG_* stay inside it.
    unsafe {
        header.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as _;
        let first = libc::CMSG_FIRSTHDR(&header);
        (*first).cmsg_level = libc::SOL_SOCKET;
        (*first).cmsg_type = libc::SCM_RIGHTS;
        (*first).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
        libc::CMSG_DATA(first).cast::<RawFd>().write_unaligned(fd);
    }
    // SAFETY: everything the header points to lives until the call has returned.
    check_size(unsafe { libc::sendmsg(stream.as_raw_fd(), &header, libc::MSG_NOSIGNAL) }).map(drop)
}

fn receive(stream: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = 0_u8;
    let mut part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let mut control: Control = [0; 4];
    let mut header = message(&mut part, &mut control);
    // SAFETY: everything the header points to is writable and lives until the call has returned.
    check_size(unsafe { libc::recvmsg(stream.as_raw_fd(), &mut header, libc::MSG_CMSG_CLOEXEC) })?;
    // SAFETY: the kernel has filled in the control buffer and its length; CMSG_FIRSTHDR is null if it is empty.
    unsafe {
        let first = libc::CMSG_FIRSTHDR(&header);
        if first.is_null() || (*first).cmsg_type != libc::SCM_RIGHTS {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(OwnedFd::from_raw_fd(libc::CMSG_DATA(first).cast::<RawFd>().read_unaligned()))
    }
}
