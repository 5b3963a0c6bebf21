//! Pins: made, taken over, replaced and removed.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use skreap::Builder;
use skreap::bpf::Config;
use skreap::bpf::fault::Point;
use skreap::bpf::pin::Pins;
use skreap::core::EngineName;
use skreap_testbed::Bpffs;

use crate::case::{Case, case};
use crate::round::{Fault, Held, Pass, beside, for_each_fault, open_each, reap_with};
use crate::sockets::*;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let two_netns = WorldOptions { netns: 2, ..WorldOptions::default() };
    // An index with references has maps and programs of its own.
    let both = |case: Case| case.only(EngineName::Netlink).and(EngineName::Kfunc).with(two_netns);
    vec![
        both(case!(pins_are_made)),
        both(case!(pins_are_taken_over)),
        both(case!(pins_are_replaced)),
        both(case!(pins_are_removed)),
    ]
}

fn pinned(world: &World, directory: &Path) -> Builder {
    beside(world).pin(directory).bootstrap(false)
}

fn other_size(world: &World, directory: &Path) -> Builder {
    pinned(world, directory).config(Config::default().max_sockets(2048).buckets(64))
}

fn pins_are_made(world: &mut World) -> Result<()> {
    second_start(world, None, false)
}

fn pins_are_taken_over(world: &mut World) -> Result<()> {
    second_start(world, Some(pinned), true)
}

fn pins_are_replaced(world: &mut World) -> Result<()> {
    second_start(world, Some(other_size), false)
}

/// The first start is undisturbed, the second is not, and a third has to put right what the second has left. What
/// was recorded since the first is known to both if the index `stays`.
fn second_start(world: &mut World, first: Option<fn(&World, &Path) -> Builder>, stays: bool) -> Result<()> {
    world.serve(&[udp(1)])?;
    let mut clients = [world.client_in("first", 0)?, world.client_in("second", 1)?];
    let bpffs = Bpffs::create()?;
    let held = Held::from_the_second_start_on(world)?;
    for_each_fault(&[libc::ENOMEM], &[Pass::First], of_pins, |fault| {
        let directory = bpffs.path("pins");
        if let Some(first) = first {
            drop(first(world, &directory).build()?);
        }
        let mut opened = stays.then(|| open_each(&mut clients, udp(1), 3)).transpose()?;
        let armed = fault.map(Fault::arm);
        let second = pinned(world, &directory).build();
        let happened = fault.zip(armed).is_some_and(|(fault, armed)| fault.disarm(armed));
        if let Err(error) = &second {
            ensure!(happened, "{error}");
            // What it had attached is gone, unless that is what failed.
            let removal =
                fault.is_some_and(|fault| matches!(fault.point, Point::PinRemove | Point::PinRemoveAll));
            ensure!(removal || !directory.join("building").exists(), "{error}; pins are left");
        }
        drop(second);
        let mut third = pinned(world, &directory).build().context("the third start")?;
        let opened = match opened.take() {
            Some(opened) => opened,
            None => open_each(&mut clients, udp(1), 3)?,
        };
        // A pinned index that could not be taken over was replaced, and pre-existing sockets were not looked for.
        let known = third.counters()?.inserts == opened.len();
        ensure!(known || happened, "a new index without need");
        if known {
            expect_complete(&reap_with(&mut third, udp(1)), opened.len())?;
            ensure!(opened.died(&mut clients)? == opened.len());
        }
        drop(third);
        opened.close(&mut clients)?;
        ensure!(Pins::lock(&directory)?.remove()?, "there were no pins");
        ensure!(!directory.exists(), "the directory is left");
        held.expect(world)
    })
}

fn of_pins(point: Point) -> bool {
    use Point::*;
    matches!(
        point,
        LinkCreate
            | LinkCheck
            | LinkOpen
            | LinkUpdate
            | PinDirectory
            | Pin
            | PinOpen
            | PinReload
            | PinRename
            | PinExchange
            | PinRemove
            | PinRemoveAll
    )
}

fn pins_are_removed(world: &mut World) -> Result<()> {
    let bpffs = Bpffs::create()?;
    let held = Held::from_the_second_start_on(world)?;
    for_each_fault(&[libc::ENOMEM], &[Pass::First], of_pins, |fault| {
        let directory = bpffs.path("pins");
        drop(pinned(world, &directory).build()?);
        let armed = fault.map(Fault::arm);
        let removed = Pins::lock(&directory).and_then(Pins::remove);
        let happened = fault.zip(armed).is_some_and(|(fault, armed)| fault.disarm(armed));
        match removed {
            Ok(removed) => ensure!(removed && !directory.exists(), "they are still there"),
            Err(error) => {
                ensure!(happened, "{error}");
                Pins::lock(&directory)?.remove()?;
                ensure!(!directory.exists(), "they are still there after {error}");
            }
        }
        held.expect(world)
    })
}
