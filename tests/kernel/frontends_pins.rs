//! Frontends across services: those of sockets that are older than the service, and those that pins keep.

use std::path::Path;

use anyhow::Result;
use skreap::Reaper;
use skreap::bpf::Config;
use skreap::choice::EngineChoice;
use skreap::core::{EngineName, Event, Report, UnknownFrontend};
use skreap_testbed::{Bpffs, Selection};

use crate::case::{Case, case};
use crate::frontends::{A, DIRECT, POD, V4, backend, expect_skips, many_to, through};
use crate::sockets::*;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let behind = WorldOptions { frontends: 64, balancer: V4, ..WorldOptions::default() };
    vec![
        case!(older_sockets_have_no_frontend).with(behind).only(EngineName::Netlink),
        case!(pins_keep_frontends).with(behind).only(EngineName::Netlink),
        case!(pins_with_the_option_and_without).with(behind).only(EngineName::Netlink),
    ]
}

/// A second service, with the sizes of the tests of pins.
fn second(world: &World, frontends: u32, pins: Option<&Path>) -> Result<Reaper> {
    let mut builder = Reaper::builder()
        .cgroup(world.cgroup().path())
        .config(Config::default().max_sockets(4096).buckets(1024).frontends(frontends))
        .engine(EngineChoice::Named(world.reaper().engine()));
    if let Some(pins) = pins {
        builder = builder.pin(pins);
    }
    Ok(builder.build()?)
}

fn handle(reaper: &mut Reaper, frontend: &str) -> Report {
    let through = through(&[frontend], UnknownFrontend::Preserve);
    reaper.handle(&Event::deleted(backend(POD)).with_through(through))
}

fn older_sockets_have_no_frontend(world: &mut World) -> Result<()> {
    world.serve(&[backend(POD)])?;
    let mut client = world.client("client")?;
    many_to(&mut client, A, 3)?;
    many_to(&mut client, POD, 2)?;
    let mut later = second(world, 64, None)?;
    let through_a = many_to(&mut client, A, 1)?;
    let report = handle(&mut later, A);
    expect_exactly(&report, &mut [&mut client], &through_a)?;
    expect_skips(&report, 0, 5)
}

/// The next process knows what this one knew; what was recorded while nobody looked is forgotten.
fn pins_keep_frontends(world: &mut World) -> Result<()> {
    world.serve(&[backend(POD)])?;
    let bpffs = Bpffs::create()?;
    let pins = bpffs.path("pins");
    let mut client = world.client("client")?;
    let mut first = second(world, 64, Some(&pins))?;
    let through_a = many_to(&mut client, A, 3)?;
    let direct = many_to(&mut client, POD, 2)?;
    first.tidy();
    first.tidy();
    drop(first);
    let meanwhile = many_to(&mut client, A, 4)?;
    let mut next = second(world, 64, Some(&pins))?;
    let later = many_to(&mut client, A, 1)?;
    let report = handle(&mut next, A);
    expect_exactly(&report, &mut [&mut client], &[through_a, later].concat())?;
    expect_skips(&report, 2, 4)?;
    let report = handle(&mut next, DIRECT);
    expect_exactly(&report, &mut [&mut client], &direct)?;
    expect_skips(&report, 0, 4)?;
    let event = Event::deleted(backend(POD));
    expect_exactly(&next.handle(&event), &mut [&mut client], &meanwhile)?;
    drop(client);
    Ok(())
}

/// Another memory: the index is made anew, and the sockets are found as older ones. No event misses one.
fn pins_with_the_option_and_without(world: &mut World) -> Result<()> {
    world.serve(&[backend(POD)])?;
    let bpffs = Bpffs::create()?;
    let pins = bpffs.path("pins");
    let mut client = world.client("client")?;
    for frontends in [0, 64, 0, 64, 32] {
        let mut reaper = second(world, frontends, Some(&pins))?;
        many_to(&mut client, A, 1)?;
        reaper.tidy();
    }
    let mut reaper = second(world, 64, Some(&pins))?;
    let sockets = client.cookies(Selection::All)?;
    let report = handle(&mut reaper, A);
    expect_exactly(&report, &mut [&mut client], &[])?;
    expect_skips(&report, 0, 5)?;
    let event = Event::deleted(backend(POD));
    expect_exactly(&reaper.handle(&event), &mut [&mut client], &sockets)?;
    drop(client);
    Ok(())
}
