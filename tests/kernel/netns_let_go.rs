//! Netns that end right after an event: nothing of ours keeps them.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use skreap::netns;
use skreap_testbed::Netns;

use crate::case::{Case, case};
use crate::sockets::*;
use crate::world::World;

/// The kernel tears a netns down within some 30 ms, and in seconds on a machine that deletes many. So it is compared with
/// another that is deleted at the same time.
const SOON: Duration = Duration::from_secs(2);
/// When nothing of ours is left in the netns, after the report.
const LET_GO: Duration = Duration::from_millis(100);
/// How long the kernel may take for that one.
const END: Duration = Duration::from_secs(60);

pub fn cases() -> Vec<Case> {
    vec![case!(deleted_right_after_an_event)]
}

fn lives(cookie: u64) -> Result<bool> {
    Ok(netns::everywhere()?.netns.iter().any(|id| id.cookie == cookie))
}

fn wait_until_gone(cookie: u64, patience: Duration) -> Result<()> {
    let start = Instant::now();
    while lives(cookie)? {
        ensure!(start.elapsed() < patience, "netns {cookie} is still there after {patience:?}");
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// What this process has of a netns in which another lives: threads in it, descriptors of it and diag sockets in it, in
/// the table of any thread.
fn references(netns: &Netns, inside: u32) -> Result<BTreeSet<String>> {
    let name = format!("net:[{}]", netns.inum());
    // The inode is the last column.
    let sockets: Vec<String> = fs::read_to_string(format!("/proc/{inside}/net/netlink"))?
        .lines()
        .skip(1)
        .filter_map(|line| Some(format!("socket:[{}]", line.split_whitespace().last()?)))
        .collect();
    let mut found = BTreeSet::new();
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        // A thread that ends meanwhile has nothing.
        let descriptors = fs::read_dir(task.join("fd")).into_iter().flatten().flatten();
        let paths = descriptors.map(|descriptor| descriptor.path()).chain([task.join("ns/net")]);
        for path in paths {
            let target = fs::read_link(&path).unwrap_or_default().display().to_string();
            if target == name || sockets.contains(&target) {
                found.insert(format!("{}: {target}", path.display()));
            }
        }
    }
    Ok(found)
}

/// The netns goes with its name and its last process, and the name can be given again, event after event.
fn deleted_right_after_an_event(world: &mut World) -> Result<()> {
    for backend in [udp(1), tcp(1)] {
        let netns = world.fresh_netns("let-go", backend.addr())?;
        let cookie = netns.cookie();
        let mut client = world.client_at("client", &netns)?;
        start_echo(&mut client, backend)?;
        let victims = connect_many(&mut client, Default::default(), backend, 5)?;
        let own = references(&netns, client.pid())?;
        let report = world.reap(backend)?;
        let done = Instant::now();
        while references(&netns, client.pid())? != own {
            let there = references(&netns, client.pid())?;
            ensure!(done.elapsed() < LET_GO, "kept after {:?}: {there:?}, not only {own:?}", done.elapsed());
        }
        expect_destroyed(&report, &mut [&mut client], &victims.cookies)?;
        let other = world.fresh_netns("let-go-other", backend.addr())?;
        let other_cookie = other.cookie();
        client.kill()?;
        drop(netns);
        drop(other);
        wait_until_gone(other_cookie, END)?;
        wait_until_gone(cookie, SOON)?;
        world.wait_for_nodes(0)?;
    }
    Ok(())
}
