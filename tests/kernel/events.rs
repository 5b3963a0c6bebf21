//! Events on many backends, events that waited together, and the limits.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use skreap::core::{Action, Backend, EngineName, Incomplete, Limit};
use skreap_testbed::{Family, OpenSpec, Selection};

use crate::case::{Case, case};
use crate::sockets::*;
use crate::unconnected::sender;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let limited = WorldOptions { max_victims: Some(10), ..WorldOptions::default() };
    let paced = WorldOptions { max_rate: Some(200), ..WorldOptions::default() };
    vec![
        case!(many_backends_in_one_event),
        case!(many_backends_dry_run),
        case!(reconcile_spares_the_living).index_only(),
        case!(reconcile_of_an_index_without_the_dead).index_only(),
        case!(reconcile_passes_over_multicast).index_only(),
        case!(reconcile_within_networks).index_only(),
        case!(reconcile_of_too_many_is_refused).index_only().only(EngineName::Netlink),
        case!(reconcile_allows_itself_less).index_only().only(EngineName::Netlink),
        case!(events_that_waited_together_share_a_walk),
        case!(too_many_victims_are_refused).with(limited),
        case!(the_limit_is_for_the_whole_event).with(limited),
        case!(destroys_are_paced).with(paced),
    ]
}

fn deleted(backends: &[Backend]) -> Action {
    Action::BackendsDeleted { backends: backends.to_vec() }
}

fn many_backends_in_one_event(world: &mut World) -> Result<()> {
    let gone = [udp(1), tcp(1), udp6(1), udp(9)];
    world.serve(&gone[..3])?;
    world.serve(&[udp(2)])?;
    let mut client = world.client("client")?;
    let mut cookies = Vec::new();
    for (backend, count) in gone.into_iter().zip([5, 4, 3]) {
        cookies.extend(connect_many(&mut client, Default::default(), backend, count)?.cookies);
    }
    connect_many(&mut client, Default::default(), udp(2), 2)?;
    // Named twice is the same as once.
    let report = world.tell(deleted(&[&gone[..], &gone[..2]].concat()), false)?;
    expect_exactly(&report, &mut [&mut client], &cookies)?;
    let by_backend: Vec<_> =
        report.by_backend.iter().map(|b| (b.backend, b.visited, b.destroyed, b.failed, b.complete)).collect();
    ensure!(
        by_backend
            == [
                (udp(1), 5, 5, 0, true),
                (tcp(1), 4, 4, 0, true),
                (udp6(1), 3, 3, 0, true),
                // Asked, and so answered.
                (udp(9), 0, 0, 0, true),
            ],
        "{report:?}"
    );
    ensure!(expect_answers(&mut client)? == 2);
    Ok(())
}

fn many_backends_dry_run(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), tcp(1)])?;
    let mut client = world.client("client")?;
    let mut cookies = connect_many(&mut client, Default::default(), udp(1), 3)?.cookies;
    cookies.extend(connect_many(&mut client, Default::default(), tcp(1), 2)?.cookies);
    let report = world.tell(deleted(&[udp(1), tcp(1)]), true)?;
    let mut listed: Vec<u64> = report.sockets.context("no list")?.iter().map(|s| s.cookie).collect();
    listed.sort_unstable();
    cookies.sort_unstable();
    ensure!(listed == cookies && report.victims == 5 && report.destroyed == 0);
    ensure!(expect_answers(&mut client)? == 5);
    Ok(())
}

fn reconcile_spares_the_living(world: &mut World) -> Result<()> {
    let (alive, gone) = ([udp(1), tcp6(1)], [udp(2), tcp(2), udp6(2)]);
    world.serve(&alive)?;
    world.serve(&gone)?;
    let mut client = world.client("client")?;
    let mut cookies = Vec::new();
    for backend in gone {
        cookies.extend(connect_many(&mut client, Default::default(), backend, 4)?.cookies);
    }
    for backend in alive {
        connect_many(&mut client, Default::default(), backend, 3)?;
    }
    world.add_address(udp(5).addr())?;
    // Those that only send are preserved, and no reason to visit their backend.
    sender(&mut client, &[udp(5)])?;
    // More may live than anybody is connected to.
    let backends = vec![alive[0], alive[1], udp(7)];
    let listed = world.tell(living(backends.clone()), true)?;
    ensure!(listed.victims == 12 && listed.destroyed == 0 && listed.by_backend.len() == 3, "{listed:?}");
    let report = world.tell(living(backends), false)?;
    expect_exactly(&report, &mut [&mut client], &cookies)?;
    let mut reaped: Vec<Backend> = report.by_backend.iter().map(|b| b.backend).collect();
    let mut expected = gone.to_vec();
    reaped.sort_unstable();
    expected.sort_unstable();
    ensure!(reaped == expected, "{report:?}");
    ensure!(expect_answers(&mut client)? == 6);
    Ok(())
}

fn reconcile_of_an_index_without_the_dead(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let mut client = world.client("client")?;
    connect_many(&mut client, Default::default(), udp(1), 3)?;
    let report = world.tell(living(vec![udp(1)]), false)?;
    expect_exactly(&report, &mut [&mut client], &[])?;
    ensure!(report.visited == 0 && report.by_backend.is_empty(), "{report:?}");
    ensure!(expect_answers(&mut client)? == 3);
    Ok(())
}

/// Peers outside are not considered; a mapped peer is the IPv4 address it stands for.
fn reconcile_within_networks(world: &mut World) -> Result<()> {
    let gone = [udp(2), tcp(3), udp6(2)];
    world.serve(&gone)?;
    let mut client = world.client("client")?;
    let mut cookies = Vec::new();
    for backend in gone {
        cookies.push(connect_many(&mut client, Default::default(), backend, 2)?.cookies);
    }
    let through_v6 =
        open_to(&mut client, OpenSpec { family: Family::V6, ..spec_for(udp(2)) }, mapped(udp(2)))?;
    let reconcile = |within: &[&str]| {
        let within = within.iter().map(|network| network.parse()).collect::<Result<_, _>>()?;
        Ok::<_, anyhow::Error>(Action::Reconcile { backends: vec![udp(1)], within, max_victims: None })
    };
    let report = world.tell(reconcile(&["10.177.1.0/24", "fd78::/16"])?, false)?;
    expect_exactly(&report, &mut [&mut client], &[])?;
    ensure!(report.by_backend.is_empty(), "{report:?}");
    // 10.177.0.2 and not 10.177.0.3
    let report = world.tell(reconcile(&["10.177.0.2/32"])?, false)?;
    cookies[0].push(through_v6.cookie);
    expect_exactly(&report, &mut [&mut client], &cookies[0])?;
    let report = world.tell(reconcile(&["10.0.0.0/8"])?, false)?;
    expect_exactly(&report, &mut [&mut client], &cookies[1])?;
    let report = world.tell(reconcile(&["192.0.2.0/24", "fd77::/16"])?, false)?;
    expect_exactly(&report, &mut [&mut client], &cookies[2])?;
    let guard = report.guard.context("no guard")?;
    ensure!(guard.limit == Some(Limit::ReconcileMax) && guard.max_victims == Some(100), "{report:?}");
    Ok(())
}

/// A hundred at least, or a tenth of what is connected.
fn reconcile_of_too_many_is_refused(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2), tcp(2)])?;
    let mut client = world.client("client")?;
    connect_many(&mut client, Default::default(), udp(1), 3)?;
    let opened = connect_many(&mut client, Default::default(), udp(2), 61)?;
    let more = connect_many(&mut client, Default::default(), tcp(2), 40)?;
    let report = world.attempt(living(vec![udp(1)]), false);
    let guard = report.guard.context("no guard")?;
    ensure!(guard.refused && guard.limit == Some(Limit::ReconcileMax), "{report:?}");
    ensure!((guard.max_victims, guard.found) == (Some(100), Some(101)), "{report:?}");
    ensure!(report.incomplete_because == [Incomplete::Refused].into() && report.victims == 0, "{report:?}");
    let error = format!(
        "refused: 101 victims are more than the 100 that one reconcile may have, and nothing was destroyed; if it is \
         right, raise --reconcile-max of the service; it would have destroyed 101 sockets of 2 backends: {} (61), {} \
         (40)",
        udp(2),
        tcp(2)
    );
    ensure!(report.error.as_ref() == Some(&error), "{report:?}");
    ensure!(expect_answers(&mut client)? == 104);
    // A dry run lists them all, and says that it would be refused.
    let listed = world.tell(living(vec![udp(1)]), true)?;
    let guard = listed.guard.context("no guard")?;
    ensure!(listed.victims == 101 && guard.refused && guard.found == Some(101), "{listed:?}");
    // One less is allowed.
    client.close(opened.first)?;
    let report = world.tell(living(vec![udp(1)]), false)?;
    let cookies = [&opened.cookies[1..], &more.cookies[..]].concat();
    expect_exactly(&report, &mut [&mut client], &cookies)?;
    ensure!(expect_answers(&mut client)? == 3);
    Ok(())
}

fn reconcile_allows_itself_less(world: &mut World) -> Result<()> {
    world.serve(&[udp(2)])?;
    let mut client = world.client("client")?;
    let opened = connect_many(&mut client, Default::default(), udp(2), 3)?;
    let most = |n| Action::Reconcile { backends: vec![udp(1)], within: Vec::new(), max_victims: Some(n) };
    let report = world.attempt(most(2), false);
    let guard = report.guard.context("no guard")?;
    ensure!(guard.refused && guard.limit == Some(Limit::OfTheEvent) && guard.found == Some(3), "{report:?}");
    ensure!(expect_answers(&mut client)? == 3);
    expect_exactly(&world.tell(most(3), false)?, &mut [&mut client], &opened.cookies)
}

/// A socket may be connected to what can be no backend.
fn reconcile_passes_over_multicast(world: &mut World) -> Result<()> {
    let own = udp(1).addr();
    let netns = world.fresh_netns("multicast", own)?;
    let mut client = world.client_at("client", &netns)?;
    let spec = OpenSpec { bind: Some((own, 0).into()), ..spec_for(udp(1)) };
    let socket = open_to(&mut client, spec, ([239, 1, 1, 1], 53).into())?;
    let report = world.tell(living(vec![udp(2)]), false)?;
    expect_exactly(&report, &mut [], &[])?;
    ensure!(client.state(socket.handle)?.errno == 0);
    Ok(())
}

/// Every id is answered; the work is done once, and is in one report.
fn events_that_waited_together_share_a_walk(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let mut cookies = connect_many(&mut client, Default::default(), udp(1), 5)?.cookies;
    cookies.extend(connect_many(&mut client, Default::default(), udp(2), 3)?.cookies);
    let one = |backend| Action::BackendDeleted { backend };
    let reports =
        world.tell_together(&[one(udp(1)), one(udp(1)), deleted(&[udp(1), udp(2)]), one(udp(2))])?;
    let numbers: Vec<(u64, u64)> = reports.iter().map(|r| (r.visited, r.destroyed)).collect();
    ensure!(numbers == [(5, 5), (0, 0), (3, 3), (0, 0)], "{reports:?}");
    ensure!(reports.iter().all(|r| r.complete), "{reports:?}");
    ensure!(reports[0].merged.is_empty(), "{reports:?}");
    ensure!(reports[1].merged == [(udp(1), reports[0].id.clone())].into(), "{reports:?}");
    ensure!(reports[2].merged == [(udp(1), reports[0].id.clone())].into(), "{reports:?}");
    ensure!(reports[3].merged == [(udp(2), reports[2].id.clone())].into(), "{reports:?}");
    let mut died = client.destroyed(Selection::All)?;
    died.sort_unstable();
    cookies.sort_unstable();
    ensure!(died == cookies);
    Ok(())
}

fn too_many_victims_are_refused(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let mut client = world.client("client")?;
    let opened = connect_many(&mut client, Default::default(), udp(1), 11)?;
    let report = world.attempt(Action::BackendDeleted { backend: udp(1) }, false);
    let guard = report.guard.context("no guard")?;
    ensure!(guard.refused && guard.max_victims == Some(10) && guard.found == Some(11), "{report:?}");
    ensure!(report.incomplete_because == [Incomplete::Refused].into() && report.victims == 0, "{report:?}");
    ensure!(report.error.as_ref().is_some_and(|e| e.contains("--max-victims")), "{report:?}");
    ensure!(expect_answers(&mut client)? == 11);
    let listed = world.dry_run(udp(1))?;
    ensure!(listed.victims == 11 && listed.guard.is_some_and(|guard| guard.refused), "{listed:?}");
    // One less is allowed.
    client.close(opened.first)?;
    let report = world.reap(udp(1))?;
    expect_exactly(&report, &mut [&mut client], &opened.cookies[1..])?;
    let guard = report.guard.context("no guard")?;
    ensure!(!guard.refused && guard.found == Some(10) && guard.max_rate.is_none(), "{report:?}");
    Ok(())
}

fn the_limit_is_for_the_whole_event(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let first = connect_many(&mut client, Default::default(), udp(1), 6)?.cookies;
    let second = connect_many(&mut client, Default::default(), udp(2), 6)?.cookies;
    let report = world.attempt(deleted(&[udp(1), udp(2)]), false);
    ensure!(report.guard.is_some_and(|guard| guard.refused && guard.found == Some(12)), "{report:?}");
    ensure!(expect_answers(&mut client)? == 12);
    // A refused event is not what another one can be merged with.
    expect_exactly(&world.reap(udp(1))?, &mut [&mut client], &first)?;
    expect_exactly(&world.reap(udp(2))?, &mut [&mut client], &second)
}

/// 200 a second, in batches of ten.
fn destroys_are_paced(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let mut cookies = connect_many(&mut client, Default::default(), udp(1), 60)?.cookies;
    cookies.extend(connect_many(&mut client, Default::default(), udp(2), 10)?.cookies);
    let start = Instant::now();
    let reports = [world.reap(udp(1))?, world.reap(udp(2))?];
    let took = start.elapsed();
    let mut paced_ns = 0;
    for (report, destroyed) in reports.iter().zip([60, 10]) {
        expect_complete(report, destroyed)?;
        let guard = report.guard.context("no guard")?;
        ensure!(guard.max_rate.is_some_and(|rate| rate.get() == 200) && guard.max_victims.is_none());
        paced_ns += guard.paced_ns;
    }
    // The last ten go when the 60 before them have had their 300 ms, however the engine destroys.
    ensure!(took >= Duration::from_millis(300), "{took:?}");
    ensure!(
        u128::from(paced_ns) <= took.as_nanos() && paced_ns >= 200_000_000,
        "waited {paced_ns} of {took:?}"
    );
    let mut died = client.destroyed(Selection::All)?;
    died.sort_unstable();
    cookies.sort_unstable();
    ensure!(died == cookies);
    Ok(())
}
