//! Whose sockets these are: dry runs say it, and with `attribute` every report.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use skreap::core::{Action, Attribution, EngineName, Event, Selector, SocketTuple};
use skreap_testbed::{Client, Family, OpenSpec};

use crate::case::{Case, case};
use crate::sockets::*;
use crate::unconnected::sender;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let attribute = WorldOptions { attribute: true, netns: 2, ..WorldOptions::default() };
    vec![
        case!(a_dry_run_says_whose).only(EngineName::Netlink).and(EngineName::Iter),
        case!(every_report_says_whose).with(attribute).only(EngineName::Netlink),
        case!(each_socket_of_one_name_has_its_owner).only(EngineName::Netlink),
        case!(a_netns_has_one_name_beyond_the_limit).only(EngineName::Netlink),
    ]
}

/// What must be said of a socket of this client.
fn owner(world: &World, client: &Client, netns: usize) -> Result<Attribution> {
    let comm = fs::read_to_string(format!("/proc/{}/comm", client.pid()))?;
    let cgroup = world.cgroup().path().strip_prefix(skreap::cgroup::root()?)?;
    let mut whose = Attribution::default();
    whose.netns_name = Some(world.netns(netns).name().to_owned());
    whose.cgroup = Some(format!("/{}", cgroup.to_str().context("not UTF-8")?));
    whose.uid = Some(0);
    whose.pid = Some(client.pid());
    whose.command = Some(comm.trim_end().to_owned());
    Ok(whose)
}

fn expect_owner(socket: &SocketTuple, owner: &Attribution) -> Result<()> {
    ensure!(socket.attribution.as_deref() == Some(owner), "{socket:?} is not of {owner:?}");
    Ok(())
}

fn a_dry_run_says_whose(world: &mut World) -> Result<()> {
    let gone = [udp(1), tcp(1), udp6(1), tcp6(1)];
    world.serve(&gone)?;
    let mut client = world.client("client")?;
    for backend in gone {
        connect_many(&mut client, Default::default(), backend, 40)?;
    }
    // A v6 socket that is connected over IPv4.
    open_to(&mut client, OpenSpec { family: Family::V6, ..spec_for(udp(1)) }, mapped(udp(1)))?;
    let owner = owner(world, &client, 0)?;
    let listed = world.tell(Action::BackendsDeleted { backends: gone.to_vec() }, true)?;
    let sockets = listed.sockets.context("no list")?;
    ensure!(sockets.len() == 161, "{}", sockets.len());
    sockets.iter().try_for_each(|socket| expect_owner(socket, &owner))?;
    ensure!(expect_answers(&mut client)? == 161);
    Ok(())
}

fn every_report_says_whose(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let [mut first, mut second] = [world.client_in("first", 0)?, world.client_in("second", 1)?];
    let mine = connect_many(&mut first, Default::default(), udp(1), 3)?.cookies;
    let yours = connect_many(&mut second, Default::default(), udp(1), 2)?.cookies;
    // Not a victim, and so nobody's business.
    sender(&mut first, &[udp(2)])?;
    let owners = [owner(world, &first, 0)?, owner(world, &second, 1)?];
    let report = world.reap(udp(1))?;
    expect_exactly(&report, &mut [&mut first, &mut second], &[&mine[..], &yours[..]].concat())?;
    let sockets = report.sockets.context("no list")?;
    ensure!(sockets.len() == 5, "{sockets:?}");
    for socket in &sockets {
        let whose = usize::from(!mine.contains(&socket.cookie));
        expect_owner(socket, &owners[whose])?;
    }
    Ok(())
}

/// By addresses and ports the kernel finds one of them, and calls the others gone.
fn each_socket_of_one_name_has_its_owner(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp6(1)])?;
    world.add_address("10.177.0.100".parse()?)?;
    world.add_address("fd77::100".parse()?)?;
    let [mut first, mut second] = [world.client("first")?, world.client("second")?];
    let v4 = OpenSpec { bind: Some("10.177.0.100:4000".parse()?), reuse_port: true, ..spec_for(udp(1)) };
    let v6 = OpenSpec { bind: Some("[fd77::100]:4000".parse()?), reuse_port: true, ..spec_for(udp6(1)) };
    let v4_in_v6 = OpenSpec { bind: Some("[::ffff:10.177.0.100]:4001".parse()?), ..v6.clone() };
    for client in [&mut first, &mut second] {
        for _ in 0..7 {
            open_to(client, v4.clone(), udp(1).socket_addr())?;
            open_to(client, v6.clone(), udp6(1).socket_addr())?;
            open_to(client, v4_in_v6.clone(), mapped(udp(1)))?;
        }
    }
    let owners = [owner(world, &first, 0)?, owner(world, &second, 0)?];
    let listed = world.tell(Action::BackendsDeleted { backends: vec![udp(1), udp6(1)] }, true)?;
    let mut sockets = [0; 2];
    for socket in listed.sockets.context("no list")? {
        let whose = owners.iter().position(|owner| socket.attribution.as_deref() == Some(owner));
        sockets[whose.with_context(|| format!("{socket:?} is not of {owners:?}"))?] += 1;
    }
    ensure!(sockets == [21, 21], "{sockets:?}");
    Ok(())
}

fn a_netns_has_one_name_beyond_the_limit(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let mut client = world.client("client")?;
    connect_many(&mut client, Default::default(), udp(1), 4100)?;
    let owner = owner(world, &client, 0)?;
    let selector = Selector { to: vec![udp(1).addr().into()], ..Selector::default() };
    let mut event = Event::new("e", Action::Terminate { max_victims: None }).with_dry_run(true);
    event.selector = Some(Box::new(selector));
    let listed = world.tell_event(&event)?;
    let radius = listed.radius.context("no radius")?;
    ensure!(radius.netns == BTreeMap::from([(world.netns(0).name().to_owned(), 4100)]), "{radius:?}");
    let cgroup = owner.cgroup.context("no cgroup")?;
    ensure!(radius.cgroup == BTreeMap::from([("-".to_owned(), 4), (cgroup, 4096)]), "{radius:?}");
    Ok(())
}
