//! A load balancer is attached behind the hooks, which have to be moved, and what was recorded under its virtual
//! address has to be recorded anew.

use std::os::fd::AsFd as _;

use anyhow::Result;
use skreap::core::{Backend, EngineName};
use skreap_testbed::bpf::LoadBalancer;

use crate::case::{Case, case};
use crate::round::{Held, Pass, any, beside, for_each_fault, open_each, reap_with, two_events};
use crate::sockets::*;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let two_netns = WorldOptions { netns: 2, ..WorldOptions::default() };
    vec![case!(balancer_behind_the_hooks).only(EngineName::Netlink).and(EngineName::Kfunc).with(two_netns)]
}

fn balancer_behind_the_hooks(world: &mut World) -> Result<()> {
    let vip: Backend = "udp://10.177.9.9:5353".parse()?;
    world.serve(&[udp(1)])?;
    let mut clients = [world.client_in("first", 0)?, world.client_in("second", 1)?];
    let held = Held::from_the_second_start_on(world)?;
    for_each_fault(&[libc::ENOMEM], &[Pass::First], any, |fault| {
        let mut reaper = beside(world).bootstrap(false).build()?;
        let cgroup = world.cgroup().open()?;
        let balancer = LoadBalancer::attach(&[(vip, udp(1))], cgroup.as_fd())?;
        drop(cgroup);
        let opened = open_each(&mut clients, vip, 3)?;
        two_events(fault, &mut clients, &opened, udp(1), |backend| reap_with(&mut reaper, backend))?;
        opened.close(&mut clients)?;
        drop(balancer);
        drop(reaper);
        held.expect(world)
    })
}
