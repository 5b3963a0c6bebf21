//! Frontends: two services with one backend, and clients that name the backend itself. No socket may ever be taken for
//! one of another frontend; what cannot be known is unknown, and counted.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result, ensure};
use skreap::bpf::FrontendCounters;
use skreap::core::{
    Action, Backend, EngineName, Frontend, Incomplete, Report, Skipped, Through, Unconnected, UnknownFrontend,
};
use skreap_testbed::bpf::{LoadBalancer, Placing, detach_named_connect4};
use skreap_testbed::{Client, Family, OpenSpec, with};

use crate::case::{Case, case};
use crate::sockets::*;
use crate::unconnected::{send_to_all, sender};
use crate::world::{World, WorldOptions};

pub const A: &str = "udp://10.177.9.1:5353";
pub const B: &str = "udp://10.177.9.2:5353";
pub const A6: &str = "udp://[fd77::9:1]:5353";
pub const B6: &str = "udp://[fd77::9:2]:5353";
const A_TCP: &str = "tcp://10.177.9.1:8080";
const B_TCP: &str = "tcp://10.177.9.2:8080";
pub const POD: &str = "udp://10.177.0.1:53";
pub const POD6: &str = "udp://[fd77::1]:53";
const POD_TCP: &str = "tcp://10.177.0.1:80";
pub const DIRECT: &str = "direct";
pub const UNKNOWN: &str = "unknown";

/// Two services with one pod.
pub const V4: &[(&str, &str)] = &[(A, POD), (B, POD)];
pub const V6: &[(&str, &str)] = &[(A6, POD6), (B6, POD6)];
const TCP: &[(&str, &str)] = &[(A_TCP, POD_TCP), (B_TCP, POD_TCP)];

pub fn cases() -> Vec<Case> {
    let plain = WorldOptions { frontends: 64, ..WorldOptions::default() };
    let behind = |balancer| WorldOptions { balancer, ..plain };
    let destroy = WorldOptions { unconnected: Unconnected::Destroy, ..behind(V4) };
    vec![
        case!(each_form_kills_its_own_udp).with(behind(V4)).index_only(),
        case!(each_form_kills_its_own_udp6).with(behind(V6)).index_only(),
        case!(each_form_kills_its_own_tcp).with(behind(TCP)).index_only(),
        case!(each_form_kills_its_own_mapped).with(plain).index_only(),
        case!(lists_of_frontends_and_of_backends).with(behind(V4)).index_only(),
        case!(senders_have_frontends_too).with(destroy).index_only(),
        case!(a_sender_through_two_frontends_has_none).with(destroy).index_only(),
        case!(a_socket_connects_through_the_other_service).with(behind(V4)).index_only(),
        case!(a_connect_through_the_other_service_may_fail).with(behind(V4)).index_only(),
        case!(a_failed_connect_changes_no_frontend).with(behind(V4)).index_only(),
        case!(a_full_table_says_so).with(WorldOptions { frontends: 2, ..behind(V4) }).index_only(),
        case!(without_a_note_a_frontend_is_unknown).with(behind(V4)).only(EngineName::Netlink),
        case!(a_full_index_makes_a_restricted_event_incomplete)
            .with(WorldOptions { max_sockets: 10, ..behind(V4) })
            .only(EngineName::Netlink),
        case!(without_the_option_an_event_is_refused).index_only(),
        case!(scans_refuse).with(behind(V4)).only(EngineName::Iter).and(EngineName::Diag),
    ]
}

pub fn backend(text: &str) -> Backend {
    text.parse().unwrap_or_else(|error| unreachable!("{text}: {error}"))
}

pub fn through(frontends: &[&str], unknown: UnknownFrontend) -> Through {
    let parsed =
        |text: &&str| text.parse::<Frontend>().unwrap_or_else(|error| unreachable!("{text}: {error}"));
    Through { frontends: frontends.iter().map(parsed).collect(), unknown }
}

/// Has the clients of the pod destroyed that came through this frontend.
pub fn reap_through(world: &mut World, pod: &str, frontend: &str) -> Result<Report> {
    let action = Action::BackendDeleted { backend: backend(pod) };
    world.tell_through(action, through(&[frontend], UnknownFrontend::Preserve), false)
}

/// Which frontend each socket of the pod came through, as a dry run says.
pub fn listed(world: &mut World, pod: &str) -> Result<BTreeMap<u64, String>> {
    let report = world.dry_run(backend(pod))?;
    let sockets = report.sockets.as_ref().context("a dry run lists its victims")?;
    let named = |frontend: &Option<String>| frontend.clone().context("a victim without a frontend");
    sockets.iter().map(|socket| Ok((socket.cookie, named(&socket.frontend)?))).collect()
}

/// Says that exactly these sockets came through these frontends.
pub fn expect_listed(world: &mut World, pod: &str, expected: &[(&[u64], &str)]) -> Result<()> {
    let found = listed(world, pod)?;
    let expected: BTreeMap<u64, String> = expected
        .iter()
        .flat_map(|(cookies, frontend)| cookies.iter().map(|cookie| (*cookie, (*frontend).to_owned())))
        .collect();
    ensure!(found == expected, "{found:?}, not {expected:?}");
    Ok(())
}

pub fn expect_skips(report: &Report, frontend: u64, frontend_unknown: u64) -> Result<()> {
    let skipped = with(|s: &mut Skipped| (s.frontend, s.frontend_unknown) = (frontend, frontend_unknown));
    let mut found = report.skipped;
    (found.no_peer, found.moved_on) = (0, 0);
    ensure!(found == skipped, "{skipped:?}: {report:?}");
    Ok(())
}

fn counters(world: &World) -> Result<FrontendCounters> {
    Ok(world.reaper().index().frontends().context("no frontends")?.counters()?)
}

pub fn many_to(client: &mut Client, to: &str, count: u32) -> Result<Vec<u64>> {
    Ok(connect_many(client, Default::default(), backend(to), count)?.cookies)
}

/// Three through one service, four through the other, five directly.
fn three_ways(world: &mut World, a: &str, b: &str, pod: &str, open: &Opener<'_>) -> Result<()> {
    world.serve(&[backend(pod)])?;
    let mut client = world.client("client")?;
    let through_a = open(&mut client, a, 3)?;
    let through_b = open(&mut client, b, 4)?;
    let direct = open(&mut client, pod, 5)?;
    expect_listed(world, pod, &[(&through_a, a), (&through_b, b), (&direct, DIRECT)])?;
    ensure!(expect_answers(&mut client)? == 12);

    let report = reap_through(world, pod, a)?;
    expect_skips(&report, 9, 0)?;
    ensure!(report.visited == 12, "{report:?}");
    expect_exactly(&report, &mut [&mut client], &through_a)?;
    let report = reap_through(world, pod, DIRECT)?;
    expect_skips(&report, 4, 0)?;
    expect_exactly(&report, &mut [&mut client], &direct)?;
    let report = reap_through(world, pod, a)?;
    expect_skips(&report, 4, 0)?;
    expect_exactly(&report, &mut [&mut client], &[])?;
    let report = reap_through(world, pod, b)?;
    expect_skips(&report, 0, 0)?;
    expect_exactly(&report, &mut [&mut client], &through_b)?;
    let found = counters(world)?;
    let expected = with(|s: &mut FrontendCounters| (s.known, s.room) = (2, 64));
    ensure!(found == expected, "{found:?}, not {expected:?}");
    Ok(())
}

type Opener<'a> = dyn Fn(&mut Client, &str, u32) -> Result<Vec<u64>> + 'a;

fn each_form_kills_its_own_udp(world: &mut World) -> Result<()> {
    three_ways(world, A, B, POD, &many_to)
}

fn each_form_kills_its_own_udp6(world: &mut World) -> Result<()> {
    three_ways(world, A6, B6, POD6, &many_to)
}

fn each_form_kills_its_own_tcp(world: &mut World) -> Result<()> {
    three_ways(world, A_TCP, B_TCP, POD_TCP, &many_to)
}

/// IPv6 sockets that name IPv4 addresses: their frontends are IPv4, and the same as those of IPv4 sockets.
fn each_form_kills_its_own_mapped(world: &mut World) -> Result<()> {
    let mut balancer = balance(world, Placing::Last)?;
    balancer.translate_mapped(world.cgroup().open()?.as_fd())?;
    world.tidy();
    three_ways(world, A, B, POD, &|client, to, count| {
        let spec = || OpenSpec { family: Family::V6, ..spec_for(backend(POD)) };
        let mut cookies = many_to(client, to, 1)?;
        for _ in 1..count {
            cookies.push(open_to(client, spec(), mapped(backend(to)))?.cookie);
        }
        Ok(cookies)
    })
}

fn lists_of_frontends_and_of_backends(world: &mut World) -> Result<()> {
    world.serve(&[backend(POD), udp(2)])?;
    let mut client = world.client("client")?;
    let through_a = many_to(&mut client, A, 2)?;
    let through_b = many_to(&mut client, B, 2)?;
    let mut direct = many_to(&mut client, POD, 2)?;
    let mut elsewhere = connect_many(&mut client, Default::default(), udp(2), 2)?.cookies;
    let action = Action::BackendDeleted { backend: backend(POD) };
    let report = world.tell_through(action, through(&[A, B], UnknownFrontend::Preserve), false)?;
    let both: Vec<u64> = through_a.into_iter().chain(through_b).collect();
    expect_exactly(&report, &mut [&mut client], &both)?;
    expect_skips(&report, 2, 0)?;
    let action = Action::BackendsDeleted { backends: vec![backend(POD), udp(2)] };
    let report = world.tell_through(action, through(&[DIRECT], UnknownFrontend::Preserve), false)?;
    direct.append(&mut elsewhere);
    expect_exactly(&report, &mut [&mut client], &direct)
}

/// What is sent without connecting.
fn senders_have_frontends_too(world: &mut World) -> Result<()> {
    world.serve(&[backend(POD)])?;
    let mut client = world.client("client")?;
    let a = sender(&mut client, &[backend(A)])?;
    let b = sender(&mut client, &[backend(B)])?;
    let direct = sender(&mut client, &[backend(POD)])?;
    // Again, as ever.
    send_to_all(&mut client, a, &[backend(A), backend(A)])?;
    // An IPv6 socket sends to the mapped address of the service.
    let six = open(&mut client, OpenSpec { family: Family::V6, ..spec_for(backend(POD)) })?;
    client.send_to(six.handle, mapped(backend(A)), b"hello")?;
    expect_listed(world, POD, &[(&[a.cookie, six.cookie], A), (&[b.cookie], B), (&[direct.cookie], DIRECT)])?;
    client.close(six.handle)?;
    for (frontend, cookie, others) in [(A, a.cookie, 2), (DIRECT, direct.cookie, 1), (B, b.cookie, 0)] {
        let report = reap_through(world, POD, frontend)?;
        expect_destroyed(&report, &mut [&mut client], &[cookie])?;
        ensure!(report.skipped.frontend == others, "{report:?}");
    }
    Ok(())
}

fn a_sender_through_two_frontends_has_none(world: &mut World) -> Result<()> {
    world.serve(&[backend(POD)])?;
    let mut client = world.client("client")?;
    let both = sender(&mut client, &[backend(A), backend(B)])?;
    // Connected through one, it sends through the other: the connect counts.
    let connected = connect(&mut client, backend(A))?;
    send_to_all(&mut client, connected, &[backend(B)])?;
    expect_listed(world, POD, &[(&[both.cookie], UNKNOWN), (&[connected.cookie], A)])?;
    // Without its peer, it is a sender of whom nobody knows.
    client.disconnect(connected.handle)?;
    send_to_all(&mut client, connected, &[backend(B)])?;
    expect_listed(world, POD, &[(&[both.cookie, connected.cookie], UNKNOWN)])?;
    let report = reap_through(world, POD, A)?;
    expect_destroyed(&report, &mut [&mut client], &[])?;
    expect_skips(&report, 0, 2)?;
    let action = Action::BackendDeleted { backend: backend(POD) };
    let report = world.tell_through(action, through(&[A], UnknownFrontend::Destroy), false)?;
    ensure!(report.frontend_unknown == 2, "{report:?}");
    expect_destroyed(&report, &mut [&mut client], &[both.cookie, connected.cookie])
}

/// The backend stays the same, the frontend does not.
fn a_socket_connects_through_the_other_service(world: &mut World) -> Result<()> {
    world.serve(&[backend(POD)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, backend(A))?;
    for to in [B, POD, A, A, B] {
        // Without a peer first: see the next test.
        client.disconnect(socket.handle)?;
        client.connect(socket.handle, backend(to).socket_addr())?;
        let frontend = if to == POD { DIRECT } else { to };
        expect_listed(world, POD, &[(&[socket.cookie], frontend)])?;
    }
    expect_exactly(&reap_through(world, POD, A)?, &mut [&mut client], &[])?;
    expect_exactly(&reap_through(world, POD, B)?, &mut [&mut client], &[socket.cookie])
}

/// The hook does not know whether the second connect will fail, and the first stand.
fn a_connect_through_the_other_service_may_fail(world: &mut World) -> Result<()> {
    world.serve(&[backend(POD)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, backend(A))?;
    client.connect(socket.handle, backend(A).socket_addr())?;
    expect_listed(world, POD, &[(&[socket.cookie], A)])?;
    for to in [B, A, POD] {
        client.connect(socket.handle, backend(to).socket_addr())?;
        expect_listed(world, POD, &[(&[socket.cookie], UNKNOWN)])?;
        let report = reap_through(world, POD, to)?;
        expect_skips(&report, 0, 1)?;
        expect_exactly(&report, &mut [&mut client], &[])?;
    }
    client.disconnect(socket.handle)?;
    client.connect(socket.handle, backend(B).socket_addr())?;
    expect_exactly(&reap_through(world, POD, B)?, &mut [&mut client], &[socket.cookie])
}

/// The old peer stays in force, and with it the way to it.
fn a_failed_connect_changes_no_frontend(world: &mut World) -> Result<()> {
    world.serve(&[backend(POD)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, backend(A))?;
    let nowhere: SocketAddr = "203.0.113.9:53".parse()?;
    ensure!(errno(client.connect(socket.handle, nowhere))? == libc::ENETUNREACH);
    expect_listed(world, POD, &[(&[socket.cookie], A)])?;
    expect_exactly(&reap_through(world, POD, A)?, &mut [&mut client], &[socket.cookie])
}

pub fn balance(world: &World, placing: Placing) -> Result<LoadBalancer> {
    let entries = [(backend(A), backend(POD)), (backend(B), backend(POD))];
    Ok(LoadBalancer::attach_placed(&entries, world.cgroup().open()?.as_fd(), placing)?)
}

/// Room for two: a third is unknown, and counted; who names the two, or the backend, is known as ever.
fn a_full_table_says_so(world: &mut World) -> Result<()> {
    const C: &str = "udp://10.177.9.3:5353";
    world.serve(&[backend(POD)])?;
    let mut client = world.client("client")?;
    let through_a = many_to(&mut client, A, 2)?;
    let through_b = many_to(&mut client, B, 2)?;
    world.exchange_balancer(&[(C, POD), (B, POD)])?;
    let third = many_to(&mut client, C, 3)?;
    let more_b = many_to(&mut client, B, 1)?;
    let direct = many_to(&mut client, POD, 1)?;
    let through_b = [through_b, more_b].concat();
    expect_listed(world, POD, &[(&through_a, A), (&through_b, B), (&third, UNKNOWN), (&direct, DIRECT)])?;
    let expected = with(|s: &mut FrontendCounters| (s.known, s.room, s.table_full) = (2, 2, 3));
    ensure!(counters(world)? == expected, "{:?}, not {expected:?}", counters(world)?);
    let report = reap_through(world, POD, C)?;
    expect_exactly(&report, &mut [&mut client], &[])?;
    expect_skips(&report, 6, 3)?;
    ensure!(report.frontend_unknown == 0, "{report:?}");
    let action = || Action::BackendDeleted { backend: backend(POD) };
    let destroy = |frontend| through(&[frontend], UnknownFrontend::Destroy);
    // One that is known beside those that are not; and as nothing but a dry run.
    let report = world.tell_through(action(), destroy(DIRECT), true)?;
    ensure!((report.victims, report.frontend_unknown) == (4, 3), "{report:?}");
    let report = world.tell_through(action(), destroy(C), false)?;
    expect_exactly(&report, &mut [&mut client], &third)?;
    ensure!(report.frontend_unknown == 3, "{report:?}");
    Ok(())
}

/// Somebody has detached the first program of the hook, and the service has not seen it yet.
fn without_a_note_a_frontend_is_unknown(world: &mut World) -> Result<()> {
    world.serve(&[backend(POD)])?;
    let mut client = world.client("client")?;
    many_to(&mut client, A, 2)?;
    let detached = detach_named_connect4(world.cgroup().open()?.as_fd(), "skreap_first_co")?;
    ensure!(detached == 1, "{detached} programs");
    let unnoted = [many_to(&mut client, A, 2)?, many_to(&mut client, POD, 1)?].concat();
    let expected = with(|s: &mut FrontendCounters| (s.known, s.room, s.no_note) = (1, 64, 3));
    ensure!(counters(world)? == expected, "{:?}, not {expected:?}", counters(world)?);
    let found = listed(world, POD)?;
    ensure!(unnoted.iter().all(|cookie| found.get(cookie).is_some_and(|name| name == UNKNOWN)), "{found:?}");
    expect_exactly(&reap_through(world, POD, DIRECT)?, &mut [&mut client], &[])
}

/// A scan would find what has no node, but not through which frontend it came: the event says that it may lack some.
fn a_full_index_makes_a_restricted_event_incomplete(world: &mut World) -> Result<()> {
    world.serve(&[backend(POD)])?;
    let mut client = world.client("client")?;
    let capacity = u32::try_from(world.counters()?.capacity)?;
    let listed = many_to(&mut client, A, capacity)?;
    many_to(&mut client, A, 3)?;
    let report = reap_through(world, POD, A)?;
    ensure!(!report.complete && report.fallbacks.is_empty(), "{report:?}");
    ensure!(report.incomplete_because.iter().eq([&Incomplete::IndexFull]), "{report:?}");
    let mut died = client.destroyed(skreap_testbed::Selection::All)?;
    died.sort_unstable();
    ensure!(died == listed && report.destroyed == u64::from(capacity), "{died:?}: {report:?}");
    Ok(())
}

fn refused(world: &mut World, says: &str) -> Result<()> {
    world.serve(&[backend(POD)])?;
    let mut client = world.client("client")?;
    many_to(&mut client, POD, 2)?;
    let action = Action::BackendDeleted { backend: backend(POD) };
    let report = world.attempt_through(action, through(&[DIRECT], UnknownFrontend::Destroy), false);
    let error = report.error.clone().unwrap_or_default();
    ensure!(error.contains(says) && report.victims == 0 && !report.complete, "{report:?}");
    ensure!(expect_answers(&mut client)? == 2);
    Ok(())
}

fn without_the_option_an_event_is_refused(world: &mut World) -> Result<()> {
    ensure!(world.reaper().index().frontends().is_none());
    refused(world, "start it with `serve --frontends`")
}

fn scans_refuse(world: &mut World) -> Result<()> {
    refused(world, "does not look into the index")
}
