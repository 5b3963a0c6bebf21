//! Sockets in other network namespaces, in many, and in such that nothing leads to any more.

use std::panic::resume_unwind;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::case::{Case, case};
use crate::sockets::*;
use crate::world::{World, WorldOptions};
use skreap::core::EngineName;

pub fn cases() -> Vec<Case> {
    let spaces = |netns| WorldOptions { netns, ..WorldOptions::default() };
    vec![
        case!(other_netns).with(spaces(2)),
        case!(thirty_netns).with(spaces(30)),
        case!(netns_whose_name_was_deleted).with(spaces(2)),
        case!(netns_that_dies_meanwhile),
    ]
}

/// The client lives in one netns, its sockets are in two.
fn other_netns(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), tcp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let mut cookies = Vec::new();
    for netns in [0, 1] {
        let place = world.place(netns)?;
        cookies.extend(connect_many(&mut client, place.clone(), udp(1), 2)?.cookies);
        connect_many(&mut client, place.clone(), tcp(1), 2)?;
        connect_many(&mut client, place, udp(2), 2)?;
    }
    let listing = world.listing()?;
    ensure!(listing.backends[&udp(1)].netns == 2 && listing.backends[&udp(1)].connected == 4, "{listing:?}");
    let report = world.reap(udp(1))?;
    expect_exactly(&report, &mut [&mut client], &cookies)?;
    ensure!(expect_answers(&mut client)? == 8);
    Ok(())
}

fn thirty_netns(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp6(1), tcp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let mut died = [Vec::new(), Vec::new(), Vec::new()];
    for netns in 0..30 {
        let place = world.place(netns)?;
        for (backend, cookies) in [udp(1), udp6(1), tcp(1)].into_iter().zip(&mut died) {
            cookies.extend(connect_many(&mut client, place.clone(), backend, 2)?.cookies);
        }
        connect_many(&mut client, place, udp(2), 1)?;
    }
    for (backend, cookies) in [udp(1), udp6(1), tcp(1)].into_iter().zip(&died) {
        ensure!(cookies.len() == 60);
        let report = world.reap(backend)?;
        expect_exactly(&report, &mut [&mut client], cookies)?;
    }
    ensure!(expect_answers(&mut client)? == 30);
    Ok(())
}

/// The client lives on in a netns that has no name, and that no descriptor outside leads to.
fn netns_whose_name_was_deleted(world: &mut World) -> Result<()> {
    let addr = udp(1).addr();
    let mut inside = {
        let netns = world.fresh_netns("nameless", addr)?;
        let mut client = world.client_at("inside", &netns)?;
        // The backends live there too, in the client's process: nothing of ours holds the netns.
        for backend in [udp(1), "udp://10.177.0.1:54".parse()?] {
            start_echo(&mut client, backend)?;
        }
        client
    };
    let victims = connect_many(&mut inside, Default::default(), udp(1), 5)?;
    connect_many(&mut inside, Default::default(), "udp://10.177.0.1:54".parse()?, 3)?;
    let report = world.reap(udp(1))?;
    expect_exactly(&report, &mut [&mut inside], &victims.cookies)?;
    ensure!(expect_answers(&mut inside)? == 3);

    // A second time, when the engine has been there before and the name of another one goes.
    world.serve(&[tcp(2)])?;
    let mut other = world.client_in("other", 1)?;
    let victims = connect_many(&mut other, Default::default(), tcp(2), 2)?;
    world.forget_netns(1)?;
    let again = connect_many(&mut inside, Default::default(), udp(1), 2)?;
    expect_destroyed(&world.reap(tcp(2))?, &mut [&mut other], &victims.cookies)?;
    expect_destroyed(&world.reap(udp(1))?, &mut [&mut inside], &again.cookies)
}

/// The last process of a netns is killed while its sockets are being destroyed: each victim was either destroyed
/// or gone, and none failed.
fn netns_that_dies_meanwhile(world: &mut World) -> Result<()> {
    const ROUNDS: u32 = 200;
    const SOCKETS: u32 = 1000;
    const STEP: Duration = Duration::from_micros(250);
    const LEAD_MAX: i32 = 4000;
    let (mut destroyed, mut gone) = (0, 0);
    // How many steps the event comes before the kill; below 0, after it.
    let mut lead = 0_i32;
    for round in 0..ROUNDS {
        let netns = world.fresh_netns(&format!("dying{round}"), udp(1).addr())?;
        let mut client = world.client_at("dying", &netns)?;
        connect_many(&mut client, Default::default(), udp(1), SOCKETS)?;
        drop(netns);
        let killer = thread::spawn(move || {
            thread::sleep(STEP * lead.max(0).unsigned_abs());
            client.kill()
        });
        thread::sleep(STEP * lead.min(0).unsigned_abs());
        let report = world.reap(udp(1))?;
        killer.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        ensure!(report.complete && report.failed.total() == 0, "{report:?}");
        ensure!(report.destroyed + report.skipped.gone == report.victims, "{report:?}");
        world.wait_for_nodes(0)?;
        destroyed += report.destroyed;
        gone += report.skipped.gone;
        // Too early destroys all, too late none: the moment between is looked for. On a slow machine an event that comes with
        // the kill destroys none.
        lead = match (report.destroyed, lead) {
            (0, ..0) => 0,
            (0, _) => (2 * lead).clamp(1, LEAD_MAX),
            _ => lead - (lead / 8).max(1),
        };
        // An iterator, or a walk that destroys, does so in the step that finds: there is no moment between.
        let met = gone > 0 || matches!(world.reaper().engine(), EngineName::Iter | EngineName::Kfunc);
        if destroyed > 0 && met && round >= 20 {
            return Ok(());
        }
    }
    anyhow::bail!("in {ROUNDS} rounds {destroyed} were destroyed and {gone} gone: the race was never met")
}
