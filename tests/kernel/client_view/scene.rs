//! Where a row is acted: two backends of each kind, and a client that notes what each of its calls came to.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use skreap::core::{Backend, Protocol};

use super::call::{self, LONG, Socket, name};
use crate::sockets::{expect_complete, tcp, tcp6, udp, udp6};
use crate::world::World;

/// Clients that wait for the same socket.
pub const WAITERS: usize = 3;
/// Nothing shows from outside that a thread sleeps in the kernel; what is expected does not depend on it.
const ERROR_DELAY: Duration = Duration::from_millis(50);

pub struct Scene<'a> {
    pub world: &'a mut World,
    netns: OwnedFd,
    notes: Vec<String>,
}

/// How many calls came to the same.
pub fn tally(mut outcomes: Vec<String>) -> String {
    outcomes.sort_unstable();
    let all = outcomes.len();
    let mut said: Vec<String> = Vec::new();
    for chunk in outcomes.chunk_by(|a, b| a == b) {
        said.push(format!("{} of {all} {}", chunk.len(), chunk[0]));
    }
    said.join(", ")
}

impl<'a> Scene<'a> {
    pub fn new(world: &'a mut World) -> Result<Self> {
        world.serve(&[udp(1), udp(2), udp6(1), udp6(2), tcp(1), tcp(2), tcp6(1)])?;
        let netns = world.netns(0).fd().context("the netns has no name")?.try_clone_to_owned()?;
        Ok(Self { world, netns, notes: Vec::new() })
    }

    /// A socket that fits the backend, in the cgroup.
    pub fn open(&self, backend: Backend) -> Result<Socket> {
        call::open(self.netns.as_fd(), Some(self.world.cgroup()), domain(backend), kind(backend))
    }

    /// A socket of somebody else.
    pub fn outside(&self, backend: Backend) -> Result<Socket> {
        call::open(self.netns.as_fd(), None, domain(backend), kind(backend))
    }

    /// A client that is connected to it.
    pub fn client(&self, backend: Backend) -> Result<Socket> {
        let socket = self.open(backend)?;
        must(socket.connect(backend.socket_addr()))?;
        Ok(socket)
    }

    /// The same, bound to this before.
    pub fn bound_client(&self, backend: Backend, local: &str) -> Result<Socket> {
        let socket = self.open(backend)?;
        must(socket.bind(local.parse()?))?;
        must(socket.connect(backend.socket_addr()))?;
        Ok(socket)
    }

    /// A listener of somebody else.
    pub fn listener(&mut self, backend: Backend, backlog: i32) -> Result<Socket> {
        self.world.add_address(backend.addr())?;
        let listener = self.outside(backend)?;
        must(listener.bind(backend.socket_addr()))?;
        must(listener.listen(backlog))?;
        Ok(listener)
    }

    /// The backend is deleted: so many sockets are destroyed, and nothing goes wrong.
    pub fn reap(&mut self, backend: Backend, destroyed: u64) -> Result<()> {
        let report = self.world.reap(backend)?;
        expect_complete(&report, destroyed)
    }

    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// What was noted since the last time.
    pub fn notes(&mut self) -> String {
        std::mem::take(&mut self.notes).join(", ")
    }

    // ---- calls that are noted ----

    pub fn recv(&mut self, socket: &Socket) {
        self.note(format!("recv: {}", received(socket)));
    }

    pub fn send(&mut self, socket: &Socket) {
        self.note(format!("send: {}", name(socket.send(b"data"))));
    }

    pub fn send_to(&mut self, socket: &Socket, addr: SocketAddr) {
        self.note(format!("sendto: {}", name(socket.send_to(b"data", addr))));
    }

    pub fn error(&mut self, socket: &Socket) {
        self.note(format!("SO_ERROR: {}", socket.error()));
    }

    pub fn connect(&mut self, socket: &Socket, addr: SocketAddr) {
        self.note(format!("connect: {}", name(socket.connect(addr))));
    }

    pub fn disconnect(&mut self, socket: &Socket) {
        self.note(format!("connect to AF_UNSPEC: {}", name(socket.disconnect())));
    }

    pub fn poll(&mut self, socket: &Socket) {
        self.note(format!("poll: {}", socket.poll(Duration::ZERO).join(" ")));
    }

    /// Several threads make the same call on one socket before the backend is deleted.
    pub fn while_waiting(
        &mut self,
        socket: &Socket,
        gone: Backend,
        wait: impl Fn(&Socket) -> String + Sync,
        waiters: usize,
    ) -> Result<Vec<String>> {
        thread::scope(|scope| {
            let threads: Vec<_> = (0..waiters).map(|_| scope.spawn(|| wait(socket))).collect();
            thread::sleep(ERROR_DELAY);
            let reaped = self.reap(gone, 1);
            let woken = threads.into_iter().map(|thread| thread.join().unwrap_or_default()).collect();
            reaped.map(|()| woken)
        })
    }

    /// Waits until the server's reply lies in the socket.
    pub fn reply_arrives(&self, socket: &Socket) -> Result<()> {
        must(socket.send(b"data"))?;
        ensure!(socket.poll_in(LONG) == ["IN"], "no reply came");
        Ok(())
    }
}

/// What came: the name of the error, `0` for the end, or that there was something.
pub fn received(socket: &Socket) -> String {
    match socket.recv() {
        Ok(0) => "0".to_owned(),
        Ok(_) => "data".to_owned(),
        Err(errno) => name(Err(errno)),
    }
}

/// A step that leads to the scene and is no part of it.
pub fn must(outcome: Result<i64, i32>) -> Result<i64> {
    outcome.map_err(|errno| anyhow::anyhow!("a step before the scene failed: {}", name(Err(errno))))
}

fn domain(backend: Backend) -> i32 {
    if backend.addr().is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }
}

fn kind(backend: Backend) -> i32 {
    match backend.protocol() {
        Protocol::Tcp => libc::SOCK_STREAM,
        Protocol::Udp => libc::SOCK_DGRAM,
    }
}
