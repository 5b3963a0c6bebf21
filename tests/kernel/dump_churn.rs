//! Dumps while other sockets of the same buckets come and go: what a dump has skipped is found all the same.

use std::collections::{BTreeSet, VecDeque};
use std::env;
use std::fs;
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{self, sockopt};
use skreap::bpf::{Question, TableSocket, Tables};
use skreap::core::{EngineName, Protocol};
use skreap_testbed::{Client, Echo, Mode, Netns, OpenSpec, Selection};

use crate::case::{Case, case};
use crate::owners::need_mptcp;
use crate::sockets::*;
use crate::world::World;

/// The smallest table that the kernel gives to a netns: about 16 victims a bucket.
const BUCKETS: &str = "128";
/// The smallest for TCP.
const EHASH_BUCKETS: &str = "1";
const VICTIMS: u32 = 2000;
const CONNECTIONS: u64 = 300;
/// Connections that a churner has open at a time.
const CONNECTED: usize = 32;
const CHURNERS: usize = 2;
/// Sockets of each protocol in the tables that netns share, and how often each of these is read
const SHARED: u32 = 100;
const READS: usize = 1000;
/// Sockets that a churner has open at a time.
const OPEN: usize = 256;
/// Rounds, unless `SKREAP_DUMP_ROUNDS` says how many.
const ROUNDS: u32 = 5;

pub fn cases() -> Vec<Case> {
    vec![
        case!(a_dump_beside_churn_leaves_nobody).only(EngineName::Diag).and(EngineName::DiagFilter),
        case!(tables_are_read_whole_while_netns_go).only(EngineName::Netlink),
        case!(subflows_beside_churn_are_all_destroyed).only(EngineName::Netlink),
        case!(tcp_beside_churn_is_all_destroyed).only(EngineName::Diag).and(EngineName::DiagFilter),
    ]
}

/// The tables that netns share are reached through one of them. Whichever goes meanwhile, no socket is left out.
fn tables_are_read_whole_while_netns_go(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), tcp(1)])?;
    let mut client = world.client("client")?;
    connect_many(&mut client, Default::default(), udp(1), SHARED)?;
    connect_many(&mut client, Default::default(), tcp(1), SHARED)?;
    let (stop, made) = (AtomicBool::new(false), AtomicU64::new(0));
    let cgroup = fs::metadata(world.cgroup().path())?.ino();
    let mut tables = Tables::load(Some(cgroup))?;
    let counts = thread::scope(|scope| {
        let maker = scope.spawn(|| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                // The thread leaves the netns before, which ends with it.
                unshare(CloneFlags::CLONE_NEWNET)?;
                made.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        let mut count = |protocol, backend| -> Result<BTreeSet<usize>> {
            let question = Question { backend: Some(backend), ..Question::default() };
            let clients = |sockets: Vec<TableSocket>| sockets.iter().filter(|one| one.is_client()).count();
            (0..READS).map(|_| Ok(clients(tables.read(protocol, &question)?))).collect()
        };
        let counts = count(Protocol::Udp, udp(1)).and_then(|udp| Ok((udp, count(Protocol::Tcp, tcp(1))?)));
        stop.store(true, Ordering::Relaxed);
        maker.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        counts
    })?;
    ensure!(made.load(Ordering::Relaxed) >= 10, "{} netns came and went", made.load(Ordering::Relaxed));
    ensure!(counts == (BTreeSet::from([SHARED as usize]), BTreeSet::from([SHARED as usize])), "{counts:?}");
    Ok(())
}

/// The kernel's own sockets are looked for in dumps, whatever the engine.
fn subflows_beside_churn_are_all_destroyed(world: &mut World) -> Result<()> {
    need_mptcp()?;
    connections_beside_churn(world, &OpenSpec { mptcp: true, ..spec_for(tcp(1)) })
}

fn tcp_beside_churn_is_all_destroyed(world: &mut World) -> Result<()> {
    connections_beside_churn(world, &spec_for(tcp(1)))
}

/// All of them in one bucket, with those that come and go.
fn connections_beside_churn(world: &mut World, spec: &OpenSpec) -> Result<()> {
    world.netns(0).set_sysctl("net.ipv4.tcp_child_ehash_entries", EHASH_BUCKETS)?;
    let small = world.netns(0).run(|| Netns::create("small"))??;
    for backend in [tcp(1), tcp(2)] {
        small.add_address(backend.addr())?;
    }
    let servers =
        [tcp(1), tcp(2)].map(|b| Echo::start(Protocol::Tcp, b.socket_addr(), &[&small], Mode::Echo));
    let servers = servers.into_iter().collect::<Result<Vec<_>>>()?;
    let mut client = world.client_at("client", &small)?;
    let (stop, churned) = (AtomicBool::new(false), AtomicU64::new(0));
    let complete = thread::scope(|scope| {
        let churners: Vec<_> =
            (0..CHURNERS).map(|_| scope.spawn(|| small.run(|| connect_and_reset(&stop, &churned)))).collect();
        let mut round = || -> Result<bool> {
            for _ in 0..CONNECTIONS {
                open_to(&mut client, spec.clone(), tcp(1).socket_addr())?;
            }
            let before = churned.load(Ordering::Relaxed);
            let report = world.reap(tcp(1))?;
            ensure!(
                churned.load(Ordering::Relaxed) > before,
                "nothing has come or gone meanwhile: {report:?}"
            );
            ensure!(report.skipped.gone == 0 && report.failed.total() == 0, "{report:?}");
            ensure!(!report.complete || report.destroyed == CONNECTIONS, "{report:?}");
            client.close_all()?;
            Ok(report.complete)
        };
        let complete = (0..ROUNDS).map(|_| round()).collect::<Result<Vec<_>>>();
        stop.store(true, Ordering::Relaxed);
        for churner in churners {
            churner.join().unwrap_or_else(|panic| resume_unwind(panic))??;
        }
        complete
    })?;
    drop(servers);
    ensure!(complete.contains(&true), "none of {ROUNDS} events was complete");
    Ok(())
}

/// Connects to the other backend and resets, until told to stop: nothing is left in TIME_WAIT.
fn connect_and_reset(stop: &AtomicBool, churned: &AtomicU64) -> Result<()> {
    let mut open = VecDeque::new();
    while !stop.load(Ordering::Relaxed) {
        let stream = TcpStream::connect(tcp(2).socket_addr())?;
        socket::setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
        open.push_back(stream);
        if open.len() > CONNECTED {
            open.pop_front();
            churned.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// The victims stay open, so none may be left or be taken for gone, whenever the report says that it is complete.
fn a_dump_beside_churn_leaves_nobody(world: &mut World) -> Result<()> {
    let rounds = match env::var("SKREAP_DUMP_ROUNDS") {
        Ok(rounds) => rounds.parse().context("SKREAP_DUMP_ROUNDS is no number")?,
        Err(_) => ROUNDS,
    };
    // A new netns takes the setting of the one that its maker is in.
    world.netns(0).set_sysctl("net.ipv4.udp_child_hash_entries", BUCKETS)?;
    let small = world.netns(0).run(|| Netns::create("small"))??;
    small.add_address(udp(1).addr())?;
    small.set_sysctl("net.ipv4.ip_local_port_range", "1024 65535")?;
    let mut client = world.client_at("client", &small)?;
    let (stop, churned) = (AtomicBool::new(false), AtomicU64::new(0));
    let complete = thread::scope(|scope| {
        let churners: Vec<_> =
            (0..CHURNERS).map(|_| scope.spawn(|| small.run(|| open_and_close(&stop, &churned)))).collect();
        let complete =
            (0..rounds).map(|_| one_round(world, &mut client, &churned)).collect::<Result<Vec<_>>>();
        stop.store(true, Ordering::Relaxed);
        for churner in churners {
            churner.join().unwrap_or_else(|panic| resume_unwind(panic))??;
        }
        complete
    })?;
    ensure!(complete.contains(&true), "none of {rounds} events was complete");
    Ok(())
}

/// True if the report says that it is complete.
fn one_round(world: &mut World, client: &mut Client, churned: &AtomicU64) -> Result<bool> {
    let mut expected = connect_many(client, Default::default(), udp(1), VICTIMS)?.cookies;
    let before = churned.load(Ordering::Relaxed);
    let report = world.reap(udp(1))?;
    ensure!(churned.load(Ordering::Relaxed) > before, "nothing has come or gone meanwhile: {report:?}");
    ensure!(report.skipped.gone == 0 && report.failed.total() == 0, "{report:?}");
    let mut died = client.destroyed(Selection::All)?;
    ensure!(report.destroyed == died.len() as u64, "{} died: {report:?}", died.len());
    if report.complete {
        died.sort_unstable();
        expected.sort_unstable();
        ensure!(died == expected, "{} of {VICTIMS} died: {report:?}", died.len());
    }
    client.close_all()?;
    Ok(report.complete)
}

/// Opens and closes sockets until told to stop.
fn open_and_close(stop: &AtomicBool, churned: &AtomicU64) -> Result<()> {
    let mut open = VecDeque::new();
    while !stop.load(Ordering::Relaxed) {
        open.push_back(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?);
        if open.len() > OPEN {
            open.pop_front();
            churned.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}
