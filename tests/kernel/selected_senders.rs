//! Selectors, and sockets that an event meets more than once: named twice, or sending to several backends.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use skreap::core::{EngineName, FallbackReason, Incomplete, Limit, Report, Skipped, Unconnected};
use skreap_testbed::{Client, OpenSpec, with};

use crate::case::{Case, case};
use crate::selectors::{event, expect, report_of, terminate};
use crate::senders::{bound_sender, no_peer};
use crate::sockets::*;
use crate::unconnected::{send_to_all, sender};
use crate::wildcard::backends;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let plain = WorldOptions::default();
    let two = WorldOptions { netns: 2, ..plain };
    let destroy = WorldOptions { unconnected: Unconnected::Destroy, ..plain };
    let four = WorldOptions { max_memberships: 4, ..destroy };
    vec![
        case!(a_backend_that_is_named_twice_is_one),
        case!(a_sender_to_two_named_backends_is_one_victim).index_only().with(destroy),
        case!(a_sender_that_is_left_alone_counts_once).index_only(),
        case!(senders_are_excepted_by_their_backends).index_only().with(destroy),
        case!(a_sender_to_an_excepted_backend_and_another).index_only().with(destroy),
        case!(a_reuseport_group_beside_an_exception).index_only().with(destroy),
        case!(a_reconcile_finds_each_backend_of_a_sender).index_only().with(destroy),
        case!(an_unknown_sender_makes_a_selected_reconcile_incomplete).index_only().with(four),
        case!(an_unknown_sender_is_no_matter_of_tcp).with(four),
        case!(by_device).with(two),
        case!(a_tenth_of_what_a_reconcile_selects).with(two).only(EngineName::Netlink),
    ]
}

/// Has an event handled, which must be possible.
fn tell(world: &mut World, json: &Value) -> Result<Report> {
    world.tell_event(&event(json, false)?)
}

/// As `where`, and with an exception.
fn but(selector: Value, except: Value) -> Value {
    let mut json = terminate(selector);
    json["except"] = except;
    json
}

/// By a list that repeats it, in another spelling, by ranges that overlap: its sockets are found once, and count once.
fn a_backend_that_is_named_twice_is_one(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    connect(&mut client, udp(2))?;
    for (to, ports) in [
        (json!(["10.177.0.1", "::ffff:10.177.0.1"]), json!(["53"])),
        (json!(["10.177.0.1", "10.177.0.1/32"]), json!(["53"])),
        (json!(["10.177.0.1"]), json!(["53", "53-53"])),
    ] {
        let opened = connect_many(&mut client, Default::default(), udp(1), 3)?.cookies;
        let mut json = terminate(json!({"protocol": "udp", "to": to, "ports": ports}));
        json["max_victims"] = json!(3);
        let report = report_of(world, &json, &mut [&mut client], &opened)?;
        ensure!(report.guard.is_some_and(|guard| guard.found == Some(3)), "{report:?}");
        ensure!(expect_answers(&mut client)? == 1);
    }
    Ok(())
}

/// It is in the buckets of both, and a pass meets both of its nodes.
fn a_sender_to_two_named_backends_is_one_victim(world: &mut World) -> Result<()> {
    backends(world, 2)?;
    let mut client = world.client("client")?;
    let sender = bound_sender(&mut client, 4001, &[udp(1), udp(2)])?;
    for ports in ["53", "53-54"] {
        let json =
            terminate(json!({"protocol": "udp", "to": ["10.177.0.1", "10.177.0.2"], "ports": [ports]}));
        let report = tell(world, &json)?;
        expect_destroyed(&report, &mut [&mut client], &[sender.cookie])?;
        expect_skipped(&report, true, no_peer(1))?;
        ensure!(report.visited == 2, "{report:?}");
    }
    Ok(())
}

/// However many of its backends are selected.
fn a_sender_that_is_left_alone_counts_once(world: &mut World) -> Result<()> {
    backends(world, 4)?;
    let mut client = world.client("client")?;
    sender(&mut client, &[udp(1), udp(2), udp(3)])?;
    sender(&mut client, &[udp(2), udp(4)])?;
    sender(&mut client, &[udp(1)])?;
    sender(&mut client, &[udp(4)])?;
    let connected = connect(&mut client, udp(3))?.cookie;
    let json = terminate(json!({"to": ["10.177.0.0/30"]}));
    let report = tell(world, &json)?;
    expect_destroyed(&report, &mut [&mut client], &[connected])?;
    expect_skipped(&report, true, with(|s: &mut Skipped| s.unconnected = 3))?;
    ensure!(report.visited == 4, "{report:?}");
    Ok(())
}

/// What an exception says of the peer is said of the backend that they have sent to; the socket does not show it.
fn senders_are_excepted_by_their_backends(world: &mut World) -> Result<()> {
    backends(world, 1)?;
    let mut client = world.client("client")?;
    let sender = bound_sender(&mut client, 4001, &[udp(1)])?;
    let exact = json!({"protocol": "udp", "to": ["10.177.0.1"], "ports": ["53"]});
    let pass = json!({"to": ["10.177.0.0/16"]});
    for (except, is_victim) in [
        (json!({"to": ["10.177.0.9"]}), true),
        (json!({"to": ["10.177.0.1"], "ports": ["54"]}), true),
        (json!({"protocol": "tcp"}), true),
        (json!({"to": ["10.177.0.1"], "uid": 4711}), true),
        (json!({"to": ["10.177.0.1"]}), false),
        (json!({"to": ["10.0.0.0/8"], "uid": 0}), false),
        (json!({"uid": 0}), false),
    ] {
        for selector in [&exact, &pass] {
            let report = tell(world, &but(selector.clone(), except.clone()))?;
            let died: &[u64] = if is_victim { &[sender.cookie] } else { &[] };
            expect_destroyed(&report, &mut [&mut client], died)
                .with_context(|| format!("{selector} except {except}"))?;
            let not_selected = u64::from(!is_victim && selector == &exact);
            expect_skipped(&report, true, with(|s: &mut Skipped| s.not_selected = not_selected))?;
        }
    }
    Ok(())
}

fn a_sender_to_an_excepted_backend_and_another(world: &mut World) -> Result<()> {
    backends(world, 2)?;
    let mut client = world.client("client")?;
    let sender = bound_sender(&mut client, 4001, &[udp(1), udp(2)])?;
    for (ports, not_selected) in [("53", 1), ("53-54", 0)] {
        for except in ["10.177.0.1", "10.177.0.2"] {
            let selector = json!({"protocol": "udp", "to": ["10.177.0.1", "10.177.0.2"], "ports": [ports]});
            let report = tell(world, &but(selector, json!({"to": [except]})))?;
            expect_destroyed(&report, &mut [&mut client], &[sender.cookie])?;
            expect_skipped(&report, true, with(|s: &mut Skipped| s.not_selected = not_selected))?;
        }
    }
    Ok(())
}

/// The kernel finds one of the group by its id. For the others the event looks again, and has to find them.
fn a_reuseport_group_beside_an_exception(world: &mut World) -> Result<()> {
    backends(world, 1)?;
    let mut client = world.client("client")?;
    let spec = OpenSpec { bind: Some("0.0.0.0:4000".parse()?), reuse_port: true, ..spec_for(udp(1)) };
    let mut group = Vec::new();
    for _ in 0..3 {
        let socket = open(&mut client, spec.clone())?;
        send_to_all(&mut client, socket, &[udp(1)])?;
        group.push(socket.cookie);
    }
    let exact = json!({"protocol": "udp", "to": ["10.177.0.1"], "ports": ["53"]});
    for selector in [json!({"to": ["10.177.0.0/16"]}), exact] {
        let report = tell(world, &but(selector, json!({"to": ["10.177.0.9"]})))?;
        expect_destroyed(&report, &mut [&mut client], &group)?;
        ensure!(report.fallbacks.iter().all(|f| f.because == FallbackReason::NoExactId), "{report:?}");
    }
    Ok(())
}

/// Whichever of its nodes the pass meets first.
fn a_reconcile_finds_each_backend_of_a_sender(world: &mut World) -> Result<()> {
    backends(world, 3)?;
    let mut client = world.client("client")?;
    let json = json!({"type": "reconcile", "backends": [udp(1)], "where": {"uid": 0}});
    for to in [[udp(1), udp(2)], [udp(2), udp(1)]] {
        let socket = sender(&mut client, &to)?;
        let report = tell(world, &json)?;
        expect_destroyed(&report, &mut [&mut client], &[socket.cookie])?;
        let found: Vec<_> = report.by_backend.iter().map(|one| (one.backend, one.victims)).collect();
        ensure!(found == [(udp(2), 1)], "{report:?}");
        client.close(socket.handle)?;
    }
    Ok(())
}

/// As one without a selector.
fn an_unknown_sender_makes_a_selected_reconcile_incomplete(world: &mut World) -> Result<()> {
    let backends = backends(world, 6)?;
    let mut client = world.client("client")?;
    sender(&mut client, &backends)?;
    for (selector, why) in [
        (json!({"uid": 0}), Some(Incomplete::WildcardUnconnected)),
        (json!({"protocol": "udp"}), Some(Incomplete::WildcardUnconnected)),
        (json!({"protocol": "tcp"}), None),
        (json!({"uid": 4711}), None),
    ] {
        let json = json!({"type": "reconcile", "backends": [udp(9)], "where": selector});
        let report = tell(world, &json)?;
        ensure!(report.victims == 0 && report.incomplete_because.iter().eq(why.iter()), "{json}: {report:?}");
    }
    Ok(())
}

/// Nobody knows to whom it has sent; but that it was by UDP.
fn an_unknown_sender_is_no_matter_of_tcp(world: &mut World) -> Result<()> {
    world.serve(&[tcp(1)])?;
    let backends = backends(world, 6)?;
    let mut client = world.client("client")?;
    let socket = sender(&mut client, &backends)?;
    let exact = json!({"protocol": "tcp", "to": ["10.177.0.1"], "ports": ["80"]});
    for selector in [json!({"protocol": "tcp"}), exact] {
        let connected = connect_many(&mut client, Default::default(), tcp(1), 2)?.cookies;
        expect(world, &terminate(selector), &mut [&mut client], &connected)?;
    }
    let connected = connect(&mut client, tcp(1))?;
    expect_exactly(&world.reap(tcp(1))?, &mut [&mut client], &[connected.cookie])?;
    for selector in [json!({"protocol": "udp"}), json!({"uid": 0})] {
        let report = tell(world, &terminate(selector))?;
        ensure!(report.incomplete_because.iter().eq([&Incomplete::WildcardUnconnected]), "{report:?}");
        ensure!(report.victims == 0, "{report:?}");
    }
    ensure!(client.state(socket.handle)?.errno == 0);
    Ok(())
}

/// Bound to it by `SO_BINDTODEVICE`: others that use the interface are not, and in another netns its number means another.
fn by_device(world: &mut World) -> Result<()> {
    let gone: skreap::core::Backend = "udp://10.177.1.1:53".parse()?;
    for netns in 0..2 {
        world.netns(netns).add_veth("left", "right", gone.addr())?;
    }
    let [mut here, mut there] = [world.client_in("here", 0)?, world.client_in("there", 1)?];
    let bound = |client: &mut Client, device: &str| -> Result<u64> {
        let spec = OpenSpec { device: Some(device.to_owned()), ..spec_for(gone) };
        Ok(open_to(client, spec, gone.socket_addr())?.cookie)
    };
    let on_left = [bound(&mut here, "left")?, bound(&mut here, "left")?];
    let theirs = bound(&mut there, "left")?;
    let plain = connect(&mut here, gone)?.cookie;
    let name = world.netns(0).name().to_owned();
    let on = |device: &str| terminate(json!({"netns": name, "interface": device}));
    expect(world, &on("right"), &mut [&mut here, &mut there], &[])?;
    expect(world, &on("left"), &mut [&mut here, &mut there], &on_left)?;
    let rest = terminate(json!({"to": ["10.177.1.1"]}));
    expect(world, &rest, &mut [&mut here, &mut there], &[plain, theirs])
}

/// A hundred at least; sockets that it does not select do not raise the limit.
fn a_tenth_of_what_a_reconcile_selects(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let [mut here, mut there] = [world.client_in("here", 0)?, world.client_in("there", 1)?];
    let opened = connect_many(&mut here, Default::default(), udp(1), 101)?;
    connect_many(&mut there, Default::default(), udp(2), 1200)?;
    let json = json!({"type": "reconcile", "backends": [udp(2)], "where": {"netns": world.netns(0).name()}});
    let refused = world.reaper_mut().handle(&event(&json, false)?);
    let guard = refused.guard.context("no guard")?;
    ensure!((guard.found, guard.max_victims) == (Some(101), Some(100)) && guard.refused, "{refused:?}");
    ensure!(guard.limit == Some(Limit::ReconcileMax) && refused.victims == 0, "{refused:?}");
    here.close(opened.first)?;
    expect_exactly(&tell(world, &json)?, &mut [&mut here, &mut there], &opened.cookies[1..])
}
