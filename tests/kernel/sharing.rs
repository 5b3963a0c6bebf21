//! One socket with several descriptors or processes, and processes that are none of the reaper's business.

use anyhow::{Result, ensure};
use skreap_testbed::Selection;

use crate::case::{Case, case};
use crate::sockets::*;
use crate::world::World;

pub fn cases() -> Vec<Case> {
    vec![
        case!(dup_is_one_socket),
        case!(fork_is_one_socket),
        case!(node_goes_with_the_last_close).index_only(),
        case!(killed_client_leaves_no_node).index_only(),
        case!(killed_client_leaves_nothing_to_destroy),
        case!(outside_the_cgroup_is_untouched).index_only(),
    ]
}

fn dup_is_one_socket(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), tcp(1)])?;
    let mut client = world.client("client")?;
    for backend in [udp(1), tcp(1)] {
        let socket = connect(&mut client, backend)?;
        for _ in 0..3 {
            let copy = client.dup(socket.handle)?;
            ensure!(client.cookie(copy)? == socket.cookie);
        }
        let report = world.reap(backend)?;
        ensure!(!world.uses_index() || report.visited == 1, "{report:?}");
        expect_exactly(&report, &mut [&mut client], &[socket.cookie])?;
    }
    Ok(())
}

fn fork_is_one_socket(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), tcp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let mut cookies = Vec::new();
    for backend in [udp(1), tcp(1)] {
        cookies.push(connect(&mut client, backend)?.cookie);
    }
    connect(&mut client, udp(2))?;
    let fork = client.fork()?;
    for (backend, cookie) in [udp(1), tcp(1)].into_iter().zip(cookies) {
        let report = world.reap(backend)?;
        ensure!(!world.uses_index() || report.visited == 1, "{report:?}");
        expect_exactly(&report, &mut [&mut client], &[cookie])?;
    }
    client.reap_fork(fork)?;
    ensure!(expect_answers(&mut client)? == 1);
    Ok(())
}

fn node_goes_with_the_last_close(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    let copy = client.dup(socket.handle)?;
    let fork = client.fork()?;
    client.close(socket.handle)?;
    ensure!(world.counters()?.live() == 1);
    client.close(copy)?;
    ensure!(world.counters()?.live() == 1);
    // Only the fork has it now, and it is still found there.
    ensure!(client.cookies(Selection::All)?.is_empty());
    expect_complete(&world.reap(udp(1))?, 1)?;
    ensure!(world.counters()?.live() == 1);
    client.reap_fork(fork)?;
    ensure!(world.counters()?.live() == 0);
    Ok(())
}

fn killed_client_leaves_no_node(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp6(1), tcp(1)])?;
    let mut client = world.client("client")?;
    for backend in [udp(1), udp6(1), tcp(1)] {
        connect_many(&mut client, Default::default(), backend, 50)?;
    }
    ensure!(world.counters()?.live() == 150);
    client.kill()?;
    world.wait_for_nodes(0)?;
    let counters = world.counters()?;
    ensure!(counters.inserts == 150 && counters.removals == 150 && counters.releases == 150, "{counters:?}");
    Ok(())
}

fn killed_client_leaves_nothing_to_destroy(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let mut killed = world.client("killed")?;
    let mut client = world.client("client")?;
    connect_many(&mut killed, Default::default(), udp(1), 20)?;
    let victims = connect_many(&mut client, Default::default(), udp(1), 10)?;
    killed.kill()?;
    world.wait_for_nodes(if world.uses_index() { 10 } else { world.counters()?.live() })?;
    expect_exactly(&world.reap(udp(1))?, &mut [&mut client], &victims.cookies)
}

fn outside_the_cgroup_is_untouched(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), tcp(1)])?;
    let mut client = world.client("client")?;
    let mut outsider = world.outsider("outsider")?;
    for backend in [udp(1), tcp(1)] {
        let victims = connect_many(&mut client, Default::default(), backend, 4)?;
        connect_many(&mut outsider, Default::default(), backend, 6)?;
        let report = world.reap(backend)?;
        ensure!(report.visited == 4, "{report:?}");
        expect_exactly(&report, &mut [&mut client, &mut outsider], &victims.cookies)?;
    }
    ensure!(expect_answers(&mut outsider)? == 12);
    Ok(())
}
