//! Scans that come to sockets whose owners hold their locks.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use skreap::core::{Backend, EngineName, FallbackReason, Incomplete};
use skreap_testbed::{Holding, Selection};

use crate::case::{Case, case};
use crate::held_lock::late;
use crate::holder::{LockHolder, descriptor_of};
use crate::sockets::*;
use crate::world::{World, WorldOptions};

/// How slow a busy machine may be. The locks are held until they are let go of.
const BOUND: Duration = Duration::from_secs(15);

pub fn cases() -> Vec<Case> {
    let two = WorldOptions { netns: 2, ..WorldOptions::default() };
    let small = WorldOptions { max_sockets: 16, buckets: 4, ..WorldOptions::default() };
    let held = WorldOptions { victim_timeout: Duration::from_millis(1500), ..small };
    vec![
        case!(iterators_are_given_up_udp).only(EngineName::Iter).with(two),
        case!(iterators_are_given_up_tcp).only(EngineName::Iter).with(two),
        case!(fallback_scan_beside_held_locks).only(EngineName::Netlink).with(small),
        case!(held_victims_and_a_full_index).only(EngineName::Netlink).and(EngineName::Kfunc).with(held),
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

/// One of the 16 that are recorded and one of the 24 that are not. The walk meets the first, and the scan meets both: each
/// is one victim and one failure.
fn held_victims_and_a_full_index(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let mut client = world.client("client")?;
    let opened = connect_many(&mut client, Default::default(), udp(1), 40)?;
    let counters = world.counters()?;
    ensure!(counters.live() == 16 && counters.dropped_full == 24, "{counters:?}");
    let held = [3, 30].map(|n: u32| (opened.first + n, opened.cookies[n as usize]));
    for (handle, _) in held {
        client.start_hold(handle, Holding::Memory)?;
    }
    let report = world.reap(udp(1))?;
    ensure!(
        (report.victims, report.destroyed, report.failed.total(), report.skipped.gone) == (40, 38, 2, 0),
        "{report:?}"
    );
    ensure!(report.visited == 40 && report.failed.by_errno().get("ETIMEDOUT") == Some(&2), "{report:?}");
    let mut failed: Vec<u64> = report.failed.sockets().iter().map(|failure| failure.socket.cookie).collect();
    failed.sort_unstable();
    ensure!(failed == held.map(|(_, cookie)| cookie), "{report:?}");
    let [scan] = &report.fallbacks[..] else { bail!("not one fallback: {report:?}") };
    ensure!(
        (scan.engine, scan.because, scan.victims, scan.destroyed)
            == (EngineName::DiagFilter, FallbackReason::IndexFull, 25, 23),
        "{report:?}"
    );
    ensure!(report.complete && report.incomplete_because.is_empty(), "{report:?}");
    let monitor = world.reaper().monitor();
    let now = monitor.status()?;
    ensure!(now.held.waiting == 2 && now.totals.all_failed() == 2, "{:?} {:?}", now.held, now.totals);
    let others: Vec<u64> =
        opened.cookies.iter().copied().filter(|cookie| held.iter().all(|(_, held)| held != cookie)).collect();
    let handles = (opened.first..opened.first + 40).filter(|n| held.iter().all(|(handle, _)| handle != n));
    ensure!(client.destroyed(Selection::List(handles.collect()))? == others);

    for (handle, _) in held {
        client.end_hold(handle)?;
    }
    let deadline = Instant::now() + BOUND;
    let now = loop {
        let now = monitor.status()?;
        if now.held.waiting == 0 && now.held.given_up == 0 {
            break now;
        }
        ensure!(Instant::now() < deadline, "still waited for: {:?}", now.held);
        thread::sleep(Duration::from_millis(1));
    };
    ensure!(now.held == late(2), "{:?}", now.held);
    ensure!(now.totals.all_failed() == 0 && now.totals.all_destroyed() == 38, "{:?}", now.totals);
    ensure!(client.destroyed(Selection::All)? == held.map(|(_, cookie)| cookie));
    Ok(())
}
