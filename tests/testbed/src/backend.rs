//! Backends: real servers that identify themselves.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::op::{Family, Protocol};
use super::waker::Waker;
use super::{Netns, sys};
use crate::epoll::Epoll;

/// Bytes that the kernel may queue for a UDP backend before it drops datagrams.
const UDP_BUFFER_BYTES: libc::c_int = 8 << 20;
/// The accept queue asked for; the kernel cuts it to the netns's `net.core.somaxconn`.
const ACCEPT_QUEUE: libc::c_int = 65_535;
/// How many datagrams or connections one socket gets before the next has its turn.
const TURN: usize = 64;
/// How long a backend without free descriptors waits before it accepts again.
const STARVED_MS: i32 = 20;
/// The longest message; more than a UDP datagram.
const LONGEST_MESSAGE: usize = 65_536;
/// The epoll token of the waker; the others are descriptors.
const WAKE: u64 = u64::MAX;

/// Behaviour of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Mode {
    /// It answers every message with its name, a blank and the message.
    #[default]
    Echo,
    /// It accepts and reads, and never answers.
    Silent,
    /// It ends every connection that it accepts from its side (TCP only): the client is
    /// left in CLOSE_WAIT.
    CloseAfterAccept,
    /// It does nothing at all, like a backend whose machine hangs. The kernel still
    /// completes TCP handshakes into the accept queue; such connections need no
    /// descriptor on this side.
    Frozen,
}

impl Mode {
    fn from_u8(value: u8) -> Self {
        [Self::Echo, Self::Silent, Self::CloseAfterAccept]
            .into_iter()
            .find(|mode| *mode as u8 == value)
            .unwrap_or(Self::Frozen)
    }
}

/// Data shared by the thread and its owner.
struct Shared {
    waker: Waker,
    stop: AtomicBool,
    mode: AtomicU8,
    answered: AtomicU64,
    received: AtomicU64,
    accepted: AtomicU64,
}

impl Shared {
    fn mode(&self) -> Mode {
        Mode::from_u8(self.mode.load(Ordering::Relaxed))
    }
}

/// A backend that listens at one address in several netns, served by one thread.
///
/// A TCP message is the data of one read: keep messages small, one at a time.
pub struct Echo {
    name: String,
    addr: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Listens at `addr` in each netns and serves.
    ///
    /// # Errors
    /// When the address is not there or in use in one of the netns (which is named), or
    /// the mode does not fit the protocol.
    pub fn start(protocol: Protocol, addr: SocketAddr, netns: &[&Netns], mode: Mode) -> Result<Self> {
        let name = format!("{addr}/{protocol}");
        if protocol == Protocol::Udp && mode == Mode::CloseAfterAccept {
            bail!("backend {name}: UDP has no connection to close");
        }
        let shared = Arc::new(Shared {
            waker: Waker::new().with_context(|| format!("backend {name}: make an eventfd"))?,
            stop: AtomicBool::new(false),
            mode: AtomicU8::new(mode as u8),
            answered: AtomicU64::new(0),
            received: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
        });
        let mut server = Server::new(&name, Arc::clone(&shared))
            .with_context(|| format!("backend {name}: make an epoll set"))?;
        for netns in netns {
            let about = || format!("backend {name} in netns {}", netns.name());
            let socket = netns.run(|| listening(protocol, addr))?.with_context(about)?;
            let role = match protocol {
                Protocol::Tcp => Role::Listener,
                Protocol::Udp => Role::Datagrams,
            };
            server.adopt(socket, role).with_context(about)?;
        }
        let thread = thread::Builder::new()
            .name("backend".to_owned())
            .spawn(move || server.serve())
            .with_context(|| format!("backend {name}: start a thread"))?;
        Ok(Self { name, addr, shared, thread: Some(thread) })
    }

    /// Its name, with which it begins each answer: `ADDRESS:PORT/PROTOCOL`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Number of answered messages.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// How many messages it has received.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }

    /// How many connections it has accepted.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Changes its behaviour, for example to [`Mode::Frozen`].
    pub fn set_mode(&self, mode: Mode) {
        self.shared.mode.store(mode as u8, Ordering::Relaxed);
        self.shared.waker.wake();
    }

    /// Closes all its sockets. TCP clients get the FIN or RST that this causes.
    pub fn stop(self) {
        // Drop does it.
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.waker.wake();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::warn!("backend {} panicked", self.name);
        }
    }
}

/// A non-blocking socket that listens at `addr` in the netns of the calling thread.
fn listening(protocol: Protocol, addr: SocketAddr) -> Result<OwnedFd> {
    let domain = match Family::of(addr) {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    let kind = match protocol {
        Protocol::Tcp => libc::SOCK_STREAM,
        Protocol::Udp => libc::SOCK_DGRAM,
    };
    let socket = sys::socket(domain, kind | libc::SOCK_NONBLOCK, 0).context("open a socket")?;
    if protocol == Protocol::Tcp {
        sys::set_socket_flag(socket.as_fd(), libc::SO_REUSEADDR, 1).context("set SO_REUSEADDR")?;
    } else {
        for option in [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE] {
            sys::set_socket_flag(socket.as_fd(), option, UDP_BUFFER_BYTES).context("enlarge its buffers")?;
        }
    }
    sys::bind(socket.as_fd(), addr).context("bind")?;
    if protocol == Protocol::Tcp {
        sys::listen(socket.as_fd(), ACCEPT_QUEUE).context("listen")?;
    }
    Ok(socket)
}

/// Purpose of a descriptor of the server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Datagrams,
    Listener,
    Connection,
}

/// The thread's own state.
struct Server {
    name: String,
    /// The name and a blank, then room for a message: an answer needs no copy.
    buffer: Vec<u8>,
    shared: Arc<Shared>,
    epoll: Epoll,
    sockets: HashMap<RawFd, (OwnedFd, Role)>,
    /// Out of descriptors: the listeners are not looked at until the next pause is over.
    starved: bool,
}

impl Server {
    fn new(name: &str, shared: Arc<Shared>) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(shared.waker.fd(), libc::EPOLLIN, WAKE)?;
        let mut buffer = format!("{name} ").into_bytes();
        buffer.resize(buffer.len() + LONGEST_MESSAGE, 0);
        let name = name.to_owned();
        Ok(Self { name, buffer, shared, epoll, sockets: HashMap::new(), starved: false })
    }

    fn adopt(&mut self, socket: OwnedFd, role: Role) -> io::Result<()> {
        let fd = socket.as_raw_fd();
        self.epoll.add(socket.as_fd(), libc::EPOLLIN, fd.unsigned_abs().into())?;
        self.sockets.insert(fd, (socket, role));
        Ok(())
    }

    fn serve(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            if let Err(error) = self.turn() {
                tracing::warn!("backend {}: {error}", self.name);
                return;
            }
        }
    }

    fn turn(&mut self) -> io::Result<()> {
        if self.shared.mode() == Mode::Frozen {
            sys::poll(&mut [sys::poll_entry(self.shared.waker.fd(), libc::POLLIN)], -1)?;
            self.shared.waker.clear();
            return Ok(());
        }
        let ready = self.epoll.wait(if self.starved { STARVED_MS } else { -1 })?;
        if self.starved {
            self.starved = false;
            self.watch_listeners(libc::EPOLLIN)?;
        }
        for (token, _) in ready {
            if token == WAKE {
                self.shared.waker.clear();
                continue;
            }
            let fd = RawFd::try_from(token).unwrap_or(-1);
            let Some((socket, role)) = self.sockets.get(&fd) else { continue };
            let desk = Desk { shared: &self.shared, room: self.name.len() + 1 };
            match role {
                Role::Datagrams => desk.answer_datagrams(socket.as_fd(), &mut self.buffer),
                Role::Connection => {
                    if !desk.answer_stream(socket.as_fd(), &mut self.buffer) {
                        self.sockets.remove(&fd);
                    }
                }
                Role::Listener => self.accept_some(fd)?,
            }
        }
        Ok(())
    }

    fn accept_some(&mut self, listener: RawFd) -> io::Result<()> {
        for _ in 0..TURN {
            let Some((socket, _)) = self.sockets.get(&listener) else { return Ok(()) };
            match sys::accept(socket.as_fd(), libc::SOCK_NONBLOCK) {
                Ok((connection, _)) => {
                    self.shared.accepted.fetch_add(1, Ordering::Relaxed);
                    if self.shared.mode() == Mode::CloseAfterAccept {
                        // The client may have closed first: nothing to end then.
                        let _ = sys::shutdown(connection.as_fd(), libc::SHUT_WR);
                    }
                    self.adopt(connection, Role::Connection)?;
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EMFILE | libc::ENFILE) => {
                        tracing::debug!("no descriptor left for another connection");
                        self.starved = true;
                        return self.watch_listeners(0);
                    }
                    // Nothing left, or a connection that died in the queue.
                    _ => return Ok(()),
                },
            }
        }
        Ok(())
    }

    fn watch_listeners(&self, interest: i32) -> io::Result<()> {
        for (fd, (socket, role)) in &self.sockets {
            if *role == Role::Listener {
                self.epoll.modify(socket.as_fd(), interest, fd.unsigned_abs().into())?;
            }
        }
        Ok(())
    }
}

/// Answers messages; borrows the needed parts of the server.
struct Desk<'a> {
    shared: &'a Shared,
    /// Where in the buffer a message goes: behind the name.
    room: usize,
}

impl Desk<'_> {
    /// Counts a message, and sends its answer if the mode has any.
    fn handle(&self, send: impl FnOnce() -> io::Result<usize>) {
        self.shared.received.fetch_add(1, Ordering::Relaxed);
        // An answer that does not fit the send buffer is lost: the client does not read.
        if self.shared.mode() == Mode::Echo && send().is_ok() {
            self.shared.answered.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn answer_datagrams(&self, socket: BorrowedFd<'_>, buffer: &mut [u8]) {
        for _ in 0..TURN {
            match sys::recv_from(socket, &mut buffer[self.room..], 0) {
                Ok((size, Some(from))) => {
                    let answer = &buffer[..self.room + size];
                    self.handle(|| sys::send_to(socket, answer, 0, from));
                }
                Ok((_, None)) => {}
                // Nothing left, or the ICMP error of an answer to a client that is gone:
                // level-triggered epoll comes back if there is more.
                Err(_) => return,
            }
        }
    }

    /// Serves one read of a connection; false once it is over.
    fn answer_stream(&self, socket: BorrowedFd<'_>, buffer: &mut [u8]) -> bool {
        match sys::recv(socket, &mut buffer[self.room..], 0) {
            Ok(0) => false,
            Ok(size) => {
                let answer = &buffer[..self.room + size];
                self.handle(|| sys::send(socket, answer, 0));
                true
            }
            Err(error) => {
                matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
            }
        }
    }
}
