//! Who waits on a socket while it is moved or revived: nobody is woken for nothing, and no wake-up is lost.

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use skreap::core::{Action, Backend, Destinations, EngineName, Instead, Move, Revive, Spread, VictimAction};
use skreap_testbed::Client;

use crate::case::{Case, Skip, case};
use crate::holder::descriptor_of;
use crate::sockets::*;
use crate::uring::Ring;
use crate::world::World;

/// Longer than anything takes here on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough for what must not come.
const SHORT_MS: i32 = 100;

pub fn cases() -> Vec<Case> {
    vec![
        case!(level_triggered_waiters_are_woken_by_answers_only).only(EngineName::Netlink),
        case!(edge_triggered_waiters_are_woken_by_answers_only).only(EngineName::Netlink),
        case!(a_receive_with_a_timeout_goes_on_after_a_move).only(EngineName::Netlink),
        case!(what_the_old_server_has_said_is_still_read).only(EngineName::Netlink),
        case!(a_receive_ends_with_the_destroy_and_not_with_the_revive).only(EngineName::Netlink),
        case!(a_request_of_io_uring_goes_on_after_a_move).only(EngineName::Netlink),
    ]
}

fn moves(world: &mut World, gone: Backend, living: Backend) -> Result<()> {
    let to = Destinations::new(vec![living], Spread::Even)?;
    let action = VictimAction::Move(Move { to, tcp: Instead::Destroy, otherwise: Instead::Spare });
    let report = world.tell_to(Action::BackendDeleted { backend: gone }, action)?;
    ensure!(report.moved.as_ref().is_some_and(|moved| moved.moved == 1), "{report:?}");
    Ok(())
}

fn revive(world: &mut World, gone: Backend, living: Backend, after_ms: u32) -> Result<()> {
    let to = Destinations::new(vec![living], Spread::Even)?;
    let action = VictimAction::Revive(Revive { to, after_ms });
    let report = world.tell_to(Action::BackendDeleted { backend: gone }, action)?;
    ensure!(report.destroyed == 1, "{report:?}");
    Ok(())
}

/// Waits until every second look is over.
fn looked_again(world: &World) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while world.reaper().monitor().status()?.reviving > 0 {
        ensure!(Instant::now() < deadline, "never looked at again");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// A copy of a client's socket.
fn copy(client: &Client, socket: Socket) -> Result<UdpSocket> {
    Ok(descriptor_of(client.pid(), socket.cookie)?.into())
}

struct Epoll(OwnedFd);

impl Epoll {
    /// On one socket, for what can be read and for errors.
    fn on(socket: &UdpSocket, mode: i32) -> Result<Self> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        ensure!(fd >= 0, "epoll_create1: {}", io::Error::last_os_error());
        // SAFETY: a fresh descriptor that nobody else owns.
        let epoll = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        let mut event = libc::epoll_event { events: (libc::EPOLLIN | mode) as u32, u64: 0 };
        // SAFETY: the kernel reads `event`.
        let added = unsafe { libc::epoll_ctl(fd, libc::EPOLL_CTL_ADD, socket.as_raw_fd(), &mut event) };
        ensure!(added == 0, "epoll_ctl: {}", io::Error::last_os_error());
        Ok(epoll)
    }

    /// What it is woken for; `None`: for nothing.
    fn wait(&self, timeout_ms: i32) -> Result<Option<i32>> {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: the kernel writes one event at most.
        let count = unsafe { libc::epoll_wait(self.0.as_raw_fd(), &mut event, 1, timeout_ms) };
        ensure!(count >= 0, "epoll_wait: {}", io::Error::last_os_error());
        let events = event.events;
        Ok((count == 1).then_some(events.cast_signed()))
    }

    fn expect_nothing(&self, when: &str) -> Result<()> {
        let events = self.wait(SHORT_MS)?;
        ensure!(events.is_none(), "woken {when}: {events:?}");
        Ok(())
    }

    /// Exactly one answer wakes it.
    fn expect_answer(&self, client: &mut Client, socket: Socket) -> Result<()> {
        client.send_bytes(socket.handle, b"x")?;
        let events = self.wait(PATIENCE.as_millis() as i32)?;
        ensure!(events == Some(libc::EPOLLIN), "woken by an answer: {events:?}");
        client.recv(socket.handle, PATIENCE_MS)?;
        self.expect_nothing("after the answer was read")
    }
}

fn waiters_are_woken_by_answers_only(world: &mut World, mode: i32) -> Result<()> {
    world.serve(&[udp(1), udp(2), udp(3)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    let own = copy(&client, socket)?;
    let epoll = Epoll::on(&own, mode)?;
    epoll.expect_nothing("before anything was done")?;
    epoll.expect_answer(&mut client, socket)?;
    moves(world, udp(1), udp(2))?;
    epoll.expect_nothing("by the move")?;
    epoll.expect_answer(&mut client, socket)?;
    // The destroy is told once.
    revive(world, udp(2), udp(3), 500)?;
    let events = epoll.wait(PATIENCE.as_millis() as i32)?.context("the destroy woke nobody")?;
    ensure!(events & libc::EPOLLERR != 0, "{events:#x}");
    ensure!(client.state(socket.handle)?.errno == libc::ECONNABORTED);
    looked_again(world)?;
    epoll.expect_nothing("by the revive")?;
    ensure!(client.state(socket.handle)?.peer == Some(udp(3).socket_addr()));
    epoll.expect_answer(&mut client, socket)
}

fn level_triggered_waiters_are_woken_by_answers_only(world: &mut World) -> Result<()> {
    waiters_are_woken_by_answers_only(world, 0)
}

fn edge_triggered_waiters_are_woken_by_answers_only(world: &mut World) -> Result<()> {
    waiters_are_woken_by_answers_only(world, libc::EPOLLET)
}

/// It is not told, and has the answer of the new server.
fn a_receive_with_a_timeout_goes_on_after_a_move(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    let own = copy(&client, socket)?;
    own.set_read_timeout(Some(PATIENCE))?;
    let (received, moved) = thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let mut buffer = [0; 64];
            own.recv(&mut buffer).map(|n| String::from_utf8_lossy(&buffer[..n]).into_owned())
        });
        thread::sleep(Duration::from_millis(100));
        let moved = moves(world, udp(1), udp(2)).and_then(|()| {
            ensure!(!waiting.is_finished(), "the receive was ended by the move");
            client.send_bytes(socket.handle, b"x")?;
            Ok(())
        });
        (waiting.join(), moved)
    });
    moved?;
    let received = received.ok().context("panicked")??;
    ensure!(received.starts_with("10.177.0.2:53/udp"), "{received}");
    Ok(())
}

fn what_the_old_server_has_said_is_still_read(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    let own = copy(&client, socket)?;
    own.set_read_timeout(Some(PATIENCE))?;
    client.send_bytes(socket.handle, b"x")?;
    let mut buffer = [0; 64];
    own.peek(&mut buffer)?;
    moves(world, udp(1), udp(2))?;
    client.send_bytes(socket.handle, b"y")?;
    for server in ["10.177.0.1:53/udp", "10.177.0.2:53/udp"] {
        let said = client.recv(socket.handle, PATIENCE_MS)?;
        ensure!(said.starts_with(server.as_bytes()), "{}", String::from_utf8_lossy(&said));
    }
    Ok(())
}

/// The first is told of the destroy, the second one has the answer of the new server.
fn a_receive_ends_with_the_destroy_and_not_with_the_revive(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    let own = copy(&client, socket)?;
    own.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = [0; 64];
    thread::scope(|scope| -> Result<()> {
        let waiting = scope.spawn(|| {
            let mut buffer = [0; 64];
            let first = own.recv(&mut buffer).map_err(|e| e.raw_os_error());
            (first, own.recv(&mut buffer).map(|n| String::from_utf8_lossy(&buffer[..n]).into_owned()))
        });
        thread::sleep(Duration::from_millis(100));
        let revived = revive(world, udp(1), udp(2), 300).and_then(|()| looked_again(world));
        let revived = revived.and_then(|()| {
            ensure!(!waiting.is_finished(), "the second receive was ended by the revive");
            client.send_bytes(socket.handle, b"x")?;
            Ok(())
        });
        let (first, second) = waiting.join().ok().context("panicked")?;
        revived?;
        ensure!(first == Err(Some(libc::ECONNABORTED)), "{first:?}");
        ensure!(second.as_ref().is_ok_and(|said| said.starts_with("10.177.0.2:53/udp")), "{second:?}");
        Ok(())
    })?;
    own.set_nonblocking(true)?;
    let nothing = own.recv(&mut buffer).map_err(|e| e.kind());
    ensure!(nothing == Err(io::ErrorKind::WouldBlock), "{nothing:?}");
    Ok(())
}

fn a_request_of_io_uring_goes_on_after_a_move(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2), udp(3)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    let own = copy(&client, socket)?;
    let Some(mut ring) = Ring::new()? else {
        return Err(Skip("io_uring: the kernel refuses it").into());
    };
    let patience = PATIENCE.as_millis() as i32;
    ring.receive(&own)?;
    moves(world, udp(1), udp(2))?;
    let early = ring.ended(SHORT_MS)?;
    ensure!(early.is_none(), "ended by the move: {early:?}");
    client.send_bytes(socket.handle, b"x")?;
    let answer = ring.ended(patience)?;
    ensure!(matches!(&answer, Some(Ok(said)) if said.starts_with("10.177.0.2:53/udp")), "{answer:?}");
    // The destroy ends the next one, and the revive none.
    ring.receive(&own)?;
    revive(world, udp(2), udp(3), 300)?;
    let aborted = ring.ended(patience)?;
    ensure!(aborted == Some(Err(libc::ECONNABORTED)), "{aborted:?}");
    ring.receive(&own)?;
    looked_again(world)?;
    let early = ring.ended(SHORT_MS)?;
    ensure!(early.is_none(), "ended by the revive: {early:?}");
    client.send_bytes(socket.handle, b"x")?;
    let answer = ring.ended(patience)?;
    ensure!(matches!(&answer, Some(Ok(said)) if said.starts_with("10.177.0.3:53/udp")), "{answer:?}");
    Ok(())
}
