//! A UDP socket that is connected and has no local port: destroyed while it was on its way to its next peer.
//!
//! `connect()` looks whether the socket has a port, and then takes the lock. Who destroys the old association in between
//! takes the port away, and the connect succeeds all the same. The socket is in no hash any more, so that nobody finds it
//! by its address, and gets a port again when it sends.

use std::io;
use std::panic::resume_unwind;
use std::path::Path;
use std::thread;

use anyhow::{Result, ensure};
use skreap::bpf::Error;
use skreap::core::{EngineName, Report};
use skreap_testbed::Client;
use skreap_testbed::bpf::Pause;

use crate::case::{Case, Skip, case};
use crate::sockets::*;
use crate::world::World;

pub fn cases() -> Vec<Case> {
    vec![
        case!(connected_socket_without_a_port_is_destroyed).only(EngineName::Kfunc),
        case!(connected_socket_without_a_port_is_told_of).only(EngineName::Netlink),
    ]
}

/// What `connect()` of a UDP socket calls after it has looked at the port, and which takes the lock: since Linux 6.13,
/// and before.
const CONNECT: [&str; 2] = ["udp_connect", "ip4_datagram_connect"];

/// The functions that can be attached to.
const FUNCTIONS: &str = "/sys/kernel/tracing/available_filter_functions";

/// Holds the client up in the `connect()` of a UDP socket, after the hook and before anything has come of it.
pub fn between_hook_and_connect(client: &Client) -> Result<Pause> {
    match Pause::before(&CONNECT, client.pid()) {
        Err(Error::Load { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
            Err(Skip("this kernel lets nobody attach to its functions (fentry)").into())
        }
        // Where there is no call at the beginning of a function, it is not what the kernel expects to replace.
        Err(Error::Load { source, .. })
            if source.kind() == io::ErrorKind::ResourceBusy && !Path::new(FUNCTIONS).exists() =>
        {
            Err(Skip("this kernel has no functions to attach to (CONFIG_DYNAMIC_FTRACE)").into())
        }
        pause => Ok(pause?),
    }
}

/// A socket that is connected to `udp(2)` and has no port.
fn portless(world: &mut World, client: &mut Client) -> Result<Socket> {
    world.serve(&[udp(1), udp(2)])?;
    let socket = connect(client, udp(1))?;
    let pause = between_hook_and_connect(client)?;
    let report = thread::scope(|scope| {
        let moved = scope.spawn(|| client.connect(socket.handle, udp(2).socket_addr()));
        let report = pause.wait(1).map_err(anyhow::Error::from).and_then(|()| world.reap(udp(1)));
        pause.let_go(1)?;
        moved.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        report
    })?;
    ensure!(report.victims == 1 && report.destroyed == 1, "{report:?}");
    let state = client.state(socket.handle)?;
    ensure!(state.peer == Some(udp(2).socket_addr()), "{state:?}");
    ensure!(state.local.is_some_and(|local| local.port() == 0), "{state:?}");
    Ok(socket)
}

fn expect_dead(report: &Report, client: &mut Client, socket: &Socket) -> Result<()> {
    expect_complete(report, 1)?;
    let state = client.state(socket.handle)?;
    ensure!(state.destroyed(), "{state:?}");
    Ok(())
}

fn connected_socket_without_a_port_is_destroyed(world: &mut World) -> Result<()> {
    let mut client = world.client("client")?;
    let socket = portless(world, &mut client)?;
    let report = world.reap(udp(2))?;
    expect_dead(&report, &mut client, &socket)
}

/// Only a reference reaches it: until it has a port the report says that it is there.
fn connected_socket_without_a_port_is_told_of(world: &mut World) -> Result<()> {
    let mut client = world.client("client")?;
    let socket = portless(world, &mut client)?;
    let report = world.reap(udp(2))?;
    ensure!(report.victims == 1 && report.destroyed == 0 && report.skipped.gone == 0, "{report:?}");
    ensure!(report.complete && report.fallbacks.is_empty(), "{report:?}");
    ensure!(report.failed.total() == 1 && report.failed.by_errno()["ENOENT"] == 1, "{report:?}");
    let failed: Vec<u64> = report.failed.sockets().iter().map(|failure| failure.socket.cookie).collect();
    ensure!(failed == [socket.cookie], "{report:?}");
    client.send_bytes(socket.handle, b"hello")?;
    let report = world.reap(udp(2))?;
    expect_dead(&report, &mut client, &socket)
}
