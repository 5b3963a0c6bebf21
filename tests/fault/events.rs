//! Events of a reaper that has been at work for a while.

use anyhow::{Result, ensure};
use skreap::bpf::fault::Point;
use skreap::core::{Action, EngineName};

use crate::case::{Case, case};
use crate::round::{BOTH, ERRNOS, Fault, any, for_each_fault, open_each, two_events};
use crate::sockets::*;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let two_netns = WorldOptions { netns: 2, ..WorldOptions::default() };
    let small = WorldOptions { netns: 2, max_sockets: 12, ..WorldOptions::default() };
    vec![
        case!(event_udp).with(two_netns),
        case!(event_tcp).with(two_netns),
        case!(event_with_a_full_index).index_only().with(small),
        case!(event_of_a_walk_in_two_calls).only(EngineName::Kfunc).with(two_netns),
    ]
}

fn event_udp(world: &mut World) -> Result<()> {
    event(world, udp(1), 3)
}

fn event_tcp(world: &mut World) -> Result<()> {
    event(world, tcp(1), 3)
}

/// A scan finishes what the index has no room for.
fn event_with_a_full_index(world: &mut World) -> Result<()> {
    event(world, udp(1), 8)
}

/// The first call destroys as many as there is room to tell of; if the second fails, the report counts those.
fn event_of_a_walk_in_two_calls(world: &mut World) -> Result<()> {
    const CALL: u64 = 2048;
    world.serve(&[udp(1)])?;
    let mut clients = [world.client_in("first", 0)?, world.client_in("second", 1)?];
    let mut destroyed = Vec::new();
    for_each_fault(
        &[libc::ENOMEM],
        &BOTH,
        |point| point == Point::Walk,
        |fault| {
            let opened = open_each(&mut clients, udp(1), 1100)?;
            two_events(fault, &mut clients, &opened, udp(1), |backend| {
                let report = world.attempt(Action::BackendDeleted { backend }, false);
                destroyed.push((fault.map(|Fault { after, .. }| after > 0), report.destroyed));
                report
            })?;
            opened.close(&mut clients)
        },
    )?;
    let in_second = destroyed.iter().filter(|(last, _)| *last == Some(true));
    let counted: Vec<u64> = in_second.map(|(_, destroyed)| *destroyed).collect();
    ensure!(counted == [CALL, 2200 - CALL], "{destroyed:?}");
    Ok(())
}

fn event(world: &mut World, backend: skreap::core::Backend, each: u32) -> Result<()> {
    world.serve(&[backend, udp(9)])?;
    let mut clients = [world.client_in("first", 0)?, world.client_in("second", 1)?];
    open_each(&mut clients, udp(9), 2)?;
    for_each_fault(&ERRNOS, &BOTH, any, |fault| {
        let opened = open_each(&mut clients, backend, each)?;
        two_events(fault, &mut clients, &opened, backend, |backend| {
            world.attempt(Action::BackendDeleted { backend }, false)
        })?;
        opened.close(&mut clients)
    })?;
    for client in &mut clients {
        expect_answers(client)?;
    }
    Ok(())
}
