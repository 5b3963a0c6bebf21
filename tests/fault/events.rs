//! Events of a reaper that has been at work for a while.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use skreap::bpf::fault::{Armed, Point};
use skreap::core::{Action, EngineName};
use skreap_testbed::{Client, Holding, OpenSpec, Selection};

use crate::case::{Case, Skip, case};
use crate::round::{BOTH, ERRNOS, Fault, Pass, any, for_each_fault, judge, open_each, two_events};
use crate::sockets::*;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let two_netns = WorldOptions { netns: 2, ..WorldOptions::default() };
    let impatient = WorldOptions { victim_timeout: Duration::from_millis(100), ..two_netns };
    let small = WorldOptions { netns: 2, max_sockets: 12, ..WorldOptions::default() };
    vec![
        case!(event_udp).with(two_netns),
        case!(event_tcp).with(two_netns),
        case!(event_with_a_full_index).index_only().with(small),
        case!(event_with_a_held_socket).only(EngineName::Netlink).and(EngineName::Kfunc).with(impatient),
        case!(event_with_subflows).only(EngineName::Netlink).and(EngineName::Kfunc).with(two_netns),
        case!(event_of_a_walk_in_two_calls).only(EngineName::Kfunc).with(two_netns),
    ]
}

fn event_udp(world: &mut World) -> Result<()> {
    event(world, udp(1), 3)
}

fn event_tcp(world: &mut World) -> Result<()> {
    event(world, tcp(1), 3)
}

/// A fallback scan finds what the index has no room for.
fn event_with_a_full_index(world: &mut World) -> Result<()> {
    event(world, udp(1), 8)
}

/// Which socket of a batch is held cannot be seen: those in the same batch are reported as failed, and taken back when its
/// owner lets go.
fn event_with_a_held_socket(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let mut clients = [world.client_in("first", 0)?, world.client_in("second", 1)?];
    for_each_fault(
        &[libc::ENOMEM],
        &[Pass::First],
        |point| matches!(point, Point::LookSend | Point::LookReceive),
        |fault| {
            let opened = open_each(&mut clients, udp(1), 3)?;
            let held = opened.handles[0][1];
            clients[0].start_hold(held, Holding::Memory)?;
            let armed = fault.map(Fault::arm);
            let report = world.attempt(Action::BackendDeleted { backend: udp(1) }, false);
            if let Some((fault, armed)) = fault.zip(armed) {
                ensure!(fault.disarm(armed), "{fault:?} did not happen");
            }
            let failed = report.failed.total();
            ensure!(
                report.destroyed + failed == 6 && report.complete && (1..=3).contains(&failed),
                "{report:?}"
            );
            ensure!(fault.is_some() || failed == 1, "{report:?}");
            clients[0].end_hold(held)?;
            let deadline = Instant::now() + Duration::from_secs(10);
            loop {
                let status = world.reaper().monitor().status()?;
                if status.held.given_up == 0 {
                    ensure!(status.totals.all_failed() == 0 && status.held.waiting == 0, "{status:?}");
                    break;
                }
                ensure!(Instant::now() < deadline, "{:?}", status.held);
                thread::sleep(Duration::from_millis(1));
            }
            ensure!(opened.died(&mut clients)? == 6, "{report:?}");
            opened.close(&mut clients)
        },
    )
}

/// In each netns a plain socket and one of MPTCP, of which the index knows nothing: if what looks for its subflow fails, the
/// report is not complete.
fn event_with_subflows(world: &mut World) -> Result<()> {
    if fs::read_to_string("/proc/sys/net/mptcp/enabled").unwrap_or_default().trim() != "1" {
        bail!(Skip("no MPTCP: net.mptcp.enabled is not 1"));
    }
    world.serve(&[tcp(1)])?;
    let mut clients = [world.client_in("first", 0)?, world.client_in("second", 1)?];
    for_each_fault(&ERRNOS, &BOTH, any, |fault| {
        let plain = open_each(&mut clients, tcp(1), 1)?;
        let mut subflows = Vec::new();
        for (client, handles) in clients.iter_mut().zip(&plain.handles) {
            let spec = OpenSpec { mptcp: true, ..spec_for(tcp(1)) };
            subflows.push((handles[0], Some(open_to(client, spec, tcp(1).socket_addr())?.handle)));
        }
        let armed = fault.map(Fault::arm);
        let report = world.attempt(Action::BackendDeleted { backend: tcp(1) }, false);
        match fault.zip(armed) {
            Some((fault, armed)) => _ = fault.disarm(armed),
            None => Armed::end_count(),
        }
        let died = ended(&mut clients, &mut subflows)?;
        judge(&report, fault, 4, died)?;
        let second = world.reap(tcp(1))?;
        expect_complete(&second, 4 - died).with_context(|| format!("after {report:?}"))?;
        ensure!(ended(&mut clients, &mut subflows)? == 4 - died, "after {report:?}: {second:?}");
        plain.close(&mut clients)
    })
}

/// How many have died since it was last asked, of a plain socket of each client and one of MPTCP, which is closed then.
fn ended(clients: &mut [Client], sockets: &mut [(u32, Option<u32>)]) -> Result<u64> {
    let mut died = 0;
    for (client, (plain, mptcp)) in clients.iter_mut().zip(sockets) {
        died += client.destroyed(Selection::List(vec![*plain]))?.len() as u64;
        let Some(handle) = *mptcp else { continue };
        match errno(client.recv(handle, 500))? {
            libc::EAGAIN => {}
            libc::ECONNABORTED => {
                client.close(handle)?;
                *mptcp = None;
                died += 1;
            }
            other => bail!("errno {other}"),
        }
    }
    Ok(died)
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
