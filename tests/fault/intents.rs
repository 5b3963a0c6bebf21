//! Events that mean less than everybody who is connected to a backend: by a selector, by the frontend.

use anyhow::{Result, bail};
use serde_json::json;
use skreap::bpf::fault::Point;
use skreap::core::{Action, Backend, EngineName, Event, Frontend, Report, Request, Through, UnknownFrontend};

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

fn selecting() -> Result<Event> {
    let json = json!({
        "id": "by-selector",
        "type": "terminate",
        "where": { "protocol": "udp", "to": ["10.177.0.0/30"], "ports": ["53"] },
    });
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
