//! Pre-existing sockets. Each test has a second index beside the world's: that one has seen
//! everything from the start, so it knows what the second one has to find.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use skreap::Reaper;
use skreap::bpf::hooks::Hooks;
use skreap::bpf::{Bootstrap, BootstrapCounts, Config, Error, Index};
use skreap::choice::EngineChoice;
use skreap::core::{Action, Backend, EngineName, Event, Report};
use skreap_testbed::bpf::Pause;
use skreap_testbed::{Cgroup, OpenSpec};

use crate::case::{Case, Skip, case};
use crate::portless::between_hook_and_connect;
use crate::race::race;
use crate::sockets::*;
use crate::unconnected::sender;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let spaces = |netns| WorldOptions { netns, ..WorldOptions::default() };
    vec![
        case!(preexisting_sockets_of_every_kind).only(EngineName::Netlink).with(spaces(2)),
        case!(preexisting_sockets_of_many_netns).only(EngineName::Netlink).with(spaces(20)),
        case!(the_servers_side_is_left_out).only(EngineName::Netlink),
        case!(more_preexisting_sockets_than_fit).only(EngineName::Netlink),
        case!(closed_while_they_are_looked_for_udp).only(EngineName::Netlink),
        case!(closed_while_they_are_looked_for_tcp).only(EngineName::Netlink),
        case!(released_before_it_is_in_the_index).only(EngineName::Netlink),
        case!(opened_while_others_are_looked_for).only(EngineName::Netlink),
        case!(search_beside_a_pending_connect).only(EngineName::Kfunc),
    ]
}

/// A UDP socket goes back to a backend that several threads have connected it to, and a search meets it between the hook
/// and the connect: it must leave the node of the connect alone, though the peer is another one.
fn search_beside_a_pending_connect(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    race(&mut client, socket, udp(1), udp(1), 1)?;
    client.connect(socket.handle, udp(2).socket_addr())?;
    let pause = between_hook_and_connect(&client)?;
    let found = thread::scope(|scope| {
        let back = scope.spawn(|| client.connect(socket.handle, udp(1).socket_addr()));
        let found = pause
            .wait(1)
            .map_err(anyhow::Error::from)
            .and_then(|()| Ok(skreap::bootstrap::run(world.reaper().index(), world.cgroup().path())?));
        pause.let_go(1)?;
        back.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        found
    })?;
    ensure!(found.whole() && found.udp.known == 1 && found.udp.indexed == 0, "{found:?}");
    ensure!(client.state(socket.handle)?.peer == Some(udp(1).socket_addr()));
    expect_exactly(&world.reap(udp(1))?, &mut [&mut client], &[socket.cookie])
}

/// A second reaper on the cgroup of the world, that looks for pre-existing sockets.
pub fn second(world: &World, config: Config) -> Result<Reaper> {
    let reaper = Reaper::builder()
        .cgroup(world.cgroup().path())
        .config(config)
        .engine(EngineChoice::Named(world.reaper().engine()))
        .build()?;
    Ok(reaper)
}

pub fn small() -> Config {
    Config::default().max_sockets(8192).buckets(1024)
}

pub fn reap(reaper: &mut Reaper, backend: Backend) -> Report {
    let action = Action::BackendDeleted { backend };
    reaper.handle(&Event::new("second", action))
}

/// Cookies of everything in an index.
pub fn cookies(index: &Index) -> Result<BTreeSet<u64>> {
    let mut cookies = BTreeSet::new();
    let counts = index.walker()?.walk_all(|batch| cookies.extend(batch.iter().map(|v| v.cookie())))?;
    ensure!(counts.stale == 0, "{counts:?}");
    Ok(cookies)
}

/// What must hold once every client is gone.
pub fn expect_empty(index: &Index) -> Result<()> {
    let left = cookies(index)?;
    let counters = index.counters()?;
    ensure!(left.is_empty() && counters.live() == 0 && counters.balanced(), "{left:?} {counters:?}");
    ensure!(counters.stale == 0 && counters.dropped_chain == 0, "{counters:?}");
    Ok(())
}

fn preexisting_sockets_of_every_kind(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp6(1), tcp(1), tcp6(1)])?;
    let mut client = world.client("client")?;
    let mut victims = Vec::new();
    for netns in [0, 1] {
        let place = world.place(netns)?;
        victims.extend(connect_many(&mut client, place.clone(), udp(1), 5)?.cookies);
        connect_many(&mut client, place.clone(), udp6(1), 6)?;
        connect_many(&mut client, place.clone(), tcp(1), 7)?;
        connect_many(&mut client, place, tcp6(1), 8)?;
    }
    for backend in [udp(1), tcp(1)] {
        let spec = OpenSpec { family: skreap_testbed::Family::V6, ..spec_for(backend) };
        let socket = open_to(&mut client, spec, mapped(backend))?;
        if backend == udp(1) {
            victims.push(socket.cookie);
        }
    }
    // None of these is connected to anything, or not inside.
    open(&mut client, spec_for(udp(1)))?;
    sender(&mut client, &[udp(1)])?;
    let left = connect(&mut client, udp(1))?;
    client.disconnect(left.handle)?;
    let mut outsider = world.outsider("outsider")?;
    connect_many(&mut outsider, Default::default(), udp(1), 3)?;
    connect_many(&mut outsider, Default::default(), tcp(1), 3)?;

    let mut second = second(world, small())?;
    let listing = second.listing()?;
    let of = |backend| listing.backends.get(&backend).map(|e| (e.connected, e.unconnected, e.netns));
    ensure!(of(udp(1)) == Some((11, 0, 2)) && of(udp6(1)) == Some((12, 0, 2)), "{listing:?}");
    ensure!(of(tcp(1)) == Some((15, 0, 2)) && of(tcp6(1)) == Some((16, 0, 2)), "{listing:?}");
    ensure!(listing.backends.len() == 4 && listing.nodes == 54 && listing.sockets == 54, "{listing:?}");
    ensure!(second.index().is_bootstrapped()?);

    // The younger ones are seen by the hooks, and all of them are reaped together.
    victims.extend(connect_many(&mut client, Default::default(), udp(1), 4)?.cookies);
    let report = reap(&mut second, udp(1));
    expect_exactly(&report, &mut [&mut client], &victims)?;
    ensure!(expect_answers(&mut outsider)? == 6, "the outsiders were touched");
    // A socket that connects elsewhere is found there.
    let moved = client.open(spec_for(udp6(1)))?;
    client.connect(moved, udp6(1).socket_addr())?;
    let report = reap(&mut second, tcp6(1));
    expect_complete(&report, 16)?;
    drop(client);
    world.wait_for_nodes(0)?;
    expect_empty(second.index())
}

fn preexisting_sockets_of_many_netns(world: &mut World) -> Result<()> {
    world.serve(&[tcp(1), udp6(1)])?;
    let mut client = world.client("client")?;
    for netns in 0..20 {
        let place = world.place(netns)?;
        connect_many(&mut client, place.clone(), tcp(1), 3)?;
        connect_many(&mut client, place, udp6(1), 2)?;
    }
    let mut second = second(world, small())?;
    let listing = second.listing()?;
    ensure!(
        listing.backends[&tcp(1)].netns == 20 && listing.backends[&tcp(1)].connected == 60,
        "{listing:?}"
    );
    ensure!(listing.backends[&udp6(1)].netns == 20 && listing.nodes == 100, "{listing:?}");
    expect_complete(&reap(&mut second, tcp(1)), 60)?;
    drop(client);
    world.wait_for_nodes(0)?;
    expect_empty(second.index())
}

/// The backends are inside the cgroup too. Their sockets have never connected, and a reap of an address that happens
/// to be a client's must not find them.
fn the_servers_side_is_left_out(world: &mut World) -> Result<()> {
    world.add_address(tcp(1).addr())?;
    world.add_address(tcp6(1).addr())?;
    let mut server = world.client("server")?;
    let mut client = world.client("client")?;
    let mut peers = Vec::new();
    for backend in [tcp(1), tcp6(1)] {
        start_echo(&mut server, backend)?;
        connect_many(&mut client, Default::default(), backend, 10)?;
    }
    // An IPv6 listener with an IPv4 client.
    let any = server.open(OpenSpec {
        bind: Some("[::]:81".parse()?),
        ..OpenSpec::new(tcp6(1).protocol(), skreap_testbed::Family::V6)
    })?;
    server.listen(any, 16)?;
    let mapped: Backend = "tcp://10.177.0.1:81".parse()?;
    for _ in 0..3 {
        connect(&mut client, mapped)?;
        peers.push(server.accept(any, PATIENCE_MS)?);
    }
    ensure!(expect_answers_of(&mut client, &[tcp(1), tcp6(1)])? == 20);

    let mut second = second(world, small())?;
    let listing = second.listing()?;
    ensure!(listing.nodes == 23 && listing.backends.len() == 3, "{listing:?}");
    ensure!(cookies(second.index())? == cookies(world.reaper().index())?);
    // Their peers are the client's addresses.
    let peer = server.state(peers[0])?.peer.context("accepted, and no peer")?;
    let of_a_client = format!("tcp://{}", std::net::SocketAddr::new(peer.ip().to_canonical(), peer.port()));
    expect_complete(&reap(&mut second, of_a_client.parse()?), 0)?;
    drop((client, server));
    world.wait_for_nodes(0)?;
    expect_empty(second.index())
}

/// All sockets to these backends get an answer.
fn expect_answers_of(client: &mut skreap_testbed::Client, backends: &[Backend]) -> Result<u32> {
    let states = client.states(skreap_testbed::Selection::All)?;
    let theirs = |peer| backends.iter().any(|b| b.socket_addr() == peer);
    let handles: Vec<u32> = states.iter().filter(|s| s.peer.is_some_and(theirs)).map(|s| s.socket).collect();
    let count = handles.len() as u32;
    expect_answers_on(client, skreap_testbed::Selection::List(handles), count)?;
    Ok(count)
}

/// What finds no room is counted, and its backend known to be incomplete.
fn more_preexisting_sockets_than_fit(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let mut client = world.client("client")?;
    connect_many(&mut client, Default::default(), udp(1), 120)?;
    let second = second(world, small().max_sockets(100))?;
    let counters = second.counters()?;
    ensure!(
        counters.inserts == 100 && counters.dropped_full == 20 && counters.free_nodes == 0,
        "{counters:?}"
    );
    let target = skreap::core::Target {
        backend: udp(1),
        unconnected: skreap::core::Unconnected::Preserve,
        dry_run: true,
    };
    let mut found = Vec::new();
    let counts = second.index().walker()?.walk(&target, &mut found)?;
    ensure!(counts.incomplete_full && found.len() == 100, "{counts:?}");
    drop(client);
    world.wait_for_nodes(0)?;
    expect_empty(second.index())
}

fn closed_while_they_are_looked_for_udp(world: &mut World) -> Result<()> {
    closed_meanwhile(world, udp(1), 3000)
}

fn closed_while_they_are_looked_for_tcp(world: &mut World) -> Result<()> {
    closed_meanwhile(world, tcp(1), 1000)
}

/// Walks all of the index again and again; answers how many nodes it took for those of a missed release.
fn stale_until(index: &Index, done: &AtomicBool) -> Result<u64> {
    let (mut walker, mut stale) = (index.walker()?, 0);
    while !done.load(Relaxed) {
        stale += walker.walk_all(|_| ())?.stale;
    }
    Ok(stale)
}

/// Attaches the hooks to a cgroup full of sockets and looks for them while they are all being closed: whichever is
/// first, no node stays, and none is taken twice. A walk that meets a node before it is taken back does not mind.
fn closed_meanwhile(world: &mut World, backend: Backend, count: u32) -> Result<()> {
    const ROUNDS: u32 = 12;
    world.serve(&[backend])?;
    let index = Index::load(&small().max_sockets(8192))?;
    let id = id_of(world.cgroup())?;
    let (mut met, mut delay) = (false, Duration::ZERO);
    for round in 0..ROUNDS {
        let mut client = world.client("client")?;
        connect_many(&mut client, Default::default(), backend, count)?;
        let before = index.counters()?;
        let _hooks = Hooks::attach(&index, world.cgroup().open()?.as_fd())?;
        let mut bootstrap = Bootstrap::new(&index, Some(id))?;
        let done = AtomicBool::new(false);
        let found = thread::scope(|scope| {
            let closer = scope.spawn(|| client.close_all());
            let walker = scope.spawn(|| stale_until(&index, &done));
            thread::sleep(delay);
            let pass = world.netns(0).run(|| bootstrap.pass(backend.protocol()));
            let closed = closer.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            ensure!(closed == count, "{closed} closed");
            done.store(true, Relaxed);
            let stale = walker.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            ensure!(stale == 0, "a walk took {stale} nodes for missed releases");
            pass??;
            let (tcp, udp) = bootstrap.counts()?;
            Ok(if backend.protocol() == udp_protocol() { udp } else { tcp })
        })?;
        let after = index.counters()?;
        let inserts = after.inserts - before.inserts;
        ensure!(after.live() == 0 && after.balanced(), "round {round}: {found:?} {after:?}");
        ensure!(found.known == 0 && found.accepted == 0 && found.dropped == 0, "round {round}: {found:?}");
        ensure!(found.indexed <= inserts && inserts <= found.indexed + found.closed, "{found:?} {inserts}");
        // Too early finds all, too late none: the moment between is looked for.
        met |= found.indexed > 0 && found.indexed < u64::from(count);
        delay = if found.indexed == 0 { Duration::ZERO } else { delay + Duration::from_micros(300) };
        drop(client);
    }
    ensure!(met, "in {ROUNDS} rounds the closing was never met");
    expect_empty(&index)
}

/// A socket is released after the look whether it is open and before it is in the index. Its node is taken back, which
/// is not counted as a release, and a walk in between does not mind: the close waits for the lock that the iterator has.
fn released_before_it_is_in_the_index(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let mut client = world.client("client")?;
    connect_many(&mut client, Default::default(), udp(1), 1)?;
    // Several shards, none of which has a node yet: this one does not go the short way.
    let index = Index::load(&small().max_sockets(16_384))?;
    let _hooks = Hooks::attach(&index, world.cgroup().open()?.as_fd())?;
    let mut bootstrap = Bootstrap::new(&index, Some(id_of(world.cgroup())?))?;
    let pause = match Pause::around(&index, "skreap_bootstrap_udp", "record_further") {
        Err(Error::Load { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
            return Err(Skip("this kernel lets nobody attach to a BPF program (fentry)").into());
        }
        pause => pause?,
    };
    let netns = world.netns(0);
    let counts = thread::scope(|scope| {
        let pass = scope.spawn(|| netns.run(|| bootstrap.pass(udp_protocol())));
        pause.wait(1)?;
        let closer = scope.spawn(|| client.close_all());
        while index.counters()?.releases_without_node == 0 {
            ensure!(!pass.is_finished(), "the release came too late");
        }
        pause.let_go(1)?;
        pause.wait(2)?;
        let counts = index.walker()?.walk_all(|_| ())?;
        pause.let_go(2)?;
        pass.join().unwrap_or_else(|panic| resume_unwind(panic))??;
        let closed = closer.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        ensure!(closed == 1, "{closed} closed");
        Ok(counts)
    })?;
    let (_, found) = bootstrap.counts()?;
    ensure!(counts.visited == 1 && counts.stale == 0, "{counts:?}");
    ensure!(found.closed == 1 && found.indexed == 0, "{found:?}");
    let counters = index.counters()?;
    ensure!(counters.inserts == 1 && counters.removals == 1, "{counters:?}");
    ensure!(counters.releases == 0 && counters.releases_without_node == 1, "{counters:?}");
    expect_empty(&index)
}

fn udp_protocol() -> skreap::core::Protocol {
    udp(1).protocol()
}

/// The id of a cgroup is the inode number of its directory.
fn id_of(cgroup: &Cgroup) -> Result<u64> {
    Ok(std::fs::metadata(cgroup.path())?.ino())
}

/// Looks again and again while sockets come, connect elsewhere and go: hooks and iterators insert the same sockets
/// at the same time, and each is there once.
fn opened_while_others_are_looked_for(world: &mut World) -> Result<()> {
    const ROUNDS: u32 = 30;
    const BATCH: u32 = 200;
    world.serve(&[udp(1), tcp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let mut older = world.client("older")?;
    connect_many(&mut older, Default::default(), udp(2), 500)?;
    let index = Index::load(&small())?;
    let _hooks = Hooks::attach(&index, world.cgroup().open()?.as_fd())?;
    let mut bootstrap = Bootstrap::new(&index, Some(id_of(world.cgroup())?))?;
    let mut passes = 0;
    thread::scope(|scope| {
        let client = &mut client;
        let opener = scope.spawn(move || -> Result<()> {
            for round in 0..ROUNDS {
                connect_many(client, Default::default(), udp(1), BATCH)?;
                connect_many(client, Default::default(), tcp(1), BATCH / 4)?;
                if round + 1 < ROUNDS {
                    client.close_all()?;
                }
            }
            Ok(())
        });
        while !opener.is_finished() {
            for protocol in [udp(1).protocol(), tcp(1).protocol()] {
                world.netns(0).run(|| bootstrap.pass(protocol))??;
            }
            passes += 1;
        }
        opener.join().unwrap_or_else(|panic| resume_unwind(panic))
    })?;
    let (tcp_counts, udp_counts): (BootstrapCounts, BootstrapCounts) = bootstrap.counts()?;
    ensure!(udp_counts.indexed >= 500 && udp_counts.known > 0 && passes > 1, "{tcp_counts:?} {udp_counts:?}");
    ensure!(cookies(&index)? == cookies(world.reaper().index())?, "the two know different sockets");
    let counters = index.counters()?;
    ensure!(counters.live() == 500 + u64::from(BATCH + BATCH / 4) && counters.balanced(), "{counters:?}");
    drop((client, older));
    world.wait_for_nodes(0)?;
    expect_empty(&index)
}
