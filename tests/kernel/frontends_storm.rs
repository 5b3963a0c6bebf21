//! Frontends while clients connect at full speed and the load balancer is attached anew again and again.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use skreap_testbed::bpf::{LoadBalancer, Placing};
use skreap_testbed::{Client, Selection, SpawnOptions};

use crate::case::{Case, case};
use crate::frontends::{A, B, DIRECT, POD, UNKNOWN, backend, balance, listed, many_to, reap_through};
use crate::sockets::*;
use crate::world::{World, WorldOptions};

/// How often the load balancer is attached anew, at least.
const ROUNDS: usize = 24;
/// What a storm is, and how long it may take to become one on a busy machine.
const STORM: usize = 1000;
const PATIENCE: Duration = Duration::from_secs(60);
const PLACINGS: [Placing; 3] = [Placing::Last, Placing::First, Placing::Preorder];

pub fn cases() -> Vec<Case> {
    let plain = WorldOptions { frontends: 64, ..WorldOptions::default() };
    vec![
        case!(balancer_moves_in_a_storm).with(plain).index_only(),
        case!(balancer_on_a_child_moves_in_a_storm).with(plain).index_only(),
        case!(events_in_a_storm_kill_their_own).with(plain).index_only(),
        case!(what_a_storm_leaves_is_counted).with(plain).index_only(),
    ]
}

/// The load balancer is attached anew at every place in turn, while clients connect through both services and
/// directly. After each round every frontend that is named is the right one.
fn balancer_moves_in_a_storm(world: &mut World) -> Result<()> {
    world.serve(&[backend(POD)])?;
    let mut balancer = balance(world, Placing::Preorder)?;
    world.tidy();
    let cgroup = world.cgroup().open()?;
    let stormers = [world.client("a")?, world.client("b")?, world.client("pod")?];
    nobody_is_mistaken(world, stormers, |placing| Ok(balancer.attach_again(cgroup.as_fd(), placing)?))
}

/// The same of one that is attached to a cgroup below, and so runs before ours unless `BPF_F_PREORDER` puts ours first.
fn balancer_on_a_child_moves_in_a_storm(world: &mut World) -> Result<()> {
    world.serve(&[backend(POD)])?;
    let child = world.cgroup().child("child")?;
    let directory = child.open()?;
    let entries = [(backend(A), backend(POD)), (backend(B), backend(POD))];
    let mut balancer = LoadBalancer::attach_placed(&entries, directory.as_fd(), Placing::Last)?;
    world.tidy();
    let spawn =
        |label| Client::spawn(&SpawnOptions { label, cgroup: Some(&child), netns: Some(world.netns(0)) });
    let stormers = [spawn("a")?, spawn("b")?, spawn("pod")?];
    nobody_is_mistaken(world, stormers, |placing| Ok(balancer.attach_again(directory.as_fd(), placing)?))
}

/// What every listing says of a socket is what its owner has named, or unknown.
fn nobody_is_mistaken(
    world: &mut World,
    mut stormers: [Client; 3],
    mut attach_again: impl FnMut(Placing) -> Result<()>,
) -> Result<()> {
    let (stop, opened) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (mut known, mut unknown) = (0, 0);
    let total = thread::scope(|scope| {
        let (stop, opened) = (&stop, &opened);
        let storms: Vec<_> = stormers
            .iter_mut()
            .zip([A, B, POD])
            .map(|(client, to)| scope.spawn(move || storm(client, to, stop, opened)))
            .collect();
        let mut rounds = || -> Result<Vec<(u64, String)>> {
            let (mut seen, start) = (Vec::new(), Instant::now());
            let mut round = 0;
            while round < ROUNDS || opened.load(Ordering::Relaxed) <= STORM && start.elapsed() < PATIENCE {
                attach_again(PLACINGS[round % 3])?;
                world.tidy();
                seen.extend(listed(world, POD)?);
                round += 1;
            }
            // It stays where it is: then most are known.
            let (mut looks, mut known) = (0, false);
            while looks < 8 || !known && start.elapsed() < PATIENCE {
                let now = listed(world, POD)?;
                known |= now.values().any(|frontend| frontend != UNKNOWN);
                seen.extend(now);
                looks += 1;
            }
            Ok(seen)
        };
        let done = rounds();
        stop.store(true, Ordering::Relaxed);
        let mut truth = BTreeMap::new();
        for (storm, name) in storms.into_iter().zip([A, B, DIRECT]) {
            let opened = storm.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            truth.extend(opened.into_iter().map(|cookie| (cookie, name)));
        }
        for (cookie, frontend) in done? {
            let Some(named) = truth.get(&cookie) else {
                continue;
            };
            ensure!(frontend == *named || frontend == UNKNOWN, "{cookie}: {frontend}, and not {named}");
            *(if frontend == UNKNOWN { &mut unknown } else { &mut known }) += 1;
        }
        Ok(truth.len())
    })?;
    ensure!(total > STORM && known > 0, "{total} opened, {known} known, {unknown} unknown");
    eprintln!("{total} opened; listed {known} with their frontend, {unknown} as unknown");
    drop(stormers);
    Ok(())
}

/// Opens, connects and closes until told to stop; the cookies of all.
fn storm(client: &mut Client, to: &str, stop: &AtomicBool, opened: &AtomicUsize) -> Result<Vec<u64>> {
    let mut cookies = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let more = many_to(client, to, 20)?;
        opened.fetch_add(more.len(), Ordering::Relaxed);
        cookies.extend(more);
        client.close_all()?;
    }
    Ok(cookies)
}

/// Events on the clients of one service: nobody else's socket is ever destroyed. At rest all of them are.
fn events_in_a_storm_kill_their_own(world: &mut World) -> Result<()> {
    world.serve(&[backend(POD)])?;
    let mut balancer = balance(world, Placing::Preorder)?;
    world.tidy();
    let cgroup = world.cgroup().open()?;
    let mut meant = world.client("a")?;
    let mut others = [world.client("b")?, world.client("pod")?];
    let stop = AtomicBool::new(false);
    let mut destroyed = 0;
    let died = thread::scope(|scope| {
        let stop = &stop;
        let storms: Vec<_> = std::iter::once(&mut meant)
            .chain(&mut others)
            .zip([A, B, POD])
            .map(|(client, to)| scope.spawn(move || storm_and_look(client, to, stop)))
            .collect();
        let mut rounds = || -> Result<()> {
            for round in 0..ROUNDS {
                balancer.attach_again(cgroup.as_fd(), PLACINGS[round % 3])?;
                destroyed += reap_through(world, POD, A)?.destroyed;
            }
            Ok(())
        };
        let done = rounds();
        stop.store(true, Ordering::Relaxed);
        let died: Vec<u64> = storms
            .into_iter()
            .map(|storm| storm.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect::<Result<_>>()?;
        done.map(|()| died)
    })?;
    ensure!(
        died[1..] == [0, 0],
        "destroyed were {died:?}, and only those through the first service were meant"
    );
    ensure!(died[0] <= destroyed, "{} have died, and {destroyed} are reported", died[0]);
    eprintln!("{destroyed} destroyed in the storm, {} of them before they were closed", died[0]);
    // It stays where it is.
    for client in std::iter::once(&mut meant).chain(&mut others) {
        client.close_all()?;
    }
    world.tidy();
    world.tidy();
    let mine = many_to(&mut meant, A, 20)?;
    let [by_b, direct] = &mut others;
    many_to(by_b, B, 20)?;
    many_to(direct, POD, 20)?;
    let report = reap_through(world, POD, A)?;
    expect_exactly(&report, &mut [&mut meant, by_b, direct], &mine)?;
    ensure!((report.skipped.frontend, report.skipped.frontend_unknown) == (40, 0), "{report:?}");
    Ok(())
}

/// Sockets that stay from a storm: each is counted as what a listing says of it, and no event for one frontend has one of
/// another.
fn what_a_storm_leaves_is_counted(world: &mut World) -> Result<()> {
    const EACH: u32 = 12;
    world.serve(&[backend(POD)])?;
    let mut balancer = balance(world, Placing::Preorder)?;
    world.tidy();
    let cgroup = world.cgroup().open()?;
    let mut clients = [world.client("a")?, world.client("b")?, world.client("pod")?];
    let mut truth = BTreeMap::new();
    for round in 0..ROUNDS {
        // Seen at once, or only with the next one.
        balancer.attach_again(cgroup.as_fd(), PLACINGS[round % 3])?;
        if round % 2 == 0 {
            world.tidy();
        }
        let opened: Vec<(u64, &str)> = thread::scope(|scope| {
            let one = |client, to, name| {
                scope.spawn(move || -> Result<Vec<_>> {
                    Ok(many_to(client, to, EACH)?.into_iter().map(|cookie| (cookie, name)).collect())
                })
            };
            let [a, b, pod] = &mut clients;
            let all = [one(a, A, A), one(b, B, B), one(pod, POD, DIRECT)];
            let joined = all.into_iter().map(|one| one.join().unwrap_or_else(|panic| resume_unwind(panic)));
            Ok::<_, anyhow::Error>(joined.collect::<Result<Vec<_>>>()?.concat())
        })?;
        truth.extend(opened);
        if round % 2 == 0 {
            // What was recorded before the last look but one is beyond doubt.
            world.tidy();
            world.tidy();
        }
    }
    // Before the first program: of these it sees only the backend.
    world.tidy();
    world.tidy();
    balancer.attach_again(cgroup.as_fd(), Placing::First)?;
    let [a, ..] = &mut clients;
    truth.extend(many_to(a, A, 7)?.into_iter().map(|cookie| (cookie, A)));

    let listed = listed(world, POD)?;
    ensure!(listed.keys().eq(truth.keys()), "{} are listed, not {}", listed.len(), truth.len());
    let mut named: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for (cookie, frontend) in &listed {
        ensure!(frontend == UNKNOWN || frontend == truth[cookie], "{cookie}: {frontend}");
        named.entry(frontend.as_str()).or_default().push(*cookie);
    }
    let unknown = named.remove(UNKNOWN).unwrap_or_default();
    eprintln!("{} sockets, {} of unknown frontends", truth.len(), unknown.len());
    ensure!((7..listed.len()).contains(&unknown.len()), "{} are unknown", unknown.len());
    let mut left = named.values().map(Vec::len).sum::<usize>();
    for (frontend, cookies) in &named {
        let report = reap_through(world, POD, frontend)?;
        left -= cookies.len();
        let [a, b, pod] = &mut clients;
        expect_destroyed(&report, &mut [a, b, pod], cookies)?;
        let skipped = (report.skipped.frontend, report.skipped.frontend_unknown);
        ensure!(skipped == (left as u64, unknown.len() as u64), "{report:?}");
    }
    let [a, b, pod] = &mut clients;
    let report = world.reap(backend(POD))?;
    expect_exactly(&report, &mut [a, b, pod], &unknown)
}

/// As [`storm`]; how many of the sockets were destroyed before they were closed.
fn storm_and_look(client: &mut Client, to: &str, stop: &AtomicBool) -> Result<u64> {
    let mut died = 0;
    while !stop.load(Ordering::Relaxed) {
        many_to(client, to, 20)?;
        died += client.destroyed(Selection::All)?.len() as u64;
        client.close_all()?;
    }
    Ok(died)
}
