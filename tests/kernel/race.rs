//! One UDP socket connected from two threads at the same time: the hook runs without the socket lock, so two of
//! them may run for one socket at once, and neither can know which connect has the last word.

use anyhow::{Context as _, Result, ensure};
use skreap::core::Backend;
use skreap_testbed::{Client, Op, Raced, Reply, Selection};

use crate::case::{Case, case};
use crate::sockets::*;
use crate::unconnected::send_to_all;
use crate::world::World;

pub fn cases() -> Vec<Case> {
    vec![
        case!(two_threads_connect_one_socket),
        case!(two_threads_connect_one_socket_among_four_backends),
        case!(two_threads_connect_one_socket_v6),
    ]
}

/// Two threads of the client connect a socket, each to one of the backends, so often.
pub fn race(client: &mut Client, socket: Socket, a: Backend, b: Backend, rounds: u32) -> Result<Raced> {
    let op =
        Op::ConnectFromTwoThreads { socket: socket.handle, a: a.socket_addr(), b: b.socket_addr(), rounds };
    match client.call(&op)? {
        Reply::Raced(raced) => {
            ensure!(raced.connected_a == rounds && raced.connected_b == rounds, "{raced:?}");
            Ok(raced)
        }
        other => anyhow::bail!("not a race: {other:?}"),
    }
}

/// Which of the backends the socket is connected to.
fn peer_among(raced: &Raced, backends: &[Backend]) -> Result<Backend> {
    let peer = raced.peer.context("no peer after a race")?;
    let found = backends.iter().find(|backend| backend.socket_addr() == peer);
    found.copied().with_context(|| format!("connected to {peer}"))
}

/// Races, then reaps the live peer: the socket must be found, whatever the order was.
fn race_and_reap(world: &mut World, a: Backend, b: Backend, sockets: u32, rounds: u32) -> Result<()> {
    world.serve(&[a, b])?;
    let mut client = world.client("client")?;
    let (mut ended_at_a, mut ended_at_b) = (0, 0);
    for _ in 0..sockets {
        let socket = open(&mut client, spec_for(a))?;
        let raced = race(&mut client, socket, a, b, rounds)?;
        let peer = peer_among(&raced, &[a, b])?;
        let other = if peer == a { b } else { a };
        *if peer == a { &mut ended_at_a } else { &mut ended_at_b } += 1;
        expect_exactly(&world.reap(other)?, &mut [&mut client], &[])?;
        expect_exactly(&world.reap(peer)?, &mut [&mut client], &[socket.cookie])?;
        client.close(socket.handle)?;
        if world.uses_index() {
            ensure!(world.counters()?.live() == 0, "{:?}", world.counters()?);
        }
    }
    ensure!(ended_at_a + ended_at_b == sockets);
    Ok(())
}

fn two_threads_connect_one_socket(world: &mut World) -> Result<()> {
    race_and_reap(world, udp(1), udp(2), 40, 500)
}

fn two_threads_connect_one_socket_v6(world: &mut World) -> Result<()> {
    race_and_reap(world, udp6(1), udp6(2), 20, 500)
}

/// Sockets with a long life of races between changing pairs, with sends, disconnects and destroys in between.
fn two_threads_connect_one_socket_among_four_backends(world: &mut World) -> Result<()> {
    const PAIRS: [(usize, usize); 8] = [(0, 1), (1, 0), (2, 1), (0, 3), (3, 2), (1, 1), (2, 0), (3, 1)];
    let backends = [udp(1), udp(2), udp(3), udp(4)];
    world.serve(&backends)?;
    let mut client = world.client("client")?;
    let mut sockets = Vec::new();
    for _ in 0..4 {
        sockets.push(open(&mut client, spec_for(udp(1)))?);
    }
    for turn in 0..96 {
        let socket = sockets[turn % sockets.len()];
        let (a, b) = PAIRS[turn % PAIRS.len()];
        match turn % 7 {
            3 => client.disconnect(socket.handle)?,
            4 => send_to_all(&mut client, socket, &backends[turn % 4..])?,
            5 => client.connect(socket.handle, backends[turn % 4].socket_addr())?,
            _ => {}
        }
        let raced = race(&mut client, socket, backends[a], backends[b], 100)?;
        let peer = peer_among(&raced, &backends)?;
        let listed = world.dry_run(peer)?.sockets.unwrap_or_default();
        ensure!(
            listed.iter().filter(|found| found.cookie == socket.cookie).count() == 1,
            "turn {turn}: {socket:?} is connected to {peer} and not found: {listed:?}"
        );
        if turn % 5 == 4 {
            let expected: Vec<u64> = client
                .states(Selection::All)?
                .iter()
                .filter(|state| state.peer == Some(peer.socket_addr()))
                .map(|state| state.cookie)
                .collect();
            ensure!(expected.contains(&socket.cookie));
            expect_exactly(&world.reap(peer)?, &mut [&mut client], &expected)?;
        }
    }
    Ok(())
}
