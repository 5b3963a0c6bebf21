//! Sockets that change their peer: the live socket decides.

use anyhow::{Result, ensure};
use skreap::core::Skipped;

use skreap_testbed::with;

use crate::case::{Case, case};
use crate::sockets::*;
use crate::world::World;

pub fn cases() -> Vec<Case> {
    vec![
        case!(reconnected_to_another_backend),
        case!(reconnected_there_and_back),
        case!(failed_reconnect_leaves_the_old_peer_in_force),
        case!(disconnected_by_af_unspec),
        case!(same_descriptor_again_after_a_destroy),
        case!(many_peers_one_after_the_other),
    ]
}

fn reconnected_to_another_backend(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    client.connect(socket.handle, udp(2).socket_addr())?;
    let report = world.reap(udp(1))?;
    expect_exactly(&report, &mut [&mut client], &[])?;
    expect_skipped(&report, world.uses_index(), with(|s: &mut Skipped| s.moved_on = 1))?;
    // A connect() back might be pending; it is not, and that is said of it once.
    ensure!((report.pending, report.pending_elsewhere) == (1, 1), "{report:?}");
    let report = world.reap(udp(1))?;
    ensure!((report.pending, report.pending_elsewhere) == (0, 0), "{report:?}");
    ensure!(expect_answers(&mut client)? == 1);
    let report = world.reap(udp(2))?;
    expect_exactly(&report, &mut [&mut client], &[socket.cookie])?;
    ensure!((report.pending, report.pending_elsewhere) == (0, 0), "{report:?}");
    Ok(())
}

fn reconnected_there_and_back(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    for _ in 0..50 {
        client.connect(socket.handle, udp(2).socket_addr())?;
        client.connect(socket.handle, udp(1).socket_addr())?;
    }
    if world.uses_index() {
        // One for the peer and, at most, one for the peer before: the last connect might have failed.
        ensure!(world.counters()?.live() <= 2, "{:?}", world.counters()?);
    }
    expect_exactly(&world.reap(udp(2))?, &mut [&mut client], &[])?;
    expect_exactly(&world.reap(udp(1))?, &mut [&mut client], &[socket.cookie])
}

/// The hook runs before the connect fails.
fn failed_reconnect_leaves_the_old_peer_in_force(world: &mut World) -> Result<()> {
    // No route leads there.
    let nowhere: skreap::core::Backend = "udp://192.0.2.1:53".parse()?;
    world.serve(&[udp(1)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    for _ in 0..3 {
        ensure!(errno(client.connect(socket.handle, nowhere.socket_addr()))? == libc::ENETUNREACH);
    }
    let report = world.reap(nowhere)?;
    // One message still reaches the old peer. The next would not: the failed connect has left its address in
    // the flow that the kernel uses once the route is cached (inet->cork.fl, seen on 6.18).
    expect_exactly(&report, &mut [&mut client], &[])?;
    expect_skipped(&report, world.uses_index(), with(|s: &mut Skipped| s.moved_on = 1))?;
    ensure!(client.state(socket.handle)?.peer == Some(udp(1).socket_addr()));
    expect_exactly(&world.reap(udp(1))?, &mut [&mut client], &[socket.cookie])
}

fn disconnected_by_af_unspec(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    client.disconnect(socket.handle)?;
    let report = world.reap(udp(1))?;
    expect_exactly(&report, &mut [&mut client], &[])?;
    expect_skipped(&report, world.uses_index(), with(|s: &mut Skipped| s.no_peer = 1))?;
    client.connect(socket.handle, udp(1).socket_addr())?;
    ensure!(expect_answers(&mut client)? == 1);
    expect_exactly(&world.reap(udp(1))?, &mut [&mut client], &[socket.cookie])
}

fn same_descriptor_again_after_a_destroy(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    for _ in 0..3 {
        expect_exactly(&world.reap(udp(1))?, &mut [&mut client], &[socket.cookie])?;
        client.connect(socket.handle, udp(1).socket_addr())?;
        ensure!(expect_answers(&mut client)? == 1);
    }
    // And on to another backend, as a good client does.
    expect_exactly(&world.reap(udp(1))?, &mut [&mut client], &[socket.cookie])?;
    client.connect(socket.handle, udp(2).socket_addr())?;
    expect_exactly(&world.reap(udp(1))?, &mut [&mut client], &[])?;
    ensure!(expect_answers(&mut client)? == 1);
    expect_exactly(&world.reap(udp(2))?, &mut [&mut client], &[socket.cookie])
}

/// A connect makes what the same thread recorded before obsolete: the record does not grow.
fn many_peers_one_after_the_other(world: &mut World) -> Result<()> {
    let backends: Vec<_> = (1..=200).map(udp).collect();
    for backend in &backends {
        world.add_address(backend.addr())?;
    }
    let mut client = world.client("client")?;
    let socket = open(&mut client, spec_for(udp(1)))?;
    for backend in &backends {
        client.connect(socket.handle, backend.socket_addr())?;
    }
    if world.uses_index() {
        let counters = world.counters()?;
        ensure!(counters.live() == 2 && counters.wildcard == 0 && counters.inserts == 200, "{counters:?}");
    }
    for backend in &backends[..199] {
        expect_complete(&world.reap(*backend)?, 0)?;
    }
    let report = world.reap(backends[199])?;
    expect_destroyed(&report, &mut [&mut client], &[socket.cookie])
}
