//! UDP sockets that send without connecting.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use skreap::core::{Backend, EngineName, FallbackReason, Skipped, Unconnected};
use skreap_testbed::{Client, Op, OpenSpec, Reply, with};

use crate::case::{Case, case};
use crate::sockets::*;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let destroy = WorldOptions { unconnected: Unconnected::Destroy, ..WorldOptions::default() };
    vec![
        case!(unconnected_are_preserved),
        case!(unconnected_are_destroyed_if_asked).index_only().with(destroy),
        case!(connected_socket_that_also_sends_elsewhere),
        case!(connected_socket_that_also_sends_elsewhere_with_destroy).index_only().with(destroy),
        case!(connected_after_sending),
        case!(one_socket_sends_to_50_backends).index_only(),
        case!(one_socket_sends_to_50_backends_and_is_destroyed_once).index_only().with(destroy),
        case!(unconnected_are_destroyed_once).index_only().with(destroy),
        case!(unconnected_reuseport_group_is_destroyed).index_only().with(destroy),
    ]
}

/// Opens a socket and sends to each backend, once; the backends need not be there.
pub fn sender(client: &mut Client, backends: &[Backend]) -> Result<Socket> {
    let socket = open(client, spec_for(backends[0]))?;
    send_to_all(client, socket, backends)?;
    Ok(socket)
}

pub fn send_to_all(client: &mut Client, socket: Socket, backends: &[Backend]) -> Result<()> {
    let addrs: Vec<SocketAddr> = backends.iter().map(Backend::socket_addr).collect();
    let op = Op::SendToMany { socket: socket.handle, addrs, payload: b"hello".to_vec() };
    match client.call(&op)? {
        Reply::SentMany { sent, first_error: None } if sent as usize == backends.len() => Ok(()),
        other => anyhow::bail!("not all were sent: {other:?}"),
    }
}

/// Sends one message and waits for its answer.
pub fn ask(client: &mut Client, socket: Socket, backend: Backend) -> Result<()> {
    client.send_to(socket.handle, backend.socket_addr(), b"question")?;
    loop {
        if client.recv(socket.handle, PATIENCE_MS)?.ends_with(b"question") {
            return Ok(());
        }
    }
}

/// Five that only send and three that are connected, for each of two backends.
fn crowd(world: &mut World, client: &mut Client, gone: Backend) -> Result<(Vec<Socket>, Vec<u64>)> {
    let mut senders = Vec::new();
    for _ in 0..5 {
        senders.push(sender(client, &[gone])?);
    }
    let connected = connect_many(client, Default::default(), gone, 3)?.cookies;
    let listing = world.listing()?;
    if world.uses_index() {
        let entry = &listing.backends[&gone];
        ensure!(entry.unconnected == 5 && entry.connected == 3, "{listing:?}");
    }
    Ok((senders, connected))
}

fn unconnected_are_preserved(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp6(1)])?;
    let mut client = world.client("client")?;
    for gone in [udp(1), udp6(1)] {
        let (senders, connected) = crowd(world, &mut client, gone)?;
        let report = world.reap(gone)?;
        expect_exactly(&report, &mut [&mut client], &connected)?;
        expect_skipped(&report, world.uses_index(), with(|s: &mut Skipped| s.unconnected = 5))?;
        for socket in senders {
            ask(&mut client, socket, gone)?;
        }
    }
    Ok(())
}

fn unconnected_are_destroyed_if_asked(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp6(1), udp(2)])?;
    let mut client = world.client("client")?;
    let bystander = sender(&mut client, &[udp(2)])?;
    for gone in [udp(1), udp6(1)] {
        let (senders, mut cookies) = crowd(world, &mut client, gone)?;
        cookies.extend(senders.iter().map(|socket| socket.cookie));
        let report = world.reap(gone)?;
        ensure!(report.visited == 8, "{report:?}");
        expect_exactly(&report, &mut [&mut client], &cookies)?;
    }
    ask(&mut client, bystander, udp(2))
}

/// A reap of the backend it only sent to must not touch a socket that is connected to another.
fn connected_socket_that_also_sends_elsewhere(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    client.send_to(socket.handle, udp(2).socket_addr(), b"aside")?;
    let report = world.reap(udp(2))?;
    expect_exactly(&report, &mut [&mut client], &[])?;
    expect_skipped(&report, world.uses_index(), with(|s: &mut Skipped| s.moved_on = 1))?;
    ensure!(expect_answers(&mut client)? == 1);
    expect_exactly(&world.reap(udp(1))?, &mut [&mut client], &[socket.cookie])
}

fn connected_socket_that_also_sends_elsewhere_with_destroy(world: &mut World) -> Result<()> {
    connected_socket_that_also_sends_elsewhere(world)
}

fn connected_after_sending(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let socket = sender(&mut client, &[udp(1), udp(2)])?;
    client.connect(socket.handle, udp(2).socket_addr())?;
    expect_exactly(&world.reap(udp(1))?, &mut [&mut client], &[])?;
    ensure!(expect_answers(&mut client)? == 1);
    expect_exactly(&world.reap(udp(2))?, &mut [&mut client], &[socket.cookie])?;
    // Disconnected by the destroy, it has neither a peer nor a port.
    let report = world.reap(udp(2))?;
    expect_exactly(&report, &mut [&mut client], &[])?;
    expect_skipped(&report, world.uses_index(), with(|s: &mut Skipped| s.no_peer = 1))?;
    // The next message gives it a port again: once more it is a socket that has only sent to both.
    ask(&mut client, socket, udp(1))?;
    let report = world.reap(udp(2))?;
    expect_exactly(&report, &mut [&mut client], &[])?;
    expect_skipped(&report, world.uses_index(), with(|s: &mut Skipped| s.unconnected = 1))
}

fn fifty(world: &mut World) -> Result<Vec<Backend>> {
    let backends: Vec<_> = (1..=50).map(udp).collect();
    for backend in &backends {
        world.add_address(backend.addr())?;
    }
    Ok(backends)
}

fn one_socket_sends_to_50_backends(world: &mut World) -> Result<()> {
    let backends = fifty(world)?;
    let mut client = world.client("client")?;
    let socket = sender(&mut client, &backends)?;
    // A second time, all are known.
    send_to_all(&mut client, socket, &backends)?;
    let counters = world.counters()?;
    ensure!(counters.inserts == 50 && counters.live() == 50 && counters.wildcard == 0, "{counters:?}");
    for backend in &backends {
        let report = world.reap(*backend)?;
        ensure!(report.visited == 1, "{report:?}");
        expect_skipped(&report, true, with(|s: &mut Skipped| s.unconnected = 1))?;
        expect_complete(&report, 0)?;
    }
    ensure!(client.state(socket.handle)?.errno == 0);
    client.close(socket.handle)?;
    let counters = world.counters()?;
    ensure!(counters.removals == 50 && counters.releases == 1, "{counters:?}");
    Ok(())
}

fn one_socket_sends_to_50_backends_and_is_destroyed_once(world: &mut World) -> Result<()> {
    let backends = fifty(world)?;
    let mut client = world.client("client")?;
    let socket = sender(&mut client, &backends)?;
    let bystander = sender(&mut client, &backends[..10])?;
    let report = world.reap(backends[36])?;
    expect_destroyed(&report, &mut [&mut client], &[socket.cookie])?;
    // The destroyed one has no port any more, and nothing can come in for it: it is not there to be destroyed.
    let report = world.reap(backends[9])?;
    expect_destroyed(&report, &mut [&mut client], &[bystander.cookie])?;
    // It is there again with its next message, to whatever backend.
    send_to_all(&mut client, socket, &backends[20..22])?;
    let report = world.reap(backends[9])?;
    expect_destroyed(&report, &mut [&mut client], &[socket.cookie])
}

/// A backend may be reported as deleted more than once.
fn unconnected_are_destroyed_once(world: &mut World) -> Result<()> {
    let mut client = world.client("client")?;
    world.add_address(udp(1).addr())?;
    let socket = sender(&mut client, &[udp(1)])?;
    expect_destroyed(&world.reap(udp(1))?, &mut [&mut client], &[socket.cookie])?;
    expect_destroyed(&world.reap(udp(1))?, &mut [&mut client], &[])?;
    send_to_all(&mut client, socket, &[udp(1)])?;
    expect_destroyed(&world.reap(udp(1))?, &mut [&mut client], &[socket.cookie])
}

/// Sockets of one SO_REUSEPORT group that are not connected differ in nothing but their cookie.
fn unconnected_reuseport_group_is_destroyed(world: &mut World) -> Result<()> {
    world.add_address(udp(1).addr())?;
    world.serve(&[udp(2)])?;
    let mut client = world.client("client")?;
    let spec = OpenSpec { bind: Some("0.0.0.0:4000".parse()?), reuse_port: true, ..spec_for(udp(1)) };
    let mut cookies = Vec::new();
    for _ in 0..16 {
        let socket = open(&mut client, spec.clone())?;
        send_to_all(&mut client, socket, &[udp(1)])?;
        cookies.push(socket.cookie);
    }
    // Which of the group netlink finds is up to a hash. It can name one after the other until it finds one of these, and
    // that all of the others come before is as good as impossible.
    for _ in 0..16 {
        let bystander = open(&mut client, spec.clone())?;
        send_to_all(&mut client, bystander, &[udp(2)])?;
    }
    let report = world.reap(udp(1))?;
    // An iterator has to finish.
    if report.engine != EngineName::Kfunc {
        let [fallback] = report.fallbacks[..] else {
            anyhow::bail!("no fallback to an iterator: {report:?}");
        };
        ensure!(fallback.because == FallbackReason::NoExactId && fallback.engine == EngineName::Iter);
        ensure!(
            fallback.victims == fallback.destroyed && (1..=16).contains(&fallback.destroyed),
            "{report:?}"
        );
    }
    expect_destroyed(&report, &mut [&mut client], &cookies)
}
