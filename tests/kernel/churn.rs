//! Reaping while processes open, connect and close at full speed.

use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use skreap::core::{Backend, Protocol};
use skreap_testbed::{Client, Selection};

use crate::case::{Case, case};
use crate::sockets::*;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let two_netns = WorldOptions { netns: 2, missed_releases: 2, ..WorldOptions::default() };
    vec![
        case!(churn_udp).with(two_netns),
        case!(churn_tcp).with(two_netns),
        case!(churn_through_a_small_index).with(WorldOptions { max_sockets: 4096, ..two_netns }),
    ]
}

/// How long it takes at least, and how many sockets that must be; a slow machine goes on until it has them.
const TIME: Duration = Duration::from_secs(3);
const SOCKETS: u64 = 1000;
const PATIENCE: Duration = Duration::from_secs(60);
const REAPS: u32 = 200;
/// Sockets per backend that a client has open at a time.
const BATCH: u32 = 48;

fn churn_udp(world: &mut World) -> Result<()> {
    churn(world, udp(1), udp(2))
}

fn churn_tcp(world: &mut World) -> Result<()> {
    churn(world, tcp(1), tcp(2))
}

/// One shard, whose free nodes go round and round.
fn churn_through_a_small_index(world: &mut World) -> Result<()> {
    churn(world, udp6(1), udp6(2))
}

fn churn(world: &mut World, gone: Backend, stays: Backend) -> Result<()> {
    for netns in [0, 1] {
        world.netns(netns).set_sysctl("net.ipv4.ip_local_port_range", "1024 65535")?;
    }
    world.serve(&[gone, stays])?;
    let mut clients = [world.client_in("first", 0)?, world.client_in("second", 1)?];
    let (stop, so_far) = (AtomicBool::new(false), AtomicU64::new(0));
    let (reaped, churned) = thread::scope(|scope| {
        let (stop, so_far) = (&stop, &so_far);
        let churners = clients
            .each_mut()
            .map(|client| scope.spawn(move || open_and_close(client, gone, stays, stop, so_far)));
        let reaped = reap_often(world, gone, so_far);
        stop.store(true, Ordering::Relaxed);
        let churned = churners.map(|churner| churner.join().unwrap_or_else(|panic| resume_unwind(panic)));
        (reaped, churned)
    });
    let destroyed = reaped?;
    let (mut opened, mut failed) = (0, 0);
    for result in churned {
        let (more_opened, more_failed) = result?;
        opened += more_opened;
        failed += more_failed;
    }
    if world.uses_index() {
        // One node for each socket ever made: neither more nor less was recorded.
        let counters = world.counters()?;
        ensure!(
            counters.inserts + counters.dropped_full == opened + failed,
            "{opened} + {failed}: {counters:?}"
        );
    }
    ensure!(destroyed > 0 && opened > SOCKETS, "{destroyed} of {opened} sockets destroyed: no churn");

    // The last batch is still open: what it has on the backend must go now, and nothing else.
    let expected = connected_to(&mut clients, gone.socket_addr())?;
    let report = world.reap(gone)?;
    let [first, second] = &mut clients;
    expect_exactly(&report, &mut [first, second], &expected)?;
    ensure!(connected_to(&mut clients, gone.socket_addr())?.is_empty(), "missed");
    ensure!(connected_to(&mut clients, stays.socket_addr())?.len() == 2 * BATCH as usize);
    Ok(())
}

fn connected_to(clients: &mut [Client], peer: SocketAddr) -> Result<Vec<u64>> {
    let mut cookies = Vec::new();
    for client in clients {
        let states = client.states(Selection::All)?;
        cookies.extend(states.iter().filter(|s| s.peer == Some(peer)).map(|s| s.cookie));
    }
    Ok(cookies)
}

/// Reaps again and again until the time is over and there were enough sockets, not more often than is said; returns how
/// many were destroyed.
fn reap_often(world: &mut World, gone: Backend, opened: &AtomicU64) -> Result<u64> {
    let begin = Instant::now();
    let (mut destroyed, mut turn) = (0, 0);
    while begin.elapsed() < TIME || (opened.load(Ordering::Relaxed) <= SOCKETS && begin.elapsed() < PATIENCE)
    {
        turn += 1;
        let report = world.reap(gone)?;
        // Its owner may close a victim first, or not have got far with its connect; nothing else may be wrong.
        ensure!(report.complete && report.failed.total() == 0, "{report:?}");
        destroyed += report.destroyed;
        thread::sleep((TIME * turn / REAPS).saturating_sub(begin.elapsed()));
    }
    Ok(destroyed)
}

/// Opens and closes until told to stop, and leaves the last batch open; returns how many were opened, and how
/// many more were destroyed under way.
fn open_and_close(
    client: &mut Client,
    gone: Backend,
    stays: Backend,
    stop: &AtomicBool,
    so_far: &AtomicU64,
) -> Result<(u64, u64)> {
    let (mut opened, mut failed) = (0, 0);
    loop {
        let victims = client.open_many(many(Default::default(), gone, BATCH))?;
        // A handshake may be destroyed under way.
        let excused = gone.protocol() == Protocol::Tcp
            && victims.first_error.as_ref().is_some_and(|error| error.errno == libc::ECONNABORTED);
        ensure!(victims.failed == 0 || excused, "{victims:?}");
        let others = connect_many(client, Default::default(), stays, BATCH)?;
        opened += (victims.cookies.len() + others.cookies.len()) as u64;
        failed += u64::from(victims.failed);
        so_far.fetch_add((victims.cookies.len() + others.cookies.len()) as u64, Ordering::Relaxed);
        for state in client.states(others.selection())? {
            ensure!(
                state.errno == 0 && state.peer == Some(stays.socket_addr()),
                "wrongly destroyed: {state:?}"
            );
        }
        if stop.load(Ordering::Relaxed) {
            return Ok((opened, failed));
        }
        client.close_all()?;
    }
}
