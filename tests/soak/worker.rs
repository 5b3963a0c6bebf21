//! A worker: opens, moves and closes sockets as fast as it can, and knows of each whether it must be destroyed.
//!
//! Each backend counts its events: *begun* before one is sent, *done* when its report is there. A socket that was
//! connected when `begun` stood at `n` must be gone once `done` is above `n`; one that was connected when `done` stood at
//! `n` may not be gone while `begun` is still `n`. In between, both are right. So no look at a socket needs to wait for
//! anything.

#[path = "look.rs"]
mod look;
#[path = "owners.rs"]
mod owners;

use std::process;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use self::owners::Owner;
use crate::shared::{BACKENDS, Events, GONE, Shared, Work, add, fate, phase};
use crate::sys::{self, Address, Fd};

/// Sockets that a worker has open at a time.
const POOL: usize = 256;
/// Steps from one netns to the next.
const NETNS_STEPS: u64 = 20_000;
/// Steps from one look whether it is time to hold a lock, or to let go, to the next.
const LOCK_STEPS: u64 = 64;
/// Namespaces whose servers are kept, while sockets of theirs are still in the pool.
const KEPT: usize = 3;
/// Port of the servers over IPv4; over IPv6 there is one address, and backends differ by port.
const PORT: u16 = 53;
const PORT6: u16 = 1000;

/// How long a connection may take to come out at the other end, and how many strangers may be in front of it.
const ACCEPT_MS: i32 = 1000;
const ACCEPTS: u32 = 64;

const CONNECT: u8 = 1;
const RECONNECT: u8 = 2;
const DISCONNECT: u8 = 3;
const SEND_TO: u8 = 4;
const CLOSE: u8 = 5;
const DESTROYED: u8 = 6;
const CONNECTED: u8 = 7;
const FAILED: u8 = 8;
const DUP: u8 = 9;
const SEND_MARKED: u8 = 10;
const HOLD: u8 = 11;
const LET_GO: u8 = 12;
const HEALED: u8 = 13;
const STRANGE: u8 = 14;

/// One netns of so many is left behind by one that dies right after an event.
const BRIEF_EACH: u64 = 16;

/// How a socket reaches a backend. Even backends have IPv4 addresses, odd ones IPv6.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Via {
    V4,
    Mapped,
    V6,
}

/// Whom a socket is connected to, and since when.
#[derive(Clone, Copy)]
struct Peer {
    backend: usize,
    /// Events of the backend that were done before the connect began, and begun when it had returned.
    done_before: u64,
    begun_after: u64,
}

struct Socket {
    fd: Fd,
    /// The server's end of a TCP connection.
    accepted: Option<Fd>,
    cookie: u64,
    via: Via,
    peer: Option<Peer>,
    /// The backend it left during an event, and how many of its events were done then. SOCK_DESTROY looks a socket up
    /// by its address and then waits for its lock: one that connects elsewhere in between is destroyed there.
    left: Option<(usize, u64)>,
    /// An event may have destroyed it, and have it connected a moment later, as long as it has no peer then.
    healing: bool,
}

/// Servers of one netns: UDP sockets that receive, TCP listeners; over IPv4 first.
struct Servers {
    udp: Vec<Fd>,
    tcp: Vec<(u16, Fd)>,
}

struct Worker {
    shared: &'static Shared,
    work: &'static Work,
    random: u64,
    pool: Vec<Option<Socket>>,
    servers: Vec<Servers>,
    owner: Owner,
}

/// Where the UDP sockets of this kind go that an event moves or revives. It is never deleted.
pub const fn refuge(backend: usize) -> usize {
    GONE + backend % 2
}

/// The address of a backend as [`sys`] takes it.
fn address(backend: usize, via: Via) -> Address {
    let last = backend as u8 + 1;
    match via {
        Via::V4 => Address::v4([127, 179, 0, last], PORT),
        Via::Mapped => Address::v6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 179, 0, last], PORT),
        Via::V6 => Address::v6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], PORT6 + backend as u16),
    }
}

/// Address and port of the backend as they are written in selectors.
pub fn backend_addr(backend: usize) -> (String, String) {
    if backend % 2 == 0 {
        (format!("127.179.0.{}", backend + 1), PORT.to_string())
    } else {
        ("::1".to_owned(), (PORT6 + backend as u16).to_string())
    }
}

/// The backend as it is written in events.
pub fn backend_name(protocol: usize, backend: usize) -> String {
    let protocol = ["udp", "tcp"][protocol];
    let (addr, port) = backend_addr(backend);
    if backend % 2 == 0 {
        format!("{protocol}://{addr}:{port}")
    } else {
        format!("{protocol}://[{addr}]:{port}")
    }
}

/// Works until it is told to end, and exits.
pub fn run(shared: &'static Shared, worker: usize, seed: u64) -> ! {
    let work = &shared.workers[worker];
    let pool = (0..POOL).map(|_| None).collect();
    // What one before this held when it was killed.
    work.holds.iter().for_each(|hold| hold.note(work, fate::ORPHANED));
    let mut worker =
        Worker { shared, work, random: seed | 1, pool, servers: Vec::new(), owner: Owner::new() };
    match worker.run() {
        Ok(()) => process::exit(0),
        Err(why) => {
            eprintln!("soak worker: {why}");
            process::exit(1)
        }
    }
}

impl Worker {
    fn run(&mut self) -> Result<(), String> {
        self.new_netns()?;
        let mut step = 0;
        loop {
            let phase = self.shared.phase.load(SeqCst);
            if phase != phase::CHURN {
                self.let_go();
                match phase {
                    phase::CHECK if self.work.phase.load(SeqCst) != phase => {
                        (0..POOL).for_each(|slot| self.look(slot));
                    }
                    phase::END => {
                        (0..POOL).for_each(|slot| self.close(slot));
                        self.servers.drain(..).for_each(Servers::close);
                        return Ok(());
                    }
                    _ => {}
                }
                self.work.phase.store(phase, SeqCst);
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            step += 1;
            let plain = self.shared.plain.load(SeqCst);
            if step % NETNS_STEPS == 0 {
                if !plain && self.below(BRIEF_EACH) == 0 {
                    self.end_netns_after_event()?;
                }
                self.new_netns()?;
            }
            if plain {
                self.open_and_close();
                continue;
            }
            if step % LOCK_STEPS == 0 {
                self.tend_lock();
            }
            self.step();
        }
    }

    /// xorshift64*
    fn below(&mut self, n: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % n
    }

    fn note(&self, cookie: u64, operation: u8, backend: usize) {
        self.work.note(cookie, operation, backend, sys::now_ms());
    }

    fn socket(&self, make: impl FnOnce() -> Result<Fd, i32>) -> Result<Fd, i32> {
        add(&self.work.operations, 1);
        make()
    }

    fn new_netns(&mut self) -> Result<(), String> {
        let about = |what: &'static str| move |errno: i32| format!("{what}: errno {errno}");
        sys::enter_new_netns().map_err(about("new netns"))?;
        let mut servers = Servers { udp: Vec::new(), tcp: Vec::new() };
        let any = [0; 16];
        let ports = || std::iter::once(PORT).chain((0..BACKENDS as u16).map(|backend| PORT6 + backend));
        for port in ports() {
            let udp = self.socket(|| sys::socket(libc::AF_INET6, libc::SOCK_DGRAM));
            let udp = udp.map_err(about("socket"))?;
            sys::bind(udp, &Address::v6(any, port)).map_err(about("bind"))?;
            servers.udp.push(udp);
            let tcp = self.socket(|| sys::socket(libc::AF_INET6, libc::SOCK_STREAM | libc::SOCK_NONBLOCK));
            let tcp = tcp.map_err(about("socket"))?;
            sys::bind(tcp, &Address::v6(any, port)).map_err(about("bind"))?;
            sys::listen(tcp).map_err(about("listen"))?;
            servers.tcp.push((port, tcp));
        }
        self.servers.push(servers);
        if self.servers.len() > KEPT {
            self.servers.remove(0).close();
        }
        add(&self.work.netns, 1);
        Ok(())
    }

    fn events(&self, socket: &Socket, backend: usize) -> &'static Events {
        &self.shared.events[usize::from(socket.accepted.is_some())][backend]
    }

    /// As fast as it goes: no more than what an index cannot do without.
    fn open_and_close(&mut self) {
        if self.below(32) == 0 {
            self.open_tcp(0);
            self.close(0);
            return;
        }
        let via = self.via();
        let domain = if via == Via::V4 { libc::AF_INET } else { libc::AF_INET6 };
        let Ok(fd) = self.socket(|| sys::socket(domain, libc::SOCK_DGRAM)) else { return };
        // The hook has seen it, whatever comes of it.
        let _ = sys::connect(fd, &address(self.backend(via), via));
        sys::close(fd);
        add(&self.work.operations, 2);
    }

    /// Something to one socket.
    fn step(&mut self) {
        let slot = self.below(POOL as u64) as usize;
        if self.pool[slot].is_none() {
            if self.below(10) < 3 {
                self.open_tcp(slot)
            } else {
                self.open_udp(slot)
            }
            return;
        }
        self.look(slot);
        let is_tcp = self.pool[slot].as_ref().is_some_and(|socket| socket.accepted.is_some());
        match self.below(16) {
            0..5 if !is_tcp => self.reconnect(slot),
            5 if !is_tcp => self.disconnect(slot),
            6 if !is_tcp => self.fail_to_connect(slot),
            7..9 if !is_tcp => self.send_to(slot),
            9 => self.dup(slot),
            10 if !is_tcp => self.send_marked(slot),
            _ => self.close(slot),
        }
    }

    /// A backend that this kind of socket can reach.
    fn backend(&mut self, via: Via) -> usize {
        let pair = self.below(BACKENDS as u64 / 2) as usize;
        pair * 2 + usize::from(via == Via::V6)
    }

    fn via(&mut self) -> Via {
        [Via::V4, Via::V6, Via::Mapped][self.below(3) as usize]
    }

    fn open_udp(&mut self, slot: usize) {
        let via = self.via();
        let domain = if via == Via::V4 { libc::AF_INET } else { libc::AF_INET6 };
        let Ok(fd) = self.socket(|| sys::socket(domain, libc::SOCK_DGRAM)) else { return };
        // Some never get a cookie.
        if self.below(32) == 0 {
            sys::close(fd);
            add(&self.work.operations, 1);
            return;
        }
        self.pool[slot] = Some(Socket {
            fd,
            accepted: None,
            cookie: sys::cookie(fd),
            via,
            peer: None,
            left: None,
            healing: false,
        });
        self.connect(slot, CONNECT);
    }

    fn reconnect(&mut self, slot: usize) {
        self.connect(slot, RECONNECT);
    }

    fn connect(&mut self, slot: usize, operation: u8) {
        let Some(via) = self.pool[slot].as_ref().map(|socket| socket.via) else { return };
        let backend = self.backend(via);
        let Some(mut socket) = self.pool[slot].take() else { return };
        let events = self.events(&socket, backend);
        let old = socket.peer.map(|old| (old.backend, self.events(&socket, old.backend).done.load(SeqCst)));
        let done_before = events.done.load(SeqCst);
        let connected = sys::connect(socket.fd, &address(backend, via));
        let begun_after = events.begun.load(SeqCst);
        add(&self.work.operations, 1);
        self.note(socket.cookie, operation, backend);
        // A connect that fails leaves the old peer.
        if connected.is_ok() {
            socket.peer = Some(Peer { backend, done_before, begun_after });
            let under_way = |left: &(usize, u64)| self.events(&socket, left.0).begun.load(SeqCst) > left.1;
            // What was left before may still be under way.
            let earlier = socket.left.filter(|left| self.events(&socket, left.0).done.load(SeqCst) == left.1);
            socket.left = old.filter(under_way).or(earlier);
        }
        self.pool[slot] = Some(socket);
    }

    fn open_tcp(&mut self, slot: usize) {
        let via = self.via();
        let backend = self.backend(via);
        let domain = if via == Via::V4 { libc::AF_INET } else { libc::AF_INET6 };
        let Ok(fd) = self.socket(|| sys::socket(domain, libc::SOCK_STREAM)) else { return };
        let events = &self.shared.events[1][backend];
        let cookie = sys::cookie(fd);
        let done_before = events.done.load(SeqCst);
        let connected = sys::connect(fd, &address(backend, via));
        let begun_after = events.begun.load(SeqCst);
        add(&self.work.operations, 1);
        self.note(cookie, if connected.is_ok() { CONNECT } else { FAILED }, backend);
        if let Err(errno) = connected {
            // Destroyed under way, which is right if there was an event.
            if errno == libc::ECONNABORTED && begun_after == done_before {
                self.wrong(cookie);
            }
            sys::close_with_reset(fd);
            add(&self.work.operations, 1);
            return;
        }
        let port = if via == Via::V6 { PORT6 + backend as u16 } else { PORT };
        let listener =
            self.servers.last().and_then(|s| s.tcp.iter().find(|(at, _)| *at == port)).map(|(_, fd)| *fd);
        let Some(accepted) = listener.and_then(|listener| self.accept(listener, sys::local_port(fd))) else {
            sys::close_with_reset(fd);
            add(&self.work.operations, 1);
            return;
        };
        let peer = Some(Peer { backend, done_before, begun_after });
        let accepted = Some(accepted);
        self.pool[slot] = Some(Socket { fd, accepted, cookie, via, peer, left: None, healing: false });
    }

    /// The server's end of the connection from this port. What else is in the queue is left over from connects that
    /// were destroyed under way.
    fn accept(&self, listener: Fd, port: u16) -> Option<Fd> {
        for _ in 0..ACCEPTS {
            sys::is_readable(listener, ACCEPT_MS);
            let accepted = self.socket(|| sys::accept(listener)).ok()?;
            if sys::peer_port(accepted) == Some(port) {
                return Some(accepted);
            }
            sys::close(accepted);
            add(&self.work.operations, 1);
        }
        None
    }

    fn disconnect(&mut self, slot: usize) {
        let Some(mut socket) = self.pool[slot].take() else { return };
        if sys::disconnect(socket.fd).is_ok()
            && let Some(peer) = socket.peer.take()
        {
            // An event that was under way may have found it.
            socket.healing |= self.events(&socket, peer.backend).begun.load(SeqCst) > peer.done_before;
        }
        add(&self.work.operations, 1);
        self.note(socket.cookie, DISCONNECT, 0);
        self.pool[slot] = Some(socket);
    }

    /// To an address without a route: the old peer stays.
    fn fail_to_connect(&mut self, slot: usize) {
        let Some(socket) = &self.pool[slot] else { return };
        let connected = sys::connect(socket.fd, &Address::v4([203, 0, 113, 1], PORT));
        add(&self.work.operations, 1);
        self.note(socket.cookie, FAILED, 0);
        debug_assert!(connected.is_err());
    }

    fn send_to(&mut self, slot: usize) {
        let Some(via) = self.pool[slot].as_ref().map(|socket| socket.via) else { return };
        let backend = self.backend(via);
        let Some(socket) = &self.pool[slot] else { return };
        // Whatever comes of it: a receiver may be gone by now, or full.
        let _ = sys::send_to(socket.fd, &address(backend, via));
        add(&self.work.operations, 1);
        self.note(socket.cookie, SEND_TO, backend);
    }

    fn send_marked(&mut self, slot: usize) {
        let Some(socket) = &self.pool[slot] else { return };
        // It fails without a peer.
        let _ = sys::send_marked(socket.fd, socket.via != Via::V4);
        add(&self.work.operations, 1);
        self.note(socket.cookie, SEND_MARKED, 0);
    }

    fn dup(&mut self, slot: usize) {
        let Some(socket) = &mut self.pool[slot] else { return };
        let Ok(copy) = sys::dup(socket.fd) else { return };
        sys::close(std::mem::replace(&mut socket.fd, copy));
        let cookie = socket.cookie;
        add(&self.work.operations, 2);
        self.note(cookie, DUP, 0);
    }

    fn close(&mut self, slot: usize) {
        let Some(socket) = self.pool[slot].take() else { return };
        self.note(socket.cookie, CLOSE, socket.peer.map_or(0, |peer| peer.backend));
        if let Some(accepted) = socket.accepted {
            sys::close_with_reset(socket.fd);
            sys::close(accepted);
            add(&self.work.operations, 2);
        } else {
            sys::close(socket.fd);
            add(&self.work.operations, 1);
        }
    }
}

impl Servers {
    fn close(self) {
        self.udp.into_iter().chain(self.tcp.into_iter().map(|(_, fd)| fd)).for_each(sys::close);
    }
}

const _: () = assert!(GONE < BACKENDS && GONE % 2 == 0);
