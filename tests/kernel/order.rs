//! A load balancer that is not where it should be: attached after the hooks, above them, again and again. No socket
//! may be missed, and none be taken for one of the virtual address.

use std::os::fd::AsFd as _;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use skreap::Reaper;
use skreap::bpf::Config;
use skreap::bpf::hooks::Hooks;
use skreap::choice::EngineChoice;
use skreap::core::{Action, Backend, EngineName, Event};
use skreap::status::OrderStatus;
use skreap_testbed::bpf::{LoadBalancer, Placing};
use skreap_testbed::{Client, Selection, SpawnOptions, with};

use crate::case::{Case, case};
use crate::sockets::*;
use crate::unconnected::sender;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let small = WorldOptions { max_sockets: 30, ..WorldOptions::default() };
    vec![
        case!(balancer_attached_after_udp),
        case!(balancer_attached_after_tcp),
        case!(balancer_attached_after_seen_by_tidy).index_only(),
        case!(balancer_with_preorder),
        case!(balancer_on_a_child_cgroup),
        case!(balancer_on_a_parent_cgroup).index_only(),
        case!(balancer_that_came_and_went).index_only(),
        case!(reconnect_through_a_late_balancer).index_only(),
        case!(peers_in_force_are_not_rekeyed).index_only(),
        case!(rekey_of_a_socket_with_many_peers)
            .with(WorldOptions { max_memberships: 4, ..WorldOptions::default() })
            .index_only(),
        case!(rekey_in_a_full_index).with(small).index_only(),
        case!(sent_through_a_late_balancer).index_only(),
        case!(balancer_moves_in_a_connect_storm).index_only(),
        case!(two_agents_want_to_be_last).index_only(),
        case!(programs_that_let_no_other_beside_them).index_only(),
    ]
}

fn vip(backend: Backend) -> Backend {
    let text = match (backend.protocol().name(), backend.addr().is_ipv4()) {
        ("udp", true) => "udp://10.177.9.9:5353",
        ("udp", false) => "udp://[fd77::9:9]:5353",
        (_, true) => "tcp://10.177.9.9:8080",
        (_, false) => "tcp://[fd77::9:9]:8080",
    };
    text.parse().unwrap_or_else(|error| unreachable!("{text}: {error}"))
}

/// A load balancer for these backends, on the cgroup of the hooks.
fn balance(world: &World, backends: &[Backend], placing: Placing) -> Result<LoadBalancer> {
    let entries: Vec<_> = backends.iter().map(|backend| (vip(*backend), *backend)).collect();
    Ok(LoadBalancer::attach_placed(&entries, world.cgroup().open()?.as_fd(), placing)?)
}

fn expect_order(world: &World, moved: u64, rekeyed: u64) -> Result<()> {
    let expected = with(|s: &mut OrderStatus| (s.last, s.moves, s.rekeyed) = (true, moved, rekeyed));
    ensure!(world.reaper().order() == expected, "{:?}, not {expected:?}", world.reaper().order());
    Ok(())
}

fn balancer_attached_after_udp(world: &mut World) -> Result<()> {
    attached_after(world, udp(1), udp6(1), udp(2))
}

fn balancer_attached_after_tcp(world: &mut World) -> Result<()> {
    attached_after(world, tcp(1), tcp6(1), tcp(2))
}

fn attached_after(world: &mut World, v4: Backend, v6: Backend, stays: Backend) -> Result<()> {
    world.serve(&[v4, v6, stays])?;
    let mut client = world.client("client")?;
    let mut old = connect_many(&mut client, Default::default(), v4, 3)?.cookies;
    let _balancer = balance(world, &[v4, v6], Placing::Last)?;
    // Recorded under the virtual address.
    let mut through4 = connect_many(&mut client, Default::default(), vip(v4), 20)?.cookies;
    let through6 = connect_many(&mut client, Default::default(), vip(v6), 20)?.cookies;
    connect_many(&mut client, Default::default(), stays, 5)?;
    if world.uses_index() {
        let listing = world.listing()?;
        ensure!(listing.moved_on == 40 && listing.backends[&v4].connected == 3, "{listing:?}");
    }
    // Nobody is connected to the virtual address.
    expect_exactly(&world.reap(vip(v4))?, &mut [&mut client], &[])?;
    expect_order(world, 1, 40)?;
    old.append(&mut through4);
    expect_exactly(&world.reap(v4)?, &mut [&mut client], &old)?;
    expect_exactly(&world.reap(v6)?, &mut [&mut client], &through6)?;
    // From now on ours sees the backend.
    let again = connect_many(&mut client, Default::default(), vip(v4), 7)?.cookies;
    if world.uses_index() {
        ensure!(world.listing()?.backends[&v4].connected == 7, "{:?}", world.listing()?);
    }
    expect_exactly(&world.reap(v4)?, &mut [&mut client], &again)?;
    expect_order(world, 1, 40)
}

fn balancer_attached_after_seen_by_tidy(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let mut client = world.client("client")?;
    let _balancer = balance(world, &[udp(1)], Placing::Last)?;
    let cookies = connect_many(&mut client, Default::default(), vip(udp(1)), 9)?.cookies;
    expect_order(world, 0, 0)?;
    world.tidy();
    expect_order(world, 1, 9)?;
    world.tidy();
    expect_order(world, 1, 9)?;
    let listing = world.listing()?;
    // What they were recorded under is still there: nobody can say that no connect to it is pending.
    ensure!(listing.backends[&udp(1)].connected == 9 && listing.moved_on == 9, "{listing:?}");
    ensure!(listing.sockets == 9, "{listing:?}");
    expect_exactly(&world.reap(udp(1))?, &mut [&mut client], &cookies)
}

/// Attached later, runs before: nothing is to be done.
fn balancer_with_preorder(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), tcp6(1)])?;
    let mut client = world.client("client")?;
    let _balancer = balance(world, &[udp(1), tcp6(1)], Placing::Preorder)?;
    for backend in [udp(1), tcp6(1)] {
        let cookies = connect_many(&mut client, Default::default(), vip(backend), 5)?.cookies;
        expect_exactly(&world.reap(backend)?, &mut [&mut client], &cookies)?;
    }
    expect_order(world, 0, 0)
}

fn balancer_on_a_child_cgroup(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), tcp6(1)])?;
    let child = world.cgroup().child("child")?;
    let options = SpawnOptions { label: "client", cgroup: Some(&child), netns: Some(world.netns(0)) };
    let mut client = Client::spawn(&options)?;
    let entries = [(vip(udp(1)), udp(1)), (vip(tcp6(1)), tcp6(1))];
    let _balancer = LoadBalancer::attach(&entries, child.open()?.as_fd())?;
    for backend in [udp(1), tcp6(1)] {
        let cookies = connect_many(&mut client, Default::default(), vip(backend), 5)?.cookies;
        expect_exactly(&world.reap(backend)?, &mut [&mut client], &cookies)?;
    }
    expect_order(world, 0, 0)
}

/// Hooks on a cgroup whose parent has the load balancer run before it, and nothing can be done about it but to look
/// over the index for each event.
fn balancer_on_a_parent_cgroup(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), tcp6(1)])?;
    let child = world.cgroup().child("child")?;
    let engine = world.reaper().engine();
    let mut reaper = Reaper::builder()
        .cgroup(child.path())
        .config(Config::default().max_sockets(1000))
        .engine(EngineChoice::Named(engine))
        .build()?;
    let options = SpawnOptions { label: "client", cgroup: Some(&child), netns: Some(world.netns(0)) };
    let mut client = Client::spawn(&options)?;
    let _balancer = balance(world, &[udp(1), tcp6(1)], Placing::Last)?;
    reaper.tidy();
    let mut rekeyed = 0;
    for (round, backend) in [udp(1), tcp6(1), udp(1)].into_iter().enumerate() {
        let cookies = connect_many(&mut client, Default::default(), vip(backend), 5)?.cookies;
        let event = Event::new(round.to_string(), Action::BackendDeleted { backend });
        expect_exactly(&reaper.handle(&event), &mut [&mut client], &cookies)?;
        rekeyed += 5;
        let expected = with(|s: &mut OrderStatus| (s.behind, s.rekeyed) = (4, rekeyed));
        ensure!(reaper.order() == expected, "{:?}, not {expected:?}", reaper.order());
    }
    drop(client);
    Ok(())
}

/// Attached after the hooks and gone before anybody looked.
fn balancer_that_came_and_went(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let mut client = world.client("client")?;
    let balancer = balance(world, &[udp(1)], Placing::Last)?;
    let cookies = connect_many(&mut client, Default::default(), vip(udp(1)), 6)?.cookies;
    drop(balancer);
    expect_exactly(&world.reap(udp(1))?, &mut [&mut client], &cookies)?;
    expect_order(world, 0, 6)
}

/// Two memberships, and the peer is neither.
fn reconnect_through_a_late_balancer(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let opened = connect_many(&mut client, Default::default(), udp(2), 4)?;
    let _balancer = balance(world, &[udp(1)], Placing::Last)?;
    for handle in opened.first..opened.first + 2 {
        client.connect(handle, vip(udp(1)).socket_addr())?;
    }
    expect_exactly(&world.reap(udp(1))?, &mut [&mut client], &opened.cookies[..2])?;
    expect_order(world, 1, 2)?;
    // The order is right now: a connect of a socket that has been rekeyed is recorded as ever.
    client.connect(opened.first, udp(2).socket_addr())?;
    let expected = [opened.cookies[0], opened.cookies[2], opened.cookies[3]];
    expect_exactly(&world.reap(udp(2))?, &mut [&mut client], &expected)
}

/// A failed connect leaves the old peer in force, and a disconnected or destroyed socket has none: all of them are
/// recorded under something else than their peer, and rightly so.
fn peers_in_force_are_not_rekeyed(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let failed = connect(&mut client, udp(1))?;
    ensure!(errno(client.connect(failed.handle, "203.0.113.9:53".parse()?))? == libc::ENETUNREACH);
    let disconnected = connect(&mut client, udp(1))?;
    client.disconnect(disconnected.handle)?;
    let destroyed = connect(&mut client, udp(2))?;
    expect_destroyed(&world.reap(udp(2))?, &mut [&mut client], &[destroyed.cookie])?;
    let _balancer = balance(world, &[udp(2)], Placing::Last)?;
    expect_destroyed(&world.reap(udp(2))?, &mut [&mut client], &[])?;
    expect_order(world, 1, 0)?;
    // Looked at once more before each event, and found to be as they were.
    expect_destroyed(&world.reap(udp(1))?, &mut [&mut client], &[failed.cookie])?;
    expect_order(world, 1, 0)
}

/// Four are as many memberships as are listed; with one more the socket is a wildcard.
fn rekey_of_a_socket_with_many_peers(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2), udp(3), udp(4)])?;
    let mut client = world.client("client")?;
    let socket = open(&mut client, spec_for(udp(1)))?;
    for n in [2, 3, 4] {
        client.send_to(socket.handle, udp(n).socket_addr(), b"hello")?;
    }
    let _balancer = balance(world, &[udp(1)], Placing::Last)?;
    client.connect(socket.handle, vip(udp(1)).socket_addr())?;
    ensure!(world.counters()?.live() == 4 && world.counters()?.wildcard == 0, "{:?}", world.counters()?);
    world.tidy();
    expect_order(world, 1, 1)?;
    ensure!(world.counters()?.live() == 1 && world.counters()?.wildcard == 1, "{:?}", world.counters()?);
    let report = world.reap(udp(1))?;
    expect_destroyed(&report, &mut [&mut client], &[socket.cookie])
}

/// No node is free for the re-key: the index does not know all, and says so.
fn rekey_in_a_full_index(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let mut client = world.client("client")?;
    let _balancer = balance(world, &[udp(1)], Placing::Last)?;
    let capacity = u32::try_from(world.counters()?.capacity)?;
    let spare = 4;
    let opened = connect_many(&mut client, Default::default(), vip(udp(1)), capacity - spare)?;
    world.tidy();
    expect_order(world, 1, spare.into())?;
    let counters = world.counters()?;
    ensure!(
        counters.free_nodes == 0 && counters.dropped_full == u64::from(capacity - 2 * spare),
        "{counters:?}"
    );
    let (counts, found) = world.walk(udp(1))?;
    ensure!(counts.incomplete_full && found.len() == spare as usize, "{counts:?}");
    if world.reaper().engine() == EngineName::Netlink {
        // A fallback scan finds what the index does not know.
        expect_destroyed(&world.reap(udp(1))?, &mut [&mut client], &opened.cookies)?;
    }
    Ok(())
}

/// What an unconnected socket has sent to through a late load balancer is not known to anybody; its next send is
/// recorded as it should be.
fn sent_through_a_late_balancer(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let mut client = world.client("client")?;
    let _balancer = balance(world, &[udp(1)], Placing::Last)?;
    let socket = sender(&mut client, &[vip(udp(1))])?;
    world.tidy();
    expect_order(world, 1, 0)?;
    let listing = world.listing()?;
    ensure!(listing.backends[&vip(udp(1))].unconnected == 1 && listing.sockets == 1, "{listing:?}");
    client.send_to(socket.handle, vip(udp(1)).socket_addr(), b"again")?;
    let listing = world.listing()?;
    ensure!(listing.backends[&udp(1)].unconnected == 1, "{listing:?}");
    let report = world.reap(udp(1))?;
    ensure!(report.skipped.unconnected == 1 && report.destroyed == 0, "{report:?}");
    Ok(())
}

/// The load balancer is attached anew, behind ours, before each reap, while two processes connect through it all the
/// time. At first ours is moved behind it each time; then that is too often, and the index is looked over instead.
fn balancer_moves_in_a_connect_storm(world: &mut World) -> Result<()> {
    const ROUNDS: u32 = 24;
    const BATCH: u32 = 10;
    world.serve(&[udp(1), udp(2)])?;
    let mut balancer = balance(world, &[udp(1), udp6(1)], Placing::Preorder)?;
    let cgroup = world.cgroup().open()?;
    let mut client = world.client("client")?;
    let bystanders = connect_many(&mut client, Default::default(), udp(2), BATCH)?;
    let mut stormers = [world.client("first")?, world.client("second")?];
    let (begin, stop) = (Instant::now(), AtomicBool::new(false));
    let (done, stormed) = thread::scope(|scope| {
        let stop = &stop;
        let storms = stormers.each_mut().map(|stormer| scope.spawn(|| storm(stormer, vip(udp(1)), stop)));
        let mut rounds = || -> Result<()> {
            for round in 0..ROUNDS {
                balancer.attach_again(cgroup.as_fd(), Placing::Last)?;
                let opened = connect_many(&mut client, Default::default(), vip(udp(1)), BATCH)?;
                let report = world.reap(udp(1))?;
                ensure!(report.complete && report.failed.total() == 0, "{report:?}");
                let died = client.destroyed(opened.selection())?;
                ensure!(
                    died == opened.cookies,
                    "round {round}: {died:?}, not {:?}: {report:?}",
                    opened.cookies
                );
            }
            Ok(())
        };
        let done = rounds();
        stop.store(true, Ordering::Relaxed);
        let stormed = storms.map(|storm| storm.join().unwrap_or_else(|panic| resume_unwind(panic)));
        (done, stormed)
    });
    done?;
    let mut expected = Vec::new();
    for (opened, last) in stormed.into_iter().collect::<Result<Vec<_>>>()? {
        ensure!(opened > 1000, "{opened} sockets are no storm");
        expected.extend(last);
    }
    let order = world.reaper().order();
    ensure!(order.moves + order.held_back == u64::from(ROUNDS), "{order:?}");
    ensure!(order.rekeyed >= u64::from(ROUNDS * BATCH), "{order:?}");
    if begin.elapsed() < Duration::from_secs(60) {
        ensure!(order.moves == 8 && order.behind == 4, "{order:?}");
    } else {
        // A slow machine: the minute in which there may be eight moves was over, and another had begun.
        ensure!(order.moves >= 8, "{order:?}");
    }

    // The storms have left their last batch open.
    let report = world.reap(udp(1))?;
    let [first, second] = &mut stormers;
    // Those of the last batch that an earlier reap has met are dead already.
    let mut died = first.destroyed(Selection::All)?;
    died.extend(second.destroyed(Selection::All)?);
    died.sort_unstable();
    expected.sort_unstable();
    ensure!(died == expected, "{} of {} died: {report:?}", died.len(), expected.len());
    ensure!(client.destroyed(bystanders.selection())?.is_empty());
    drop(balancer);
    world.tidy();
    ensure!(world.reaper().order().behind == 0, "{:?}", world.reaper().order());
    Ok(())
}

/// Opens, connects and closes until told to stop. Leaves the last batch open; returns how many were opened, and the
/// cookies of that batch.
fn storm(client: &mut Client, to: Backend, stop: &AtomicBool) -> Result<(u64, Vec<u64>)> {
    let mut opened = 0;
    loop {
        let batch = connect_many(client, Default::default(), to, 20)?;
        opened += batch.cookies.len() as u64;
        if stop.load(Ordering::Relaxed) {
            return Ok((opened, batch.cookies));
        }
        client.close_all()?;
    }
}

/// Each move of ours is answered by one of the other: ours gives in, says so, and still misses nothing.
fn two_agents_want_to_be_last(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let mut client = world.client("client")?;
    let mut balancer = balance(world, &[udp(1)], Placing::Last)?;
    let cgroup = world.cgroup().open()?;
    for _ in 0..12 {
        world.tidy();
        balancer.attach_again(cgroup.as_fd(), Placing::Last)?;
    }
    let order = world.reaper().order();
    ensure!(order.moves == 8 && order.held_back == 4 && order.behind == 4, "{order:?}");
    for round in 1..=3 {
        let cookies = connect_many(&mut client, Default::default(), vip(udp(1)), 5)?.cookies;
        expect_exactly(&world.reap(udp(1))?, &mut [&mut client], &cookies)?;
        ensure!(world.reaper().order().rekeyed == 5 * round, "{:?}", world.reaper().order());
    }
    drop(balancer);
    world.tidy();
    let order = world.reaper().order();
    ensure!(order.moves == 8 && order.behind == 0, "{order:?}");
    Ok(())
}

/// An exclusive program on the same cgroup or above keeps ours away, and one on a parent that may be overridden would
/// be stopped by ours: each is refused in words that name it.
fn programs_that_let_no_other_beside_them(world: &mut World) -> Result<()> {
    for (label, overridable, below, says) in [
        ("exclusive", false, false, "exclusively"),
        ("above", false, true, "exclusively"),
        ("overridable", true, false, "lets no other beside it"),
        ("stopped", true, true, "hooks here would stop it"),
    ] {
        // Outside of the world's own cgroup, whose hooks let others be beside them.
        let alone = skreap_testbed::Cgroup::create(label)?;
        LoadBalancer::attach_alone(alone.open()?.as_fd(), overridable)?;
        let child = alone.child("child")?;
        let place = if below { &child } else { &alone };
        let error = Hooks::attach_one(world.reaper().index(), "skreap_connect4", place.open()?.as_fd())
            .err()
            .context("attached beside an exclusive program")?;
        let text = error.to_string();
        ensure!(
            text.contains("attach skreap_connect4")
                && text.contains("program lb_connect4 (id ")
                && text.contains(says),
            "{label}: {text}"
        );
        ensure!(error.cannot(), "{label}: {text}");
    }
    Ok(())
}
