//! The requests to a client process.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::backend::Mode;
pub use skreap_core::Protocol;

/// The family of a socket. A v6 socket also reaches v4-mapped addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// `AF_INET`.
    V4,
    /// `AF_INET6`.
    V6,
}

impl Family {
    /// The family of sockets that can use `addr` as it is.
    pub fn of(addr: SocketAddr) -> Self {
        match addr.ip() {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// How a client process finds a netns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetnsRef {
    /// The one the client process lives in.
    #[default]
    Own,
    /// By a path such as `/proc/PID/fd/N` or `/run/netns/NAME`.
    Path(PathBuf),
}

/// A socket to open.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OpenSpec {
    /// Where.
    pub netns: NetnsRef,
    /// Its transport.
    pub protocol: Protocol,
    /// Its family.
    pub family: Family,
    /// The local address, if not left to the kernel.
    pub bind: Option<SocketAddr>,
    /// `SO_BINDTODEVICE`.
    pub device: Option<String>,
    /// `SO_REUSEPORT`.
    pub reuse_port: bool,
    /// `O_NONBLOCK`.
    pub nonblocking: bool,
    /// `IPPROTO_MPTCP` in place of TCP.
    pub mptcp: bool,
}

impl OpenSpec {
    /// An unbound, blocking socket in the client's own netns.
    pub fn new(protocol: Protocol, family: Family) -> Self {
        Self {
            netns: NetnsRef::Own,
            protocol,
            family,
            bind: None,
            device: None,
            reuse_port: false,
            nonblocking: false,
            mptcp: false,
        }
    }

    /// The same socket in another netns.
    #[must_use]
    pub fn inside(mut self, netns: NetnsRef) -> Self {
        self.netns = netns;
        self
    }
}

/// Many alike sockets to open and connect; they are non-blocking.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OpenMany {
    /// Where.
    pub netns: NetnsRef,
    /// Their transport.
    pub protocol: Protocol,
    /// How many.
    pub count: u32,
    /// Their peer, which also says the family.
    pub connect: SocketAddr,
    /// How long TCP may take until all are established.
    pub timeout_ms: u64,
}

/// What a send waits for that holds the lock of its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Holding {
    /// Its memory, which is not there before [`Op::EndHold`].
    Memory,
    /// Room in the send buffer of a UDP socket whose peer does not answer ARP: about three seconds.
    Room,
}

/// Which of a client's sockets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Selection {
    /// Every open one.
    All,
    /// `count` handles from `first` on.
    Range {
        /// The first handle.
        first: u32,
        /// How many.
        count: u32,
    },
    /// These.
    List(Vec<u32>),
}

/// Waits for sockets to be destroyed, and then recovers as a well-behaved client.
///
/// On an error each socket is connected to a backend of its protocol and family in
/// `fallback` (UDP with the same descriptor, TCP with a new one in the same netns), and
/// one message is exchanged. Errors that came before the watch are seen as well.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Watch {
    /// Which sockets to watch.
    pub sockets: Selection,
    /// Where to go after an error. A v6 socket takes a v6 backend, or a v4 one as a
    /// v4-mapped address.
    pub fallback: Vec<(Protocol, SocketAddr)>,
    /// Return once that many sockets had an error and are done; `None` waits for the
    /// whole of `timeout_ms`. More victims that show by then are reported too.
    pub expect: Option<u32>,
    /// How long at most.
    pub timeout_ms: u64,
    /// Exchange one message on every socket that had no error.
    pub verify_rest: bool,
}

/// A request to a client process. Sockets are named by handles that the client gives
/// out; a handle is never given twice.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Op {
    /// Open one socket. → [`Reply::Opened`](crate::Reply::Opened)
    Open(OpenSpec),
    /// Open and connect many. → [`Reply::OpenedMany`](crate::Reply::OpenedMany)
    OpenMany(OpenMany),
    /// `connect(2)`. → [`Reply::Done`](crate::Reply::Done), or the errno `EINPROGRESS` from a non-blocking TCP
    /// socket whose handshake has begun.
    Connect {
        /// The socket.
        socket: u32,
        /// Its new peer.
        addr: SocketAddr,
    },
    /// `connect(2)` to `AF_UNSPEC`. → [`Reply::Done`](crate::Reply::Done)
    Disconnect {
        /// The socket.
        socket: u32,
    },
    /// Two threads connect one socket at the same moment, again and again.
    /// → [`Reply::Raced`](crate::Reply::Raced)
    ConnectFromTwoThreads {
        /// The socket.
        socket: u32,
        /// Where one thread connects to.
        a: SocketAddr,
        /// Where the other does.
        b: SocketAddr,
        /// How often.
        rounds: u32,
    },
    /// `send(2)`. → [`Reply::Sent`](crate::Reply::Sent)
    Send {
        /// The socket.
        socket: u32,
        /// The message.
        payload: Vec<u8>,
    },
    /// `sendmsg(2)` without a name and with a control message that sets the ECN bits, as QUIC does for each packet.
    /// → [`Reply::Sent`](crate::Reply::Sent)
    SendMarked {
        /// The socket, whose family is that of the control message.
        socket: u32,
        /// What.
        payload: Vec<u8>,
    },
    /// `sendto(2)`. → [`Reply::Sent`](crate::Reply::Sent)
    SendTo {
        /// The socket.
        socket: u32,
        /// Where to.
        addr: SocketAddr,
        /// The message.
        payload: Vec<u8>,
    },
    /// One `sendmmsg(2)` (or several, of 1024 each) with a message to each address.
    /// → [`Reply::SentMany`](crate::Reply::SentMany)
    SendToMany {
        /// The socket.
        socket: u32,
        /// Where to.
        addrs: Vec<SocketAddr>,
        /// The message.
        payload: Vec<u8>,
    },
    /// `recvfrom(2)`; blocks in the kernel if the socket is blocking.
    /// → [`Reply::Received`](crate::Reply::Received)
    Recv {
        /// The socket.
        socket: u32,
        /// How long to wait; `EAGAIN` after that.
        timeout_ms: u64,
    },
    /// Receive until `count` messages are there or the time is over.
    /// → [`Reply::ReceivedMany`](crate::Reply::ReceivedMany)
    RecvMany {
        /// The socket.
        socket: u32,
        /// How many.
        count: u32,
        /// How long to wait in all.
        timeout_ms: u64,
    },
    /// `shutdown(2)`. → [`Reply::Done`](crate::Reply::Done)
    Shutdown {
        /// The socket.
        socket: u32,
        /// Receiving.
        read: bool,
        /// Sending.
        write: bool,
    },
    /// `listen(2)`. → [`Reply::Done`](crate::Reply::Done)
    Listen {
        /// The socket.
        socket: u32,
        /// The length of its accept queue.
        backlog: i32,
    },
    /// `accept(2)`. → [`Reply::Accepted`](crate::Reply::Accepted)
    Accept {
        /// The listening socket.
        socket: u32,
        /// How long to wait; `EAGAIN` after that.
        timeout_ms: u64,
    },
    /// `dup(2)`. → [`Reply::Opened`](crate::Reply::Opened)
    Dup {
        /// The socket.
        socket: u32,
    },
    /// Send a socket over a unix socket (`SCM_RIGHTS`) and close it: no process has a descriptor of it any more.
    /// → [`Reply::Done`](crate::Reply::Done)
    StartFlight {
        /// The socket.
        socket: u32,
    },
    /// Receive the socket of [`Op::StartFlight`]. → [`Reply::Opened`](crate::Reply::Opened)
    LandFlight {
        /// The handle it had.
        socket: u32,
    },
    /// Begin a `send(2)` that takes the socket's lock and keeps it. → [`Reply::Done`](crate::Reply::Done) when it is held.
    StartHold {
        /// The socket, connected.
        socket: u32,
        /// What the send waits for.
        by: Holding,
    },
    /// Let the send of [`Op::StartHold`] end. → [`Reply::Done`](crate::Reply::Done) when it has.
    EndHold {
        /// The socket.
        socket: u32,
    },
    /// Begin to mount a 9p file system: the kernel opens a socket for itself and connects it. → [`Reply::Done`](crate::Reply::Done) at once
    ///
    /// Ends when the server ends the connection; so does this process then, and not before.
    Mount9p {
        /// Whoever listens there.
        server: SocketAddr,
    },
    /// Give the process another name (`/proc/PID/comm`). → [`Reply::Done`](crate::Reply::Done)
    Rename {
        /// 15 bytes at most.
        name: String,
    },
    /// Fork a process that holds all sockets and does nothing. → [`Reply::Forked`](crate::Reply::Forked)
    Fork,
    /// Kill a process that [`Op::Fork`] made and wait for it. → [`Reply::Done`](crate::Reply::Done)
    ReapFork {
        /// Its PID.
        pid: u32,
    },
    /// `close(2)`. → [`Reply::Closed`](crate::Reply::Closed)
    Close {
        /// Which.
        sockets: Selection,
    },
    /// `SO_COOKIE`. → [`Reply::Cookies`](crate::Reply::Cookies)
    Cookies {
        /// Which.
        sockets: Selection,
    },
    /// Everything that shows whether a socket was destroyed. Takes its pending error. →
    /// [`Reply::States`](crate::Reply::States)
    States {
        /// Which.
        sockets: Selection,
    },
    /// Exchange one message with the backend on each. → [`Reply::Echoed`](crate::Reply::Echoed)
    EchoAll {
        /// Which.
        sockets: Selection,
        /// How long each may take.
        timeout_ms: u64,
    },
    /// Wait for errors and recover. → [`Reply::Watched`](crate::Reply::Watched)
    Watch(Watch),
    /// Run an [`Echo`](super::Echo) in the client process, for backends with more
    /// connections than one process has descriptors. → [`Reply::EchoStarted`](crate::Reply::EchoStarted)
    StartEcho {
        /// Its transport.
        protocol: Protocol,
        /// Where it listens.
        addr: SocketAddr,
        /// In which netns.
        netns: Vec<NetnsRef>,
        /// Its behaviour.
        mode: Mode,
    },
    /// Change the behaviour of a backend. → [`Reply::Done`](crate::Reply::Done)
    SetEchoMode {
        /// The backend.
        echo: u32,
        /// Its new behaviour.
        mode: Mode,
    },
    /// Stop a backend. → [`Reply::Done`](crate::Reply::Done)
    StopEcho {
        /// The backend.
        echo: u32,
    },
    /// End the client process. → [`Reply::Done`](crate::Reply::Done)
    Exit,
}
