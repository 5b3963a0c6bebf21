//! Another program on the same cgroup, attached before ours, that translates a virtual address to a backend.

use anyhow::{Result, ensure};
use skreap::core::{Backend, Skipped};

use skreap_testbed::with;

use crate::case::{Case, case};
use crate::sockets::*;
use crate::unconnected::sender;
use crate::world::{World, WorldOptions};

const VIP_UDP: &str = "udp://10.177.9.9:5353";
const VIP_UDP6: &str = "udp://[fd77::9:9]:5353";
const VIP_TCP: &str = "tcp://10.177.9.9:8080";
const VIP_TCP6: &str = "tcp://[fd77::9:9]:8080";

pub fn cases() -> Vec<Case> {
    let udp = &[(VIP_UDP, "udp://10.177.0.1:53"), (VIP_UDP6, "udp://[fd77::1]:53")] as &[(&str, &str)];
    let tcp = &[(VIP_TCP, "tcp://10.177.0.1:80"), (VIP_TCP6, "tcp://[fd77::1]:80")] as &[(&str, &str)];
    let behind = |balancer| WorldOptions { balancer, ..WorldOptions::default() };
    vec![
        case!(behind_a_load_balancer_udp).with(behind(udp)),
        case!(behind_a_load_balancer_tcp).with(behind(tcp)),
    ]
}

fn behind_a_load_balancer_udp(world: &mut World) -> Result<()> {
    for (vip, backend) in [(VIP_UDP, udp(1)), (VIP_UDP6, udp6(1))] {
        let vip: Backend = vip.parse()?;
        let mut client = translated(world, vip, backend)?;
        // What is sent without connecting is translated too.
        sender(&mut client, &[vip])?;
        let listing = world.listing()?;
        if world.uses_index() {
            ensure!(listing.backends[&backend].unconnected == 1, "{listing:?}");
        }
        let report = world.reap(backend)?;
        // The three that `translated` has had destroyed have no peer.
        let skipped = with(|s: &mut Skipped| (s.unconnected, s.no_peer) = (1, 3));
        expect_skipped(&report, world.uses_index(), skipped)?;
    }
    Ok(())
}

fn behind_a_load_balancer_tcp(world: &mut World) -> Result<()> {
    translated(world, VIP_TCP.parse()?, tcp(1))?;
    translated(world, VIP_TCP6.parse()?, tcp6(1))?;
    Ok(())
}

/// Two sockets by way of the virtual address, one directly to the backend.
fn translated(world: &mut World, vip: Backend, backend: Backend) -> Result<skreap_testbed::Client> {
    world.serve(&[backend])?;
    let mut client = world.client("client")?;
    let mut cookies = connect_many(&mut client, Default::default(), vip, 2)?.cookies;
    cookies.push(connect(&mut client, backend)?.cookie);
    ensure!(expect_answers(&mut client)? == 3);
    let listing = world.listing()?;
    if world.uses_index() {
        ensure!(listing.backends[&backend].connected == 3, "{listing:?}");
        ensure!(!listing.backends.contains_key(&vip) && listing.moved_on == 0, "{listing:?}");
    }
    let report = world.reap(vip)?;
    ensure!(!world.uses_index() || report.visited == 0, "{report:?}");
    expect_exactly(&report, &mut [&mut client], &[])?;
    expect_exactly(&world.reap(backend)?, &mut [&mut client], &cookies)?;
    Ok(client)
}
