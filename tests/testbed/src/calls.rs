//! Ops as methods of [`Client`], for callers that want the one reply that fits.

use std::net::SocketAddr;

use super::client::{CallError, Client};
use super::op::{Holding, Op, OpenMany, OpenSpec, Selection, Watch};
use super::reply::{Echoed, OpenedMany, Reply, SocketState, Watched};

type Call<T> = Result<T, CallError>;

/// Takes the fields of the one variant that fits, or reports the reply as unfit.
macro_rules! expect {
    ($client:expr, $op:expr, $reply:pat => $value:expr) => {
        match $client.call(&$op)? {
            $reply => Ok($value),
            other => Err($client.unfit(&other)),
        }
    };
}

/// Each method is the [`Op`] of its name.
///
/// # Errors
/// All of them fail when the kernel refuses, or the client is gone.
#[allow(clippy::missing_errors_doc, reason = "said once above for all of them")]
impl Client {
    fn unfit(&self, reply: &Reply) -> CallError {
        let reply = format!("{reply:?}").chars().take(200).collect();
        CallError::Unfit { client: self.label().to_owned(), reply }
    }

    fn done(&mut self, op: Op) -> Call<()> {
        expect!(self, op, Reply::Done => ())
    }

    /// Opens one socket and returns its handle.
    pub fn open(&mut self, spec: OpenSpec) -> Call<u32> {
        expect!(self, Op::Open(spec), Reply::Opened { socket } => socket)
    }

    /// Opens and connects many sockets.
    pub fn open_many(&mut self, many: OpenMany) -> Call<OpenedMany> {
        expect!(self, Op::OpenMany(many), Reply::OpenedMany(opened) => opened)
    }

    /// Connects a socket.
    pub fn connect(&mut self, socket: u32, addr: SocketAddr) -> Call<()> {
        self.done(Op::Connect { socket, addr })
    }

    /// Takes a socket's peer away.
    pub fn disconnect(&mut self, socket: u32) -> Call<()> {
        self.done(Op::Disconnect { socket })
    }

    /// Sends to the peer.
    pub fn send_bytes(&mut self, socket: u32, payload: &[u8]) -> Call<usize> {
        let op = Op::Send { socket, payload: payload.to_vec() };
        expect!(self, op, Reply::Sent { bytes } => bytes)
    }

    /// Sends to the peer, with a control message.
    pub fn send_marked(&mut self, socket: u32, payload: &[u8]) -> Call<usize> {
        let op = Op::SendMarked { socket, payload: payload.to_vec() };
        expect!(self, op, Reply::Sent { bytes } => bytes)
    }

    /// Sends to an address.
    pub fn send_to(&mut self, socket: u32, addr: SocketAddr, payload: &[u8]) -> Call<usize> {
        let op = Op::SendTo { socket, addr, payload: payload.to_vec() };
        expect!(self, op, Reply::Sent { bytes } => bytes)
    }

    /// Receives one message.
    pub fn recv(&mut self, socket: u32, timeout_ms: u64) -> Call<Vec<u8>> {
        let op = Op::Recv { socket, timeout_ms };
        expect!(self, op, Reply::Received { payload, .. } => payload)
    }

    /// Makes a socket listen.
    pub fn listen(&mut self, socket: u32, backlog: i32) -> Call<()> {
        self.done(Op::Listen { socket, backlog })
    }

    /// Accepts one connection and returns its handle.
    pub fn accept(&mut self, socket: u32, timeout_ms: u64) -> Call<u32> {
        let op = Op::Accept { socket, timeout_ms };
        expect!(self, op, Reply::Accepted { socket, .. } => socket)
    }

    /// Duplicates a descriptor and returns the new handle.
    pub fn dup(&mut self, socket: u32) -> Call<u32> {
        expect!(self, Op::Dup { socket }, Reply::Opened { socket } => socket)
    }

    /// Shuts a connection down for writing.
    pub fn shutdown_write(&mut self, socket: u32) -> Call<()> {
        self.done(Op::Shutdown { socket, read: false, write: true })
    }

    /// Gives the process another name, 15 bytes at most.
    pub fn rename(&mut self, name: &str) -> Call<()> {
        self.done(Op::Rename { name: name.to_owned() })
    }

    /// Sends a socket over a unix socket; no process has a descriptor of it until it lands.
    pub fn start_flight(&mut self, socket: u32) -> Call<()> {
        self.done(Op::StartFlight { socket })
    }

    /// Receives a socket in flight and returns its new handle.
    pub fn land_flight(&mut self, socket: u32) -> Call<u32> {
        expect!(self, Op::LandFlight { socket }, Reply::Opened { socket } => socket)
    }

    /// Has a send take the lock of a socket, and keep it.
    pub fn start_hold(&mut self, socket: u32, by: Holding) -> Call<()> {
        self.done(Op::StartHold { socket, by })
    }

    /// Has the kernel connect a socket of its own to a server, which must end that connection before this client is dropped.
    pub fn mount_9p(&mut self, server: SocketAddr) -> Call<()> {
        self.done(Op::Mount9p { server })
    }

    /// Lets that send end.
    pub fn end_hold(&mut self, socket: u32) -> Call<()> {
        self.done(Op::EndHold { socket })
    }

    /// Forks a process that holds all sockets, and returns its PID.
    pub fn fork(&mut self) -> Call<u32> {
        expect!(self, Op::Fork, Reply::Forked { pid } => pid)
    }

    /// Kills a fork.
    pub fn reap_fork(&mut self, pid: u32) -> Call<()> {
        self.done(Op::ReapFork { pid })
    }

    /// Closes one socket.
    pub fn close(&mut self, socket: u32) -> Call<()> {
        let op = Op::Close { sockets: Selection::List(vec![socket]) };
        expect!(self, op, Reply::Closed { .. } => ())
    }

    /// Closes every socket and returns how many there were.
    pub fn close_all(&mut self) -> Call<u32> {
        let op = Op::Close { sockets: Selection::All };
        expect!(self, op, Reply::Closed { count } => count)
    }

    /// The cookies of some sockets.
    pub fn cookies(&mut self, sockets: Selection) -> Call<Vec<u64>> {
        expect!(self, Op::Cookies { sockets }, Reply::Cookies(cookies) => cookies)
    }

    /// The cookie of one socket.
    pub fn cookie(&mut self, socket: u32) -> Call<u64> {
        let op = Op::Cookies { sockets: Selection::List(vec![socket]) };
        match self.call(&op)? {
            Reply::Cookies(cookies) if cookies.len() == 1 => Ok(cookies[0]),
            other => Err(self.unfit(&other)),
        }
    }

    /// The states of some sockets. Takes their pending errors.
    pub fn states(&mut self, sockets: Selection) -> Call<Vec<SocketState>> {
        expect!(self, Op::States { sockets }, Reply::States(states) => states)
    }

    /// The state of one socket. Takes its pending error.
    pub fn state(&mut self, socket: u32) -> Call<SocketState> {
        let mut states = self.states(Selection::List(vec![socket]))?;
        states.pop().ok_or_else(|| self.unfit(&Reply::States(Vec::new())))
    }

    /// The cookies of the sockets that were destroyed since the last call. Takes the pending
    /// errors.
    pub fn destroyed(&mut self, sockets: Selection) -> Call<Vec<u64>> {
        let states = self.states(sockets)?;
        Ok(states.iter().filter(|state| state.destroyed()).map(|state| state.cookie).collect())
    }

    /// Exchanges one message on each of some sockets.
    pub fn echo_all(&mut self, sockets: Selection, timeout_ms: u64) -> Call<Echoed> {
        expect!(self, Op::EchoAll { sockets, timeout_ms }, Reply::Echoed(echoed) => echoed)
    }

    /// Waits for errors and recovers.
    pub fn watch(&mut self, watch: Watch) -> Call<Watched> {
        expect!(self, Op::Watch(watch), Reply::Watched(watched) => watched)
    }
}
