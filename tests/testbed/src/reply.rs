//! The replies of a client process.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

#[cfg(doc)]
use super::op::Op;
use super::op::Selection;

/// Why an op failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{what}: {}", std::io::Error::from_raw_os_error(*.errno))]
pub struct OpError {
    /// The operation that was tried.
    pub what: String,
    /// The kernel's error.
    pub errno: i32,
}

/// Result of [`Op::OpenMany`](crate::Op::OpenMany).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct OpenedMany {
    /// The handle of the first; the others follow without a gap.
    pub first: u32,
    /// The cookies of those that are open and connected, in the order of their handles.
    pub cookies: Vec<u64>,
    /// How many could not be opened or connected. They are closed.
    pub failed: u32,
    /// Why the first of these failed.
    pub first_error: Option<OpError>,
}

impl OpenedMany {
    /// The handles.
    pub fn selection(&self) -> Selection {
        // No client has 2^32 sockets.
        Selection::Range { first: self.first, count: self.cookies.len() as u32 }
    }
}

/// Result of [`Op::ConnectFromTwoThreads`](crate::Op::ConnectFromTwoThreads).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Raced {
    /// How many connects to `a` succeeded.
    pub connected_a: u32,
    /// How many connects to `b` did.
    pub connected_b: u32,
    /// The first error of either.
    pub first_error: Option<OpError>,
    /// The peer in the end.
    pub peer: Option<SocketAddr>,
}

/// One socket as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketState {
    /// The handle.
    pub socket: u32,
    /// `SO_COOKIE`.
    pub cookie: u64,
    /// The error that was pending (`SO_ERROR`), or 0.
    pub errno: i32,
    /// `getpeername(2)`.
    pub peer: Option<SocketAddr>,
    /// `getsockname(2)`.
    pub local: Option<SocketAddr>,
    /// Result of `poll(2)` before the error was taken.
    pub revents: i16,
    /// `tcpi_state`, for TCP: 1 established, 2 SYN sent, 7 closed, 8 close-wait, 10 listen.
    pub tcp_state: Option<u8>,
}

impl SocketState {
    /// Whether the socket was destroyed since its error was last taken.
    pub fn destroyed(&self) -> bool {
        self.errno == libc::ECONNABORTED && self.peer.is_none()
    }
}

/// A socket that did not get its echo.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// The handle.
    pub socket: u32,
    /// `SO_COOKIE`.
    pub cookie: u64,
    /// The reason: an errno of send or receive, `ETIMEDOUT` without an answer in time, `ENOTCONN`
    /// when a TCP peer has closed.
    pub errno: i32,
}

/// Result of [`Op::EchoAll`](crate::Op::EchoAll).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echoed {
    /// Number of sockets answered by each backend.
    pub by: BTreeMap<String, u32>,
    /// The sockets without an answer.
    pub lost: Vec<Lost>,
}

impl Echoed {
    /// Number of answered messages.
    pub fn answered(&self) -> u32 {
        self.by.values().sum()
    }
}

/// A watched socket that had an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Victim {
    /// The handle; it stays the same when TCP takes a new socket.
    pub socket: u32,
    /// The cookie of the socket that had the error.
    pub cookie: u64,
    /// The error, `ECONNABORTED` (103) for a destroyed socket; 0 if the connection ended
    /// from both sides in good order.
    pub errno: i32,
    /// When the client saw it, in [`monotonic_ns`](super::monotonic_ns).
    pub error_at_ns: u64,
    /// The name of the backend that answered after the recovery.
    pub answered_by: Option<String>,
    /// Time of that answer.
    pub answered_at_ns: Option<u64>,
    /// Why there was no recovery.
    pub failure: Option<OpError>,
}

/// Result of [`Op::Watch`](crate::Op::Watch).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Watched {
    /// The sockets with an error, in the order in which they were seen.
    pub victims: Vec<Victim>,
    /// How many had none.
    pub untouched: u32,
    /// The echo of these, if [`Watch::verify_rest`](crate::Watch::verify_rest).
    pub rest: Option<Echoed>,
    /// Whether the time was over before `expect` sockets were done.
    pub timed_out: bool,
}

/// The reply to an [`Op`](crate::Op).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// It is done.
    Done,
    /// A new handle.
    Opened {
        /// The handle.
        socket: u32,
    },
    /// A bulk of new handles.
    OpenedMany(OpenedMany),
    /// A connection was accepted.
    Accepted {
        /// Its handle.
        socket: u32,
        /// The sender.
        peer: Option<SocketAddr>,
    },
    /// Sent.
    Sent {
        /// How many bytes.
        bytes: usize,
    },
    /// The outcome of [`Op::SendToMany`](crate::Op::SendToMany).
    SentMany {
        /// How many messages were sent.
        sent: u32,
        /// The error that stopped the rest.
        first_error: Option<OpError>,
    },
    /// Received.
    Received {
        /// The message; empty if a TCP peer has closed.
        payload: Vec<u8>,
        /// The sender, for UDP.
        from: Option<SocketAddr>,
    },
    /// The outcome of [`Op::RecvMany`](crate::Op::RecvMany).
    ReceivedMany {
        /// The messages.
        payloads: Vec<Vec<u8>>,
        /// The error that stopped the rest.
        first_error: Option<OpError>,
    },
    /// The outcome of [`Op::ConnectFromTwoThreads`](crate::Op::ConnectFromTwoThreads).
    Raced(Raced),
    /// A fork holds the sockets.
    Forked {
        /// Its PID.
        pid: u32,
    },
    /// Closed.
    Closed {
        /// How many.
        count: u32,
    },
    /// In the order asked for; handles in ascending order for [`Selection::All`].
    Cookies(Vec<u64>),
    /// In the order asked for.
    States(Vec<SocketState>),
    /// The outcome of [`Op::EchoAll`](crate::Op::EchoAll).
    Echoed(Echoed),
    /// The outcome of [`Op::Watch`](crate::Op::Watch).
    Watched(Watched),
    /// A backend runs in the client process.
    EchoStarted {
        /// Its handle.
        echo: u32,
        /// Its name.
        name: String,
    },
}
