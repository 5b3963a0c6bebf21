//! Very many destroyed sockets that are looked at again: the report is exact, and the memory bounded.
//!
//! 4,000 sockets, or as many as `SKREAP_CROWD` says: 100,000 need a minute, some room in the kernel's memory, and nothing else.

use std::env;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use skreap::core::{Action, Destinations, EngineName, Revive, Revived, Spread, VictimAction};
use skreap_testbed::{Client, NetnsRef};

use crate::case::{Case, case};
use crate::sockets::*;
use crate::world::{World, WorldOptions};

/// Each netns has some 28,000 ports, each process some 20,000 descriptors.
const CLIENTS: u32 = 8;
/// Bytes for each socket, and for all: what it takes to find, name and connect it, while that is done.
const EACH: u64 = 768;
const ALL: u64 = 16 << 20;
/// Longer than the second look takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

pub fn cases() -> Vec<Case> {
    let crowd = WorldOptions { netns: CLIENTS as usize, max_sockets: 131_072, ..WorldOptions::default() };
    vec![case!(a_crowd_is_revived).with(crowd).only(EngineName::Netlink)]
}

fn crowd() -> Result<u32> {
    let sockets: u32 = match env::var("SKREAP_CROWD") {
        Ok(sockets) => sockets.parse().with_context(|| format!("SKREAP_CROWD={sockets}: not a number"))?,
        Err(_) => 4_000,
    };
    Ok(sockets.next_multiple_of(CLIENTS))
}

/// A field of /proc/self/status, in bytes.
fn memory(field: &str) -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")).context("no such field")?;
    Ok(number.parse::<u64>()? * 1024)
}

fn a_crowd_is_revived(world: &mut World) -> Result<()> {
    let sockets = crowd()?;
    world.serve(&[udp(1), udp(2), udp(3)])?;
    let mut clients: Vec<Client> =
        (0..CLIENTS as usize).map(|i| world.client_in(&format!("client{i}"), i)).collect::<Result<_>>()?;
    let mut opened = Vec::new();
    for client in &mut clients {
        opened.push(connect_many(client, NetnsRef::Own, udp(1), sockets / CLIENTS)?);
        connect_many(client, NetnsRef::Own, udp(3), 1)?;
    }
    // The highest mark is that of now.
    fs::write("/proc/self/clear_refs", "5")?;
    let (before, start) = (memory("VmRSS")?, Instant::now());
    let how = Revive { to: Destinations::new(vec![udp(2)], Spread::Even)?, after_ms: 0 };
    let report = world.tell_to(Action::BackendDeleted { backend: udp(1) }, VictimAction::Revive(how))?;
    let (all, destroyed) = (u64::from(sockets), start.elapsed());
    ensure!(report.complete && report.destroyed == all && report.failed.total() == 0, "{report:?}");
    ensure!(report.reviving.is_some_and(|reviving| reviving.sockets == all), "{report:?}");
    let revived = loop {
        let status = world.reaper().monitor().status()?;
        if status.reviving == 0 {
            break status.totals.revived;
        }
        ensure!(start.elapsed() < PATIENCE, "{} sockets were never looked at again", status.reviving);
        thread::sleep(Duration::from_millis(5));
    };
    let expected = Revived { sockets: all, revived: all, after_ns: revived.after_ns, ..Revived::default() };
    ensure!(revived == expected, "{revived:?}");
    let grown = memory("VmHWM")?.saturating_sub(before);
    eprintln!(
        "{all} sockets destroyed in {destroyed:?}, revived after {:?}; {} KiB of memory at most",
        start.elapsed(),
        grown / 1024
    );
    ensure!(grown <= ALL + EACH * all, "{grown} bytes for {all} sockets");
    for (client, opened) in clients.iter_mut().zip(&opened) {
        for state in client.states(opened.selection())? {
            ensure!(state.peer == Some(udp(2).socket_addr()), "{state:?}");
        }
        let untouched = client.states(skreap_testbed::Selection::All)?;
        let untouched = untouched.iter().filter(|state| state.peer == Some(udp(3).socket_addr()));
        ensure!(untouched.count() == 1);
    }
    Ok(())
}
