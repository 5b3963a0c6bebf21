//! Walks: several at once, longer than an emit buffer, and given up halfway.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Result, ensure};
use skreap::bpf::Walker;
use skreap::core::{Backend, Target, Unconnected};
use skreap_testbed::Client;

use crate::case::{Case, case};
use crate::sockets::*;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    // One shard with one bucket: all nodes are in one chain.
    let one_chain = WorldOptions { max_sockets: 12_000, buckets: 1, ..WorldOptions::default() };
    vec![
        case!(more_victims_than_one_emit_buffer).index_only(),
        case!(more_victims_than_one_emit_buffer_in_one_chain).index_only().with(one_chain),
        case!(two_walks_at_once).index_only().with(one_chain),
        case!(walk_given_up_halfway).index_only().with(one_chain),
        case!(eight_walkers_and_no_more).index_only(),
    ]
}

/// What `SKREAP_EMIT_MAX` says.
const EMIT_MAX: usize = 2048;
const SOCKETS: u32 = 5000;

fn more_victims_than_one_emit_buffer(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let victims = connect_many(&mut client, Default::default(), udp(1), SOCKETS)?;
    connect_many(&mut client, Default::default(), udp(2), 100)?;
    let (counts, found) = world.walk(udp(1))?;
    ensure!(counts.calls == 3 && counts.visited == 5000, "{counts:?}");
    let distinct: HashSet<u64> = found.iter().map(skreap::bpf::Victim::cookie).collect();
    ensure!(found.len() == 5000 && distinct.len() == 5000);
    let report = world.reap(udp(1))?;
    ensure!(report.visited == 5000, "{report:?}");
    expect_exactly(&report, &mut [&mut client], &victims.cookies)?;
    ensure!(expect_answers(&mut client)? == 100);
    Ok(())
}

fn more_victims_than_one_emit_buffer_in_one_chain(world: &mut World) -> Result<()> {
    more_victims_than_one_emit_buffer(world)
}

fn target(backend: Backend) -> Target {
    Target { backend, unconnected: Unconnected::Preserve, dry_run: true }
}

/// Each of two walkers sees every one of 5,000 sockets exactly once, in every walk, while others come and go in
/// the same chain.
fn two_walks_at_once(world: &mut World) -> Result<()> {
    const WALKS: u32 = 40;
    world.serve(&[udp(1)])?;
    let mut client = world.client("client")?;
    let mut stable = connect_many(&mut client, Default::default(), udp(1), SOCKETS)?.cookies;
    stable.sort_unstable();
    let churner = world.client("churner")?;
    let stop = AtomicBool::new(false);
    let walkers = [world.reaper().index().walker()?, world.reaper().index().walker()?];
    let (walked, churned) = thread::scope(|scope| {
        let churn = scope.spawn(|| come_and_go(churner, &stop));
        let walks = walkers.map(|walker| scope.spawn(|| walk_often(walker, WALKS, &stable)));
        let walked = walks.map(|walk| walk.join().unwrap_or_else(|panic| resume_unwind(panic)));
        stop.store(true, Ordering::Relaxed);
        (walked, churn.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    for result in walked {
        result?;
    }
    let churned = churned?;
    ensure!(churned > 0, "nothing came or went");
    world.wait_for_nodes(SOCKETS.into())?;
    ensure!(expect_answers(&mut client)? == SOCKETS);
    let counters = world.counters()?;
    ensure!(counters.inserts == u64::from(SOCKETS) + churned && counters.removals == churned, "{counters:?}");
    Ok(())
}

fn walk_often(mut walker: Walker, walks: u32, stable: &[u64]) -> Result<()> {
    let known: HashSet<u64> = stable.iter().copied().collect();
    let mut found = Vec::new();
    for _ in 0..walks {
        found.clear();
        let counts = walker.walk(&target(udp(1)), &mut found)?;
        ensure!(counts.stale == 0, "{counts:?}");
        let mut seen: Vec<u64> =
            found.iter().map(skreap::bpf::Victim::cookie).filter(|cookie| known.contains(cookie)).collect();
        seen.sort_unstable();
        ensure!(seen == stable, "{} of {} were seen: {counts:?}", seen.len(), stable.len());
    }
    Ok(())
}

/// Opens and closes sockets until told to stop; returns how many.
fn come_and_go(mut client: Client, stop: &AtomicBool) -> Result<u64> {
    let mut opened = 0;
    while !stop.load(Ordering::Relaxed) {
        opened += connect_many(&mut client, Default::default(), udp(1), 100)?.cookies.len() as u64;
        client.close_all()?;
    }
    Ok(opened)
}

/// A walker that panics in the hands of its user leaves its cursor in the chain. Other walks pass it, closes
/// around it go well, and the next walk on the slot begins anew.
fn walk_given_up_halfway(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let mut client = world.client("client")?;
    let opened = connect_many(&mut client, Default::default(), udp(1), SOCKETS)?;
    let index = world.reaper().index();
    let give_up = |first: Walker| {
        let mut walker = first;
        let mut seen = 0;
        let given_up = catch_unwind(AssertUnwindSafe(|| {
            walker.walk_all(|batch| {
                seen = batch.len();
                resume_unwind(Box::new("given up"));
            })
        }));
        given_up.is_err() && seen == EMIT_MAX
    };
    ensure!(give_up(index.walker()?));

    // On the same slot.
    let mut found = Vec::new();
    let counts = index.walker()?.walk(&target(udp(1)), &mut found)?;
    ensure!(counts.visited == 5000 && counts.calls == 3 && counts.passed_over == 0, "{counts:?}");
    // On another slot, with the cursor of the first in the way; everything around it is then closed.
    let first = index.walker()?;
    let mut second = index.walker()?;
    ensure!(give_up(first));
    found.clear();
    let counts = second.walk(&target(udp(1)), &mut found)?;
    ensure!(counts.visited == 5000 && counts.passed_over == 0 && found.len() == 5000, "{counts:?}");
    for handle in (opened.first..opened.first + SOCKETS).step_by(2) {
        client.close(handle)?;
    }
    found.clear();
    let counts = second.walk(&target(udp(1)), &mut found)?;
    ensure!(counts.visited == 2500 && counts.passed_over == 0, "{counts:?}");
    drop(second);
    let survivors: Vec<u64> = opened.cookies.iter().copied().skip(1).step_by(2).collect();
    expect_destroyed(&world.reap(udp(1))?, &mut [&mut client], &survivors)
}

fn eight_walkers_and_no_more(world: &mut World) -> Result<()> {
    // The reaper has some; what is left is handed out once, and again after it came back.
    let mut counts = Vec::new();
    for _ in 0..2 {
        let mut walkers = Vec::new();
        while let Ok(walker) = world.reaper().index().walker() {
            walkers.push(walker);
            ensure!(walkers.len() <= 8, "more than eight walkers");
        }
        for walker in &mut walkers {
            ensure!(walker.walk(&target(udp(1)), &mut Vec::new())?.visited == 0);
        }
        counts.push(walkers.len());
    }
    ensure!(counts[0] == counts[1] && counts[0] >= 2, "{counts:?}");
    Ok(())
}
