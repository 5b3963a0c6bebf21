//! Zero addresses (`0.0.0.0`, `::`): they stand for the socket's own address or for loopback, which the kernel decides
//! after the hook.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Result, ensure};
use skreap::core::{Backend, Protocol, Unconnected};
use skreap_testbed::{Client, Family, OpenSpec};

use crate::case::{Case, case};
use crate::sockets::*;
use crate::world::{World, WorldOptions};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
/// `::ffff:0.0.0.0`
const MAPPED: IpAddr = IpAddr::V6(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped());
const OWN: [u8; 4] = [10, 177, 0, 1];

pub fn cases() -> Vec<Case> {
    let destroy = WorldOptions { unconnected: Unconnected::Destroy, ..WorldOptions::default() };
    vec![
        case!(connect_to_a_zero_address),
        case!(connect_to_a_zero_address_and_elsewhere).index_only(),
        case!(send_to_a_zero_address).index_only().with(destroy),
    ]
}

/// Backends are here, and one client.
fn loopback(world: &mut World) -> Result<(skreap_testbed::Netns, Client)> {
    let netns = world.fresh_netns("zero", OWN.into())?;
    let client = world.client_at("client", &netns)?;
    Ok((netns, client))
}

fn at(protocol: Protocol, addr: impl Into<IpAddr>) -> Result<Backend> {
    Ok(Backend::new(protocol, addr.into(), 7)?)
}

fn spec(protocol: Protocol, zero: IpAddr, bound: bool) -> OpenSpec {
    let mut spec = OpenSpec::new(protocol, Family::of(SocketAddr::new(zero, 7)));
    spec.bind = bound.then_some(SocketAddr::new(OWN.into(), 0));
    spec
}

fn connect_to_a_zero_address(world: &mut World) -> Result<()> {
    let (_netns, mut client) = loopback(world)?;
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let v4 = at(protocol, Ipv4Addr::LOCALHOST)?;
        let v6 = at(protocol, Ipv6Addr::LOCALHOST)?;
        let own = at(protocol, OWN)?;
        for backend in [v4, v6, own] {
            start_echo(&mut client, backend)?;
        }
        for (zero, bound, backend) in [(V4, false, v4), (MAPPED, false, v4), (V6, false, v6), (V4, true, own)]
        {
            let socket = open_to(&mut client, spec(protocol, zero, bound), SocketAddr::new(zero, 7))?;
            let peer = client.state(socket.handle)?.peer.map(|peer| peer.ip().to_canonical());
            ensure!(peer == Some(backend.addr()), "{zero} leads to {peer:?}, not to {backend}");
            for other in [v4, v6, own].into_iter().filter(|other| *other != backend) {
                expect_exactly(&world.reap(other)?, &mut [&mut client], &[])?;
            }
            expect_exactly(&world.reap(backend)?, &mut [&mut client], &[socket.cookie])?;
        }
    }
    Ok(())
}

/// What the socket was recorded under before does not count twice, and what it connects to later is found.
fn connect_to_a_zero_address_and_elsewhere(world: &mut World) -> Result<()> {
    let (_netns, mut client) = loopback(world)?;
    let (v4, own) = (at(Protocol::Udp, Ipv4Addr::LOCALHOST)?, at(Protocol::Udp, OWN)?);
    for backend in [v4, own] {
        start_echo(&mut client, backend)?;
    }
    let bound = OpenSpec { bind: Some(SocketAddr::new(V4, 4000)), ..spec(Protocol::Udp, V4, false) };
    let socket = open_to(&mut client, bound, own.socket_addr())?;
    ensure!(world.counters()?.live() == 1);
    // An address of another family is refused, and says nothing.
    errno(client.connect(socket.handle, SocketAddr::new(V6, 7)))?;
    ensure!(world.counters()?.wildcard == 0);
    client.connect(socket.handle, SocketAddr::new(V4, 7))?;
    ensure!(world.counters()?.wildcard == 1);
    let peer = client.state(socket.handle)?.peer;
    let peer = Backend::new(Protocol::Udp, peer.map_or(V4, |peer| peer.ip()), 7)?;
    let (there, elsewhere) = if peer == own { (own, v4) } else { (v4, own) };
    expect_exactly(&world.reap(elsewhere)?, &mut [&mut client], &[])?;
    let report = world.reap(there)?;
    ensure!(report.visited == 1, "{report:?}");
    expect_exactly(&report, &mut [&mut client], &[socket.cookie])?;
    client.connect(socket.handle, elsewhere.socket_addr())?;
    expect_exactly(&world.reap(elsewhere)?, &mut [&mut client], &[socket.cookie])
}

fn send_to_a_zero_address(world: &mut World) -> Result<()> {
    let (_netns, mut client) = loopback(world)?;
    let v4 = at(Protocol::Udp, Ipv4Addr::LOCALHOST)?;
    let v6 = at(Protocol::Udp, Ipv6Addr::LOCALHOST)?;
    let own = at(Protocol::Udp, OWN)?;
    for (zero, bound, backend) in [(V4, false, v4), (MAPPED, false, v4), (V6, false, v6), (V4, true, own)] {
        let socket = open(&mut client, spec(Protocol::Udp, zero, bound))?;
        client.send_to(socket.handle, SocketAddr::new(zero, 7), b"hello")?;
        for other in [v4, v6, own].into_iter().filter(|other| *other != backend) {
            expect_exactly(&world.reap(other)?, &mut [&mut client], &[])?;
        }
        expect_exactly(&world.reap(backend)?, &mut [&mut client], &[socket.cookie])?;
    }
    Ok(())
}
