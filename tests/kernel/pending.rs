//! Events that come while a `connect()` is pending: recorded by the hook, without effect yet.

use std::panic::resume_unwind;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use skreap::bpf::{PendingCheck, PendingConnect};
use skreap::core::{Backend, Report, Target, Unconnected};
use skreap_testbed::bpf::Delay;
use skreap_testbed::{Client, Op, OpenedMany, Reply, Selection};

use crate::case::{Case, case};
use crate::sockets::*;
use crate::unconnected::{send_to_all, sender};
use crate::world::{World, WorldOptions};

const VIP_UDP: &str = "udp://10.177.9.9:5353";
const VIP_TCP: &str = "tcp://10.177.9.9:8080";
const TO_UDP: [&[(&str, &str)]; 2] =
    [&[(VIP_UDP, "udp://10.177.0.1:53")], &[(VIP_UDP, "udp://10.177.0.2:53")]];
const TO_TCP: [&[(&str, &str)]; 2] =
    [&[(VIP_TCP, "tcp://10.177.0.1:80")], &[(VIP_TCP, "tcp://10.177.0.2:80")]];

pub fn cases() -> Vec<Case> {
    // What holds up a connect is attached behind the hooks, and moving them behind it would wait for its end.
    let held_up = WorldOptions { leave_order: true, ..WorldOptions::default() };
    let patient = WorldOptions { pending_wait: Duration::from_secs(5), ..held_up };
    let waits = WorldOptions { pending_wait: Duration::from_millis(150), ..WorldOptions::default() };
    let wildcard = WorldOptions { max_memberships: 4, ..patient };
    let wildcard_waits = WorldOptions { max_memberships: 4, ..waits };
    let never = WorldOptions { pending_wait: Duration::ZERO, ..held_up };
    let storm = |balancer| WorldOptions { balancer, grace: true, ..WorldOptions::default() };
    vec![
        case!(pending_connect_is_waited_for).index_only().with(patient),
        case!(pending_reconnect_is_waited_for).index_only().with(patient),
        case!(connect_after_sending_is_waited_for).index_only().with(patient),
        case!(pending_connect_without_waiting).index_only().with(never),
        case!(walk_finds_victims_and_pending_connects)
            .index_only()
            .with(WorldOptions { pending_wait: Duration::ZERO, ..WorldOptions::default() }),
        case!(leftovers_are_waited_for_once).with(waits),
        case!(leftovers_that_connect_again).index_only().with(waits),
        case!(pending_wildcard_socket_is_waited_for).index_only().with(wildcard),
        case!(wildcard_sockets_are_waited_for_once).index_only().with(wildcard_waits),
        case!(storm_on_a_switched_balancer_udp).with(storm(TO_UDP[0])),
        case!(storm_on_a_switched_balancer_tcp).with(storm(TO_TCP[0])),
    ]
}

/// Begins a connect whose way from the hooks to its effect is a long one, and comes back in the middle of it. What
/// holds it up is given back, since its detaching may take longer than that.
pub fn begin_connect(
    world: &mut World,
    client: &mut Client,
    socket: Socket,
    backend: Backend,
) -> Result<Delay> {
    let before = world.counters()?.inserts;
    let delay = world.delay_connects()?;
    client.send(&Op::Connect { socket: socket.handle, addr: backend.socket_addr() })?;
    let deadline = Instant::now() + Duration::from_millis(PATIENCE_MS);
    while world.counters()?.inserts == before {
        ensure!(Instant::now() < deadline, "the connect was never recorded");
        thread::sleep(Duration::from_micros(200));
    }
    Ok(delay)
}

pub fn end_connect(client: &mut Client, _delay: Delay) -> Result<()> {
    ensure!(matches!(client.receive()?, Reply::Done), "not connected");
    Ok(())
}

fn expect_waited(report: &Report) -> Result<()> {
    ensure!(report.pending_walks == 1 && report.pending == 0, "{report:?}");
    Ok(())
}

fn pending_connect_is_waited_for(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let mut bystander = world.client("bystander")?;
    connect(&mut bystander, udp(2))?;
    let early = connect(&mut bystander, udp(1))?;
    let socket = open(&mut client, spec_for(udp(1)))?;
    let delay = begin_connect(world, &mut client, socket, udp(1))?;
    let report = world.reap(udp(1))?;
    end_connect(&mut client, delay)?;
    expect_waited(&report)?;
    expect_exactly(&report, &mut [&mut client, &mut bystander], &[early.cookie, socket.cookie])
}

/// A connected UDP socket keeps its old peer until the connect has its effect.
fn pending_reconnect_is_waited_for(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(2))?;
    let delay = begin_connect(world, &mut client, socket, udp(1))?;
    let report = world.reap(udp(1))?;
    end_connect(&mut client, delay)?;
    expect_waited(&report)?;
    expect_exactly(&report, &mut [&mut client], &[socket.cookie])
}

fn connect_after_sending_is_waited_for(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let socket = open(&mut client, spec_for(udp(1)))?;
    send_to_all(&mut client, socket, &[udp(2)])?;
    let delay = begin_connect(world, &mut client, socket, udp(1))?;
    let report = world.reap(udp(1))?;
    end_connect(&mut client, delay)?;
    expect_waited(&report)?;
    expect_exactly(&report, &mut [&mut client], &[socket.cookie])
}

/// What the wait is there for.
fn pending_connect_without_waiting(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let mut client = world.client("client")?;
    let socket = open(&mut client, spec_for(udp(1)))?;
    let delay = begin_connect(world, &mut client, socket, udp(1))?;
    let report = world.reap(udp(1))?;
    end_connect(&mut client, delay)?;
    ensure!(report.pending_walks == 0 && report.skipped.no_peer == 1, "{report:?}");
    expect_exactly(&report, &mut [&mut client], &[])?;
    expect_exactly(&world.reap(udp(1))?, &mut [&mut client], &[socket.cookie])
}

/// Destroyed sockets that their owner keeps look like pending connects, to the first event that meets them.
fn leftovers_are_waited_for_once(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), tcp(1)])?;
    let mut client = world.client("client")?;
    for backend in [udp(1), tcp(1)] {
        let opened = connect_many(&mut client, Default::default(), backend, 3)?;
        expect_destroyed(&world.reap(backend)?, &mut [&mut client], &opened.cookies)?;
        let report = world.reap(backend)?;
        expect_complete(&report, 0)?;
        ensure!(report.pending == 3 && report.pending_walks == 0, "{report:?}");
        ensure!(report.ns.total_ns >= 150_000_000, "{report:?}");
        let report = world.reap(backend)?;
        expect_complete(&report, 0)?;
        ensure!(report.pending == 0, "{report:?}");
    }
    Ok(())
}

/// One walk, over more than two emit buffers: both lists are exact, and what it destroys itself is in neither.
fn walk_finds_victims_and_pending_connects(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let leftovers = connect_many(&mut client, Default::default(), udp(1), 2500)?;
    expect_destroyed(&world.reap(udp(1))?, &mut [&mut client], &leftovers.cookies)?;
    let moved = connect(&mut client, udp(1))?;
    client.connect(moved.handle, udp(2).socket_addr())?;
    let victims = connect_many(&mut client, Default::default(), udp(1), 2500)?;

    let mut expected: Vec<_> =
        leftovers.cookies.iter().map(|&cookie| PendingConnect { cookie, elsewhere: false }).collect();
    expected.push(PendingConnect { cookie: moved.cookie, elsewhere: true });
    expected.sort_unstable_by_key(|socket| socket.cookie);
    let target = Target { backend: udp(1), unconnected: Unconnected::Preserve, dry_run: false };
    let destroys = world.reaper().index().can_destroy().is_ok();
    let mut walker = world.reaper().index().walker()?;
    let (mut watched, mut found) = (Vec::new(), Vec::new());
    let counts = walker.walk_states(&target, 0, Some(&mut watched), &mut found)?;
    watched.sort_unstable_by_key(|socket| socket.cookie);
    ensure!(watched == expected, "{counts:?}");
    let mut found: Vec<u64> = found.iter().map(|victim| victim.cookie()).collect();
    found.sort_unstable();
    let mut opened = victims.cookies.clone();
    opened.sort_unstable();
    ensure!(found == opened, "{counts:?}");
    ensure!(counts.visited == 5001 && counts.no_peer == 2500 && counts.moved_on == 1, "{counts:?}");
    if destroys {
        let mut left = Vec::new();
        watched.clear();
        let counts = walker.destroy(&target, 0, false, Some(&mut watched), &mut left)?;
        watched.sort_unstable_by_key(|socket| socket.cookie);
        ensure!(watched == expected && left.is_empty() && counts.destroyed == 2500, "{counts:?} {left:?}");
    }
    Ok(())
}

/// What was given up is watched again from the moment it connects anew.
fn leftovers_that_connect_again(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    expect_destroyed(&world.reap(udp(1))?, &mut [&mut client], &[socket.cookie])?;
    ensure!(world.reap(udp(1))?.pending == 1 && world.reap(udp(1))?.pending == 0);
    // The same thread to the same peer: the node is the one that was given up.
    let inserts = world.counters()?.inserts;
    client.connect(socket.handle, udp(1).socket_addr())?;
    ensure!(world.counters()?.inserts == inserts);
    expect_exactly(&world.reap(udp(1))?, &mut [&mut client], &[socket.cookie])?;
    ensure!(world.reap(udp(1))?.pending == 1 && world.reap(udp(1))?.pending == 0);
    Ok(())
}

/// A socket with more peers than are listed for one, which has never called connect().
fn wildcard_sender(world: &mut World, client: &mut Client) -> Result<Socket> {
    let backends: Vec<Backend> = (1..=5).map(udp).collect();
    for backend in &backends {
        world.add_address(backend.addr())?;
    }
    let socket = sender(client, &backends)?;
    let counters = world.counters()?;
    ensure!(counters.wildcard == 1 && counters.live() == 1, "{counters:?}");
    Ok(socket)
}

/// The cookies of who may be connecting to the backend now.
fn pending_cookies(world: &World, backend: Backend) -> Result<Vec<u64>> {
    let target = Target { backend, unconnected: Unconnected::Preserve, dry_run: false };
    let (pending, _) = world.reaper().index().walker()?.pending(&target, PendingCheck::Look)?;
    Ok(pending.into_iter().map(|socket| socket.cookie).collect())
}

fn pending_wildcard_socket_is_waited_for(world: &mut World) -> Result<()> {
    world.serve(&[udp(9)])?;
    let mut client = world.client("client")?;
    let socket = wildcard_sender(world, &mut client)?;
    ensure!(pending_cookies(world, udp(9))?.is_empty());
    let delay = world.delay_connects()?;
    client.send(&Op::Connect { socket: socket.handle, addr: udp(9).socket_addr() })?;
    let deadline = Instant::now() + Duration::from_millis(PATIENCE_MS);
    while pending_cookies(world, udp(9))? != [socket.cookie] {
        ensure!(Instant::now() < deadline, "the connect was never noticed");
        thread::sleep(Duration::from_micros(200));
    }
    let report = world.reap(udp(9))?;
    end_connect(&mut client, delay)?;
    expect_waited(&report)?;
    expect_exactly(&report, &mut [&mut client], &[socket.cookie])
}

/// One that never connects is not waited for; one that has, once, whatever the event is about, and again after it has
/// connected anew.
fn wildcard_sockets_are_waited_for_once(world: &mut World) -> Result<()> {
    world.serve(&[udp(8), udp(9)])?;
    let mut client = world.client("client")?;
    let socket = wildcard_sender(world, &mut client)?;
    let report = world.reap(udp(9))?;
    ensure!(report.pending == 0 && report.complete, "{report:?}");
    for _ in 0..2 {
        client.connect(socket.handle, udp(9).socket_addr())?;
        // Connected to another peer: it might be on its way here.
        let report = world.reap(udp(8))?;
        ensure!(report.pending == 1 && report.ns.total_ns >= 150_000_000, "{report:?}");
        expect_complete(&report, 0)?;
        for backend in [udp(8), udp(7)] {
            ensure!(world.reap(backend)?.pending == 0);
        }
        ensure!(expect_answers(&mut client)? == 1);
        expect_exactly(&world.reap(udp(9))?, &mut [&mut client], &[socket.cookie])?;
    }
    Ok(())
}

fn storm_on_a_switched_balancer_udp(world: &mut World) -> Result<()> {
    storm(world, VIP_UDP, [udp(1), udp(2)], TO_UDP)
}

fn storm_on_a_switched_balancer_tcp(world: &mut World) -> Result<()> {
    storm(world, VIP_TCP, [tcp(1), tcp(2)], TO_TCP)
}

/// Two processes connect as fast as they can while the balancer's backend is exchanged and reported as deleted.
fn storm(world: &mut World, vip: &str, backends: [Backend; 2], entries: [&[(&str, &str)]; 2]) -> Result<()> {
    const ROUNDS: usize = 4;
    const SOCKETS: u32 = 300;
    let vip: Backend = vip.parse()?;
    world.serve(&backends)?;
    let mut clients = [world.client("first")?, world.client("second")?];
    let mut in_the_middle = 0;
    for round in 0..ROUNDS {
        let (gone, lives) = (backends[round % 2], backends[(round + 1) % 2]);
        let before = world.counters()?.inserts;
        let (report, opened) = thread::scope(|scope| {
            let storms = clients
                .each_mut()
                .map(|client| scope.spawn(|| client.open_many(many(Default::default(), vip, SOCKETS))));
            let reaped = exchange_and_reap(world, gone, entries[(round + 1) % 2], before + 100);
            (reaped, storms.map(|storm| storm.join().unwrap_or_else(|panic| resume_unwind(panic))))
        });
        let report = report?;
        let opened: Vec<OpenedMany> = opened.into_iter().collect::<Result<_, _>>()?;
        // A TCP handshake that is destroyed under way is an open that failed.
        let mut destroyed: u64 = opened.iter().map(|opened| u64::from(opened.failed)).sum();
        let mut alive = 0;
        for client in &mut clients {
            for state in client.states(Selection::All)? {
                ensure!(state.peer != Some(gone.socket_addr()), "missed: {state:?}, {report:?}");
                if state.destroyed() {
                    destroyed += 1;
                } else {
                    ensure!(state.peer == Some(lives.socket_addr()), "{state:?}");
                    alive += 1;
                }
            }
        }
        ensure!(report.complete && report.destroyed == destroyed, "{destroyed} destroyed: {report:?}");
        ensure!(destroyed + alive == 2 * u64::from(SOCKETS), "{destroyed} destroyed, {alive} alive");
        in_the_middle += u32::from(destroyed > 0 && alive > 0);
        for client in &mut clients {
            client.close_all()?;
        }
    }
    ensure!(in_the_middle > 0, "no event came in the middle of a storm");
    Ok(())
}

fn exchange_and_reap(
    world: &mut World,
    gone: Backend,
    entries: &[(&str, &str)],
    recorded: u64,
) -> Result<Report> {
    let deadline = Instant::now() + Duration::from_millis(PATIENCE_MS);
    while world.counters()?.inserts < recorded {
        ensure!(Instant::now() < deadline, "no storm");
    }
    world.exchange_balancer(entries)?;
    world.reap(gone).context("in the storm")
}
