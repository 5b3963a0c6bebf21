//! Whose sockets these are: dry runs say it, and with `attribute` every report.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use skreap::core::{Action, Attribution, EngineName, SocketTuple};
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
    ]
}

/// What must be said of a socket of this client.
fn owner(world: &World, client: &Client, netns: usize) -> Result<Attribution> {
    let comm = fs::read_to_string(format!("/proc/{}/comm", client.pid()))?;
    let cgroup = world.cgroup().path().strip_prefix(skreap::cgroup::root()?)?;
    Ok(Attribution {
        netns_name: Some(world.netns(netns).name().to_owned()),
        cgroup: Some(format!("/{}", cgroup.to_str().context("not UTF-8")?)),
        uid: Some(0),
        pid: Some(client.pid()),
        command: Some(comm.trim_end().to_owned()),
    })
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
