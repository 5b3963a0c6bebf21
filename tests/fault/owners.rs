//! Whose sockets are: what cannot be found out is not known, or an error, and never wrong.

use anyhow::{Context as _, Result, ensure};
use skreap::bpf::Owner;
use skreap::core::EngineName;
use skreap::engine::OwnerFinder;

use crate::case::{Case, case};
use crate::round::{BOTH, ERRNOS, Fault, any, for_each_fault, open_each};
use crate::sockets::*;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let two_netns = WorldOptions { netns: 2, ..WorldOptions::default() };
    vec![case!(owners).only(EngineName::Netlink).with(two_netns)]
}

fn owners(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let mut clients = [world.client_in("first", 0)?, world.client_in("second", 1)?];
    open_each(&mut clients, udp(1), 3)?;
    let (_, sockets) = world.walk(udp(1))?;
    for_each_fault(&ERRNOS, &BOTH, any, |fault| {
        let armed = fault.map(Fault::arm);
        let found = OwnerFinder::default().find(&sockets);
        let happened = fault.zip(armed).is_some_and(|(fault, armed)| fault.disarm(armed));
        match found {
            Ok(found) => {
                let unknown = found.values().filter(|owner| **owner == Owner::Unknown).count();
                let ours = found.values().filter(|owner| **owner == Owner::Program).count();
                // A netns that cannot be entered is one of two.
                ensure!(unknown == if happened { 3 } else { 0 } && unknown + ours == 6, "{found:?}");
            }
            Err(error) => ensure!(happened, "{error}"),
        }
        let found = OwnerFinder::default().find(&sockets).context("the next time")?;
        ensure!(found.len() == 6 && found.values().all(|owner| *owner == Owner::Program), "{found:?}");
        Ok(())
    })
}
