//! TCP sockets, by state.

use anyhow::{Result, ensure};
use skreap::core::Backend;
use skreap_testbed::{Client, Family, Mode, OpenSpec, Protocol};

use crate::case::{Case, Skip, case};
use crate::sockets::*;
use crate::world::World;

const SYN_SENT: u8 = 2;
const FIN_WAIT2: u8 = 5;
const CLOSE_WAIT: u8 = 8;

pub fn cases() -> Vec<Case> {
    vec![
        case!(tcp_established_v4),
        case!(tcp_established_v6),
        case!(tcp_established_v4_mapped),
        case!(tcp_both_ends_get_an_error),
        case!(tcp_syn_sent),
        case!(tcp_close_wait),
        case!(tcp_half_closed_by_the_client),
        case!(tcp_refused_connect_leaves_no_victim),
        case!(mptcp_is_never_indexed).index_only(),
    ]
}

fn tcp_established_v4(world: &mut World) -> Result<()> {
    three_of_five(world, [tcp(1), tcp(2)])
}

fn tcp_established_v6(world: &mut World) -> Result<()> {
    three_of_five(world, [tcp6(1), tcp6(2)])
}

fn three_of_five(world: &mut World, [gone, stays]: [Backend; 2]) -> Result<()> {
    world.serve(&[gone, stays])?;
    let mut client = world.client("client")?;
    let victims = connect_many(&mut client, Default::default(), gone, 3)?;
    connect_many(&mut client, Default::default(), stays, 2)?;
    let report = world.reap(gone)?;
    ensure!(!world.uses_index() || report.visited == 3);
    expect_exactly(&report, &mut [&mut client], &victims.cookies)?;
    ensure!(expect_answers(&mut client)? == 2);
    Ok(())
}

fn tcp_established_v4_mapped(world: &mut World) -> Result<()> {
    world.serve(&[tcp(1), tcp(2)])?;
    let mut client = world.client("client")?;
    let spec = || OpenSpec::new(Protocol::Tcp, Family::V6);
    let as_mapped = open_to(&mut client, spec(), mapped(tcp(1)))?;
    let plain = connect(&mut client, tcp(1))?;
    open_to(&mut client, spec(), mapped(tcp(2)))?;
    let report = world.reap(tcp(1))?;
    expect_exactly(&report, &mut [&mut client], &[as_mapped.cookie, plain.cookie])?;
    ensure!(expect_answers(&mut client)? == 1);
    Ok(())
}

/// A server process outside the cgroup that listens where the backend is, and its listening socket.
fn server(world: &mut World, backend: Backend, backlog: i32) -> Result<(Client, u32)> {
    world.add_address(backend.addr())?;
    let mut server = world.outsider("server")?;
    let listener = server.open(OpenSpec { bind: Some(backend.socket_addr()), ..spec_for(backend) })?;
    server.listen(listener, backlog)?;
    Ok((server, listener))
}

fn tcp_both_ends_get_an_error(world: &mut World) -> Result<()> {
    let (mut server, listener) = server(world, tcp(1), 8)?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, tcp(1))?;
    let accepted = server.accept(listener, PATIENCE_MS)?;
    client.send_bytes(socket.handle, b"before")?;
    ensure!(server.recv(accepted, PATIENCE_MS)? == b"before");
    expect_complete(&world.reap(tcp(1))?, 1)?;
    ensure!(errno(client.recv(socket.handle, PATIENCE_MS))? == libc::ECONNABORTED);
    ensure!(client.recv(socket.handle, PATIENCE_MS)?.is_empty());
    ensure!(errno(client.send_bytes(socket.handle, b"after"))? == libc::EPIPE);
    ensure!(errno(server.recv(accepted, PATIENCE_MS))? == libc::ECONNRESET);
    Ok(())
}

fn tcp_syn_sent(world: &mut World) -> Result<()> {
    // One connection waits to be accepted, and a backlog of 0 has room for no more: the kernel drops the SYN of
    // the next, whose connect stays pending.
    let (_server, _) = server(world, tcp(1), 0)?;
    let mut client = world.client("client")?;
    let first = connect(&mut client, tcp(1))?;
    let spec = OpenSpec { nonblocking: true, ..spec_for(tcp(1)) };
    let mut cookies = vec![first.cookie];
    let mut pending = Vec::new();
    for _ in 0..2 {
        let socket = open(&mut client, spec.clone())?;
        ensure!(errno(client.connect(socket.handle, tcp(1).socket_addr()))? == libc::EINPROGRESS);
        wait_for_tcp_state(&mut client, socket.handle, SYN_SENT)?;
        cookies.push(socket.cookie);
        pending.push(socket);
    }
    let report = world.reap(tcp(1))?;
    expect_complete(&report, 3)?;
    for socket in &pending {
        let state = client.state(socket.handle)?;
        ensure!(state.errno == libc::ECONNABORTED && state.cookie == socket.cookie, "{state:?}");
    }
    Ok(())
}

fn tcp_close_wait(world: &mut World) -> Result<()> {
    world.serve_as(tcp(1), Mode::CloseAfterAccept)?;
    world.serve(&[tcp(2)])?;
    let mut client = world.client("client")?;
    let mut cookies = Vec::new();
    for _ in 0..2 {
        let socket = connect(&mut client, tcp(1))?;
        wait_for_tcp_state(&mut client, socket.handle, CLOSE_WAIT)?;
        cookies.push(socket.cookie);
    }
    connect(&mut client, tcp(2))?;
    let report = world.reap(tcp(1))?;
    expect_exactly(&report, &mut [&mut client], &cookies)?;
    ensure!(expect_answers(&mut client)? == 1);
    Ok(())
}

/// The client has ended its side, and still waits for what the backend has to say.
fn tcp_half_closed_by_the_client(world: &mut World) -> Result<()> {
    let (mut server, listener) = server(world, tcp(1), 8)?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, tcp(1))?;
    let accepted = server.accept(listener, PATIENCE_MS)?;
    client.shutdown_write(socket.handle)?;
    ensure!(server.recv(accepted, PATIENCE_MS)?.is_empty());
    wait_for_tcp_state(&mut client, socket.handle, FIN_WAIT2)?;
    let report = world.reap(tcp(1))?;
    expect_destroyed(&report, &mut [&mut client], &[socket.cookie])
}

fn tcp_refused_connect_leaves_no_victim(world: &mut World) -> Result<()> {
    world.add_address(tcp(1).addr())?;
    let mut client = world.client("client")?;
    let socket = open(&mut client, spec_for(tcp(1)))?;
    ensure!(errno(client.connect(socket.handle, tcp(1).socket_addr()))? == libc::ECONNREFUSED);
    let report = world.reap(tcp(1))?;
    expect_complete(&report, 0)
}

/// The subflows of MPTCP are the kernel's own sockets: their close is never seen, so they must not be recorded.
fn mptcp_is_never_indexed(world: &mut World) -> Result<()> {
    let enabled = std::fs::read_to_string("/proc/sys/net/mptcp/enabled").unwrap_or_default();
    if enabled.trim() != "1" {
        return Err(Skip("no MPTCP: net.mptcp.enabled is not 1").into());
    }
    world.serve(&[tcp(1), tcp(2)])?;
    let mut client = world.client("client")?;
    let spec = || OpenSpec { mptcp: true, ..spec_for(tcp(1)) };
    let socket = open_to(&mut client, spec(), tcp(1).socket_addr())?;
    open_to(&mut client, spec(), tcp(2).socket_addr())?;
    let counters = world.counters()?;
    ensure!(counters.inserts == 0, "{counters:?}");
    ensure!(counters.ignored_kernel + counters.ignored_protocol == 2, "{counters:?}");
    // An event on the one destroys it all the same (kernel_sockets.rs); that on no other does.
    expect_complete(&world.reap(tcp(3))?, 0)?;
    client.send_bytes(socket.handle, b"still")?;
    ensure!(client.recv(socket.handle, PATIENCE_MS)?.ends_with(b"still"));
    Ok(())
}
