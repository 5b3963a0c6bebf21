//! Connected UDP sockets.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use skreap_testbed::{Family, Op, OpenSpec, Protocol};

use crate::case::{Case, case};
use crate::sockets::*;
use crate::world::World;

pub fn cases() -> Vec<Case> {
    vec![
        case!(udp_connected_v4),
        case!(udp_connected_v6),
        case!(udp_v4_mapped_has_the_key_of_v4),
        case!(udp_error_is_delivered_once),
        case!(udp_blocked_recv_is_woken),
        case!(udp_reuseport_sockets_with_one_tuple),
        case!(udp_bound_to_device),
        case!(dry_run_lists_and_touches_nothing),
        case!(same_address_other_port_or_protocol_is_untouched),
    ]
}

fn udp_connected_v4(world: &mut World) -> Result<()> {
    three_of_five(world, [udp(1), udp(2)])
}

fn udp_connected_v6(world: &mut World) -> Result<()> {
    three_of_five(world, [udp6(1), udp6(2)])
}

fn three_of_five(world: &mut World, [gone, stays]: [skreap::core::Backend; 2]) -> Result<()> {
    world.serve(&[gone, stays])?;
    let mut client = world.client("client")?;
    let victims = connect_many(&mut client, Default::default(), gone, 3)?;
    connect_many(&mut client, Default::default(), stays, 2)?;
    let report = world.reap(gone)?;
    ensure!(!world.uses_index() || report.visited == 3);
    expect_exactly(&report, &mut [&mut client], &victims.cookies)?;
    ensure!(expect_answers(&mut client)? == 2);
    // They are gone from the backend, so there is nothing left to destroy.
    expect_destroyed(&world.reap(gone)?, &mut [&mut client], &[])
}

fn udp_v4_mapped_has_the_key_of_v4(world: &mut World) -> Result<()> {
    let (gone, other) = (udp(1), udp6(1));
    world.serve(&[gone, other])?;
    let mut client = world.client("client")?;
    let mut cookies = connect_many(&mut client, Default::default(), gone, 2)?.cookies;
    for _ in 0..2 {
        let spec = OpenSpec::new(Protocol::Udp, Family::V6);
        cookies.push(open_to(&mut client, spec, mapped(gone))?.cookie);
    }
    connect(&mut client, other)?;
    let listing = world.listing()?;
    ensure!(listing.backends.len() == 2, "{listing:?}");
    ensure!(listing.backends[&gone].connected == 4 && listing.backends[&other].connected == 1, "{listing:?}");
    let report = world.reap(gone)?;
    expect_exactly(&report, &mut [&mut client], &cookies)?;
    ensure!(expect_answers(&mut client)? == 1);
    Ok(())
}

fn udp_error_is_delivered_once(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    expect_complete(&world.reap(udp(1))?, 1)?;
    ensure!(errno(client.recv(socket.handle, 100))? == libc::ECONNABORTED);
    ensure!(errno(client.recv(socket.handle, 100))? == libc::EAGAIN);
    ensure!(errno(client.send_bytes(socket.handle, b"x"))? == libc::EDESTADDRREQ);
    Ok(())
}

fn udp_blocked_recv_is_woken(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    client.send(&Op::Recv { socket: socket.handle, timeout_ms: PATIENCE_MS })?;
    // Nothing shows from outside that it sleeps in the kernel; it also passes if it does not yet.
    thread::sleep(Duration::from_millis(50));
    expect_complete(&world.reap(udp(1))?, 1)?;
    ensure!(errno(client.receive())? == libc::ECONNABORTED);
    Ok(())
}

/// The kernel finds one of several sockets with the same tuple, and the cookie says it is another one.
fn udp_reuseport_sockets_with_one_tuple(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    world.add_address("10.177.0.100".parse()?)?;
    let mut client = world.client("client")?;
    let spec = OpenSpec {
        bind: Some("10.177.0.100:4000".parse()?),
        reuse_port: true,
        ..OpenSpec::new(Protocol::Udp, Family::V4)
    };
    let mut cookies = Vec::new();
    for _ in 0..5 {
        cookies.push(open_to(&mut client, spec.clone(), udp(1).socket_addr())?.cookie);
    }
    open_to(&mut client, spec, udp(2).socket_addr())?;
    let report = world.reap(udp(1))?;
    expect_exactly(&report, &mut [&mut client], &cookies)?;
    ensure!(expect_answers(&mut client)? == 1);
    Ok(())
}

fn udp_bound_to_device(world: &mut World) -> Result<()> {
    let addr = "10.177.1.1".parse()?;
    world.netns(0).add_veth("left", "right", addr)?;
    let gone: skreap::core::Backend = "udp://10.177.1.1:53".parse()?;
    world.serve(&[udp(2)])?;
    let mut client = world.client("client")?;
    let device = Some("left".to_owned());
    let spec = OpenSpec { device, ..OpenSpec::new(Protocol::Udp, Family::V4) };
    let bound = open_to(&mut client, spec, gone.socket_addr())?;
    let plain = connect(&mut client, gone)?;
    connect(&mut client, udp(2))?;
    let listed = world.dry_run(gone)?.sockets.unwrap_or_default();
    let on_device = |cookie| listed.iter().any(|s| s.cookie == cookie && s.ifindex > 0);
    ensure!(listed.len() == 2 && on_device(bound.cookie) && !on_device(plain.cookie), "{listed:?}");
    let report = world.reap(gone)?;
    expect_exactly(&report, &mut [&mut client], &[bound.cookie, plain.cookie])?;
    ensure!(expect_answers(&mut client)? == 1);
    Ok(())
}

fn dry_run_lists_and_touches_nothing(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let mut cookies = connect_many(&mut client, Default::default(), udp(1), 4)?.cookies;
    connect_many(&mut client, Default::default(), udp(2), 3)?;
    let report = world.dry_run(udp(1))?;
    ensure!(report.victims == 4 && report.destroyed == 0 && report.complete, "{report:?}");
    let listed = report.sockets.unwrap_or_default();
    for socket in &listed {
        ensure!(socket.daddr == udp(1).addr() && socket.dport == 53, "{socket}");
        ensure!(socket.netns == world.netns(0).cookie(), "{socket}");
        ensure!(socket.netns_inum == world.netns(0).inum(), "{socket}");
        ensure!(socket.state == "ESTABLISHED", "{socket:?}");
    }
    let mut listed: Vec<u64> = listed.iter().map(|socket| socket.cookie).collect();
    listed.sort_unstable();
    cookies.sort_unstable();
    ensure!(listed == cookies);
    ensure!(expect_answers(&mut client)? == 7);
    Ok(())
}

fn same_address_other_port_or_protocol_is_untouched(world: &mut World) -> Result<()> {
    let gone = udp(1);
    let others: [skreap::core::Backend; 3] =
        ["tcp://10.177.0.1:53".parse()?, "udp://10.177.0.1:54".parse()?, "udp://10.177.0.11:53".parse()?];
    world.serve(&[gone])?;
    world.serve(&others)?;
    let mut client = world.client("client")?;
    let victim = connect(&mut client, gone)?;
    for other in others {
        connect(&mut client, other)?;
    }
    let report = world.reap(gone)?;
    expect_exactly(&report, &mut [&mut client], &[victim.cookie])?;
    ensure!(expect_answers(&mut client)? == 3);
    Ok(())
}
