//! Sockets that are connected to a living backend in place of their destroy.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use skreap::core::{
    Action, Backend, Destinations, EngineName, Instead, Move, Moved, Report, Spread, VictimAction,
};
use skreap_testbed::{Client, Holding, NetnsRef, OpenSpec, Selection};

use crate::case::{Case, case};
use crate::sockets::*;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let twenty = WorldOptions { netns: 20, ..WorldOptions::default() };
    let leave_order = WorldOptions { leave_order: true, ..WorldOptions::default() };
    let full = WorldOptions { max_sockets: 4, ..WorldOptions::default() };
    let balancer = WorldOptions {
        balancer: &[("udp://10.177.0.9:53", "udp://10.177.0.2:53")],
        ..WorldOptions::default()
    };
    vec![
        case!(every_family_is_moved).index_only(),
        case!(exactly_the_moved_of_many_processes).with(twenty).only(EngineName::Netlink),
        case!(what_cannot_be_moved_is_destroyed_or_spared).only(EngineName::Netlink),
        case!(what_only_a_scan_finds_is_counted_as_spared).with(full).only(EngineName::Netlink),
        case!(a_held_lock_holds_up_no_move).only(EngineName::Netlink),
        case!(moved_to_a_virtual_address).with(balancer).only(EngineName::Netlink),
        case!(an_owner_that_connects_meanwhile_has_its_choice).with(leave_order).only(EngineName::Netlink),
        case!(an_owner_has_the_last_word_in_a_move).only(EngineName::Netlink),
        case!(what_its_owner_cannot_have_is_no_choice).with(leave_order).only(EngineName::Netlink),
        case!(what_a_moved_socket_is_bound_to_stays).only(EngineName::Netlink),
    ]
}

fn moving(world: &mut World, gone: &[Backend], to: &[Backend], instead: Instead) -> Result<Report> {
    let to = Destinations::new(to.to_vec(), Spread::Even)?;
    let action = VictimAction::Move(Move { to, tcp: instead, otherwise: instead });
    world.tell_to(Action::BackendsDeleted { backends: gone.to_vec() }, action)
}

fn expect_moved(report: &Report, moved: u64, not_moved: &[(&str, u64)], destroyed: u64) -> Result<()> {
    let not_moved: BTreeMap<String, u64> =
        not_moved.iter().map(|(reason, n)| ((*reason).to_owned(), *n)).collect();
    let sockets = moved + not_moved.values().sum::<u64>();
    ensure!(report.moved == Some(Moved { sockets, moved, not_moved }), "{report:?}");
    ensure!(report.destroyed == destroyed && report.complete, "{report:?}");
    Ok(())
}

fn peer(client: &mut Client, handle: u32) -> Result<Option<SocketAddr>> {
    let peer = client.state(handle)?.peer;
    Ok(peer.map(|peer| SocketAddr::new(peer.ip().to_canonical(), peer.port())))
}

fn every_family_is_moved(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp6(1), udp(2), udp6(2), udp(3), tcp(1)])?;
    let mut client = world.client("client")?;
    let v4 = connect(&mut client, udp(1))?;
    let v6 = connect(&mut client, udp6(1))?;
    let v4_in_v6 = open_to(&mut client, spec_for(udp6(1)), mapped(udp(1)))?;
    connect(&mut client, udp(3))?;
    let on_tcp = connect(&mut client, tcp(1))?;
    let local = client.state(v4.handle)?.local;
    let report = moving(world, &[udp(1), udp6(1), tcp(1)], &[udp(2), udp6(2)], Instead::Destroy)?;
    expect_moved(&report, 3, &[], 1)?;
    // No error, and nothing else has changed.
    ensure!(client.destroyed(Selection::All)? == [on_tcp.cookie]);
    for (socket, to) in [(v4, udp(2)), (v6, udp6(2)), (v4_in_v6, udp(2))] {
        ensure!(peer(&mut client, socket.handle)? == Some(to.socket_addr()));
    }
    ensure!(client.state(v4.handle)?.local == local);
    ensure!(expect_answers(&mut client)? == 4);
    // The index knows where they are.
    let report = world.reap(udp(2))?;
    expect_exactly(&report, &mut [&mut client], &[v4.cookie, v4_in_v6.cookie])
}

fn exactly_the_moved_of_many_processes(world: &mut World) -> Result<()> {
    const EACH: u32 = 25;
    world.serve(&[udp(1), udp(2), udp(3), udp(4)])?;
    let mut clients: Vec<Client> =
        (0..20).map(|i| world.client_in(&format!("client{i}"), i)).collect::<Result<_>>()?;
    let mut opened = Vec::new();
    for client in &mut clients {
        let victims = connect_many(client, NetnsRef::Own, udp(1), EACH)?;
        opened.push((victims, connect_many(client, NetnsRef::Own, udp(2), EACH)?));
    }
    let report = moving(world, &[udp(1)], &[udp(3), udp(4)], Instead::Destroy)?;
    expect_moved(&report, 500, &[], 0)?;
    let mut to = BTreeMap::new();
    for (client, (victims, others)) in clients.iter_mut().zip(&opened) {
        for state in client.states(victims.selection())? {
            ensure!(state.errno == 0, "{state:?}");
            *to.entry(state.peer).or_insert(0) += 1;
        }
        for state in client.states(others.selection())? {
            ensure!(state.peer == Some(udp(2).socket_addr()) && state.errno == 0, "{state:?}");
        }
        expect_answers_on(client, Selection::All, 2 * EACH)?;
    }
    let even = BTreeMap::from([(Some(udp(3).socket_addr()), 250), (Some(udp(4).socket_addr()), 250)]);
    ensure!(to == even, "{to:?}");
    Ok(())
}

fn what_cannot_be_moved_is_destroyed_or_spared(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2), tcp(1)])?;
    let mut client = world.client("client")?;
    let flies = connect(&mut client, udp(1))?;
    let on_tcp = connect(&mut client, tcp(1))?;
    client.start_flight(flies.handle)?;
    let report = moving(world, &[udp(1), tcp(1)], &[udp(2)], Instead::Spare)?;
    expect_moved(&report, 0, &[("unreachable", 1)], 0)?;
    ensure!((report.visited, report.skipped.spared) == (2, 2), "{report:?}");
    ensure!(client.state(on_tcp.handle)?.errno == 0);
    let report = moving(world, &[udp(1), tcp(1)], &[udp(2)], Instead::Destroy)?;
    expect_moved(&report, 0, &[("unreachable", 1)], 2)?;
    let landed = client.land_flight(flies.handle)?;
    ensure!(client.state(landed)?.destroyed());
    Ok(())
}

/// The index has room for four of seven.
fn what_only_a_scan_finds_is_counted_as_spared(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    connect_many(&mut client, NetnsRef::Own, udp(1), 7)?;
    let report = moving(world, &[udp(1)], &[udp(2)], Instead::Spare)?;
    let moved = report.moved.as_ref().map_or(0, |moved| moved.moved);
    ensure!((moved, report.skipped.spared, report.destroyed) == (4, 3, 0), "{report:?}");
    ensure!(report.complete, "{report:?}");
    let left = client.states(Selection::All)?;
    let left = left.iter().filter(|state| state.peer == Some(udp(1).socket_addr())).count();
    ensure!(left == 3, "{left} are connected to the old backend");
    // By default they are destroyed.
    let report = moving(world, &[udp(1)], &[udp(2)], Instead::Destroy)?;
    ensure!((report.destroyed, report.skipped.spared) == (3, 0) && report.complete, "{report:?}");
    Ok(())
}

fn a_held_lock_holds_up_no_move(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let free: Vec<Socket> = (0..5).map(|_| connect(&mut client, udp(1))).collect::<Result<_>>()?;
    let held = connect(&mut client, udp(1))?;
    client.start_hold(held.handle, Holding::Memory)?;
    let report = moving(world, &[udp(1)], &[udp(2)], Instead::Spare);
    client.end_hold(held.handle)?;
    expect_moved(&report?, 5, &[("ETIMEDOUT", 1)], 0)?;
    for socket in free {
        ensure!(peer(&mut client, socket.handle)? == Some(udp(2).socket_addr()));
    }
    // It was given up before it was asked to connect.
    ensure!(peer(&mut client, held.handle)? == Some(udp(1).socket_addr()));
    Ok(())
}

fn moved_to_a_virtual_address(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    let report = moving(world, &[udp(1)], &[udp(9)], Instead::Destroy)?;
    expect_moved(&report, 1, &[], 0)?;
    ensure!(peer(&mut client, socket.handle)? == Some(udp(2).socket_addr()));
    ensure!(expect_answers(&mut client)? == 1);
    Ok(())
}

/// Both connects are on their way at the same time, ours before theirs. The hook of theirs holds the lock of the socket for
/// so long that ours may be given up.
fn an_owner_that_connects_meanwhile_has_its_choice(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2), udp(3)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    let monitor = world.reaper().monitor().clone();
    let before = world.counters()?.inserts;
    let _delay = world.delay_connects()?;
    let report = thread::scope(|scope| {
        let owner = scope.spawn(|| -> Result<()> {
            let deadline = Instant::now() + Duration::from_secs(20);
            while monitor.status()?.index.counters.inserts == before {
                ensure!(Instant::now() < deadline, "the socket was never connected");
                thread::sleep(Duration::from_millis(1));
            }
            Ok(client.connect(socket.handle, udp(3).socket_addr())?)
        });
        let report = moving(world, &[udp(1)], &[udp(2)], Instead::Spare);
        owner.join().ok().context("panicked")??;
        report
    })?;
    ensure!(report.moved.is_some_and(|moved| moved.sockets == 1) && report.destroyed == 0);
    ensure!(peer(&mut client, socket.handle)? == Some(udp(3).socket_addr()));
    Ok(())
}

fn an_owner_has_the_last_word_in_a_move(world: &mut World) -> Result<()> {
    const SOCKETS: u32 = 400;
    let rounds = rounds(SOCKETS)?;
    world.serve(&[udp(1), udp(2), udp(3)])?;
    let mut client = world.client("client")?;
    let opened = connect_many(&mut client, NetnsRef::Own, udp(1), SOCKETS)?;
    let handles: Vec<u32> = (opened.first..opened.first + SOCKETS).collect();
    let mut all = Moved::default();
    for round in 0..rounds {
        let at = (round * SOCKETS / rounds) as usize;
        let order: Vec<u32> = handles[at..].iter().chain(&handles[..at]).copied().collect();
        let report = thread::scope(|scope| {
            let owner = scope.spawn(|| -> Result<()> {
                for handle in &order {
                    client.connect(*handle, udp(3).socket_addr())?;
                }
                Ok(())
            });
            let report = moving(world, &[udp(1)], &[udp(2)], Instead::Spare);
            owner.join().ok().context("panicked")??;
            report
        })?;
        all.add_all(&report.moved.context("not moved")?);
        for state in client.states(opened.selection())? {
            ensure!(state.peer == Some(udp(3).socket_addr()), "round {round}: {state:?}, {all:?}");
        }
        for handle in &handles {
            client.connect(*handle, udp(1).socket_addr())?;
        }
    }
    let known = ["elsewhere", "overtaken"];
    ensure!(all.not_moved.keys().all(|reason| known.contains(&reason.as_str())), "{all:?}");
    eprintln!("{all:?}");
    Ok(())
}

/// In each, so many sockets are connected by their owner and by us at about the same moment: 10,000 such races in all, or
/// what `SKREAP_RACES` says.
pub fn rounds(sockets: u32) -> Result<u32> {
    let races = match std::env::var("SKREAP_RACES") {
        Ok(races) => races.parse().with_context(|| format!("SKREAP_RACES={races}: not a number"))?,
        Err(_) => 10_000,
    };
    Ok(u32::max(races / sockets, 1))
}

/// Its connect runs between the hooks of ours and its effect, or right after it, and fails: there is no route.
fn what_its_owner_cannot_have_is_no_choice(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    let monitor = world.reaper().monitor().clone();
    let before = world.counters()?.inserts;
    let delay = world.delay_connects()?;
    let (report, refused) = thread::scope(|scope| {
        let client = &mut client;
        let owner = scope.spawn(move || -> Result<i32> {
            let deadline = Instant::now() + Duration::from_secs(20);
            while monitor.status()?.index.counters.inserts == before {
                ensure!(Instant::now() < deadline, "the socket was never connected");
                thread::sleep(Duration::from_millis(1));
            }
            // Ours is delayed to the end.
            drop(delay);
            errno(client.connect(socket.handle, "198.51.100.1:53".parse()?))
        });
        let report = moving(world, &[udp(1)], &[udp(2)], Instead::Spare);
        (report, owner.join())
    });
    expect_moved(&report?, 1, &[], 0)?;
    ensure!(refused.ok().context("panicked")?? == libc::ENETUNREACH);
    ensure!(peer(&mut client, socket.handle)? == Some(udp(2).socket_addr()));
    Ok(())
}

fn what_a_moved_socket_is_bound_to_stays(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let device = OpenSpec { device: Some("lo".to_owned()), ..spec_for(udp(1)) };
    let device = open_to(&mut client, device, udp(1).socket_addr())?;
    let source = SocketAddr::new(udp(1).addr(), 40_001);
    let bound = OpenSpec { bind: Some(source), ..spec_for(udp(1)) };
    let bound = open_to(&mut client, bound, udp(1).socket_addr())?;
    let shared: SocketAddr = "0.0.0.0:40002".parse()?;
    let spec = OpenSpec { bind: Some(shared), reuse_port: true, ..spec_for(udp(1)) };
    for _ in 0..3 {
        open_to(&mut client, spec.clone(), udp(1).socket_addr())?;
    }
    // Another process has one with the very same name.
    let mut second = world.client("second")?;
    let own = open_to(&mut second, spec, udp(1).socket_addr())?;
    let before = client.states(Selection::All)?;
    expect_moved(&moving(world, &[udp(1)], &[udp(2)], Instead::Destroy)?, 6, &[], 0)?;
    ensure!(peer(&mut second, own.handle)? == Some(udp(2).socket_addr()));
    let after = client.states(Selection::All)?;
    ensure!(before.len() == 5 && after.len() == 5);
    for (before, after) in before.iter().zip(&after) {
        ensure!(after.peer == Some(udp(2).socket_addr()) && after.errno == 0, "{after:?}");
        ensure!((after.socket, after.local) == (before.socket, before.local), "{before:?} {after:?}");
    }
    // One of the group has the answers of all: they have one name.
    expect_answers_on(&mut client, Selection::List(vec![device.handle, bound.handle]), 2)?;
    let (_, victims) = world.walk(udp(2))?;
    let on_device = victims.iter().find(|victim| victim.cookie() == device.cookie);
    ensure!(victims.len() == 6 && on_device.is_some_and(|victim| victim.ifindex() == 1), "{victims:?}");
    Ok(())
}
