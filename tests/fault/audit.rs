//! Audits: one that could not see everything says so, and raises no alarm.

use anyhow::{Context as _, Result, ensure};
use skreap::bpf::fault::Point;
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
                // A dump does not tell which side has opened a TCP connection.
                let dumped = happened
                    && fault.is_some_and(|fault| match fault.point {
                        Point::TablesLoad | Point::TablesRead => true,
                        // That of the tables, or another.
                        Point::MapMemory => audit.undecided > 0,
                        _ => false,
                    });
                let compared = if dumped { (6, 6) } else { (12, 0) };
                ensure!(
                    !audit.complete || (audit.sockets, audit.undecided) == compared,
                    "complete without all: {audit:?}"
                );
            }
            Err(error) => ensure!(happened, "{error}"),
        }
        let audit = world.reaper().audit().context("the next audit")?;
        ensure!(audit.agrees && audit.complete && audit.sockets == 12 && audit.nodes == 12, "{audit:?}");
        Ok(())
    })
}
