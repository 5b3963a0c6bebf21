//! Selectors beside what else an event may say: which frontend, and what is done with the victims.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use skreap::core::{Backend, EngineName, Instead, Moved, Report, Revived};
use skreap_testbed::{Client, Selection};

use crate::case::{Case, case};
use crate::frontends::{A, B, POD, V4, backend, listed, many_to};
use crate::revive::end;
use crate::rules::{moves, rule, set};
use crate::selectors::event;
use crate::sockets::*;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let two = WorldOptions { netns: 2, ..WorldOptions::default() };
    let limited = WorldOptions { max_victims: Some(3), ..WorldOptions::default() };
    let frontends = WorldOptions { frontends: 64, balancer: V4, ..two };
    vec![
        case!(a_restricted_deletion_moves_its_own).with(two),
        case!(a_restricted_deletion_revives_its_own).with(two),
        case!(what_is_terminated_is_moved).only(EngineName::Netlink).and(EngineName::Iter),
        case!(what_is_terminated_is_revived).only(EngineName::Netlink).and(EngineName::Iter),
        case!(what_is_not_moved_is_spared).only(EngineName::Netlink),
        case!(a_destination_that_is_selected_is_refused).only(EngineName::Netlink),
        case!(what_has_state_is_only_destroyed).only(EngineName::Netlink),
        case!(what_an_action_leaves_alone_is_not_limited)
            .with(limited)
            .only(EngineName::Netlink)
            .and(EngineName::Iter),
        case!(what_has_state_is_destroyed_beside_what_is_spared)
            .only(EngineName::Netlink)
            .and(EngineName::Iter),
        case!(of_one_netns_and_one_frontend).with(frontends).index_only(),
        case!(a_frontend_moves_its_own).with(frontends).index_only(),
        case!(a_rule_moves_those_of_the_frontend).with(frontends).only(EngineName::Netlink),
    ]
}

fn peers(client: &mut Client) -> Result<BTreeMap<Option<SocketAddr>, u32>> {
    let mut peers = BTreeMap::new();
    for state in client.states(Selection::All)? {
        *peers.entry(state.peer).or_default() += 1;
    }
    Ok(peers)
}

/// So many sockets of the client are connected to each of these, and no others are.
fn expect_peers(client: &mut Client, expected: &[(Option<Backend>, u32)]) -> Result<()> {
    let expected = expected
        .iter()
        .map(|(peer, n)| (peer.map(|peer| peer.socket_addr()), *n))
        .collect::<BTreeMap<_, _>>();
    let found = peers(client)?;
    ensure!(found == expected, "{found:?}, not {expected:?}");
    Ok(())
}

fn tell(world: &mut World, json: &Value) -> Result<Report> {
    let event = event(json, false)?;
    world.tell_event(&event)
}

fn expect_moved(report: &Report, moved: u64, destroyed: u64) -> Result<()> {
    let all = Moved { sockets: moved, moved, not_moved: BTreeMap::new() };
    ensure!(report.moved == Some(all) && report.destroyed == destroyed && report.complete, "{report:?}");
    Ok(())
}

fn expect_revived(world: &World, revived: u64) -> Result<()> {
    let found = Revived { after_ns: 0, ..end(world)? };
    ensure!(found == Revived { sockets: revived, revived, ..Revived::default() }, "{found:?}");
    Ok(())
}

/// Two clients of one backend in two netns.
fn here_and_there(world: &mut World) -> Result<(String, Client, Client)> {
    world.serve(&[udp(1), udp(2)])?;
    let (mut here, mut there) = (world.client_in("here", 0)?, world.client_in("there", 1)?);
    connect_many(&mut here, Default::default(), udp(1), 3)?;
    connect_many(&mut there, Default::default(), udp(1), 2)?;
    Ok((world.netns(0).name().to_owned(), here, there))
}

fn a_restricted_deletion_moves_its_own(world: &mut World) -> Result<()> {
    let (name, mut here, mut there) = here_and_there(world)?;
    let json = json!({"type": "backend-deleted", "backend": udp(1), "where": {"netns": name},
                      "action": "move", "to": udp(2)});
    expect_moved(&tell(world, &json)?, 3, 0)?;
    expect_peers(&mut here, &[(Some(udp(2)), 3)])?;
    expect_peers(&mut there, &[(Some(udp(1)), 2)])?;
    ensure!(expect_answers(&mut here)? == 3 && expect_answers(&mut there)? == 2);
    Ok(())
}

fn a_restricted_deletion_revives_its_own(world: &mut World) -> Result<()> {
    let (name, mut here, mut there) = here_and_there(world)?;
    let json = json!({"type": "backend-deleted", "backend": udp(1), "except": {"netns": name},
                      "action": "revive", "to": udp(2), "after_ms": 0});
    let report = tell(world, &json)?;
    ensure!(report.destroyed == 2 && report.complete, "{report:?}");
    expect_revived(world, 2)?;
    expect_peers(&mut here, &[(Some(udp(1)), 3)])?;
    expect_peers(&mut there, &[(Some(udp(2)), 2)])
}

/// A client of three backends, of which two are selected, and of TCP.
fn of_many(world: &mut World) -> Result<Client> {
    world.serve(&[udp(1), udp(2), udp(3), tcp(1)])?;
    let mut client = world.client("client")?;
    for (to, count) in [(udp(1), 3), (udp(2), 2), (udp(3), 4), (tcp(1), 1)] {
        connect_many(&mut client, Default::default(), to, count)?;
    }
    Ok(client)
}

/// All but what is connected to the third.
fn most(action: &str) -> Value {
    json!({"type": "terminate", "where": {"to": ["10.177.0.0/16"]}, "except": {"to": [udp(3).addr()]},
           "action": action, "to": udp(3)})
}

fn what_is_terminated_is_moved(world: &mut World) -> Result<()> {
    let mut client = of_many(world)?;
    expect_moved(&tell(world, &most("move"))?, 5, 1)?;
    expect_peers(&mut client, &[(Some(udp(3)), 9), (None, 1)])
}

fn what_is_terminated_is_revived(world: &mut World) -> Result<()> {
    let mut client = of_many(world)?;
    let mut json = most("revive");
    json["after_ms"] = json!(0);
    let report = tell(world, &json)?;
    ensure!(report.destroyed == 6 && report.complete, "{report:?}");
    expect_revived(world, 5)?;
    expect_peers(&mut client, &[(Some(udp(3)), 9), (None, 1)])
}

fn what_is_not_moved_is_spared(world: &mut World) -> Result<()> {
    let mut client = of_many(world)?;
    let mut json = most("move");
    json["tcp"] = json!("spare");
    expect_moved(&tell(world, &json)?, 5, 0)?;
    expect_peers(&mut client, &[(Some(udp(3)), 9), (Some(tcp(1)), 1)])?;
    // Nothing is left to be done then.
    json["else"] = json!("spare");
    expect_moved(&tell(world, &json)?, 0, 0)?;
    expect_peers(&mut client, &[(Some(udp(3)), 9), (Some(tcp(1)), 1)])
}

fn a_destination_that_is_selected_is_refused(world: &mut World) -> Result<()> {
    let mut client = of_many(world)?;
    let mut json = most("move");
    json["except"] = json!({"to": [udp(2).addr()]});
    let refused = match event(&json, false) {
        Ok(event) => world.tell_event(&event).map(drop),
        Err(e) => Err(e),
    };
    let error = refused.err().map(|e| format!("{e:#}")).unwrap_or_default();
    ensure!(error.contains(&format!("{} is selected by the event itself", udp(3))), "{error}");
    expect_peers(&mut client, &[(Some(udp(1)), 3), (Some(udp(2)), 2), (Some(udp(3)), 4), (Some(tcp(1)), 1)])
}

fn what_has_state_is_only_destroyed(world: &mut World) -> Result<()> {
    let quic = Backend::new(udp(1).protocol(), udp(1).addr(), 443)?;
    world.serve(&[udp(1), quic, udp(3)])?;
    let mut client = world.client("client")?;
    connect_many(&mut client, Default::default(), udp(1), 3)?;
    connect_many(&mut client, Default::default(), quic, 2)?;
    let report = tell(world, &most("move"))?;
    expect_moved(&report, 3, 2)?;
    ensure!(report.stateful == [quic], "{report:?}");
    expect_peers(&mut client, &[(Some(udp(3)), 3), (None, 2)])
}

/// Only what is destroyed or moved is a victim.
fn what_an_action_leaves_alone_is_not_limited(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(3), tcp(1)])?;
    let mut client = world.client("client")?;
    connect_many(&mut client, Default::default(), udp(1), 3)?;
    connect_many(&mut client, Default::default(), tcp(1), 5)?;
    let found = |report: &Report| report.guard.as_ref().map(|guard| (guard.found, guard.refused));
    // Nothing is touched.
    let json = json!({"type": "terminate", "where": {"to": ["10.177.0.0/16"]}, "action": "none"});
    let counted = world.reaper_mut().handle(&event(&json, false)?);
    ensure!((counted.victims, counted.destroyed) == (8, 0) && counted.complete, "{counted:?}");
    ensure!(found(&counted) == Some((None, false)), "{counted:?}");
    let mut json = most("move");
    json["tcp"] = json!("spare");
    let listed = world.tell_event(&event(&json, true)?)?;
    ensure!((listed.victims, listed.skipped.spared) == (3, 5), "{listed:?}");
    ensure!(listed.sockets.as_ref().is_some_and(|sockets| sockets.len() == 3), "{listed:?}");
    ensure!(found(&listed) == Some((Some(3), false)), "{listed:?}");
    let report = tell(world, &json)?;
    ensure!(report.skipped.spared == 5 && found(&report) == Some((Some(3), false)), "{report:?}");
    expect_moved(&report, 3, 0)?;
    expect_peers(&mut client, &[(Some(udp(3)), 3), (Some(tcp(1)), 5)])?;
    // Of TCP alone nothing is left to be done.
    json["where"]["protocol"] = json!("tcp");
    let report = tell(world, &json)?;
    ensure!(report.skipped.spared == 5 && found(&report) == Some((Some(0), false)), "{report:?}");
    expect_moved(&report, 0, 0)?;
    // Otherwise they are too many.
    let all = json!({"type": "terminate", "where": {"protocol": "tcp"}});
    let refused = world.reaper_mut().handle(&event(&all, false)?);
    ensure!(found(&refused) == Some((Some(5), true)) && refused.destroyed == 0, "{refused:?}");
    expect_peers(&mut client, &[(Some(udp(3)), 3), (Some(tcp(1)), 5)])
}

/// Its sockets were not tried, so they are none of those that could not be moved.
fn what_has_state_is_destroyed_beside_what_is_spared(world: &mut World) -> Result<()> {
    let quic = Backend::new(udp(1).protocol(), udp(1).addr(), 443)?;
    world.serve(&[udp(1), quic, udp(3), tcp(1)])?;
    let mut client = world.client("client")?;
    for (to, count) in [(udp(1), 3), (quic, 2), (tcp(1), 1)] {
        connect_many(&mut client, Default::default(), to, count)?;
    }
    let mut json = most("move");
    json["tcp"] = json!("spare");
    json["else"] = json!("spare");
    let listed = world.tell_event(&event(&json, true)?)?;
    ensure!((listed.victims, listed.skipped.spared) == (5, 1), "{listed:?}");
    let report = tell(world, &json)?;
    expect_moved(&report, 3, 2)?;
    ensure!(report.stateful == [quic] && report.skipped.spared == 1, "{report:?}");
    expect_peers(&mut client, &[(Some(udp(3)), 3), (None, 2), (Some(tcp(1)), 1)])
}

/// Clients of both services and of the pod itself, in two netns.
fn three_ways_in_two(world: &mut World) -> Result<[(Client, [Vec<u64>; 3]); 2]> {
    world.serve(&[backend(POD), udp(2)])?;
    let mut all = Vec::new();
    for place in 0..2 {
        let mut client = world.client_in(&format!("client{place}"), place)?;
        let more = place as u32;
        let sockets = [
            many_to(&mut client, A, 3 + more)?,
            many_to(&mut client, B, 2 + more)?,
            many_to(&mut client, POD, 1 + more)?,
        ];
        all.push((client, sockets));
    }
    all.try_into().map_err(|_| anyhow::anyhow!("not two"))
}

fn of_one_netns_and_one_frontend(world: &mut World) -> Result<()> {
    let [(mut here, [through_a, ..]), (mut there, _)] = three_ways_in_two(world)?;
    let name = world.netns(0).name().to_owned();
    let json = json!({"type": "backend-deleted", "backend": POD, "frontend": A, "where": {"netns": name}});
    let shown = world.tell_event(&event(&json, true)?)?;
    let named: Vec<_> = shown.sockets.iter().flatten().filter_map(|socket| socket.frontend.clone()).collect();
    ensure!(shown.victims == 3 && named == [A, A, A], "{shown:?}");
    let report = tell(world, &json)?;
    // All who came through another frontend, and who came through this one in the other netns.
    ensure!(report.skipped.frontend == 8 && report.skipped.not_selected == 4, "{report:?}");
    expect_exactly(&report, &mut [&mut here, &mut there], &through_a)?;
    ensure!(listed(world, POD)?.len() == 12);
    Ok(())
}

fn a_frontend_moves_its_own(world: &mut World) -> Result<()> {
    let [(mut here, _), (mut there, _)] = three_ways_in_two(world)?;
    let json =
        json!({"type": "backend-deleted", "backend": POD, "frontend": B, "action": "move", "to": udp(2)});
    expect_moved(&tell(world, &json)?, 5, 0)?;
    expect_peers(&mut here, &[(Some(backend(POD)), 4), (Some(udp(2)), 2)])?;
    expect_peers(&mut there, &[(Some(backend(POD)), 6), (Some(udp(2)), 3)])
}

/// The event does not say what is done with its victims, but it does say who they are.
fn a_rule_moves_those_of_the_frontend(world: &mut World) -> Result<()> {
    let [(mut here, _), (mut there, _)] = three_ways_in_two(world)?;
    set(world, vec![rule("all", moves(udp(2), Instead::Destroy)?)])?;
    let json = json!({"type": "backend-deleted", "backend": POD, "frontend": B});
    expect_moved(&tell(world, &json)?, 5, 0)?;
    expect_peers(&mut here, &[(Some(backend(POD)), 4), (Some(udp(2)), 2)])?;
    expect_peers(&mut there, &[(Some(backend(POD)), 6), (Some(udp(2)), 3)])
}
