//! Audits: one that could not see everything says so, and raises no alarm.

use anyhow::{Context as _, Result, ensure};
use skreap::core::EngineName;

use crate::case::{Case, case};
use crate::round::{BOTH, ERRNOS, Fault, any, for_each_fault, open_each};
use crate::sockets::*;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let two_netns = WorldOptions { netns: 2, ..WorldOptions::default() };
    vec![case!(audit).only(EngineName::Netlink).and(EngineName::Kfunc).with(two_netns)]
}

fn audit(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), tcp(1)])?;
    let mut clients = [world.client_in("first", 0)?, world.client_in("second", 1)?];
    open_each(&mut clients, udp(1), 3)?;
    open_each(&mut clients, tcp(1), 3)?;
    for_each_fault(&ERRNOS, &BOTH, any, |fault| {
        let armed = fault.map(Fault::arm);
        let audit = world.reaper().audit();
        let happened = fault.zip(armed).is_some_and(|(fault, armed)| fault.disarm(armed));
        match audit {
            Ok(audit) => {
                ensure!(audit.agrees && audit.differences.is_empty(), "a false alarm: {audit:?}");
                ensure!(!audit.complete || audit.sockets == 12, "complete without all: {audit:?}");
            }
            Err(error) => ensure!(happened, "{error}"),
        }
        let audit = world.reaper().audit().context("the next audit")?;
        ensure!(audit.agrees && audit.complete && audit.sockets == 12 && audit.nodes == 12, "{audit:?}");
        Ok(())
    })
}
