//! One event on several backends, and UDP sockets that have sent to more than one of them.
//!
//! A socket that is bound to its port looks the same after it was destroyed, and a socket that sends again does.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use skreap::core::{Action, Backend, EngineName, Event, Report, Skipped, Unconnected};
use skreap_testbed::{Client, OpenSpec, Selection, with};

use crate::case::{Case, case};
use crate::pending::{begin_connect, end_connect};
use crate::selectors::event;
use crate::sockets::*;
use crate::unconnected::{send_to_all, sender};
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let destroy = WorldOptions { unconnected: Unconnected::Destroy, ..WorldOptions::default() };
    let limited = WorldOptions { max_victims: Some(5), ..destroy };
    let paced = WorldOptions { max_rate: Some(1000), ..destroy };
    let patient = WorldOptions { pending_wait: Duration::from_secs(5), leave_order: true, ..destroy };
    vec![
        case!(a_sender_is_a_victim_of_one_backend).index_only().with(destroy),
        case!(a_selected_sender_is_a_victim_of_one_backend).index_only().with(destroy),
        case!(a_sender_is_a_victim_of_one_backend_at_a_rate).index_only().with(paced),
        case!(a_sender_is_counted_once_beforehand).index_only().with(limited),
        case!(a_selected_sender_is_counted_once_beforehand).index_only().with(limited),
        case!(a_destroyed_connection_is_no_sender).index_only().with(destroy),
        case!(senders_that_never_stop_are_victims_once).index_only().with(destroy),
        case!(a_sender_is_no_victim_of_a_second_walk).index_only().with(patient),
        case!(a_selected_sender_is_no_victim_of_a_second_walk).index_only().with(patient),
    ]
}

fn deleted(backends: &[Backend]) -> Action {
    Action::BackendsDeleted { backends: backends.to_vec() }
}

/// Has these backends deleted, or asks whom that would destroy; whatever comes of it.
type Teller = fn(&mut World, &[Backend], bool) -> Result<Report>;

fn plainly(world: &mut World, backends: &[Backend], dry_run: bool) -> Result<Report> {
    handle(world, &Event::new("plain", deleted(backends)).with_dry_run(dry_run))
}

/// The same with a selector, which selects all.
fn by_selector(world: &mut World, backends: &[Backend], dry_run: bool) -> Result<Report> {
    let json = json!({"type": "backends-deleted", "backends": backends, "where": {"uid": 0}});
    handle(world, &event(&json, dry_run)?)
}

fn handle(world: &mut World, event: &Event) -> Result<Report> {
    let report = world.reaper_mut().handle(event);
    world.check(event, report)
}

/// A sender that keeps its port, whatever happens to it.
pub fn bound_sender(client: &mut Client, port: u16, backends: &[Backend]) -> Result<Socket> {
    let spec = OpenSpec { bind: Some(format!("0.0.0.0:{port}").parse()?), ..spec_for(backends[0]) };
    let socket = open(client, spec)?;
    send_to_all(client, socket, backends)?;
    Ok(socket)
}

/// Visited, victims, destroyed of each backend; nothing of it failed.
pub fn parts(report: &Report) -> Result<Vec<(Backend, u64, u64, u64)>> {
    ensure!(report.by_backend.iter().all(|b| b.failed == 0 && b.complete), "{report:?}");
    let parts: Vec<_> =
        report.by_backend.iter().map(|b| (b.backend, b.visited, b.victims, b.destroyed)).collect();
    let sums = parts.iter().fold((0, 0, 0), |n, p| (n.0 + p.1, n.1 + p.2, n.2 + p.3));
    ensure!(sums == (report.visited, report.victims, report.destroyed), "{report:?}");
    Ok(parts)
}

pub fn no_peer(n: u64) -> Skipped {
    with(|s: &mut Skipped| s.no_peer = n)
}

/// Three that keep their port and one that does not have sent to all; one to the last only; three are connected.
fn mixed(world: &mut World, client: &mut Client) -> Result<(Vec<Backend>, Vec<u64>)> {
    let gone = vec![udp(1), udp(2), udp(3)];
    world.serve(&gone)?;
    world.serve(&[udp(4)])?;
    let mut cookies = Vec::new();
    for port in 4001..4004 {
        cookies.push(bound_sender(client, port, &gone)?.cookie);
    }
    cookies.push(sender(client, &gone)?.cookie);
    cookies.push(bound_sender(client, 4004, &gone[2..])?.cookie);
    for backend in &gone {
        cookies.push(connect(client, *backend)?.cookie);
    }
    cookies.sort_unstable();
    // These have nothing to do with it.
    bound_sender(client, 4005, &[udp(4)])?;
    connect(client, udp(4))?;
    Ok((gone, cookies))
}

fn a_sender_is_a_victim_of_one_backend(world: &mut World) -> Result<()> {
    victim_of_one_backend(world, plainly)
}

fn a_selected_sender_is_a_victim_of_one_backend(world: &mut World) -> Result<()> {
    victim_of_one_backend(world, by_selector)
}

fn victim_of_one_backend(world: &mut World, tell: Teller) -> Result<()> {
    let mut client = world.client("client")?;
    let (gone, cookies) = mixed(world, &mut client)?;
    let listed = tell(world, &gone, true)?;
    let listing: Vec<u64> = listed.sockets.iter().flatten().map(|s| s.cookie).collect();
    ensure!(listed.destroyed == 0 && listing.len() == 8, "{listed:?}");
    // Named in another order, the last is the first: it has all four, its own and the connected one.
    let turned = [gone[2], gone[0], gone[1], gone[2]];
    let report = tell(world, &turned, false)?;
    expect_exactly(&report, &mut [&mut client], &cookies)?;
    let expected = [(gone[2], 6, 6, 6), (gone[0], 5, 1, 1), (gone[1], 5, 1, 1)];
    ensure!(parts(&report)? == expected, "{report:?}");
    expect_skipped(&report, true, no_peer(8))?;
    let expected: Vec<_> = [5, 1, 2].into_iter().zip(&gone).map(|(n, b)| (*b, n)).collect();
    let found: Vec<_> = parts(&listed)?.into_iter().map(|(b, _, victims, _)| (b, victims)).collect();
    ensure!(found == expected, "{listed:?}");
    // Another event finds those that are bound again: it is another event.
    let report = tell(world, &gone, false)?;
    expect_complete(&report, 4)?;
    let died = client.destroyed(Selection::All)?;
    ensure!(died.len() == 4 && died.iter().all(|cookie| cookies.contains(cookie)), "{died:?}");
    Ok(())
}

/// What is destroyed at a rate is listed first, with every engine.
fn a_sender_is_a_victim_of_one_backend_at_a_rate(world: &mut World) -> Result<()> {
    let mut client = world.client("client")?;
    let (gone, cookies) = mixed(world, &mut client)?;
    let report = world.tell(deleted(&gone), false)?;
    expect_exactly(&report, &mut [&mut client], &cookies)?;
    let expected = [(gone[0], 5, 5, 5), (gone[1], 5, 1, 1), (gone[2], 6, 2, 2)];
    ensure!(parts(&report)? == expected, "{report:?}");
    expect_skipped(&report, true, no_peer(8))
}

/// The limit is one of sockets, and the count does not spoil what comes after it.
fn a_sender_is_counted_once_beforehand(world: &mut World) -> Result<()> {
    counted_once_beforehand(world, plainly)
}

fn a_selected_sender_is_counted_once_beforehand(world: &mut World) -> Result<()> {
    counted_once_beforehand(world, by_selector)
}

fn counted_once_beforehand(world: &mut World, tell: Teller) -> Result<()> {
    let gone = [udp(1), udp(2)];
    for backend in &gone {
        world.add_address(backend.addr())?;
    }
    let mut client = world.client("client")?;
    let mut cookies = Vec::new();
    for port in 4001..4006 {
        cookies.push(bound_sender(&mut client, port, &gone)?.cookie);
    }
    let report = tell(world, &gone, false)?;
    let guard = report.guard.context("no guard")?;
    ensure!(!guard.refused && guard.found == Some(5), "{report:?}");
    expect_destroyed(&report, &mut [&mut client], &cookies)?;
    ensure!(parts(&report)? == [(gone[0], 5, 5, 5), (gone[1], 5, 0, 0)], "{report:?}");
    bound_sender(&mut client, 4006, &gone)?;
    let report = tell(world, &gone, false)?;
    ensure!(report.guard.is_some_and(|guard| guard.refused && guard.found == Some(6)), "{report:?}");
    Ok(())
}

/// Connected to one, it has sent to the other before: once its connection is destroyed, only that is left.
fn a_destroyed_connection_is_no_sender(world: &mut World) -> Result<()> {
    let gone = [udp(1), udp(2)];
    world.serve(&gone)?;
    let mut client = world.client("client")?;
    let mut cookies = Vec::new();
    for (port, [first, second]) in [(4001, gone), (4002, [gone[1], gone[0]])] {
        let socket = bound_sender(&mut client, port, &[first])?;
        client.connect(socket.handle, second.socket_addr())?;
        cookies.push(socket.cookie);
    }
    let report = world.tell(deleted(&gone), false)?;
    expect_exactly(&report, &mut [&mut client], &cookies)?;
    ensure!(parts(&report)? == [(gone[0], 2, 1, 1), (gone[1], 2, 1, 1)], "{report:?}");
    // Engine netlink walks for all backends before it destroys: nobody has lost a peer by then.
    let skipped = match world.reaper().engine() {
        EngineName::Netlink => with(|s: &mut Skipped| s.moved_on = 2),
        _ => with(|s: &mut Skipped| (s.moved_on, s.no_peer) = (1, 1)),
    };
    expect_skipped(&report, true, skipped)
}

/// They have a port again before the next backend's turn comes, or not: they are victims once.
fn senders_that_never_stop_are_victims_once(world: &mut World) -> Result<()> {
    let gone: Vec<Backend> = (1..=40).map(udp).collect();
    for backend in &gone {
        world.add_address(backend.addr())?;
    }
    let mut clients = Vec::new();
    for i in 0..2 {
        let mut client = world.client(&format!("client{i}"))?;
        let mut sockets = Vec::new();
        for _ in 0..4 {
            sockets.push(sender(&mut client, &gone)?);
        }
        clients.push((client, sockets));
    }
    let (backends, begun) = (&gone, &Barrier::new(3));
    let report = thread::scope(|scope| {
        let busy: Vec<_> = clients
            .iter_mut()
            .map(|(client, sockets)| {
                scope.spawn(move || {
                    begun.wait();
                    for _ in 0..8 {
                        for socket in sockets.iter() {
                            // It may fail with the error of the destroy.
                            let _ = send_to_all(client, *socket, backends);
                        }
                    }
                })
            })
            .collect();
        begun.wait();
        let report = world.tell(deleted(backends), false);
        let ended = busy.into_iter().all(|thread| thread.join().is_ok());
        ensure!(ended, "a client gave up");
        report
    })?;
    expect_complete(&report, 8)?;
    parts(&report)?;
    Ok(())
}

/// A pending connect is waited for, and the walk that is made again meets the sender as it was.
fn a_sender_is_no_victim_of_a_second_walk(world: &mut World) -> Result<()> {
    no_victim_of_a_second_walk(world, plainly)
}

fn a_selected_sender_is_no_victim_of_a_second_walk(world: &mut World) -> Result<()> {
    no_victim_of_a_second_walk(world, by_selector)
}

fn no_victim_of_a_second_walk(world: &mut World, tell: Teller) -> Result<()> {
    world.serve(&[udp(1)])?;
    let mut client = world.client("client")?;
    let mut other = world.client("other")?;
    let sender = bound_sender(&mut other, 4001, &[udp(1)])?;
    let socket = open(&mut client, spec_for(udp(1)))?;
    let delay = begin_connect(world, &mut client, socket, udp(1))?;
    let report = tell(world, &[udp(1)], false)?;
    end_connect(&mut client, delay)?;
    ensure!(report.pending_walks == 1 && report.pending == 0, "{report:?}");
    expect_exactly(&report, &mut [&mut client, &mut other], &[sender.cookie, socket.cookie])
}
