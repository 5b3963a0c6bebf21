//! Sockets that the kernel has opened for itself: MPTCP's subflows, which it destroys for a program's socket, and others.
//!
//! They run the hook of connect() and never that of release, so the index has no node for them. The backend they have
//! connected to is noted, and an event on it looks for them.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use skreap::core::{Action, Backend, FallbackReason, Incomplete, Report};
use skreap_testbed::{Client, Family, OpenSpec, Selection};

use crate::case::{Case, Skip, case};
use crate::owners::{need_mptcp, shown};
use crate::preexisting::{reap, second, small};
use crate::selectors::{event, terminate};
use crate::sockets::*;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let limited = WorldOptions { max_victims: Some(3), ..WorldOptions::default() };
    let two_netns = WorldOptions { netns: 2, ..WorldOptions::default() };
    vec![
        case!(fallen_back_subflows_are_destroyed),
        case!(subflows_of_ipv6_are_destroyed),
        case!(ordinary_subflows_are_destroyed),
        case!(subflows_in_every_netns_are_destroyed).with(two_netns),
        case!(subflows_of_other_cgroups_survive),
        case!(subflows_are_listed_by_a_dry_run),
        case!(subflows_count_as_victims_beforehand).with(limited),
        case!(preexisting_subflows_are_destroyed).index_only(),
        case!(reconcile_says_that_it_does_not_know_them).index_only(),
        case!(a_selector_says_that_it_does_not_know_them),
        case!(other_kernel_sockets_are_counted_and_left_alone),
        case!(backends_without_kernel_sockets_are_not_looked_at),
    ]
}

fn mptcp(backend: Backend) -> OpenSpec {
    OpenSpec { mptcp: true, ..spec_for(backend) }
}

/// Victims and destroyed of the look for the kernel's own sockets; none if there was no look.
fn looked(report: &Report) -> Option<(u64, u64)> {
    let mut looks = report.fallbacks.iter().filter(|f| f.because == FallbackReason::KernelSockets);
    looks.next().map(|look| (look.victims, look.destroyed))
}

/// Opens this many MPTCP sockets, connected to a backend that knows no MPTCP.
fn connect_mptcp(client: &mut Client, backend: Backend, count: usize) -> Result<Vec<Socket>> {
    (0..count).map(|_| open_to(client, mptcp(backend), backend.socket_addr())).collect()
}

/// They have fallen back to plain TCP, so the error of the one connection is theirs.
fn expect_aborted(client: &mut Client, sockets: &[Socket]) -> Result<()> {
    for socket in sockets {
        let received = errno(client.recv(socket.handle, PATIENCE_MS))?;
        ensure!(received == libc::ECONNABORTED, "{socket:?}: errno {received}");
    }
    Ok(())
}

fn expect_echo(client: &mut Client, sockets: &[Socket]) -> Result<()> {
    let handles = sockets.iter().map(|socket| socket.handle).collect();
    expect_answers_on(client, Selection::List(handles), sockets.len() as u32)
}

/// Whatever looks for the others of its sockets.
fn a_selector_says_that_it_does_not_know_them(world: &mut World) -> Result<()> {
    need_mptcp()?;
    world.serve(&[tcp(1)])?;
    let mut client = world.client("client")?;
    let select = terminate(json!({"to": [tcp(1).addr()]}));
    let plain = connect(&mut client, tcp(1))?;
    let report = world.tell_event(&event(&select, true)?)?;
    ensure!(report.complete && report.victims == 1, "{report:?}");
    let unseen = connect_mptcp(&mut client, tcp(1), 2)?;
    for select in [select, json!({"type": "backend-deleted", "backend": tcp(1), "except": {"uid": 4711}})] {
        let report = world.tell_event(&event(&select, true)?)?;
        ensure!(report.victims == 1 && !report.complete, "{report:?}");
        ensure!(report.incomplete_because == [Incomplete::KernelSockets].into(), "{report:?}");
    }
    expect_echo(&mut client, &unseen)?;
    expect_echo(&mut client, &[plain])
}

fn fallen_back_subflows_are_destroyed(world: &mut World) -> Result<()> {
    need_mptcp()?;
    world.serve(&[tcp(1), tcp(2)])?;
    let mut client = world.client("client")?;
    let gone = connect_mptcp(&mut client, tcp(1), 3)?;
    let plain = connect(&mut client, tcp(1))?;
    let other = connect_mptcp(&mut client, tcp(2), 2)?;
    let counters = world.counters()?;
    ensure!(counters.inserts == 1 && counters.ignored_kernel == 5, "{counters:?}");
    let report = world.reap(tcp(1))?;
    expect_complete(&report, 4)?;
    ensure!(report.visited == 4 && report.skipped.kernel == 0, "{report:?}");
    ensure!(looked(&report) == Some((3, 3)), "{report:?}");
    expect_aborted(&mut client, &gone)?;
    ensure!(client.destroyed(Selection::List(vec![plain.handle]))? == [plain.cookie]);
    expect_echo(&mut client, &other)?;
    // The note stays, and there is nothing left to find.
    let report = world.reap(tcp(1))?;
    expect_complete(&report, 0)?;
    ensure!(looked(&report) == Some((0, 0)), "{report:?}");
    Ok(())
}

fn subflows_of_ipv6_are_destroyed(world: &mut World) -> Result<()> {
    need_mptcp()?;
    world.serve(&[tcp(1), tcp6(1)])?;
    let mut client = world.client("client")?;
    let v6 = connect_mptcp(&mut client, tcp6(1), 2)?;
    let spec = OpenSpec { mptcp: true, ..OpenSpec::new(tcp(1).protocol(), Family::V6) };
    let v4 = [open_to(&mut client, spec, mapped(tcp(1)))?];
    let report = world.reap(tcp6(1))?;
    expect_complete(&report, 2)?;
    expect_aborted(&mut client, &v6)?;
    expect_echo(&mut client, &v4)?;
    expect_complete(&world.reap(tcp(1))?, 1)?;
    expect_aborted(&mut client, &v4)
}

/// The other side knows MPTCP too. The TCP connection ends; what the program learns of it is MPTCP's matter.
fn ordinary_subflows_are_destroyed(world: &mut World) -> Result<()> {
    need_mptcp()?;
    world.add_address(tcp(1).addr())?;
    let mut server = world.outsider("server")?;
    let listener = server.open(OpenSpec { bind: Some(tcp(1).socket_addr()), ..mptcp(tcp(1)) })?;
    server.listen(listener, 8)?;
    let mut client = world.client("client")?;
    let socket = open_to(&mut client, mptcp(tcp(1)), tcp(1).socket_addr())?;
    let accepted = server.accept(listener, PATIENCE_MS)?;
    client.send_bytes(socket.handle, b"hello")?;
    ensure!(server.recv(accepted, PATIENCE_MS)? == b"hello");
    ensure!(shown(world, tcp(1))?.len() == 1);
    let report = world.reap(tcp(1))?;
    expect_complete(&report, 1)?;
    ensure!(looked(&report) == Some((1, 1)) && shown(world, tcp(1))?.is_empty(), "{report:?}");
    Ok(())
}

fn subflows_in_every_netns_are_destroyed(world: &mut World) -> Result<()> {
    need_mptcp()?;
    world.serve(&[tcp(1)])?;
    let mut clients = [world.client_in("first", 0)?, world.client_in("second", 1)?];
    let mut sockets = Vec::new();
    for client in &mut clients {
        sockets.push(connect_mptcp(client, tcp(1), 2)?);
    }
    expect_complete(&world.reap(tcp(1))?, 4)?;
    for (client, sockets) in clients.iter_mut().zip(&sockets) {
        expect_aborted(client, sockets)?;
    }
    Ok(())
}

fn subflows_of_other_cgroups_survive(world: &mut World) -> Result<()> {
    need_mptcp()?;
    world.serve(&[tcp(1)])?;
    let (mut client, mut outsider) = (world.client("client")?, world.outsider("outsider")?);
    let gone = connect_mptcp(&mut client, tcp(1), 1)?;
    let others = connect_mptcp(&mut outsider, tcp(1), 2)?;
    let report = world.reap(tcp(1))?;
    expect_complete(&report, 1)?;
    expect_aborted(&mut client, &gone)?;
    expect_echo(&mut outsider, &others)
}

fn subflows_are_listed_by_a_dry_run(world: &mut World) -> Result<()> {
    need_mptcp()?;
    world.serve(&[tcp(1)])?;
    let mut client = world.client("client")?;
    let sockets = connect_mptcp(&mut client, tcp(1), 2)?;
    let plain = connect(&mut client, tcp(1))?;
    let subflows: Vec<u64> = {
        let shown = shown(world, tcp(1))?;
        shown.iter().filter(|(_, mptcp)| *mptcp).map(|(victim, _)| victim.cookie()).collect()
    };
    let report = world.dry_run(tcp(1))?;
    let mut listed: Vec<u64> = report.sockets.iter().flatten().map(|socket| socket.cookie).collect();
    let mut expected = [subflows, vec![plain.cookie]].concat();
    listed.sort_unstable();
    expected.sort_unstable();
    ensure!(report.victims == 3 && report.complete && listed == expected, "{report:?}, not {expected:?}");
    expect_echo(&mut client, &sockets)
}

fn subflows_count_as_victims_beforehand(world: &mut World) -> Result<()> {
    need_mptcp()?;
    world.serve(&[tcp(1)])?;
    let mut client = world.client("client")?;
    let mut sockets = connect_mptcp(&mut client, tcp(1), 3)?;
    connect(&mut client, tcp(1))?;
    let report = world.attempt(Action::BackendDeleted { backend: tcp(1) }, false);
    let guard = report.guard.as_ref().context("no guard")?;
    ensure!(guard.refused && guard.found == Some(4) && report.destroyed == 0, "{report:?}");
    expect_echo(&mut client, &sockets)?;
    client.close(sockets.remove(0).handle)?;
    expect_complete(&world.reap(tcp(1))?, 3)?;
    expect_aborted(&mut client, &sockets)
}

/// The search for pre-existing sockets leaves the note that the hook would have left.
fn preexisting_subflows_are_destroyed(world: &mut World) -> Result<()> {
    need_mptcp()?;
    world.serve(&[tcp(1), tcp(2)])?;
    let mut client = world.client("client")?;
    let gone = connect_mptcp(&mut client, tcp(1), 2)?;
    let others = connect_mptcp(&mut client, tcp(2), 1)?;
    let mut later = second(world, small())?;
    let report = reap(&mut later, tcp(1));
    expect_complete(&report, 2)?;
    ensure!(looked(&report) == Some((2, 2)), "{report:?}");
    expect_aborted(&mut client, &gone)?;
    expect_echo(&mut client, &others)
}

/// The index names no backend that only such sockets are connected to.
fn reconcile_says_that_it_does_not_know_them(world: &mut World) -> Result<()> {
    need_mptcp()?;
    world.serve(&[tcp(1), tcp(2), udp(1)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    let living = living(vec![udp(1)]);
    expect_complete(&world.tell(living.clone(), false)?, 0)?;
    let unknown = connect_mptcp(&mut client, tcp(1), 1)?;
    let known = [connect_mptcp(&mut client, tcp(2), 1)?, vec![connect(&mut client, tcp(2))?]].concat();
    let report = world.tell(living, false)?;
    ensure!(report.incomplete_because == [Incomplete::KernelSockets].into(), "{report:?}");
    ensure!(report.destroyed == 2 && looked(&report) == Some((1, 1)), "{report:?}");
    expect_aborted(&mut client, &known)?;
    expect_echo(&mut client, &unknown)?;
    ensure!(client.destroyed(Selection::List(vec![socket.handle]))?.is_empty());
    Ok(())
}

/// The client of a 9p mount belongs to no socket of a program: destroying it would break the mount.
fn other_kernel_sockets_are_counted_and_left_alone(world: &mut World) -> Result<()> {
    need_9p()?;
    world.add_address(tcp(1).addr())?;
    // The mount ends when the server does, and the client when the mount does: the server is dropped first.
    let mut client = world.client("client")?;
    let mut server = world.outsider("server")?;
    let listener = server.open(OpenSpec { bind: Some(tcp(1).socket_addr()), ..spec_for(tcp(1)) })?;
    server.listen(listener, 8)?;
    client.mount_9p(tcp(1).socket_addr())?;
    let mounted = server.accept(listener, PATIENCE_MS)?;
    ensure!(!server.recv(mounted, PATIENCE_MS)?.is_empty(), "the kernel asks for nothing");
    let plain = connect(&mut client, tcp(1))?;
    let counters = world.counters()?;
    ensure!(counters.inserts == 1 && counters.ignored_kernel == 1, "{counters:?}");
    for destroyed in [1, 0] {
        let report = world.reap(tcp(1))?;
        ensure!(
            (report.victims, report.destroyed, report.skipped.kernel) == (destroyed, destroyed, 1),
            "{report:?}"
        );
        ensure!(report.incomplete_because == [Incomplete::KernelSockets].into(), "{report:?}");
        ensure!(looked(&report) == Some((0, 0)), "{report:?}");
    }
    ensure!(client.destroyed(Selection::List(vec![plain.handle]))? == [plain.cookie]);
    // It goes on: nothing comes to the server, and no end either.
    let received = errno(server.recv(mounted, 200).map(drop))?;
    ensure!(received == libc::EAGAIN, "errno {received}");
    let shown = shown(world, tcp(1))?;
    ensure!(shown.len() == 1 && !shown[0].1, "{shown:?}");
    let audit = world.reaper().audit()?;
    ensure!(audit.agrees && audit.missed == 0 && audit.kernel == 1, "{audit:?}");
    Ok(())
}

fn need_9p() -> Result<()> {
    let known = std::fs::read_to_string("/proc/filesystems")?;
    match known.lines().any(|line| line.split_whitespace().last() == Some("9p")) {
        true => Ok(()),
        false => {
            Err(Skip("no kernel client: 9p is not among /proc/filesystems; load 9p and 9pnet_fd").into())
        }
    }
}

fn backends_without_kernel_sockets_are_not_looked_at(world: &mut World) -> Result<()> {
    need_mptcp()?;
    world.serve(&[tcp(1), tcp(2), udp(1)])?;
    let mut client = world.client("client")?;
    let sockets = connect_mptcp(&mut client, tcp(2), 1)?;
    for backend in [tcp(1), udp(1)] {
        let socket = connect(&mut client, backend)?;
        let report = world.reap(backend)?;
        expect_complete(&report, 1)?;
        ensure!(looked(&report).is_none() && report.fallbacks.is_empty(), "{report:?}");
        ensure!(client.destroyed(Selection::List(vec![socket.handle]))? == [socket.cookie]);
    }
    expect_echo(&mut client, &sockets)
}
