//! The audit: silent where the index is right, whatever the traffic, and exact where it was made wrong.

use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use skreap::Reaper;
use skreap::audit::{Audit, Auditor, Difference, Kind};
use skreap::bpf::hooks::Hooks;
use skreap::bpf::{Config, Index, Question, Tables};
use skreap::choice::EngineChoice;
use skreap::core::{Backend, EngineName, Protocol};
use skreap_testbed::bpf::{LoadBalancer, detach_sock_release};
use skreap_testbed::{Cgroup, Client, Family, OpenSpec, SpawnOptions};

use crate::case::{Case, case};
use crate::holder::{LockHolder, descriptor_of};
use crate::owners::need_mptcp;
use crate::preexisting::{reap, small};
use crate::sockets::*;
use crate::unconnected::sender;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let two_netns = WorldOptions { netns: 2, ..WorldOptions::default() };
    let small = WorldOptions { max_sockets: 16, buckets: 4, ..WorldOptions::default() };
    vec![
        case!(audit_agrees_after_a_mixed_workload).index_only().with(two_netns),
        case!(audit_is_silent_under_traffic).index_only(),
        case!(audit_at_intervals_without_end).only(EngineName::Netlink),
        case!(audit_tells_accepted_from_connected).index_only(),
        case!(audit_waits_for_no_lock).index_only().with(two_netns),
        case!(audit_finds_sockets_without_cookies).only(EngineName::Netlink),
        case!(audit_counts_the_kernels_own_sockets_apart).index_only(),
        case!(audit_reports_a_full_index_as_incomplete).index_only().with(small),
        case!(audit_finds_missed_sockets).index_only(),
        case!(audit_forgives_preexisting_sockets).index_only(),
        case!(audit_finds_wrong_keys).index_only(),
        case!(audit_finds_stale_nodes).index_only(),
        case!(events_tell_of_stale_nodes).index_only(),
    ]
}

/// The longest times there are do no harm to the thread that waits for them.
fn audit_at_intervals_without_end(world: &mut World) -> Result<()> {
    let (tell, told) = crossbeam_channel::bounded(1);
    let reaper = world.reaper_mut();
    reaper.start_audits(Some(Duration::MAX), false)?;
    let answer = move |audit: Result<Audit, String>| drop(tell.send(audit));
    ensure!(reaper.audits().is_some_and(|audits| audits.ask(Box::new(answer))), "nobody was asked");
    let audit = told.recv_timeout(Duration::from_millis(PATIENCE_MS))?.map_err(anyhow::Error::msg)?;
    expect_clean(&audit, 0, 0, 0)
}

/// An audit that found nothing, and looked at exactly this much.
fn expect_clean(audit: &Audit, sockets: u64, backends: u64, nodes: u64) -> Result<()> {
    ensure!(audit.agrees && audit.complete && audit.differences.is_empty(), "{audit:?}");
    ensure!(
        (audit.sockets, audit.backends, audit.nodes) == (sockets, backends, nodes),
        "not {sockets} sockets, {backends} backends, {nodes} nodes: {audit:?}"
    );
    ensure!(audit.undecided == 0 && audit.preexisting == 0 && audit.incomplete == 0, "{audit:?}");
    Ok(())
}

/// Subflows of MPTCP are connected, have owners, and are rightly not in the index.
fn audit_counts_the_kernels_own_sockets_apart(world: &mut World) -> Result<()> {
    need_mptcp()?;
    world.serve(&[tcp(1), tcp6(1)])?;
    let mut client = world.client("client")?;
    connect(&mut client, tcp(1))?;
    connect(&mut client, tcp6(1))?;
    for backend in [tcp(1), tcp(1), tcp6(1)] {
        let spec = OpenSpec { mptcp: true, ..spec_for(backend) };
        open_to(&mut client, spec, backend.socket_addr())?;
    }
    let audit = world.reaper().audit()?;
    expect_clean(&audit, 2, 2, 2)?;
    ensure!(audit.kernel == 3 && audit.looks == 1, "{audit:?}");
    Ok(())
}

/// Exactly these sockets differ, all in the same way.
fn expect_found(audit: &Audit, kind: Kind, cookies: &[u64]) -> Result<()> {
    let mut found: Vec<u64> = audit.differences.iter().map(|d| d.socket.cookie).collect();
    let mut expected = cookies.to_vec();
    found.sort_unstable();
    expected.sort_unstable();
    ensure!(found == expected, "{kind}: {found:?} and not {expected:?}: {audit:?}");
    ensure!(audit.differences.iter().all(|d| d.kind == kind), "not all {kind}: {audit:?}");
    ensure!(audit.count(kind) == cookies.len() as u64, "{audit:?}");
    ensure!(audit.agrees == (kind == Kind::Incomplete), "{audit:?}");
    Ok(())
}

/// The tuple of a difference is that of the socket.
fn expect_tuple(difference: &Difference, client: &mut Client, socket: Socket) -> Result<()> {
    let state = client.state(socket.handle)?;
    let tuple = &difference.socket;
    ensure!(tuple.cookie == socket.cookie, "{difference:?}");
    ensure!(
        state.peer.is_some_and(|peer| (peer.ip(), peer.port()) == (tuple.daddr, tuple.dport)),
        "{difference:?}"
    );
    ensure!(tuple.sport != 0 && !tuple.saddr.is_unspecified(), "{difference:?}");
    Ok(())
}

fn audit_agrees_after_a_mixed_workload(world: &mut World) -> Result<()> {
    let backends = [udp(1), udp6(1), tcp(1), tcp6(1)];
    world.serve(&backends)?;
    world.serve(&[udp(2), tcp(2)])?;
    let mut client = world.client("client")?;
    let mut elsewhere = world.client_in("elsewhere", 1)?;
    for backend in backends {
        connect_many(&mut client, Default::default(), backend, 5)?;
        connect_many(&mut elsewhere, Default::default(), backend, 3)?;
    }
    // v4-mapped, reconnected, connected and sending elsewhere, unconnected, never connected, bound, refused
    open_to(&mut client, OpenSpec::new(Protocol::Udp, Family::V6), mapped(udp(1)))?;
    open_to(&mut client, OpenSpec::new(Protocol::Tcp, Family::V6), mapped(tcp(1)))?;
    let moved = connect(&mut client, udp(1))?;
    client.connect(moved.handle, udp(2).socket_addr())?;
    sender(&mut client, &[udp(1), udp(2)])?;
    open(&mut client, spec_for(udp(1)))?;
    let disconnected = connect(&mut client, udp(2))?;
    client.disconnect(disconnected.handle)?;
    let refused = open(&mut client, spec_for(tcp(3)))?;
    world.add_address(tcp(3).addr())?;
    ensure!(errno(client.connect(refused.handle, tcp(3).socket_addr()))? == libc::ECONNREFUSED);
    // Sockets of another cgroup are none of its business.
    let mut outsider = world.outsider("outsider")?;
    connect_many(&mut outsider, Default::default(), udp(1), 4)?;

    // 32 plain ones, 2 mapped ones and the one that moved; nodes besides: its old peer, two of the sender's, one each
    // of the disconnected and the refused.
    expect_clean(&world.reaper().audit()?, 35, 5, 35 + 1 + 2 + 1 + 1)?;
    // What was destroyed has no peer any more, and is still not stale.
    expect_complete(&world.reap(tcp(1))?, 9)?;
    expect_complete(&world.reap(udp6(1))?, 8)?;
    expect_clean(&world.reaper().audit()?, 18, 3, 40)?;
    client.close_all()?;
    expect_clean(&world.reaper().audit()?, 12 - 6, 2, 12)
}

/// Sockets that come, go, and change their peer all the time: no audit may take that for a difference.
fn audit_is_silent_under_traffic(world: &mut World) -> Result<()> {
    let backends = [udp(1), udp(2), tcp(1)];
    world.serve(&backends)?;
    let mut client = world.client("client")?;
    connect_many(&mut client, Default::default(), udp(1), 20)?;
    let mut churner = world.client("churner")?;
    let mut flipper = world.client("flipper")?;
    let stop = AtomicBool::new(false);
    let mut auditor = world.reaper().auditor()?;
    thread::scope(|scope| -> Result<()> {
        let churn = scope.spawn(|| -> Result<u64> {
            let mut opened = 0;
            while !stop.load(Ordering::Relaxed) {
                for backend in backends {
                    opened +=
                        connect_many(&mut churner, Default::default(), backend, 40)?.cookies.len() as u64;
                    churner.close_all()?;
                }
            }
            Ok(opened)
        });
        let flip = scope.spawn(|| -> Result<u64> {
            let sockets = (0..4).map(|_| connect(&mut flipper, udp(1))).collect::<Result<Vec<_>>>()?;
            let mut flips = 0;
            while !stop.load(Ordering::Relaxed) {
                for socket in &sockets {
                    for backend in [udp(2), udp(1)] {
                        flipper.connect(socket.handle, backend.socket_addr())?;
                        flips += 1;
                    }
                }
            }
            Ok(flips)
        });
        let audits = (0..20).map(|_| auditor.run()).collect::<Result<Vec<_>, _>>();
        stop.store(true, Ordering::Relaxed);
        let (opened, flips) = (churn.join(), flip.join());
        for audit in audits? {
            ensure!(audit.agrees && audit.complete && audit.incomplete == 0, "{audit:?}");
            ensure!(audit.sockets >= 20, "{audit:?}");
        }
        match (opened, flips) {
            (Ok(opened), Ok(flips)) => ensure!(opened? > 200 && flips? > 200, "there was no traffic"),
            _ => anyhow::bail!("the traffic panicked"),
        }
        Ok(())
    })
}

/// A server inside the cgroup: its accepted sockets have peers, and are no clients. Not even when nobody listens any
/// more.
fn audit_tells_accepted_from_connected(world: &mut World) -> Result<()> {
    world.add_address(tcp(1).addr())?;
    let mut server = world.client("server")?;
    let listener = server.open(OpenSpec { bind: Some(tcp(1).socket_addr()), ..spec_for(tcp(1)) })?;
    server.listen(listener, 64)?;
    let mut client = world.client("client")?;
    let mut pairs = Vec::new();
    for _ in 0..6 {
        let socket = connect(&mut client, tcp(1))?;
        pairs.push((socket, server.accept(listener, PATIENCE_MS)?));
    }
    let expect = || -> Result<()> {
        let audit = world.reaper().audit()?;
        expect_clean(&audit, 6, 1, 6)?;
        ensure!(audit.accepted == 6, "{audit:?}");
        Ok(())
    };
    expect()?;
    server.close(listener)?;
    expect()?;
    // In every state of data: nothing sent, sent and read, sent and not read, half closed on either side.
    client.send_bytes(pairs[1].0.handle, b"request")?;
    ensure!(server.recv(pairs[1].1, PATIENCE_MS)? == b"request");
    server.send_bytes(pairs[1].1, b"answer")?;
    client.send_bytes(pairs[2].0.handle, b"unread")?;
    server.send_bytes(pairs[3].1, b"unread")?;
    client.shutdown_write(pairs[4].0.handle)?;
    server.shutdown_write(pairs[5].1)?;
    expect()
}

/// Also of a socket outside the cgroup, and in every netns. The locks are held until they are let go of.
fn audit_waits_for_no_lock(world: &mut World) -> Result<()> {
    const AT_ONCE: Duration = Duration::from_secs(2);
    let backends = [udp(1), tcp(1), udp6(1), tcp6(1)];
    world.serve(&backends)?;
    let mut client = world.client("client")?;
    let mut elsewhere = world.client_in("elsewhere", 1)?;
    let mut outsider = world.outsider("outsider")?;
    let mut holders = Vec::new();
    for backend in backends {
        connect_many(&mut client, Default::default(), backend, 3)?;
        for holder in [&mut client, &mut elsewhere, &mut outsider] {
            let held = connect(holder, backend)?;
            holders.push(LockHolder::take(descriptor_of(holder.pid(), held.cookie)?)?);
        }
    }
    let mut auditor = world.reaper().auditor()?;
    for _ in 0..2 {
        let start = Instant::now();
        let audit = auditor.run()?;
        ensure!(start.elapsed() < AT_ONCE, "the audit has waited for {:?}", start.elapsed());
        expect_clean(&audit, 4 * 5, 4, 4 * 5)?;
        ensure!(audit.looks == 1, "{audit:?}");
    }
    holders.into_iter().try_for_each(LockHolder::release)
}

/// Nobody has asked for their cookies: neither hooks nor their owner.
fn audit_finds_sockets_without_cookies(world: &mut World) -> Result<()> {
    let backends = [udp(1), tcp(1)];
    world.serve(&backends)?;
    let cgroup = Cgroup::create("unnamed")?;
    let options = SpawnOptions { label: "unnamed", cgroup: Some(&cgroup), netns: Some(world.netns(0)) };
    let mut client = Client::spawn(&options)?;
    let mut handles = Vec::new();
    for backend in backends {
        for _ in 0..2 {
            let handle = client.open(spec_for(backend))?;
            client.connect(handle, backend.socket_addr())?;
            handles.push(handle);
        }
    }
    let id = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(cgroup.path())?);
    let mut tables = Tables::load(Some(id))?;
    for protocol in Protocol::ALL {
        let shown = tables.read(protocol, &Question::default())?;
        ensure!(shown.len() == 2 && shown.iter().all(|s| s.victim.cookie() == 0), "{shown:?}");
    }
    let index = Index::load(&Config::default().max_sockets(256).buckets(16))?;
    let audit = Auditor::new(index.walker()?, cgroup.path())?.run()?;
    let cookies = handles.iter().map(|&handle| client.cookie(handle)).collect::<Result<Vec<_>, _>>()?;
    expect_found(&audit, Kind::Missed, &cookies)?;
    ensure!((audit.sockets, audit.backends, audit.undecided) == (4, 2, 0) && audit.complete, "{audit:?}");
    drop(client);
    Ok(())
}

fn audit_reports_a_full_index_as_incomplete(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), tcp(1)])?;
    let mut client = world.client("client")?;
    connect_many(&mut client, Default::default(), udp(1), 14)?;
    let late = connect_many(&mut client, Default::default(), tcp(1), 5)?;
    let audit = world.reaper().audit()?;
    expect_found(&audit, Kind::Incomplete, &late.cookies[2..])?;
    ensure!((audit.sockets, audit.nodes, audit.missed) == (19, 16, 0), "{audit:?}");
    Ok(())
}

/// An index beside that of the world, on the same cgroup, whose hooks can be taken away.
struct Beside {
    hooks: Option<Hooks>,
    index: Index,
    auditor: Auditor,
}

impl Beside {
    fn new(world: &World) -> Result<Self> {
        let index = Index::load(&Config::default().max_sockets(256).buckets(16))?;
        let auditor = Auditor::new(index.walker()?, world.cgroup().path())?;
        let mut beside = Self { hooks: None, index, auditor };
        beside.attach(world)?;
        Ok(beside)
    }

    fn attach(&mut self, world: &World) -> Result<()> {
        let directory = skreap::cgroup::open(world.cgroup().path())?;
        self.hooks = Some(Hooks::attach(&self.index, directory.as_fd())?);
        Ok(())
    }

    fn detach(&mut self) {
        self.hooks = None;
    }
}

fn audit_finds_missed_sockets(world: &mut World) -> Result<()> {
    let backends = [udp(1), udp6(1), tcp(1), tcp6(1)];
    world.serve(&backends)?;
    world.serve(&[udp(2)])?;
    let mut client = world.client("client")?;
    let mut beside = Beside::new(world)?;
    for backend in backends {
        connect_many(&mut client, Default::default(), backend, 3)?;
    }
    expect_clean(&beside.auditor.run()?, 12, 4, 12)?;
    beside.detach();
    let mut missed = Vec::new();
    for backend in backends {
        missed.push(connect(&mut client, backend)?);
    }
    beside.attach(world)?;
    connect_many(&mut client, Default::default(), udp(1), 2)?;
    let audit = beside.auditor.run()?;
    expect_found(&audit, Kind::Missed, &missed.iter().map(|s| s.cookie).collect::<Vec<_>>())?;
    ensure!((audit.sockets, audit.nodes, audit.looks) == (18, 14, 5), "{audit:?}");
    for socket in &missed {
        let difference = audit.differences.iter().find(|d| d.socket.cookie == socket.cookie);
        ensure!(difference.is_some());
        if let Some(difference) = difference {
            expect_tuple(difference, &mut client, *socket)?;
        }
    }
    // The world's own index knows them all.
    expect_clean(&world.reaper().audit()?, 18, 4, 18)?;
    // It heals by itself: UDP with the next connect, all with their close.
    client.connect(missed[0].handle, udp(2).socket_addr())?;
    for socket in &missed[1..] {
        client.close(socket.handle)?;
    }
    expect_clean(&beside.auditor.run()?, 15, 5, 15)
}

fn audit_forgives_preexisting_sockets(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), tcp(1), tcp(2)])?;
    let mut client = world.client("client")?;
    let before = connect_many(&mut client, Default::default(), udp(1), 4)?;
    connect_many(&mut client, Default::default(), tcp(1), 3)?;
    let mut beside = Beside::new(world)?;
    ensure!(beside.auditor.forgive_preexisting()? == 7);
    connect_many(&mut client, Default::default(), tcp(2), 2)?;
    let audit = beside.auditor.run()?;
    ensure!(audit.agrees && audit.preexisting == 7 && audit.sockets == 9 && audit.nodes == 2, "{audit:?}");
    // A new peer is a new connect: nothing is forgiven for that.
    beside.detach();
    client.connect(before.first, udp(2).socket_addr())?;
    beside.attach(world)?;
    let audit = beside.auditor.run()?;
    expect_found(&audit, Kind::Missed, &before.cookies[..1])?;
    ensure!(audit.preexisting == 6, "{audit:?}");
    Ok(())
}

/// A load balancer that was attached after the hooks: they have seen its virtual address.
fn audit_finds_wrong_keys(world: &mut World) -> Result<()> {
    let (vip, backend): (Backend, Backend) = ("udp://10.177.9.9:53".parse()?, udp(1));
    world.serve(&[backend, udp(2)])?;
    let mut client = world.client("client")?;
    connect(&mut client, udp(2))?;
    let mut beside = Beside::new(world)?;
    ensure!(beside.auditor.forgive_preexisting()? == 1);
    let directory = skreap::cgroup::open(world.cgroup().path())?;
    let balancer = LoadBalancer::attach(&[(vip, backend)], directory.as_fd())?;
    let wrong = connect(&mut client, vip)?;
    connect(&mut client, backend)?;
    drop(balancer);
    let audit = beside.auditor.run()?;
    expect_found(&audit, Kind::WrongKey, &[wrong.cookie])?;
    let tuple = &audit.differences[0].socket;
    ensure!((tuple.daddr, tuple.dport) == (backend.addr(), backend.port()), "{audit:?}");
    ensure!(audit.differences[0].recorded == [vip], "{audit:?}");
    // A connect to its peer puts it right, and drops what that thread had recorded before.
    client.connect(wrong.handle, backend.socket_addr())?;
    let audit = beside.auditor.run()?;
    ensure!(audit.agrees && audit.preexisting == 1 && audit.nodes == 2, "{audit:?}");
    Ok(())
}

fn audit_finds_stale_nodes(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), tcp(1)])?;
    let mut client = world.client("client")?;
    let mut beside = Beside::new(world)?;
    let mut gone = connect_many(&mut client, Default::default(), udp(1), 3)?.cookies;
    gone.extend(connect_many(&mut client, Default::default(), tcp(1), 2)?.cookies);
    beside.detach();
    client.close_all()?;
    beside.attach(world)?;
    connect_many(&mut client, Default::default(), udp(1), 2)?;
    let audit = beside.auditor.run()?;
    expect_found(&audit, Kind::Stale, &gone)?;
    // Finding them, the walk has removed them.
    expect_clean(&beside.auditor.run()?, 2, 1, 2)?;
    let counters = beside.index.counters()?;
    ensure!(counters.stale == 5 && counters.live() == 2 && counters.balanced(), "{counters:?}");
    Ok(())
}

/// Whichever walk of the event has met and removed them.
fn events_tell_of_stale_nodes(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let cgroup = world.cgroup().child("missed")?;
    let mut client = world.client("client")?;
    cgroup.add(client.pid())?;
    let engine = EngineChoice::Named(world.reaper().engine());
    let mut reaper = Reaper::builder().cgroup(cgroup.path()).config(small()).engine(engine).build()?;
    connect_many(&mut client, Default::default(), udp(1), 3)?;
    reaper.tidy();
    ensure!(reaper.order().detached == 0, "{:?}", reaper.order());
    ensure!(detach_sock_release(cgroup.open()?.as_fd())? == 1);
    reaper.tidy();
    // It is told, and in nobody's way.
    let order = reaper.order();
    ensure!(order.detached == 1 && order.last, "{order:?}");
    client.close_all()?;
    connect_many(&mut client, Default::default(), udp(1), 2)?;
    let report = reap(&mut reaper, udp(1));
    ensure!(report.skipped.stale == 3 && report.victims == 2 && report.destroyed == 2, "{report:?}");
    ensure!(reaper.counters()?.stale == 3, "{:?}", reaper.counters()?);
    drop((client, reaper));
    Ok(())
}
