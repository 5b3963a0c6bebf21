//! Sockets with more peers than are listed for one: they are a *wildcard*, and every walk looks at them.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use skreap::core::{Backend, Incomplete, Unconnected};
use skreap_testbed::Client;

use crate::case::{Case, case};
use crate::sockets::*;
use crate::unconnected::{ask, send_to_all, sender};
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let four = WorldOptions { max_memberships: 4, ..WorldOptions::default() };
    let four_destroy = WorldOptions { unconnected: Unconnected::Destroy, ..four };
    let destroy = WorldOptions { unconnected: Unconnected::Destroy, ..WorldOptions::default() };
    vec![
        case!(four_peers_are_listed_the_fifth_makes_wildcard).index_only().with(four),
        case!(connected_wildcard_socket_is_destroyed).index_only().with(four),
        case!(connected_wildcard_socket_is_destroyed_with_destroy).index_only().with(four_destroy),
        case!(unconnected_wildcard_socket_is_preserved_and_complete).index_only().with(four),
        case!(unconnected_wildcard_socket_makes_destroy_incomplete).index_only().with(four_destroy),
        case!(wildcard_sender_makes_a_reconcile_incomplete).index_only().with(four_destroy),
        case!(wildcard_sender_is_no_matter_of_a_reconcile_that_preserves_it).index_only().with(four),
        case!(server_that_answers_200_clients).index_only(),
        case!(server_that_answers_200_clients_with_destroy).index_only().with(destroy),
    ]
}

pub fn backends(world: &mut World, count: u16) -> Result<Vec<Backend>> {
    let backends: Vec<_> = (1..=count).map(udp).collect();
    for backend in &backends {
        world.add_address(backend.addr())?;
    }
    Ok(backends)
}

fn four_peers_are_listed_the_fifth_makes_wildcard(world: &mut World) -> Result<()> {
    let backends = backends(world, 6)?;
    let mut client = world.client("client")?;
    let socket = sender(&mut client, &backends[..4])?;
    let counters = world.counters()?;
    ensure!(counters.live() == 4 && counters.wildcard == 0, "{counters:?}");
    send_to_all(&mut client, socket, &backends[4..])?;
    let counters = world.counters()?;
    ensure!(counters.live() == 1 && counters.wildcard == 1 && counters.inserts == 5, "{counters:?}");
    Ok(())
}

/// Connected to the first backend and a wildcard: only the live peer tells.
fn connected_wildcard_socket_is_destroyed(world: &mut World) -> Result<()> {
    let backends = backends(world, 8)?;
    world.serve(&[udp(1), udp(9)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    send_to_all(&mut client, socket, &backends[1..])?;
    ensure!(world.counters()?.wildcard == 1);
    for backend in &backends[1..] {
        expect_exactly(&world.reap(*backend)?, &mut [&mut client], &[])?;
    }
    ensure!(expect_answers(&mut client)? == 1);
    expect_exactly(&world.reap(udp(1))?, &mut [&mut client], &[socket.cookie])?;

    // A wildcard for life, and still found by whatever it is connected to.
    client.connect(socket.handle, udp(9).socket_addr())?;
    expect_exactly(&world.reap(udp(1))?, &mut [&mut client], &[])?;
    ensure!(expect_answers(&mut client)? == 1);
    let report = world.reap(udp(9))?;
    ensure!(report.visited == 1, "{report:?}");
    expect_exactly(&report, &mut [&mut client], &[socket.cookie])
}

fn connected_wildcard_socket_is_destroyed_with_destroy(world: &mut World) -> Result<()> {
    let backends = backends(world, 8)?;
    world.serve(&[udp(1)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    send_to_all(&mut client, socket, &backends[1..])?;
    for backend in &backends[1..] {
        // It is connected, so it is no unconnected socket of this backend: nothing is uncertain.
        expect_exactly(&world.reap(*backend)?, &mut [&mut client], &[])?;
    }
    expect_exactly(&world.reap(udp(1))?, &mut [&mut client], &[socket.cookie])
}

fn unconnected_wildcard_socket_is_preserved_and_complete(world: &mut World) -> Result<()> {
    let backends = backends(world, 6)?;
    world.serve(&[udp(1)])?;
    let mut client = world.client("client")?;
    let socket = sender(&mut client, &backends)?;
    let victim = connect(&mut client, udp(1))?;
    let report = world.reap(udp(1))?;
    expect_exactly(&report, &mut [&mut client], &[victim.cookie])?;
    ask(&mut client, socket, udp(1))
}

fn unconnected_wildcard_socket_makes_destroy_incomplete(world: &mut World) -> Result<()> {
    let backends = backends(world, 6)?;
    let mut client = world.client("client")?;
    let socket = sender(&mut client, &backends)?;
    let victim = connect(&mut client, udp(1))?;
    let report = world.reap(udp(1))?;
    ensure!(report.destroyed == 1 && report.failed.total() == 0, "{report:?}");
    ensure!(!report.complete, "{report:?}");
    ensure!(report.incomplete_because == BTreeSet::from([Incomplete::WildcardUnconnected]), "{report:?}");
    ensure!(client.state(victim.handle)?.destroyed());
    ensure!(client.state(socket.handle)?.errno == 0);
    // Once it is gone, so is the doubt.
    client.close(socket.handle)?;
    expect_complete(&world.reap(udp(2))?, 0)
}

/// What the wildcard sender has sent to may be gone, and no other socket may be recorded under that.
fn wildcard_sender_makes_a_reconcile_incomplete(world: &mut World) -> Result<()> {
    let backends = backends(world, 6)?;
    world.serve(&[udp(9)])?;
    let mut client = world.client("client")?;
    let socket = sender(&mut client, &backends)?;
    let victim = connect(&mut client, udp(1))?;
    for dry_run in [true, false] {
        let report = world.tell(living(vec![udp(9)]), dry_run)?;
        let by_backend: Vec<(Backend, u64)> =
            report.by_backend.iter().map(|one| (one.backend, one.victims)).collect();
        ensure!(by_backend == [(udp(1), 1)] && report.destroyed == u64::from(!dry_run), "{report:?}");
        ensure!(report.incomplete_because == BTreeSet::from([Incomplete::WildcardUnconnected]), "{report:?}");
    }
    // No backend is gone that the index knows of, and the doubt stays.
    let report = world.tell(living(vec![udp(9)]), false)?;
    ensure!(report.by_backend.is_empty() && report.victims == 0, "{report:?}");
    ensure!(report.incomplete_because == BTreeSet::from([Incomplete::WildcardUnconnected]), "{report:?}");
    ensure!(client.state(victim.handle)?.destroyed() && client.state(socket.handle)?.errno == 0);
    // Connected, it is a client of that backend alone.
    client.connect(socket.handle, udp(9).socket_addr())?;
    expect_complete(&world.tell(living(vec![udp(9)]), false)?, 0)?;
    client.close(socket.handle)?;
    expect_complete(&world.tell(living(vec![udp(9)]), false)?, 0)
}

fn wildcard_sender_is_no_matter_of_a_reconcile_that_preserves_it(world: &mut World) -> Result<()> {
    let backends = backends(world, 6)?;
    world.serve(&[udp(9)])?;
    let mut client = world.client("client")?;
    let socket = sender(&mut client, &backends)?;
    let victim = connect(&mut client, udp(1))?;
    let report = world.tell(living(vec![udp(9)]), false)?;
    expect_exactly(&report, &mut [&mut client], &[victim.cookie])?;
    ensure!(client.state(socket.handle)?.errno == 0);
    Ok(())
}

/// A server in the cgroup, of whose answers sendmsg hooks are told.
fn server_with_200_clients(world: &mut World) -> Result<(Client, Client, Vec<u64>)> {
    world.add_address(udp(1).addr())?;
    world.serve(&[udp(2)])?;
    let mut server = world.client("server")?;
    start_echo(&mut server, udp(1))?;
    let mut client = world.client("client")?;
    let clients = connect_many(&mut client, Default::default(), udp(1), 200)?;
    ensure!(expect_answers(&mut client)? == 200);
    let counters = world.counters()?;
    ensure!(counters.wildcard == 1 && counters.live() == 201, "{counters:?}");
    Ok((server, client, clients.cookies))
}

fn server_that_answers_200_clients(world: &mut World) -> Result<()> {
    let (_server, mut client, cookies) = server_with_200_clients(world)?;
    let others = connect_many(&mut client, Default::default(), udp(2), 3)?;
    expect_exactly(&world.reap(udp(2))?, &mut [&mut client], &others.cookies)?;
    expect_exactly(&world.reap(udp(1))?, &mut [&mut client], &cookies)?;
    // The server's own socket was none of the victims.
    connect_many(&mut client, Default::default(), udp(1), 5)?;
    ensure!(expect_answers(&mut client)? == 5);
    Ok(())
}

fn server_that_answers_200_clients_with_destroy(world: &mut World) -> Result<()> {
    let (_server, mut client, cookies) = server_with_200_clients(world)?;
    let report = world.reap(udp(1))?;
    ensure!(report.incomplete_because == BTreeSet::from([Incomplete::WildcardUnconnected]), "{report:?}");
    ensure!(report.victims == 200 && report.destroyed == 200, "{report:?}");
    let mut died = client.destroyed(skreap_testbed::Selection::All)?;
    died.sort_unstable();
    let mut expected = cookies;
    expected.sort_unstable();
    ensure!(died == expected);
    connect_many(&mut client, Default::default(), udp(1), 5)?;
    ensure!(expect_answers(&mut client)? == 5);
    Ok(())
}
