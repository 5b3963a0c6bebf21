//! Scans that come to sockets whose owners hold their locks.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use skreap::core::{Backend, EngineName, Incomplete};
use skreap_testbed::Selection;

use crate::case::{Case, case};
use crate::holder::{LockHolder, descriptor_of};
use crate::sockets::*;
use crate::world::{World, WorldOptions};

/// How slow a busy machine may be. The locks are held until they are let go of.
const BOUND: Duration = Duration::from_secs(15);

pub fn cases() -> Vec<Case> {
    let two = WorldOptions { netns: 2, ..WorldOptions::default() };
    let small = WorldOptions { max_sockets: 16, buckets: 4, ..WorldOptions::default() };
    vec![
        case!(iterators_are_given_up_udp).only(EngineName::Iter).with(two),
        case!(iterators_are_given_up_tcp).only(EngineName::Iter).with(two),
        case!(fallback_scan_beside_held_locks).only(EngineName::Netlink).with(small),
    ]
}

fn iterators_are_given_up_udp(world: &mut World) -> Result<()> {
    iterators_are_given_up(world, udp(1))
}

fn iterators_are_given_up_tcp(world: &mut World) -> Result<()> {
    iterators_are_given_up(world, tcp(1))
}

/// The locks of sockets of another cgroup. The other netns is done all the same, the report says what was not, and what was
/// given up destroys nothing afterwards.
fn iterators_are_given_up(world: &mut World, backend: Backend) -> Result<()> {
    world.serve(&[backend])?;
    let mut client = world.client("client")?;
    let mut outsider = world.outsider("outsider")?;
    let place = world.place(1)?;
    let far = connect_many(&mut client, place, backend, 4)?;
    // Side by side, so that the iterator comes to one of them before it has seen all others: a TCP socket is in the
    // bucket after that of the port before, if both have the same peer.
    let (mut holders, mut near) = (Vec::new(), Vec::new());
    for _ in 0..30 {
        near.push(connect(&mut client, backend)?.cookie);
        let socket = connect(&mut outsider, backend)?;
        holders.push(LockHolder::take(descriptor_of(outsider.pid(), socket.cookie)?)?);
    }
    let start = Instant::now();
    let report = world.reap(backend)?;
    ensure!(start.elapsed() < BOUND, "the scan has waited for {:?}", start.elapsed());
    ensure!(report.incomplete_because == [Incomplete::SocketLocked].into(), "{report:?}");
    let died = client.destroyed(Selection::All)?;
    ensure!(died.len() as u64 == report.destroyed && report.failed.total() == 0, "{died:?} {report:?}");
    ensure!(far.cookies.iter().all(|cookie| died.contains(cookie)), "{died:?}");
    ensure!(died.len() < 34, "none was behind a lock: {report:?}");
    for holder in holders {
        holder.release()?;
    }
    thread::sleep(Duration::from_millis(200));
    let late = client.destroyed(Selection::All)?;
    ensure!(late.is_empty(), "destroyed by a scan that was given up: {late:?}");
    let rest: Vec<u64> = near.into_iter().filter(|cookie| !died.contains(cookie)).collect();
    expect_exactly(&world.reap(backend)?, &mut [&mut client], &rest)?;
    ensure!(expect_answers(&mut outsider)? == 30, "the outsiders were touched");
    Ok(())
}

/// The index is full, and a dump is the fallback: it waits for nobody.
fn fallback_scan_beside_held_locks(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2), tcp(1), tcp(2)])?;
    let mut client = world.client("client")?;
    let mut outsider = world.outsider("outsider")?;
    let mut holders = Vec::new();
    for other in [udp(2), tcp(2)] {
        for _ in 0..5 {
            let socket = connect(&mut outsider, other)?;
            holders.push(LockHolder::take(descriptor_of(outsider.pid(), socket.cookie)?)?);
        }
    }
    for backend in [udp(1), tcp(1)] {
        let opened = connect_many(&mut client, Default::default(), backend, 40)?;
        let start = Instant::now();
        let report = world.reap(backend)?;
        ensure!(start.elapsed() < BOUND, "the event has waited for {:?}", start.elapsed());
        expect_exactly(&report, &mut [&mut client], &opened.cookies)?;
        ensure!(report.fallbacks.len() == 1, "{report:?}");
        ensure!(report.fallbacks[0].engine == EngineName::DiagFilter, "{report:?}");
    }
    for holder in holders {
        holder.release()?;
    }
    Ok(())
}
