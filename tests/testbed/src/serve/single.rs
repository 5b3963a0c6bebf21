//! Ops on one socket.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::table::Entry;
use super::trouble::{Answer, Context, refused};
use crate::op::{Family, OpenSpec, Protocol};
use crate::reply::Reply;
use crate::sys;

/// `sendmmsg(2)` takes that many messages (UIO_MAXIOV).
const MOST_MESSAGES: usize = 1024;
/// Room for any datagram.
const LONGEST_MESSAGE: usize = 65_536;

/// Opens a socket in the netns of this thread.
pub(super) fn open(spec: &OpenSpec) -> Answer<OwnedFd> {
    let domain = domain(spec.family);
    let mut kind = kind(spec.protocol);
    if spec.nonblocking {
        kind |= libc::SOCK_NONBLOCK;
    }
    let protocol = match (spec.protocol, spec.mptcp) {
        (_, false) => 0,
        (Protocol::Tcp, true) => libc::IPPROTO_MPTCP,
        (Protocol::Udp, true) => {
            return Err(refused("open a UDP socket with MPTCP".to_owned(), libc::EINVAL));
        }
    };
    let about = || format!("open a {} socket", spec.protocol);
    let socket = sys::socket(domain, kind, protocol).at(about)?;
    let fd = socket.as_fd();
    if spec.reuse_port {
        sys::set_socket_flag(fd, libc::SO_REUSEPORT, 1).at(|| "set SO_REUSEPORT".to_owned())?;
    }
    if let Some(device) = &spec.device {
        sys::bind_to_device(fd, device).at(|| format!("bind a socket to device {device}"))?;
    }
    if let Some(addr) = spec.bind {
        sys::bind(fd, addr).at(|| format!("bind a {} socket to {addr}", spec.protocol))?;
    }
    Ok(socket)
}

/// `AF_INET` or `AF_INET6`.
pub(super) fn domain(family: Family) -> libc::c_int {
    match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    }
}

/// `SOCK_STREAM` or `SOCK_DGRAM`.
pub(super) fn kind(protocol: Protocol) -> libc::c_int {
    match protocol {
        Protocol::Tcp => libc::SOCK_STREAM,
        Protocol::Udp => libc::SOCK_DGRAM,
    }
}

pub(super) fn connect(entry: &Entry, addr: SocketAddr) -> Answer<Reply> {
    sys::connect(entry.fd(), addr)
        .at(|| format!("connect socket {} to {addr}", entry.handle))
        .map(|()| Reply::Done)
}

pub(super) fn disconnect(entry: &Entry) -> Answer<Reply> {
    sys::disconnect(entry.fd()).at(|| format!("disconnect socket {}", entry.handle)).map(|()| Reply::Done)
}

pub(super) fn send(entry: &Entry, payload: &[u8]) -> Answer<Reply> {
    let bytes = sys::send(entry.fd(), payload, 0).at(|| format!("send on socket {}", entry.handle))?;
    Ok(Reply::Sent { bytes })
}

pub(super) fn send_marked(entry: &Entry, payload: &[u8]) -> Answer<Reply> {
    let bytes = sys::send_marked(entry.fd(), payload)
        .at(|| format!("send on socket {} with a control message", entry.handle))?;
    Ok(Reply::Sent { bytes })
}

pub(super) fn send_to(entry: &Entry, addr: SocketAddr, payload: &[u8]) -> Answer<Reply> {
    let bytes = sys::send_to(entry.fd(), payload, 0, addr)
        .at(|| format!("send on socket {} to {addr}", entry.handle))?;
    Ok(Reply::Sent { bytes })
}

pub(super) fn send_to_many(entry: &Entry, addrs: &[SocketAddr], payload: &[u8]) -> Reply {
    let mut sent = 0;
    while sent < addrs.len() {
        let rest = &addrs[sent..];
        let batch = &rest[..rest.len().min(MOST_MESSAGES)];
        let result = sys::send_to_many(entry.fd(), payload, batch)
            .at(|| format!("send on socket {} to {}", entry.handle, batch[0]));
        match result {
            Ok(count) => sent += count,
            Err(error) => return Reply::SentMany { sent: sent as u32, first_error: Some(error) },
        }
    }
    Reply::SentMany { sent: sent as u32, first_error: None }
}

/// Receives one message; a blocking socket really blocks in the kernel.
fn recv_once(entry: &Entry, buffer: &mut [u8], timeout_ms: u64) -> io::Result<(usize, Option<SocketAddr>)> {
    if sys::is_nonblocking(entry.fd())? {
        wait_for(entry, libc::POLLIN, timeout_ms)?;
    } else {
        // Zero would wait for ever.
        sys::set_receive_timeout(entry.fd(), timeout_ms.max(1))?;
    }
    sys::recv_from(entry.fd(), buffer, 0)
}

fn wait_for(entry: &Entry, events: i16, timeout_ms: u64) -> io::Result<()> {
    let timeout_ms = i32::try_from(timeout_ms).unwrap_or(i32::MAX);
    sys::poll(&mut [sys::poll_entry(entry.fd(), events)], timeout_ms).map(drop)
}

pub(super) fn recv(entry: &Entry, timeout_ms: u64) -> Answer<Reply> {
    let mut buffer = vec![0; LONGEST_MESSAGE];
    let (size, from) =
        recv_once(entry, &mut buffer, timeout_ms).at(|| format!("receive on socket {}", entry.handle))?;
    buffer.truncate(size);
    Ok(Reply::Received { payload: buffer, from })
}

pub(super) fn recv_many(entry: &Entry, count: u32, timeout_ms: u64) -> Reply {
    let deadline = Instant::now() + Duration::from_millis(timeout_ms);
    let mut buffer = vec![0; LONGEST_MESSAGE];
    let mut payloads = Vec::new();
    while payloads.len() < count as usize {
        let left = deadline.saturating_duration_since(Instant::now()).as_millis() as u64;
        let received =
            recv_once(entry, &mut buffer, left).at(|| format!("receive on socket {}", entry.handle));
        match received {
            // End of a TCP stream: it would say so for ever.
            Ok((0, _)) if entry.protocol == Protocol::Tcp => break,
            Ok((size, _)) => payloads.push(buffer[..size].to_vec()),
            Err(error) => return Reply::ReceivedMany { payloads, first_error: Some(error) },
        }
    }
    Reply::ReceivedMany { payloads, first_error: None }
}

pub(super) fn shutdown(entry: &Entry, read: bool, write: bool) -> Answer<Reply> {
    let how = match (read, write) {
        (true, true) => libc::SHUT_RDWR,
        (true, false) => libc::SHUT_RD,
        (false, true) => libc::SHUT_WR,
        (false, false) => return Ok(Reply::Done),
    };
    sys::shutdown(entry.fd(), how).at(|| format!("shut socket {} down", entry.handle)).map(|()| Reply::Done)
}

pub(super) fn listen(entry: &Entry, backlog: i32) -> Answer<Reply> {
    sys::listen(entry.fd(), backlog).at(|| format!("listen on socket {}", entry.handle)).map(|()| Reply::Done)
}

pub(super) fn accept(entry: &Entry, timeout_ms: u64) -> Answer<(OwnedFd, Option<SocketAddr>)> {
    let about = || format!("accept on socket {}", entry.handle);
    if sys::is_nonblocking(entry.fd()).at(about)? {
        wait_for(entry, libc::POLLIN, timeout_ms).at(about)?;
    } else {
        // accept(2) honours SO_RCVTIMEO.
        sys::set_receive_timeout(entry.fd(), timeout_ms.max(1)).at(about)?;
    }
    sys::accept(entry.fd(), 0).at(about)
}
