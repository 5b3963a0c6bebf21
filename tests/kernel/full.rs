//! An index that is full: counted, reported, and nothing else goes wrong.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use skreap::core::Incomplete;
use skreap::lab::Selection;

use crate::case::{Case, case};
use crate::sockets::*;
use crate::unconnected::{send_to_all, sender};
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let small = WorldOptions { max_sockets: 64, buckets: 16, ..WorldOptions::default() };
    vec![
        case!(full_index_says_which_backends_are_incomplete).index_only().with(small),
        case!(full_index_takes_new_sockets_when_old_ones_close).index_only().with(small),
        case!(full_index_and_a_socket_with_many_peers).index_only().with(small),
    ]
}

fn full_index_says_which_backends_are_incomplete(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let all_known = connect_many(&mut client, Default::default(), udp(1), 60)?;
    let some_known = connect_many(&mut client, Default::default(), udp(2), 40)?;
    let counters = world.counters()?;
    ensure!(counters.dropped_full == 36 && counters.live() == 64 && counters.free_nodes == 0, "{counters:?}");
    ensure!(counters.balanced(), "{counters:?}");

    let report = world.reap(udp(2))?;
    ensure!(!report.complete, "{report:?}");
    ensure!(report.incomplete_because == BTreeSet::from([Incomplete::IndexFull]), "{report:?}");
    ensure!(report.victims == 4 && report.destroyed == 4 && report.failed.total() == 0, "{report:?}");
    let mut died = client.destroyed(Selection::All)?;
    died.sort_unstable();
    ensure!(died == some_known.cookies[..4], "not the first four: {died:?}");
    // The other one was affected only if both fall on one of 65,536 bits.
    let report = world.reap(udp(1))?;
    expect_exactly(&report, &mut [&mut client], &all_known.cookies)?;
    ensure!(expect_answers(&mut client)? == 36);

    client.close_all()?;
    let counters = world.counters()?;
    ensure!(counters.inserts == 64 && counters.removals == 64 && counters.free_nodes == 64, "{counters:?}");
    ensure!(counters.releases == 64 && counters.releases_without_node == 36, "{counters:?}");
    // It stays said: one of the sockets that were not recorded might still be there.
    ensure!(!world.reap(udp(2))?.complete);
    Ok(())
}

fn full_index_takes_new_sockets_when_old_ones_close(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let first = connect_many(&mut client, Default::default(), udp(1), 64)?;
    ensure!(world.counters()?.dropped_full == 0);
    for handle in first.first..first.first + 10 {
        client.close(handle)?;
    }
    let second = connect_many(&mut client, Default::default(), udp(2), 10)?;
    let counters = world.counters()?;
    ensure!(counters.dropped_full == 0 && counters.live() == 64 && counters.inserts == 74, "{counters:?}");
    expect_exactly(&world.reap(udp(2))?, &mut [&mut client], &second.cookies)?;
    expect_exactly(&world.reap(udp(1))?, &mut [&mut client], &first.cookies[10..])
}

/// No room for another membership of a socket that has some.
fn full_index_and_a_socket_with_many_peers(world: &mut World) -> Result<()> {
    let backends: Vec<_> = (1..=10).map(udp).collect();
    for backend in &backends {
        world.add_address(backend.addr())?;
    }
    world.serve(&[udp(11)])?;
    let mut client = world.client("client")?;
    let bulk = connect_many(&mut client, Default::default(), udp(11), 60)?;
    let socket = sender(&mut client, &backends)?;
    let counters = world.counters()?;
    ensure!(counters.dropped_full == 6 && counters.live() == 64 && counters.wide == 0, "{counters:?}");
    // A connect that is not recorded is incomplete for its backend, and only for that.
    client.connect(socket.handle, udp(12).socket_addr()).err();
    send_to_all(&mut client, socket, &backends[..4])?;
    expect_exactly(&world.reap(udp(11))?, &mut [&mut client], &bulk.cookies)?;
    for backend in &backends[4..] {
        ensure!(world.reap(*backend)?.incomplete_because == BTreeSet::from([Incomplete::IndexFull]));
    }
    client.close(socket.handle)?;
    let counters = world.counters()?;
    ensure!(counters.live() == 60 && counters.free_nodes == 4, "{counters:?}");
    Ok(())
}
