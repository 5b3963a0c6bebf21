//! Netns that nothing shows: no process is in it and no name leads to it, it lives by a descriptor or a socket.

use std::io;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use skreap::bpf::{Config, NetnsList};
use skreap::core::EngineName;
use skreap::netns::{self, Method, NetnsId};
use skreap_testbed::{Client, Netns};

use crate::case::{Case, case};
use crate::full::expect_scanned;
use crate::preexisting::{expect_empty, reap, second};
use crate::sockets::*;
use crate::world::{World, WorldOptions};

/// How long the kernel may take to put an end to a netns.
const END: Duration = Duration::from_secs(20);

pub fn cases() -> Vec<Case> {
    let two = WorldOptions { netns: 2, ..WorldOptions::default() };
    let full = WorldOptions { max_sockets: 16, buckets: 4, ..two };
    vec![
        case!(netns_that_lives_by_a_descriptor).only(EngineName::Netlink),
        case!(netns_that_lives_by_a_socket_in_flight).only(EngineName::Netlink),
        case!(preexisting_sockets_in_a_netns_that_nothing_shows).only(EngineName::Netlink).with(two),
        case!(full_index_and_a_netns_that_nothing_shows).index_only().with(full),
    ]
}

pub fn id_of(netns: &Netns) -> NetnsId {
    NetnsId { cookie: netns.cookie(), inum: netns.inum() }
}

fn errno(opened: &io::Result<OwnedFd>) -> Option<i32> {
    opened.as_ref().err().and_then(io::Error::raw_os_error)
}

/// How often it is in the kernel's list, asked for in one part and in many.
fn listed(id: NetnsId) -> Result<[usize; 2]> {
    let mut list = NetnsList::load()?;
    let mut count = |parts| -> Result<usize> {
        let all = list.read_in_parts(parts)?;
        Ok(all.iter().filter(|netns| (netns.cookie, netns.inum) == (id.cookie, id.inum)).count())
    };
    Ok([count(1)?, count(7)?])
}

fn wait_until_gone(id: NetnsId) -> Result<()> {
    let deadline = Instant::now() + END;
    while listed(id)? != [0, 0] {
        ensure!(Instant::now() < deadline, "netns {} does not end", id.cookie);
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn netns_that_lives_by_a_descriptor(world: &mut World) -> Result<()> {
    let mut netns = world.fresh_netns("descriptor", udp(1).addr())?;
    let id = id_of(&netns);
    let everywhere = netns::everywhere()?;
    ensure!(everywhere.whole && everywhere.netns.iter().filter(|n| **n == id).count() == 1);
    ensure!(netns::shown()?.contains(&id) && listed(id)? == [1, 1]);

    let descriptor = netns.fd().context("no descriptor")?.try_clone_to_owned()?;
    netns.forget_name()?;
    ensure!(!netns::shown()?.contains(&id) && listed(id)? == [1, 1]);
    ensure!(errno(&Method::Shown.open(id)) == Some(libc::ESRCH));
    netns::open(id)?;
    netns::open_without_handle(id)?;

    drop(descriptor);
    wait_until_gone(id)?;
    // Gone is told from out of reach, also where no handle tells.
    ensure!(errno(&netns::open(id)) == Some(libc::ESTALE));
    ensure!(errno(&netns::open_without_handle(id)) == Some(libc::ESTALE));
    Ok(())
}

/// Puts a socket that is connected to the backend on its way over a unix socket, in a netns that has nothing else.
pub fn in_flight(
    world: &World,
    client: &mut Client,
    backend: skreap::core::Backend,
) -> Result<(NetnsId, Socket)> {
    let mut netns = world.fresh_netns("flight", backend.addr())?;
    let spec = spec_for(backend).inside(netns.reference()?);
    let socket = open_to(client, spec, backend.socket_addr())?;
    client.start_flight(socket.handle)?;
    netns.forget_name()?;
    Ok((id_of(&netns), socket))
}

fn netns_that_lives_by_a_socket_in_flight(world: &mut World) -> Result<()> {
    let mut client = world.client("client")?;
    let (id, socket) = in_flight(world, &mut client, udp(1))?;
    ensure!(!netns::shown()?.contains(&id) && listed(id)? == [1, 1]);
    // It is there, and at most a handle leads to it: that is not to be taken for gone.
    ensure!(errno(&netns::open_without_handle(id)) == Some(libc::ESRCH));
    let expected = if Method::Handle.open(id).is_ok() { None } else { Some(libc::ESRCH) };
    ensure!(errno(&netns::open(id)) == expected);
    let landed = client.land_flight(socket.handle)?;
    netns::open_without_handle(id)?;
    client.close(landed)?;
    wait_until_gone(id)?;
    ensure!(errno(&netns::open_without_handle(id)) == Some(libc::ESTALE));
    Ok(())
}

/// True if a handle opens a netns that only a socket in flight keeps alive, to which nothing else leads: Linux 6.18, and
/// since 6.19 none does.
pub fn handles_reach_sockets(world: &World, client: &mut Client) -> Result<bool> {
    let (id, socket) = in_flight(world, client, udp(3))?;
    let reached = Method::Handle.open(id).is_ok();
    let landed = client.land_flight(socket.handle)?;
    client.close(landed)?;
    wait_until_gone(id)?;
    Ok(reached)
}

fn preexisting_sockets_in_a_netns_that_nothing_shows(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), tcp(1)])?;
    let mut client = world.client("client")?;
    let reached = handles_reach_sockets(world, &mut client)?;
    let place = world.place(1)?;
    let udp_sockets = connect_many(&mut client, place.clone(), udp(1), 5)?;
    let tcp_sockets = connect_many(&mut client, place, tcp(1), 4)?;
    let id = id_of(world.netns(1));
    world.forget_netns(1)?;
    ensure!(!netns::shown()?.contains(&id));
    let flight = if reached { Some(in_flight(world, &mut client, udp(2))?.1) } else { None };

    let mut second = second(world, Config::default().max_sockets(8192).buckets(1024))?;
    ensure!(second.index().is_bootstrapped()?);
    let listing = second.listing()?;
    ensure!(listing.nodes == 9 + u64::from(flight.is_some()), "{listing:?}");
    ensure!(listing.backends[&udp(1)].connected == 5 && listing.backends[&tcp(1)].connected == 4);
    expect_destroyed(&reap(&mut second, udp(1)), &mut [&mut client], &udp_sockets.cookies)?;
    expect_destroyed(&reap(&mut second, tcp(1)), &mut [&mut client], &tcp_sockets.cookies)?;
    if let Some(socket) = flight {
        let report = reap(&mut second, udp(2));
        client.land_flight(socket.handle)?;
        expect_destroyed(&report, &mut [&mut client], &[socket.cookie])?;
    }
    drop(client);
    world.wait_for_nodes(0)?;
    expect_empty(second.index())
}

/// The index had room for none of the sockets there, so it has not heard of that netns.
fn full_index_and_a_netns_that_nothing_shows(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let reached = handles_reach_sockets(world, &mut client)?;
    connect_many(&mut client, Default::default(), udp(2), 16)?;
    let mut victims = connect_many(&mut client, world.place(1)?, udp(1), 5)?.cookies;
    let id = id_of(world.netns(1));
    world.forget_netns(1)?;
    ensure!(!netns::shown()?.contains(&id) && world.counters()?.dropped_full == 5);
    let flight = if reached { Some(in_flight(world, &mut client, udp(1))?.1) } else { None };
    victims.extend(flight.map(|socket| socket.cookie));

    let report = world.reap(udp(1))?;
    if let Some(socket) = flight {
        client.land_flight(socket.handle)?;
    }
    expect_scanned(&report, victims.len() as u64)?;
    expect_destroyed(&report, &mut [&mut client], &victims)?;
    ensure!(expect_answers(&mut client)? == 16);
    Ok(())
}
