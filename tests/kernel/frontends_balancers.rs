//! Load balancers that come before, behind, above and below the programs that record frontends.

use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result, ensure};
use skreap::Reaper;
use skreap::bpf::Config;
use skreap::choice::EngineChoice;
use skreap::core::{Action, Event, Through, UnknownFrontend};
use skreap_testbed::bpf::{LoadBalancer, Placing};
use skreap_testbed::{Client, SpawnOptions};

use crate::case::{Case, case};
use crate::frontends::{
    A, B, DIRECT, POD, UNKNOWN, backend, balance, expect_listed, expect_skips, many_to, reap_through, through,
};
use crate::sockets::*;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let plain = WorldOptions { frontends: 64, ..WorldOptions::default() };
    vec![
        case!(balancer_after_the_hooks).with(plain).index_only(),
        case!(balancer_behind_our_back).with(plain).index_only(),
        case!(balancer_on_a_child).with(plain).index_only(),
        case!(balancer_with_preorder_after_ours).with(plain).index_only(),
        case!(balancer_before_the_first_program).with(plain).index_only(),
        case!(balancer_that_was_first_for_a_moment).with(plain).index_only(),
        case!(balancer_above_that_is_first).with(plain).index_only(),
    ]
}

/// Two through each service and two directly, of which everything is known.
fn expect_known(world: &mut World, client: &mut Client) -> Result<()> {
    let through_a = many_to(client, A, 2)?;
    let through_b = many_to(client, B, 2)?;
    let direct = many_to(client, POD, 2)?;
    expect_listed(world, POD, &[(&through_a, A), (&through_b, B), (&direct, DIRECT)])?;
    expect_exactly(&reap_through(world, POD, B)?, &mut [client], &through_b)?;
    expect_exactly(&reap_through(world, POD, DIRECT)?, &mut [client], &direct)?;
    expect_exactly(&reap_through(world, POD, A)?, &mut [client], &through_a)
}

/// Attached behind ours; seen before anybody connects.
fn balancer_after_the_hooks(world: &mut World) -> Result<()> {
    world.serve(&[backend(POD)])?;
    let mut client = world.client("client")?;
    let _balancer = balance(world, Placing::Last)?;
    world.tidy();
    expect_known(world, &mut client)
}

/// Attached behind ours, and nobody has looked when clients connect: what they named is not known. Nor is it of a
/// socket that was connected to the backend before, and is again, by way of the service.
fn balancer_behind_our_back(world: &mut World) -> Result<()> {
    world.serve(&[backend(POD)])?;
    let mut client = world.client("client")?;
    let old = many_to(&mut client, POD, 3)?;
    let moves = connect(&mut client, backend(POD))?;
    // What was recorded before the last look but one is beyond doubt.
    world.tidy();
    world.tidy();
    let _balancer = balance(world, Placing::Last)?;
    let through_a = many_to(&mut client, A, 4)?;
    client.connect(moves.handle, backend(A).socket_addr())?;
    let unknown: Vec<u64> = through_a.iter().copied().chain([moves.cookie]).collect();
    expect_listed(world, POD, &[(&old, DIRECT), (&unknown, UNKNOWN)])?;
    let report = reap_through(world, POD, A)?;
    expect_exactly(&report, &mut [&mut client], &[])?;
    expect_skips(&report, 3, 5)?;
    let action = Action::BackendDeleted { backend: backend(POD) };
    let report = world.tell_through(action, through(&[A], UnknownFrontend::Destroy), false)?;
    expect_exactly(&report, &mut [&mut client], &unknown)?;
    expect_exactly(&reap_through(world, POD, DIRECT)?, &mut [&mut client], &old)?;
    expect_known(world, &mut client)
}

fn balancer_on_a_child(world: &mut World) -> Result<()> {
    world.serve(&[backend(POD)])?;
    let child = world.cgroup().child("child")?;
    let options = SpawnOptions { label: "client", cgroup: Some(&child), netns: Some(world.netns(0)) };
    let mut client = Client::spawn(&options)?;
    let entries = [(backend(A), backend(POD)), (backend(B), backend(POD))];
    for placing in [Placing::Last, Placing::Preorder, Placing::First] {
        let _balancer = LoadBalancer::attach_placed(&entries, child.open()?.as_fd(), placing)?;
        expect_known(world, &mut client)?;
    }
    Ok(())
}

fn balancer_with_preorder_after_ours(world: &mut World) -> Result<()> {
    world.serve(&[backend(POD)])?;
    let mut client = world.client("client")?;
    let _balancer = balance(world, Placing::Preorder)?;
    world.tidy();
    expect_known(world, &mut client)?;
    let first = world.reaper().order().first.context("no first programs")?;
    ensure!(first.first && first.moves == 0, "{first:?}");
    Ok(())
}

/// Attached before our first program: it sees backends only, until it is the first again.
fn balancer_before_the_first_program(world: &mut World) -> Result<()> {
    world.serve(&[backend(POD)])?;
    let mut client = world.client("client")?;
    let old = many_to(&mut client, POD, 3)?;
    world.tidy();
    world.tidy();
    let _balancer = balance(world, Placing::First)?;
    let doubtful = [many_to(&mut client, A, 2)?, many_to(&mut client, POD, 2)?].concat();
    expect_listed(world, POD, &[(&old, DIRECT), (&doubtful, UNKNOWN)])?;
    let first = world.reaper().order().first.context("no first programs")?;
    ensure!(first.first && first.moves == 4, "{first:?}");
    let report = reap_through(world, POD, DIRECT)?;
    expect_exactly(&report, &mut [&mut client], &old)?;
    expect_skips(&report, 0, 4)?;
    expect_known_beside(world, &mut client, 4)
}

/// As [`expect_known`], beside sockets of which nothing is known.
fn expect_known_beside(world: &mut World, client: &mut Client, unknown: u64) -> Result<()> {
    let through_a = many_to(client, A, 2)?;
    let direct = many_to(client, POD, 2)?;
    let report = reap_through(world, POD, A)?;
    expect_exactly(&report, &mut [client], &through_a)?;
    expect_skips(&report, 2, unknown)?;
    let report = reap_through(world, POD, DIRECT)?;
    expect_exactly(&report, &mut [client], &direct)?;
    expect_skips(&report, 0, unknown)
}

/// Came and went between two looks: the order is as it was, and yet what was recorded is not right.
fn balancer_that_was_first_for_a_moment(world: &mut World) -> Result<()> {
    world.serve(&[backend(POD)])?;
    let mut client = world.client("client")?;
    let old = many_to(&mut client, POD, 3)?;
    world.tidy();
    world.tidy();
    let balancer = balance(world, Placing::First)?;
    let doubtful = many_to(&mut client, A, 4)?;
    drop(balancer);
    expect_listed(world, POD, &[(&old, DIRECT), (&doubtful, UNKNOWN)])?;
    let first = world.reaper().order().first.context("no first programs")?;
    ensure!(first.first && first.moves == 0, "{first:?}");
    expect_exactly(&reap_through(world, POD, DIRECT)?, &mut [&mut client], &old)
}

/// On a parent, with PREORDER: nothing gets before it, so no frontend is recorded while it is there.
fn balancer_above_that_is_first(world: &mut World) -> Result<()> {
    world.serve(&[backend(POD)])?;
    let child = world.cgroup().child("child")?;
    let mut reaper = Reaper::builder()
        .cgroup(child.path())
        .config(Config::default().max_sockets(1000).frontends(64))
        .engine(EngineChoice::Named(world.reaper().engine()))
        .build()?;
    let options = SpawnOptions { label: "client", cgroup: Some(&child), netns: Some(world.netns(0)) };
    let mut client = Client::spawn(&options)?;
    let direct = many_to(&mut client, POD, 3)?;
    reaper.tidy();
    reaper.tidy();
    let balancer = balance(world, Placing::Preorder)?;
    let doubtful = many_to(&mut client, A, 4)?;
    let event = |through: Through| Event::deleted(backend(POD)).with_through(through);
    let report = reaper.handle(&event(through(&[A], UnknownFrontend::Preserve)));
    expect_exactly(&report, &mut [&mut client], &[])?;
    expect_skips(&report, 3, 4)?;
    ensure!(!reaper.order().first.context("no first programs")?.first, "{:?}", reaper.order());
    // Recorded as unknown from the start.
    let later = many_to(&mut client, A, 2)?;
    let report = reaper.handle(&event(through(&[DIRECT], UnknownFrontend::Preserve)));
    expect_exactly(&report, &mut [&mut client], &direct)?;
    expect_skips(&report, 0, 6)?;
    let counters = reaper.index().frontends().context("no frontends")?.counters()?;
    ensure!(counters.not_first == 2, "{counters:?}");
    drop(balancer);
    reaper.tidy();
    ensure!(reaper.order().first.context("no first programs")?.first, "{:?}", reaper.order());
    let again = many_to(&mut client, POD, 2)?;
    let report = reaper.handle(&event(through(&[DIRECT], UnknownFrontend::Preserve)));
    expect_exactly(&report, &mut [&mut client], &again)?;
    let report = reaper.handle(&event(through(&[DIRECT], UnknownFrontend::Destroy)));
    expect_exactly(&report, &mut [&mut client], &[doubtful, later].concat())?;
    drop(client);
    Ok(())
}
