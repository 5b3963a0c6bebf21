//! Revive and move where the owner is hard to reach, or does something at the same moment.

use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use skreap::core::{
    Action, Backend, Destinations, EngineName, Instead, Move, Moved, Report, Revive, Revived, Spread,
    VictimAction,
};
use skreap_testbed::{Client, Selection, SpawnOptions};

use crate::case::{Case, Skip, case};
use crate::odd_owner::{Odd, OddOwner};
use crate::sockets::*;
use crate::world::World;

/// Longer than anything takes here on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn cases() -> Vec<Case> {
    vec![
        case!(not_dumpable_owners_are_reached).only(EngineName::Netlink),
        case!(seccomp_is_no_obstacle).only(EngineName::Netlink),
        case!(owners_of_other_users_are_reached).only(EngineName::Netlink),
        case!(owners_in_other_namespaces_are_reached).only(EngineName::Netlink),
        case!(what_only_io_uring_has_is_unreachable).only(EngineName::Netlink),
        case!(a_frozen_owner_is_no_obstacle).only(EngineName::Netlink),
        case!(numbers_that_are_used_again_meanwhile_are_not_touched).only(EngineName::Netlink),
        case!(owners_that_die_in_the_middle_take_nobody_with_them).only(EngineName::Netlink),
    ]
}

fn to(backend: Backend) -> Result<Destinations> {
    Ok(Destinations::new(vec![backend], Spread::Even)?)
}

fn revive(world: &mut World, gone: Backend, living: Backend) -> Result<Report> {
    let action = VictimAction::Revive(Revive { to: to(living)?, after_ms: 0 });
    world.tell_to(Action::BackendDeleted { backend: gone }, action)
}

fn moves(world: &mut World, gone: Backend, living: Backend, otherwise: Instead) -> Result<Report> {
    let action = VictimAction::Move(Move { to: to(living)?, tcp: Instead::Destroy, otherwise });
    world.tell_to(Action::BackendDeleted { backend: gone }, action)
}

/// Waits until every second look is over; returns what came of all of them.
fn end(world: &World) -> Result<Revived> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = world.reaper().monitor().status()?;
        if status.reviving == 0 {
            return Ok(Revived { after_ns: 0, ..status.totals.revived });
        }
        ensure!(Instant::now() < deadline, "{} sockets were never looked at again", status.reviving);
        thread::sleep(Duration::from_millis(5));
    }
}

/// Moves its socket, and then revives it where it is by then.
fn is_reached(world: &mut World, odd: Odd) -> Result<()> {
    world.serve(&[udp(1), udp(2), udp(3)])?;
    let owner = OddOwner::start(odd, world.netns(0), world.cgroup(), udp(1).socket_addr())?;
    let owner = owner.context("not started")?;
    let report = moves(world, udp(1), udp(2), Instead::Spare)?;
    let moved = Moved { sockets: 1, moved: 1, ..Moved::default() };
    ensure!(report.moved.as_ref() == Some(&moved) && report.destroyed == 0, "{report:?}");
    ensure!(owner.peer()? == Some(udp(2).socket_addr()));
    let report = revive(world, udp(2), udp(3))?;
    ensure!(report.destroyed == 1, "{report:?}");
    let revived = end(world)?;
    ensure!(revived == Revived { sockets: 1, revived: 1, ..Revived::default() }, "{revived:?}");
    ensure!(owner.peer()? == Some(udp(3).socket_addr()));
    Ok(())
}

fn not_dumpable_owners_are_reached(world: &mut World) -> Result<()> {
    is_reached(world, Odd::NotDumpable)
}

fn seccomp_is_no_obstacle(world: &mut World) -> Result<()> {
    is_reached(world, Odd::Seccomp)
}

fn owners_of_other_users_are_reached(world: &mut World) -> Result<()> {
    is_reached(world, Odd::OtherUser)
}

fn owners_in_other_namespaces_are_reached(world: &mut World) -> Result<()> {
    is_reached(world, Odd::Namespaces)
}

fn what_only_io_uring_has_is_unreachable(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let owner = OddOwner::start(Odd::Uring, world.netns(0), world.cgroup(), udp(1).socket_addr())?;
    let Some(owner) = owner else {
        return Err(Skip("io_uring: the kernel refuses it").into());
    };
    // It stays connected to the deleted backend, and the report says so.
    let report = moves(world, udp(1), udp(2), Instead::Spare)?;
    let reason = report.moved.as_ref().and_then(|moved| moved.not_moved.get("unreachable"));
    ensure!(reason == Some(&1) && report.destroyed == 0, "{report:?}");
    let report = revive(world, udp(1), udp(2))?;
    ensure!(report.destroyed == 1, "{report:?}");
    let revived = end(world)?;
    ensure!(revived == Revived { sockets: 1, unreachable: 1, ..Revived::default() }, "{revived:?}");
    ensure!(owner.cookie != 0);
    Ok(())
}

fn a_frozen_owner_is_no_obstacle(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2), udp(3)])?;
    let service = world.cgroup().child("frozen")?;
    let options = SpawnOptions { label: "frozen", cgroup: Some(&service), netns: Some(world.netns(0)) };
    let mut client = Client::spawn(&options)?;
    let socket = connect(&mut client, udp(1))?;
    let freeze = service.path().join("cgroup.freeze");
    fs::write(&freeze, "1")?;
    let events = service.path().join("cgroup.events");
    let deadline = Instant::now() + PATIENCE;
    while !fs::read_to_string(&events)?.contains("frozen 1") {
        ensure!(Instant::now() < deadline, "it never froze");
        thread::sleep(Duration::from_millis(1));
    }
    let report = moves(world, udp(1), udp(2), Instead::Spare);
    let revived = report.and_then(|report| {
        ensure!(report.moved.as_ref().is_some_and(|moved| moved.moved == 1), "{report:?}");
        let report = revive(world, udp(2), udp(3))?;
        ensure!(report.destroyed == 1, "{report:?}");
        end(world)
    });
    fs::write(&freeze, "0")?;
    let revived = revived?;
    ensure!((revived.sockets, revived.revived) == (1, 1), "{revived:?}");
    ensure!(client.state(socket.handle)?.peer == Some(udp(3).socket_addr()));
    expect_answers_on(&mut client, Selection::All, 1)
}

/// While sockets are connected their owner closes them, and opens others under the same numbers.
fn numbers_that_are_used_again_meanwhile_are_not_touched(world: &mut World) -> Result<()> {
    const SOCKETS: u32 = 100;
    const ROUNDS: usize = 20;
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let (mut moved, mut closed) = (0, 0);
    for round in 0..ROUNDS {
        let opened = connect_many(&mut client, Default::default(), udp(1), SOCKETS)?;
        let handles: Vec<u32> = (opened.first..opened.first + SOCKETS).collect();
        let (report, successors) = thread::scope(|scope| -> Result<(Report, Vec<u32>)> {
            let client = &mut client;
            let owner = scope.spawn(move || -> Result<Vec<u32>> {
                // Another part of them at another moment each time.
                thread::sleep(Duration::from_micros(300 * round as u64));
                handles
                    .iter()
                    .map(|handle| {
                        client.close(*handle)?;
                        Ok(client.open(spec_for(udp(1)))?)
                    })
                    .collect()
            });
            let report = moves(world, udp(1), udp(2), Instead::Spare);
            let successors = owner.join().ok().context("panicked")??;
            Ok((report?, successors))
        })?;
        let all = report.moved.context("nothing was to be moved")?;
        moved += all.moved;
        closed += all.not_moved.get("closed").copied().unwrap_or_default();
        // No process had it open any more when that was looked for.
        closed += all.not_moved.get("unreachable").copied().unwrap_or_default();
        ensure!(all.not_moved.keys().all(|why| ["closed", "unreachable"].contains(&why.as_str())), "{all:?}");
        for state in client.states(Selection::List(successors.clone()))? {
            ensure!(state.peer.is_none() && state.errno == 0, "round {round}: {state:?}");
        }
        client.close_all()?;
    }
    ensure!(moved > 0, "nothing was moved before it was closed: {closed} closed");
    eprintln!("{moved} moved and closed afterwards, {closed} closed before");
    Ok(())
}

fn owners_that_die_in_the_middle_take_nobody_with_them(world: &mut World) -> Result<()> {
    const SOCKETS: u32 = 100;
    const ROUNDS: u64 = 12;
    world.serve(&[udp(1), udp(2)])?;
    let mut stays = world.client("stays")?;
    let kept = connect_many(&mut stays, Default::default(), udp(1), SOCKETS)?;
    for round in 0..ROUNDS {
        let mut dies = world.client("dies")?;
        connect_many(&mut dies, Default::default(), udp(1), SOCKETS)?;
        let report = thread::scope(|scope| -> Result<Report> {
            let killer = scope.spawn(move || -> Result<()> {
                thread::sleep(Duration::from_micros(500 * round));
                dies.kill()
            });
            let report = moves(world, udp(1), udp(2), Instead::Destroy);
            killer.join().ok().context("panicked")??;
            report
        })?;
        let moved = report.moved.clone().context("nothing was to be moved")?;
        ensure!(moved.moved >= u64::from(SOCKETS) && report.failed.total() == 0, "round {round}: {report:?}");
        let peers: Vec<Option<SocketAddr>> =
            stays.states(kept.selection())?.iter().map(|state| state.peer).collect();
        ensure!(peers.iter().all(|peer| *peer == Some(udp(2).socket_addr())), "round {round}: {peers:?}");
        for handle in kept.first..kept.first + SOCKETS {
            stays.connect(handle, udp(1).socket_addr())?;
        }
    }
    Ok(())
}
