//! The source address of a socket that is moved: it keeps it, so it must be one that the new peer can answer to.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use skreap::core::{Action, Backend, Destinations, EngineName, Instead, Move, Moved, Spread, VictimAction};
use skreap_testbed::Client;

use crate::case::{Case, case};
use crate::sockets::*;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let two = WorldOptions { netns: 2, ..WorldOptions::default() };
    vec![case!(a_source_that_has_no_way_back_is_not_taken_along).with(two).only(EngineName::Netlink)]
}

/// Moves the only socket of `udp(1)`.
fn moving(world: &mut World, to: Backend) -> Result<Moved> {
    let to = Destinations::new(vec![to], Spread::Even)?;
    let how = Move { to, tcp: Instead::Spare, otherwise: Instead::Spare };
    let report = world.tell_to(Action::BackendDeleted { backend: udp(1) }, VictimAction::Move(how))?;
    Ok(report.moved.unwrap_or_default())
}

fn peer(client: &mut Client, socket: Socket) -> Result<Option<SocketAddr>> {
    Ok(client.state(socket.handle)?.peer)
}

/// The socket has the source of a destination on the host itself.
fn a_source_that_has_no_way_back_is_not_taken_along(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let [first, second] = [world.netns(0), world.netns(1)];
    first.join("lan", "10.178.0.1".parse()?, second, "10.178.0.2".parse()?, 24)?;
    first.add_secondary("lan", "10.178.0.3".parse()?, 24)?;
    let (elsewhere, here): (Backend, Backend) =
        ("udp://10.178.0.2:53".parse()?, "udp://10.178.0.3:53".parse()?);
    let mut server = world.outsider("server")?;
    start_echo(&mut server, here)?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    let other_source = BTreeMap::from([("other-source".to_owned(), 1)]);
    ensure!(moving(world, elsewhere)? == Moved { sockets: 1, moved: 0, not_moved: other_source });
    ensure!(peer(&mut client, socket)? == Some(udp(1).socket_addr()));
    // Whatever address of the host it has, the host answers to it.
    ensure!(moving(world, here)? == Moved { sockets: 1, moved: 1, not_moved: BTreeMap::new() });
    ensure!(peer(&mut client, socket)? == Some(here.socket_addr()));
    ensure!(expect_answers(&mut client)? == 1);
    Ok(())
}
