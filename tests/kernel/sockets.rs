//! Opening sockets in client processes, and saying exactly what became of them.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use skreap::core::{Action, Backend, Protocol, Report, Skipped};
use skreap_testbed::{
    CallError, Client, Family, Mode, NetnsRef, Op, OpenMany, OpenSpec, OpenedMany, Reply, Selection,
    SocketState,
};

/// Longer than any answer takes on a busy machine.
pub const PATIENCE_MS: u64 = 20_000;
/// `tcpi_state` of an established connection.
const ESTABLISHED: u8 = 1;

/// The `n`th backend of a kind. The addresses are nobody else's, in no netns but the test's own.
pub fn udp(n: u16) -> Backend {
    backend(Protocol::Udp, [10, 177, 0, n as u8].into(), 53)
}

/// As [`udp`], over IPv6.
pub fn udp6(n: u16) -> Backend {
    backend(Protocol::Udp, [0xfd77, 0, 0, 0, 0, 0, 0, n].into(), 53)
}

/// As [`udp`], over TCP.
pub fn tcp(n: u16) -> Backend {
    backend(Protocol::Tcp, [10, 177, 0, n as u8].into(), 80)
}

/// As [`tcp`], over IPv6.
pub fn tcp6(n: u16) -> Backend {
    backend(Protocol::Tcp, [0xfd77, 0, 0, 0, 0, 0, 0, n].into(), 80)
}

/// A reconcile with these backends alive.
pub fn living(backends: Vec<Backend>) -> Action {
    Action::Reconcile { backends, within: Vec::new(), max_victims: None }
}

fn backend(protocol: Protocol, addr: IpAddr, port: u16) -> Backend {
    Backend::new(protocol, addr, port).unwrap_or_else(|error| unreachable!("{addr}: {error}"))
}

/// The IPv4-mapped spelling of an address, for IPv6 sockets.
pub fn mapped(backend: Backend) -> SocketAddr {
    match backend.addr() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), backend.port()),
        IpAddr::V6(_) => backend.socket_addr(),
    }
}

/// One socket of a client.
#[derive(Clone, Copy, Debug)]
pub struct Socket {
    pub handle: u32,
    pub cookie: u64,
}

/// A spec that fits the backend.
pub fn spec_for(backend: Backend) -> OpenSpec {
    OpenSpec::new(backend.protocol(), Family::of(backend.socket_addr()))
}

/// Opens a socket without a peer.
pub fn open(client: &mut Client, spec: OpenSpec) -> Result<Socket> {
    let handle = client.open(spec)?;
    Ok(Socket { handle, cookie: client.cookie(handle)? })
}

/// Opens a socket and connects it.
pub fn open_to(client: &mut Client, spec: OpenSpec, peer: SocketAddr) -> Result<Socket> {
    let handle = client.open(spec)?;
    client.connect(handle, peer)?;
    Ok(Socket { handle, cookie: client.cookie(handle)? })
}

/// Opens a plain socket and connects it to the backend.
pub fn connect(client: &mut Client, backend: Backend) -> Result<Socket> {
    open_to(client, spec_for(backend), backend.socket_addr())
}

/// Opens and connects many, all of which must come to be.
pub fn connect_many(
    client: &mut Client,
    netns: NetnsRef,
    backend: Backend,
    count: u32,
) -> Result<OpenedMany> {
    let opened = client.open_many(many(netns, backend, count))?;
    ensure!(
        opened.failed == 0 && opened.cookies.len() == count as usize,
        "{} of {count} sockets to {backend} failed: {:?}",
        opened.failed,
        opened.first_error
    );
    Ok(opened)
}

pub fn many(netns: NetnsRef, backend: Backend, count: u32) -> OpenMany {
    OpenMany {
        netns,
        protocol: backend.protocol(),
        count,
        connect: backend.socket_addr(),
        timeout_ms: PATIENCE_MS,
    }
}

/// The errno of a call that must have been refused by the kernel.
pub fn errno<T: std::fmt::Debug>(result: Result<T, CallError>) -> Result<i32> {
    match result {
        Ok(value) => anyhow::bail!("should have failed, but gave {value:?}"),
        Err(error) => error.errno().with_context(|| format!("{error}")),
    }
}

/// Says that exactly these sockets were destroyed by the reap, and that every other connected socket of the
/// clients still gets an answer from its backend. Takes the pending errors.
pub fn expect_exactly(report: &Report, clients: &mut [&mut Client], cookies: &[u64]) -> Result<()> {
    expect_destroyed(report, clients, cookies)?;
    for client in clients {
        expect_answers(client)?;
    }
    Ok(())
}

/// The first half of [`expect_exactly`], for backends that do not answer.
pub fn expect_destroyed(report: &Report, clients: &mut [&mut Client], cookies: &[u64]) -> Result<()> {
    expect_complete(report, cookies.len() as u64)?;
    let mut died = Vec::new();
    for client in clients {
        died.extend(client.destroyed(Selection::All)?);
    }
    died.sort_unstable();
    let mut expected = cookies.to_vec();
    expected.sort_unstable();
    ensure!(died == expected, "destroyed were {died:?}, not {expected:?}: {report:?}");
    Ok(())
}

/// Says that the report claims this many destroyed sockets, and nothing that went wrong.
pub fn expect_complete(report: &Report, destroyed: u64) -> Result<()> {
    ensure!(
        report.victims == destroyed
            && report.destroyed == destroyed
            && report.failed.total() == 0
            && report.skipped.gone == 0
            && report.complete
            && report.incomplete_because.is_empty(),
        "not {destroyed} destroyed and nothing else: {report:?}"
    );
    Ok(())
}

/// Says that the report counts exactly these as skipped, where the engine counts nodes of the index.
pub fn expect_skipped(report: &Report, uses_index: bool, skipped: Skipped) -> Result<()> {
    ensure!(!uses_index || report.skipped == skipped, "skipped should be {skipped:?}: {report:?}");
    Ok(())
}

/// Says that every connected socket of the client gets an answer, and how many there are.
pub fn expect_answers(client: &mut Client) -> Result<u32> {
    let connected = |state: &SocketState| {
        state.peer.is_some() && state.tcp_state.is_none_or(|tcp_state| tcp_state == ESTABLISHED)
    };
    let states = client.states(Selection::All)?;
    let handles: Vec<u32> =
        states.iter().filter(|state| connected(state)).map(|state| state.socket).collect();
    let count = handles.len() as u32;
    expect_answers_on(client, Selection::List(handles), count)?;
    Ok(count)
}

/// Says that these sockets get an answer each.
pub fn expect_answers_on(client: &mut Client, sockets: Selection, count: u32) -> Result<()> {
    let echoed = client.echo_all(sockets, PATIENCE_MS)?;
    ensure!(
        echoed.lost.is_empty() && echoed.answered() == count,
        "client {}: {} of {count} answered, lost {:?}",
        client.label(),
        echoed.answered(),
        echoed.lost
    );
    Ok(())
}

/// Waits until a TCP socket is in this state (`tcpi_state`).
pub fn wait_for_tcp_state(client: &mut Client, handle: u32, wanted: u8) -> Result<()> {
    let deadline = Instant::now() + Duration::from_millis(PATIENCE_MS);
    loop {
        let state = client.state(handle)?;
        if state.tcp_state == Some(wanted) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "TCP state {wanted} never came: {state:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Starts a backend inside a client process, in the netns it lives in.
pub fn start_echo(client: &mut Client, backend: Backend) -> Result<u32> {
    let reply = client.call(&Op::StartEcho {
        protocol: backend.protocol(),
        addr: backend.socket_addr(),
        netns: vec![NetnsRef::Own],
        mode: Mode::Echo,
    })?;
    match reply {
        Reply::EchoStarted { echo, .. } => Ok(echo),
        other => anyhow::bail!("not the start of a backend: {other:?}"),
    }
}
