//! An index that is full: counted, reported, completed by a fallback scan, and nothing else goes wrong.

use anyhow::{Result, ensure};
use skreap::core::{EngineName, FallbackReason, Incomplete, Report, Unconnected};

use crate::case::{Case, case};
use crate::sockets::*;
use crate::unconnected::{send_to_all, sender};
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let small = WorldOptions { max_sockets: 64, buckets: 16, ..WorldOptions::default() };
    let tiny = WorldOptions { max_sockets: 16, buckets: 4, netns: 2, ..WorldOptions::default() };
    let destroy = WorldOptions { unconnected: Unconnected::Destroy, ..tiny };
    vec![
        case!(full_index_says_which_backends_are_incomplete).index_only().with(small),
        case!(full_index_takes_new_sockets_when_old_ones_close).index_only().with(small),
        case!(full_index_and_a_socket_with_many_peers).index_only().with(small),
        case!(full_index_misses_nobody).index_only().with(tiny),
        case!(full_index_and_a_dry_run).index_only().with(tiny),
        case!(full_index_and_unconnected_senders).index_only().with(destroy),
        case!(full_index_and_a_reconcile).index_only().with(tiny),
    ]
}

fn full_index_says_which_backends_are_incomplete(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let all_known = connect_many(&mut client, Default::default(), udp(1), 60)?;
    let some_known = connect_many(&mut client, Default::default(), udp(2), 40)?;
    let counters = world.counters()?;
    ensure!(counters.dropped_full == 36 && counters.live() == 64 && counters.free_nodes == 0, "{counters:?}");
    ensure!(counters.balanced(), "{counters:?}");

    // The walk finds the first four, the scan the rest.
    let report = world.reap(udp(2))?;
    expect_scanned(&report, 36)?;
    ensure!(report.visited == 40, "{report:?}");
    expect_exactly(&report, &mut [&mut client], &some_known.cookies)?;
    // The other one was affected only if both fall on one of 65,536 bits.
    let report = world.reap(udp(1))?;
    expect_exactly(&report, &mut [&mut client], &all_known.cookies)?;
    ensure!(report.fallbacks.is_empty(), "{report:?}");

    client.close_all()?;
    let counters = world.counters()?;
    ensure!(counters.inserts == 64 && counters.removals == 64 && counters.free_nodes == 64, "{counters:?}");
    ensure!(counters.releases == 64 && counters.releases_without_node == 36, "{counters:?}");
    // It stays said: one of the sockets that were not recorded might still be there.
    expect_scanned(&world.reap(udp(2))?, 0)
}

/// Says that the event had a fallback scan, and that it destroyed that many.
pub fn expect_scanned(report: &Report, destroyed: u64) -> Result<()> {
    let [fallback] = report.fallbacks[..] else {
        anyhow::bail!("no fallback to one scan: {report:?}");
    };
    ensure!(
        fallback.engine == EngineName::DiagFilter
            && fallback.because == FallbackReason::IndexFull
            && fallback.victims == destroyed
            && fallback.destroyed == destroyed
            && report.complete,
        "{report:?}"
    );
    Ok(())
}

/// Room for 16 of 120 sockets in two netns, of both protocols and families.
fn full_index_misses_nobody(world: &mut World) -> Result<()> {
    let backends = [udp(1), tcp(1), udp6(1), tcp6(1)];
    world.serve(&backends)?;
    world.serve(&[udp(2)])?;
    let mut clients = [world.client_in("first", 0)?, world.client_in("second", 1)?];
    let mut outsider = world.outsider("outsider")?;
    let mut cookies = vec![Vec::new(); backends.len()];
    for round in 0..3 {
        for (backend, cookies) in backends.into_iter().zip(&mut cookies) {
            for client in &mut clients {
                cookies.extend(connect_many(client, Default::default(), backend, 4 + round)?.cookies);
            }
            connect(&mut outsider, backend)?;
        }
    }
    let mut rest = 120 - 16;
    connect(&mut clients[0], udp(2))?;
    let counters = world.counters()?;
    ensure!(counters.dropped_full == rest + 1 && counters.live() == 16, "{counters:?}");
    let [first, second] = &mut clients;
    for (backend, cookies) in backends.into_iter().zip(&cookies) {
        let report = world.reap(backend)?;
        let scanned = report.fallbacks.first().map_or(0, |fallback| fallback.destroyed);
        expect_scanned(&report, scanned)?;
        rest -= scanned;
        expect_exactly(&report, &mut [first, second, &mut outsider], cookies)?;
    }
    ensure!(rest == 0, "{rest} of those that had no room were found without a scan");
    ensure!(expect_answers(&mut outsider)? == 12 && expect_answers(first)? == 1);
    Ok(())
}

/// What walk and scan both see is listed once.
fn full_index_and_a_dry_run(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let mut client = world.client("client")?;
    let mut cookies = connect_many(&mut client, Default::default(), udp(1), 50)?.cookies;
    cookies.sort_unstable();
    for _ in 0..2 {
        let report = world.dry_run(udp(1))?;
        ensure!(report.complete && report.victims == 50 && report.visited == 50, "{report:?}");
        ensure!(report.fallbacks.len() == 1 && report.fallbacks[0].victims == 34, "{report:?}");
        let mut listed: Vec<u64> = report.sockets.iter().flatten().map(|socket| socket.cookie).collect();
        listed.sort_unstable();
        ensure!(listed == cookies, "{listed:?}");
    }
    ensure!(expect_answers(&mut client)? == 50);
    expect_exactly(&world.reap(udp(1))?, &mut [&mut client], &cookies)
}

/// Whom an unconnected socket has sent to, nothing but the index could have said.
fn full_index_and_unconnected_senders(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let mut client = world.client("client")?;
    let recorded = connect_many(&mut client, Default::default(), udp(1), 16)?;
    let lost = sender(&mut client, &[udp(1)])?;
    let connected = connect(&mut client, udp(1))?;
    let report = world.reap(udp(1))?;
    ensure!(report.incomplete_because == [Incomplete::WildcardUnconnected].into(), "{report:?}");
    ensure!(report.destroyed == 17 && report.fallbacks[0].destroyed == 1, "{report:?}");
    ensure!(client.state(lost.handle)?.errno == 0);
    ensure!(client.state(connected.handle)?.destroyed());
    ensure!(client.destroyed(recorded.selection())?.len() == 16);
    Ok(())
}

/// A backend none of whose sockets had room is not known at all: a reconcile says that it may have missed some.
fn full_index_and_a_reconcile(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2), udp(3)])?;
    let mut client = world.client("client")?;
    let gone = connect_many(&mut client, Default::default(), udp(1), 8)?;
    connect_many(&mut client, Default::default(), udp(2), 8)?;
    let more = connect_many(&mut client, Default::default(), udp(1), 3)?;
    let unknown = connect(&mut client, udp(3))?;
    let report = world.tell(living(vec![udp(2)]), false)?;
    ensure!(report.incomplete_because == [Incomplete::IndexFull].into(), "{report:?}");
    ensure!(report.destroyed == 11 && report.fallbacks[0].destroyed == 3, "{report:?}");
    ensure!(client.destroyed(gone.selection())?.len() + client.destroyed(more.selection())?.len() == 11);
    ensure!(client.state(unknown.handle)?.errno == 0);
    ensure!(expect_answers(&mut client)? == 9);
    Ok(())
}

fn full_index_takes_new_sockets_when_old_ones_close(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let first = connect_many(&mut client, Default::default(), udp(1), 64)?;
    ensure!(world.counters()?.dropped_full == 0);
    for handle in first.first..first.first + 10 {
        client.close(handle)?;
    }
    let second = connect_many(&mut client, Default::default(), udp(2), 10)?;
    let counters = world.counters()?;
    ensure!(counters.dropped_full == 0 && counters.live() == 64 && counters.inserts == 74, "{counters:?}");
    expect_exactly(&world.reap(udp(2))?, &mut [&mut client], &second.cookies)?;
    expect_exactly(&world.reap(udp(1))?, &mut [&mut client], &first.cookies[10..])
}

/// No room for another membership of a socket that has some.
fn full_index_and_a_socket_with_many_peers(world: &mut World) -> Result<()> {
    let backends: Vec<_> = (1..=10).map(udp).collect();
    for backend in &backends {
        world.add_address(backend.addr())?;
    }
    world.serve(&[udp(11)])?;
    let mut client = world.client("client")?;
    let bulk = connect_many(&mut client, Default::default(), udp(11), 60)?;
    let socket = sender(&mut client, &backends)?;
    let counters = world.counters()?;
    ensure!(counters.dropped_full == 6 && counters.live() == 64 && counters.wildcard == 0, "{counters:?}");
    // A connect that is not recorded is incomplete for its backend, and only for that.
    client.connect(socket.handle, udp(12).socket_addr()).err();
    send_to_all(&mut client, socket, &backends[..4])?;
    expect_exactly(&world.reap(udp(11))?, &mut [&mut client], &bulk.cookies)?;
    for backend in &backends[4..] {
        expect_scanned(&world.reap(*backend)?, 0)?;
    }
    client.close(socket.handle)?;
    let counters = world.counters()?;
    ensure!(counters.live() == 60 && counters.free_nodes == 4, "{counters:?}");
    Ok(())
}
