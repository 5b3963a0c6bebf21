//! Events that mean less than everybody who is connected to a backend: by a selector, by the frontend.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use skreap::bpf::fault::{Armed, Point};
use skreap::core::{
    Action, Backend, EngineName, Event, FallbackReason, Frontend, Incomplete, Report, Request, Through,
    UnknownFrontend,
};
use skreap_testbed::{Client, Selection};

use crate::case::{Case, case};
use crate::round::{BOTH, ERRNOS, any, beside, for_each_fault, open_each, two_events};
use crate::sockets::*;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let two_netns = WorldOptions { netns: 2, ..WorldOptions::default() };
    let with_frontends = WorldOptions { frontends: 64, ..two_netns };
    vec![
        case!(event_with_a_selector).with(two_netns).only(EngineName::Netlink).and(EngineName::Iter),
        case!(first_event_with_a_selector).with(two_netns).only(EngineName::Netlink),
        case!(event_with_a_frontend).with(with_frontends).only(EngineName::Netlink),
        case!(sockets_become_wildcards_behind_a_pass)
            .with(WorldOptions { max_sockets: 8192, max_memberships: 4, ..WorldOptions::default() })
            .only(EngineName::Netlink),
        case!(sockets_become_wildcards_during_each_pass)
            .with(WorldOptions { max_sockets: 8192, max_memberships: 4, ..WorldOptions::default() })
            .only(EngineName::Netlink),
        case!(a_named_netns_needs_no_list).with(two_netns).only(EngineName::Iter),
    ]
}

/// Those of another host stay, whatever fails.
fn event_with_a_selector(world: &mut World) -> Result<()> {
    let event = selecting()?;
    rounds(world, |world, _| world.reaper_mut().handle(&event))
}

/// The program that selects is loaded when it is first needed: each round has a reaper of its own.
fn first_event_with_a_selector(world: &mut World) -> Result<()> {
    let event = selecting()?;
    let backend = udp(1);
    world.serve(&[backend])?;
    let mut clients = [world.client_in("first", 0)?, world.client_in("second", 1)?];
    for_each_fault(
        &ERRNOS,
        &BOTH,
        |point| point == Point::SelectLoad,
        |fault| {
            let mut reaper = beside(world).bootstrap(false).build()?;
            let opened = open_each(&mut clients, backend, 3)?;
            two_events(fault, &mut clients, &opened, backend, |_| reaper.handle(&event))?;
            opened.close(&mut clients)
        },
    )
}

/// The others were not seen, and are none of the event's.
fn a_named_netns_needs_no_list(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let [mut here, mut there] = [world.client_in("here", 0)?, world.client_in("there", 1)?];
    let of = |netns: &str| json!({"protocol": "udp", "to": ["10.177.0.0/30"], "netns": netns});
    for (selector, victims, complete) in [
        (of(world.netns(0).name()), 1, true),
        (json!({"protocol": "udp", "to": ["10.177.0.0/30"]}), 2, false),
        (of(world.netns(1).name()), 1, true),
    ] {
        let opened = [connect(&mut here, udp(1))?, connect(&mut there, udp(1))?];
        let event = by_selector(&selector)?;
        let armed = Armed::new(Point::NetnsList, 0, libc::ENOMEM);
        let report = world.reaper_mut().handle(&event);
        ensure!(armed.happened(), "the list was not asked for");
        ensure!(report.error.is_none() && report.complete == complete, "{selector}: {report:?}");
        let expected: &[Incomplete] = if complete { &[] } else { &[Incomplete::NetnsUnreachable] };
        ensure!(report.incomplete_because.iter().eq(expected), "{selector}: {report:?}");
        let died = here.destroyed(Selection::All)?.len() + there.destroyed(Selection::All)?.len();
        ensure!(report.destroyed == victims && died as u64 == victims, "{selector}: {report:?}");
        here.close(opened[0].handle)?;
        there.close(opened[1].handle)?;
    }
    Ok(())
}

/// Sockets by whose first node a pass finds them, behind more sockets than one call lists; their last node is before those.
/// One more peer, and one node at the place of the last replaces all.
fn around(world: &mut World, client: &mut Client, sockets: usize) -> Result<(Vec<Socket>, Vec<u64>)> {
    world.serve(&[udp(1)])?;
    for n in 2..=5 {
        world.add_address(udp(n).addr())?;
    }
    let early: Vec<Socket> = (0..3 * sockets).map(|_| connect(client, udp(1))).collect::<Result<_>>()?;
    let mut cookies = connect_many(client, Default::default(), udp(1), 3000)?.cookies;
    let late: Vec<Socket> = (0..sockets).map(|_| connect(client, udp(1))).collect::<Result<_>>()?;
    early.iter().try_for_each(|socket| client.close(socket.handle))?;
    for socket in &late {
        for n in 2..=4 {
            client.send_to(socket.handle, udp(n).socket_addr(), b"hello")?;
        }
        cookies.push(socket.cookie);
    }
    Ok((late, cookies))
}

/// Sockets have one peer too many while a pass is between their nodes: the one that replaces them is behind the pass.
fn sockets_become_wildcards_behind_a_pass(world: &mut World) -> Result<()> {
    let calls = wildcards_at(world, &[1, 1, 1, 1, 1], &[])?;
    ensure!(calls == 4, "{calls} calls, not two of each pass");
    Ok(())
}

/// No pass is sure of all, and a scan has to find the one that the last has missed.
fn sockets_become_wildcards_during_each_pass(world: &mut World) -> Result<()> {
    let calls = wildcards_at(world, &[1, 3, 5], &[(FallbackReason::IndexUnsure, 1)])?;
    ensure!(calls == 6, "{calls} calls, not two of each pass");
    Ok(())
}

/// A socket becomes a wildcard before each of these calls. Returns how many there were.
fn wildcards_at(world: &mut World, at: &[u64], expected: &[(FallbackReason, u64)]) -> Result<u64> {
    let mut client = world.client("client")?;
    let (late, cookies) = around(world, &mut client, at.len())?;
    let client = Arc::new(Mutex::new(client));
    let (sends, at) = (Arc::clone(&client), at.to_vec());
    let event = by_selector(&json!({"to": ["10.177.0.1"]}))?;
    let wildcards = at.len() as u64;
    let armed = Armed::act(Point::SelectRun, move |call| {
        let mut client = sends.lock().unwrap_or_else(PoisonError::into_inner);
        for (socket, _) in late.iter().zip(&at).filter(|(_, at)| **at == call) {
            // Whether it was sent is counted below.
            let _ = client.send_to(socket.handle, udp(5).socket_addr(), b"hello");
        }
    });
    let report = world.reaper_mut().handle(&event);
    let calls = armed.passed()[&Point::SelectRun];
    drop(armed);
    let mut client = client.lock().unwrap_or_else(PoisonError::into_inner);
    expect_destroyed(&report, &mut [&mut client], &cookies)?;
    let counters = world.counters()?;
    ensure!(counters.wildcard == wildcards, "{counters:?}");
    let fallbacks: Vec<_> = report.fallbacks.iter().map(|run| (run.because, run.victims)).collect();
    ensure!(fallbacks == expected, "{report:?}");
    Ok(calls)
}

fn selecting() -> Result<Event> {
    by_selector(&json!({"protocol": "udp", "to": ["10.177.0.0/30"], "ports": ["53"]}))
}

fn by_selector(selector: &Value) -> Result<Event> {
    let json = json!({"id": "by-selector", "type": "terminate", "where": selector});
    match Request::parse(json.to_string().as_bytes(), 1) {
        Ok(Request::Event(event)) => Ok(event),
        other => bail!("{json}: {other:?}"),
    }
}

/// Nobody came through a load balancer: everybody is meant, and told from those who are not known. After a fault, those
/// whom nothing tells any more are meant only by an event that says so.
fn event_with_a_frontend(world: &mut World) -> Result<()> {
    let through = |unknown| Through { frontends: vec![Frontend::Direct], unknown };
    let direct = [through(UnknownFrontend::Preserve), through(UnknownFrontend::Destroy)];
    let mut events = direct.iter().cycle();
    rounds(world, |world, backend| {
        let through = events.next().cloned().unwrap_or_default();
        world.attempt_through(Action::BackendDeleted { backend }, through, false)
    })
}

fn rounds(world: &mut World, mut tell: impl FnMut(&mut World, Backend) -> Report) -> Result<()> {
    let backend = udp(1);
    world.serve(&[backend, udp(9)])?;
    let mut clients = [world.client_in("first", 0)?, world.client_in("second", 1)?];
    open_each(&mut clients, udp(9), 2)?;
    for_each_fault(&ERRNOS, &BOTH, any, |fault| {
        let opened = open_each(&mut clients, backend, 3)?;
        two_events(fault, &mut clients, &opened, backend, |backend| tell(world, backend))?;
        opened.close(&mut clients)
    })?;
    for client in &mut clients {
        expect_answers(client)?;
    }
    Ok(())
}
