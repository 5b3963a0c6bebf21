//! Frontends of the victims of events that say by a selector which sockets are meant.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use skreap::core::Unconnected;

use crate::case::{Case, case};
use crate::frontends::{A, B, DIRECT, POD, V4, backend, many_to};
use crate::selectors::{event, terminate};
use crate::sockets::*;
use crate::unconnected::sender;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let plain = WorldOptions { frontends: 64, balancer: V4, ..WorldOptions::default() };
    let destroy = WorldOptions { unconnected: Unconnected::Destroy, ..plain };
    vec![
        case!(selected_victims_have_their_frontends).with(plain).index_only(),
        case!(selected_senders_have_their_frontends).with(destroy).index_only(),
        case!(victims_of_many_backends_have_their_frontends).with(plain).index_only(),
    ]
}

/// The frontends of those whom it would destroy.
fn named(world: &mut World, json: &Value) -> Result<BTreeMap<u64, String>> {
    let report = world.tell_event(&event(json, true)?)?;
    let sockets = report.sockets.as_ref().context("a dry run lists its victims")?;
    let frontend =
        |frontend: &Option<String>| frontend.clone().with_context(|| format!("{json}: without one"));
    sockets.iter().map(|socket| Ok((socket.cookie, frontend(&socket.frontend)?))).collect()
}

fn all(parts: &[(&[u64], &str)]) -> BTreeMap<u64, String> {
    let each = |(cookies, frontend): &(&[u64], &str)| {
        cookies.iter().map(|cookie| (*cookie, (*frontend).to_owned())).collect::<Vec<_>>()
    };
    parts.iter().flat_map(each).collect()
}

fn expect_named(world: &mut World, json: &Value, expected: &BTreeMap<u64, String>) -> Result<()> {
    let found = named(world, json)?;
    ensure!(&found == expected, "{json}: {found:?}, not {expected:?}");
    Ok(())
}

fn selected_victims_have_their_frontends(world: &mut World) -> Result<()> {
    world.serve(&[backend(POD), udp(2)])?;
    let mut client = world.client("client")?;
    let (a, b) = (many_to(&mut client, A, 2)?, many_to(&mut client, B, 1)?);
    let direct = many_to(&mut client, POD, 1)?;
    let other = connect_many(&mut client, Default::default(), udp(2), 1)?.cookies;
    let pod = all(&[(&a, A), (&b, B), (&direct, DIRECT)]);
    let both = all(&[(&a, A), (&b, B), (&direct, DIRECT), (&other, DIRECT)]);
    for json in [
        terminate(json!({"protocol": "udp", "to": ["10.177.0.1"], "ports": ["53"]})),
        terminate(json!({"to": ["10.177.0.1"]})),
        json!({"type": "policy", "where": {"uid": 0}, "allow": [{"to": ["10.177.0.2"]}]}),
        json!({"type": "backend-deleted", "backend": POD, "where": {"uid": 0}}),
    ] {
        expect_named(world, &json, &pod)?;
    }
    for json in [
        terminate(json!({"protocol": "udp", "to": ["10.177.0.1", "10.177.0.2"], "ports": ["53"]})),
        terminate(json!({"uid": 0})),
        json!({"type": "policy", "where": {"uid": 0}, "allow": [{"protocol": "tcp"}]}),
    ] {
        expect_named(world, &json, &both)?;
    }
    Ok(())
}

fn selected_senders_have_their_frontends(world: &mut World) -> Result<()> {
    world.serve(&[backend(POD)])?;
    let mut client = world.client("client")?;
    let a = [sender(&mut client, &[backend(A)])?.cookie];
    let b = [sender(&mut client, &[backend(B)])?.cookie];
    let direct = [sender(&mut client, &[backend(POD)])?.cookie];
    let connected = many_to(&mut client, B, 1)?;
    let expected = all(&[(&a, A), (&b, B), (&direct, DIRECT), (&connected, B)]);
    for json in [
        terminate(json!({"protocol": "udp", "to": ["10.177.0.1"], "ports": ["53"]})),
        terminate(json!({"to": ["10.177.0.1"]})),
        json!({"type": "backend-deleted", "backend": POD, "where": {"uid": 0}}),
    ] {
        expect_named(world, &json, &expected)?;
    }
    Ok(())
}

/// More than one walk for each is made for.
fn victims_of_many_backends_have_their_frontends(world: &mut World) -> Result<()> {
    world.serve(&[backend(POD)])?;
    let mut client = world.client("client")?;
    let a = many_to(&mut client, A, 1)?;
    let mut direct = Vec::new();
    for n in 2..=80 {
        world.add_address(udp(n).addr())?;
        direct.push(connect(&mut client, udp(n))?.cookie);
    }
    let expected = all(&[(&a, A), (&direct, DIRECT)]);
    expect_named(world, &terminate(json!({"to": ["10.177.0.0/16"]})), &expected)
}
