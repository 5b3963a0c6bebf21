//! A known few among many.

use anyhow::{Result, ensure};
use skreap::core::Backend;
use skreap_testbed::Client;

use crate::case::{Case, case};
use crate::sockets::*;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let five_netns = WorldOptions { netns: 5, ..WorldOptions::default() };
    vec![
        case!(twenty_three_of_500_udp4).with(five_netns),
        case!(twenty_three_of_500_udp6).with(five_netns),
        case!(twenty_three_of_500_tcp4).with(five_netns),
        case!(twenty_three_of_500_tcp6).with(five_netns),
        case!(all_of_500_one_backend_after_the_other).with(five_netns),
    ]
}

fn twenty_three_of_500_udp4(world: &mut World) -> Result<()> {
    twenty_three_of_500(world, udp)
}

fn twenty_three_of_500_udp6(world: &mut World) -> Result<()> {
    twenty_three_of_500(world, udp6)
}

fn twenty_three_of_500_tcp4(world: &mut World) -> Result<()> {
    twenty_three_of_500(world, tcp)
}

fn twenty_three_of_500_tcp6(world: &mut World) -> Result<()> {
    twenty_three_of_500(world, tcp6)
}

/// How many sockets each of seven backends has.
const SHARES: [u32; 7] = [80, 80, 23, 80, 79, 79, 79];

/// Spreads 500 sockets over seven backends, four clients and five netns; returns the cookies by backend.
fn spread(world: &mut World, clients: &mut [Client], backends: &[Backend; 7]) -> Result<Vec<Vec<u64>>> {
    world.serve(backends)?;
    let mut all = Vec::new();
    let mut turn = 0;
    for (backend, share) in backends.iter().zip(SHARES) {
        let mut cookies = Vec::new();
        for _ in 0..share {
            let place = world.place(turn % 5)?;
            let client = &mut clients[turn % 4];
            cookies.extend(connect_many(client, place, *backend, 1)?.cookies);
            turn += 1;
        }
        all.push(cookies);
    }
    ensure!(turn == 500);
    Ok(all)
}

fn four_clients(world: &World) -> Result<Vec<Client>> {
    ["a", "b", "c", "d"].into_iter().map(|label| world.client(label)).collect()
}

fn twenty_three_of_500(world: &mut World, backend: fn(u16) -> Backend) -> Result<()> {
    let backends = [1, 2, 3, 4, 5, 6, 7].map(backend);
    let mut clients = four_clients(world)?;
    let cookies = spread(world, &mut clients, &backends)?;
    ensure!(cookies[2].len() == 23);
    let report = world.reap(backends[2])?;
    let mut clients: Vec<&mut Client> = clients.iter_mut().collect();
    expect_exactly(&report, &mut clients, &cookies[2])?;
    let mut answered = 0;
    for client in clients {
        answered += expect_answers(client)?;
    }
    ensure!(answered == 477, "{answered} sockets still answered");
    Ok(())
}

fn all_of_500_one_backend_after_the_other(world: &mut World) -> Result<()> {
    let backends = [udp(1), udp6(1), tcp(1), tcp6(1), udp(2), tcp(2), udp6(2)];
    let mut clients = four_clients(world)?;
    let cookies = spread(world, &mut clients, &backends)?;
    let mut clients: Vec<&mut Client> = clients.iter_mut().collect();
    for (backend, cookies) in backends.iter().zip(&cookies) {
        let report = world.reap(*backend)?;
        expect_exactly(&report, &mut clients, cookies)?;
    }
    Ok(())
}
