//! A start, and the first event after it.

use anyhow::{Result, ensure};
use skreap::bpf::fault::Point;
use skreap::core::EngineName;
use skreap_testbed::Client;

use crate::case::{Case, case};
use crate::round::{
    BOTH, Fault, Held, Opened, Pass, beside, for_each_fault, open_each, reap_with, two_events_after,
};
use crate::sockets::*;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let two_netns = WorldOptions { netns: 2, ..WorldOptions::default() };
    vec![
        case!(start_and_first_event).with(two_netns),
        case!(start_with_preexisting_sockets)
            .only(EngineName::Netlink)
            .and(EngineName::Kfunc)
            .with(two_netns),
        case!(start_with_sockets_in_flight).only(EngineName::Netlink).with(two_netns),
    ]
}

fn start_and_first_event(world: &mut World) -> Result<()> {
    start(world, Before::Nothing)
}

fn start_with_preexisting_sockets(world: &mut World) -> Result<()> {
    start(world, Before::Open)
}

/// No process has them open, so that only an iterator over the sockets of their netns finds them: each start passes over
/// the files of all processes, and then over two netns.
fn start_with_sockets_in_flight(world: &mut World) -> Result<()> {
    start(world, Before::InFlight)
}

/// The sockets that are there before a start.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Open,
    /// The first of each client is in flight over a unix socket during the start.
    InFlight,
}

/// Sends the first socket of each client away.
fn take_off(clients: &mut [Client], opened: &Opened) -> Result<()> {
    for (client, handles) in clients.iter_mut().zip(&opened.handles) {
        client.start_flight(handles[0])?;
    }
    Ok(())
}

/// Receives them; they have other handles then.
fn land(clients: &mut [Client], opened: &mut Opened) -> Result<()> {
    for (client, handles) in clients.iter_mut().zip(&mut opened.handles) {
        handles[0] = client.land_flight(handles[0])?;
    }
    Ok(())
}

fn start(world: &mut World, before: Before) -> Result<()> {
    let preexisting = before != Before::Nothing;
    world.serve(&[udp(1)])?;
    let mut clients = [world.client_in("first", 0)?, world.client_in("second", 1)?];
    let held = Held::from_the_second_start_on(world)?;
    // What all engines have in common fails with one of them, and once more where the index holds references.
    let own = |point| {
        use Point::*;
        matches!(
            point,
            ScanLoad
                | ScanAttach
                | ScanWrite
                | ScanOpen
                | ScanRead
                | ScanCounts
                | NetnsList
                | NetnsOpen
                | NetnsEnter
                | DiagOpen
                | DiagCookie
                | DumpSend
                | DumpReceive
        )
    };
    let of_search = |point| {
        use Point::*;
        let bootstrap = matches!(
            point,
            BootstrapAttach | BootstrapWrite | BootstrapOpen | BootstrapRead | BootstrapCounts
        );
        bootstrap || matches!(point, TablesLoad | TablesRead | NetnsList | NetnsOpen | NetnsEnter)
    };
    let all = matches!(world.reaper().engine(), EngineName::Netlink | EngineName::Kfunc);
    let in_flight = before == Before::InFlight;
    for_each_fault(
        &[libc::ENOMEM],
        // The last pass is over the last netns.
        if in_flight { &BOTH } else { &[Pass::First] },
        |point| if in_flight { of_search(point) } else { all || own(point) },
        |fault| {
            let mut opened = preexisting.then(|| open_each(&mut clients, udp(1), 3)).transpose()?;
            if let Some(opened) = opened.as_ref().filter(|_| in_flight) {
                take_off(&mut clients, opened)?;
            }
            let armed = fault.map(Fault::arm);
            let built = beside(world).bootstrap(preexisting).grace(true).build();
            if let Some(opened) = opened.as_mut().filter(|_| in_flight) {
                land(&mut clients, opened)?;
            }
            let mut reaper = match built {
                Ok(reaper) => reaper,
                Err(error) => {
                    let happened = fault.zip(armed).is_some_and(|(fault, armed)| fault.disarm(armed));
                    ensure!(happened, "{error}");
                    if let Some(opened) = opened {
                        ensure!(opened.died(&mut clients)? == 0);
                        opened.close(&mut clients)?;
                    }
                    return held.expect(world);
                }
            };
            let opened = match opened.take() {
                Some(opened) => opened,
                None => open_each(&mut clients, udp(1), 3)?,
            };
            let first = reap_with(&mut reaper, udp(1));
            if let Some((fault, armed)) = fault.zip(armed) {
                fault.disarm(armed);
            }
            two_events_after(fault, &mut clients, &opened, udp(1), &first, |backend| {
                reap_with(&mut reaper, backend)
            })?;
            opened.close(&mut clients)?;
            drop(reaper);
            held.expect(world)
        },
    )
}
