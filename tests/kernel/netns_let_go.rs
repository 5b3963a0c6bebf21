//! Netns that end right after an event: nothing of ours keeps them.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use skreap::netns;

use crate::case::{Case, case};
use crate::sockets::*;
use crate::world::World;

/// The kernel tears a netns down within some 30 ms, and in seconds on a machine that deletes many. So it is compared with
/// another that is deleted at the same time.
const SOON: Duration = Duration::from_secs(2);
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

/// The netns goes with its name and its last process, and the name can be given again, event after event.
fn deleted_right_after_an_event(world: &mut World) -> Result<()> {
    for backend in [udp(1), tcp(1)] {
        let netns = world.fresh_netns("let-go", backend.addr())?;
        let cookie = netns.cookie();
        let mut client = world.client_at("client", &netns)?;
        start_echo(&mut client, backend)?;
        let victims = connect_many(&mut client, Default::default(), backend, 5)?;
        expect_destroyed(&world.reap(backend)?, &mut [&mut client], &victims.cookies)?;
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
