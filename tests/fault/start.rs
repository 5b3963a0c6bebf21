//! A start, and the first event after it.

use anyhow::{Result, ensure};
use skreap::bpf::fault::Point;
use skreap::core::EngineName;

use crate::case::{Case, case};
use crate::round::{Fault, Held, Pass, beside, for_each_fault, open_each, reap_with, two_events_after};
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
    ]
}

fn start_and_first_event(world: &mut World) -> Result<()> {
    start(world, false)
}

fn start_with_preexisting_sockets(world: &mut World) -> Result<()> {
    start(world, true)
}

fn start(world: &mut World, preexisting: bool) -> Result<()> {
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
    let all = matches!(world.reaper().engine(), EngineName::Netlink | EngineName::Kfunc);
    for_each_fault(
        &[libc::ENOMEM],
        &[Pass::First],
        |point| all || own(point),
        |fault| {
            let mut opened = preexisting.then(|| open_each(&mut clients, udp(1), 3)).transpose()?;
            let armed = fault.map(Fault::arm);
            let built = beside(world).bootstrap(preexisting).grace(true).build();
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
