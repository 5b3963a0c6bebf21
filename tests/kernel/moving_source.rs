//! The source address of a socket that is moved: it keeps it, so it must be one that the new peer can answer to, or one that
//! its program has chosen.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use skreap::core::{Action, Backend, Destinations, EngineName, Instead, Move, Moved, Spread, VictimAction};
use skreap_testbed::{Client, OpenSpec, Selection, SpawnOptions};

use crate::case::{Case, case};
use crate::sockets::*;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let two = WorldOptions { netns: 2, ..WorldOptions::default() };
    vec![
        case!(a_source_that_has_no_way_back_is_not_taken_along).with(two).only(EngineName::Netlink),
        case!(a_source_that_a_program_has_chosen_is_taken_along).with(two).only(EngineName::Netlink),
        case!(a_socket_of_an_interface_has_a_source_there).with(two).only(EngineName::Netlink),
    ]
}

/// Moves the sockets of a backend, or leaves them alone.
fn moving(world: &mut World, backend: Backend, to: Backend) -> Result<Moved> {
    let to = Destinations::new(vec![to], Spread::Even)?;
    let how = Move { to, tcp: Instead::Spare, otherwise: Instead::Spare };
    let report = world.tell_to(Action::BackendDeleted { backend }, VictimAction::Move(how))?;
    Ok(report.moved.unwrap_or_default())
}

fn moved(moved: u64, other_source: u64) -> Moved {
    let reasons = [("other-source".to_owned(), other_source)];
    let not_moved: BTreeMap<String, u64> = reasons.into_iter().filter(|(_, n)| *n > 0).collect();
    Moved { sockets: moved + other_source, moved, not_moved }
}

fn peer(client: &mut Client, socket: Socket) -> Result<Option<SocketAddr>> {
    Ok(client.state(socket.handle)?.peer)
}

/// A network between the two netns of the world: `10.N.0.1` and `.2`.
fn join(world: &World, device: &str, n: u8) -> Result<Backend> {
    let [near, far] = [1, 2].map(|host| [10, n, 0, host].into());
    world.netns(0).join(device, near, world.netns(1), far, 24)?;
    Ok(format!("udp://{far}:53").parse()?)
}

/// The socket has the source of a destination on the host itself.
fn a_source_that_has_no_way_back_is_not_taken_along(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let elsewhere = join(world, "lan", 178)?;
    world.netns(0).add_secondary("lan", "10.178.0.3".parse()?, 24)?;
    let here: Backend = "udp://10.178.0.3:53".parse()?;
    let mut server = world.outsider("server")?;
    start_echo(&mut server, here)?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    ensure!(moving(world, udp(1), elsewhere)? == moved(0, 1));
    ensure!(peer(&mut client, socket)? == Some(udp(1).socket_addr()));
    // Whatever address of the host it has, the host answers to it.
    ensure!(moving(world, udp(1), here)? == moved(1, 0));
    ensure!(peer(&mut client, socket)? == Some(here.socket_addr()));
    ensure!(expect_answers(&mut client)? == 1);
    Ok(())
}

/// The route wants 10.178.0.1. A port says nothing of the address, and from loopback nothing leads to another host.
fn a_source_that_a_program_has_chosen_is_taken_along(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let elsewhere = join(world, "lan", 178)?;
    world.netns(0).add_secondary("lan", "10.178.0.3".parse()?, 24)?;
    let far = SpawnOptions { label: "server", cgroup: None, netns: Some(world.netns(1)) };
    let mut server = Client::spawn(&far)?;
    start_echo(&mut server, elsewhere)?;
    let mut client = world.client("client")?;
    let mut bound = |to: SocketAddr, family: Backend, source: &str| {
        let spec = OpenSpec { bind: Some(source.parse()?), ..spec_for(family) };
        open_to(&mut client, spec, to)
    };
    let v4 = bound(udp(1).socket_addr(), udp(1), "10.178.0.3:4001")?;
    let mapped = bound(mapped(udp(1)), udp6(1), "[::ffff:10.178.0.3]:4002")?;
    let port = bound(udp(1).socket_addr(), udp(1), "0.0.0.0:4003")?;
    let loopback = bound(udp(1).socket_addr(), udp(1), "127.0.0.1:4004")?;
    let report = moving(world, udp(1), elsewhere)?;
    ensure!(report == moved(2, 2), "{report:?}");
    for (socket, port) in [(v4, 4001), (mapped, 4002)] {
        let state = client.state(socket.handle)?;
        let canonical = |addr: SocketAddr| SocketAddr::new(addr.ip().to_canonical(), addr.port());
        ensure!(state.peer.map(canonical) == Some(elsewhere.socket_addr()), "{state:?}");
        let source = SocketAddr::new("10.178.0.3".parse()?, port);
        ensure!(state.local.map(canonical) == Some(source) && state.errno == 0, "{state:?}");
        expect_answers_on(&mut client, Selection::List(vec![socket.handle]), 1)?;
    }
    for socket in [port, loopback] {
        let state = client.state(socket.handle)?;
        ensure!(state.peer == Some(udp(1).socket_addr()) && state.errno == 0, "{state:?}");
    }
    Ok(())
}

/// Without its interface it would take another way, from another address.
fn a_socket_of_an_interface_has_a_source_there(world: &mut World) -> Result<()> {
    let (lan, wan) = (join(world, "lan", 178)?, join(world, "wan", 179)?);
    let mut client = world.client("client")?;
    let on_wan = OpenSpec { device: Some("wan".to_owned()), ..spec_for(wan) };
    let on_wan = open_to(&mut client, on_wan, wan.socket_addr())?;
    let local = client.state(on_wan.handle)?.local;
    ensure!(local.is_some_and(|local| local.ip().to_string() == "10.179.0.1"), "{local:?}");
    let plain = connect(&mut client, wan)?;
    let report = moving(world, wan, lan)?;
    ensure!(report == moved(1, 1), "{report:?}");
    ensure!(peer(&mut client, on_wan)? == Some(lan.socket_addr()));
    ensure!(peer(&mut client, plain)? == Some(wan.socket_addr()));
    ensure!(client.state(on_wan.handle)?.local == local);
    Ok(())
}
