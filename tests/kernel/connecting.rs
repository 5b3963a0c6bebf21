//! What it costs to connect the sockets of others, time and again, and what is left of it: counts, nodes, threads.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use skreap::bpf::{CONNECTS_MAX, Connects, ConnectsLooker};
use skreap::core::{
    Action, ActionRule, Backend, Destinations, EngineName, Event, Instead, Move, Report, Revive, Revived,
    Spread, VictimAction,
};
use skreap_testbed::{Client, Family, Holding, Netns, OpenSpec, Protocol, Selection};

use crate::case::{Case, case};
use crate::pending::{begin_connect, end_connect};
use crate::revive::end;
use crate::rules::{rule, set};
use crate::sockets::*;
use crate::world::{World, WorldOptions};

/// Peers of one socket from which on they are not listed any more.
const MANY: u16 = 63;

pub fn cases() -> Vec<Case> {
    let held_up =
        WorldOptions { leave_order: true, pending_wait: Duration::from_secs(5), ..WorldOptions::default() };
    let waits = WorldOptions { pending_wait: Duration::from_millis(150), ..WorldOptions::default() };
    vec![
        case!(an_error_leaves_nothing_counted).only(EngineName::Netlink),
        case!(what_was_waited_for_is_not_counted_for_good).only(EngineName::Netlink),
        case!(two_do_not_count_the_same_socket).only(EngineName::Netlink),
        case!(a_socket_that_is_moved_time_and_again).only(EngineName::Netlink),
        case!(held_locks_share_their_bound).only(EngineName::Netlink),
        case!(a_descriptor_that_goes_meanwhile_is_not_all).only(EngineName::Netlink),
        case!(a_pending_connect_is_spared_as_well).with(held_up).only(EngineName::Netlink),
        case!(no_event_waits_for_what_was_moved).with(waits).only(EngineName::Netlink),
        case!(open_files_are_looked_through_once).only(EngineName::Netlink),
        case!(the_link_of_its_old_peer_does_not_bind_it).only(EngineName::Netlink),
    ]
}

fn moves(to: Backend) -> Result<VictimAction> {
    let to = Destinations::new(vec![to], Spread::Even)?;
    Ok(VictimAction::Move(Move { to, tcp: Instead::Spare, otherwise: Instead::Spare }))
}

/// Moves what can be moved, and spares the rest.
fn moving(world: &mut World, backend: Backend, to: Backend) -> Result<Report> {
    world.tell_to(Action::BackendDeleted { backend }, moves(to)?)
}

/// How many were moved, and how many were not for this reason.
fn ends(report: &Report, reason: &str) -> Option<(u64, u64)> {
    let moved = report.moved.as_ref()?;
    Some((moved.moved, moved.not_moved.get(reason).copied().unwrap_or_default()))
}

fn peer(client: &mut Client, handle: u32) -> Result<Option<SocketAddr>> {
    Ok(client.state(handle)?.peer)
}

/// Says that no connects are counted now: there is room for as many sockets as there may ever be.
fn nothing_is_counted(world: &World) -> Result<()> {
    let all: Vec<u64> = (0..CONNECTS_MAX as u64).map(|i| 1 << 60 | i).collect();
    let connects = Connects::new(world.reaper().index())?;
    connects.begin(&all).context("connects are counted still")?;
    connects.forget(&all);
    connects.end()?;
    Ok(())
}

/// So many threads of this process connect sockets, or are there to do so.
fn connecting_threads() -> Result<usize> {
    let names = fs::read_dir("/proc/self/task")?.flatten().map(|task| task.path().join("comm"));
    Ok(names.filter(|name| fs::read_to_string(name).is_ok_and(|name| name == "skreap-connect\n")).count())
}

fn wait_for_threads(count: usize) -> Result<()> {
    let deadline = Instant::now() + Duration::from_millis(PATIENCE_MS);
    while connecting_threads()? != count {
        ensure!(Instant::now() < deadline, "{} threads that connect, not {count}", connecting_threads()?);
        thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

fn an_error_leaves_nothing_counted(world: &mut World) -> Result<()> {
    let one_more: Vec<u64> = (0..=CONNECTS_MAX as u64).map(|i| 1 << 61 | i).collect();
    let refused = Connects::new(world.reaper().index())?.begin(&one_more);
    ensure!(refused.is_err(), "there is room for {} sockets", one_more.len());
    nothing_is_counted(world)
}

/// A thread has waited for its lock, and has come back after the event was over.
fn what_was_waited_for_is_not_counted_for_good(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2), udp(3)])?;
    let mut client = world.client("client")?;
    let held = connect(&mut client, udp(1))?;
    client.start_hold(held.handle, Holding::Memory)?;
    let report = moving(world, udp(1), udp(2));
    client.end_hold(held.handle)?;
    ensure!(ends(&report?, "ETIMEDOUT") == Some((0, 1)));
    wait_for_threads(0)?;
    ensure!(ends(&moving(world, udp(1), udp(2))?, "ETIMEDOUT") == Some((1, 0)));
    nothing_is_counted(world)?;
    // The same for the second look.
    let to = Destinations::new(vec![udp(3)], Spread::Even)?;
    let revive = |to, after_ms| VictimAction::Revive(Revive { to, after_ms });
    let gone = Action::BackendDeleted { backend: udp(2) };
    ensure!(world.tell_to(gone.clone(), revive(to.clone(), 300))?.destroyed == 1);
    client.state(held.handle)?;
    client.connect(held.handle, udp(1).socket_addr())?;
    client.start_hold(held.handle, Holding::Memory)?;
    let revived = end(world);
    client.end_hold(held.handle)?;
    ensure!(revived?.failed.get("ETIMEDOUT") == Some(&1));
    wait_for_threads(1)?;
    connect(&mut client, udp(2))?;
    ensure!(world.tell_to(gone, revive(to, 0))?.destroyed == 1);
    ensure!(end(world)?.revived == 1);
    nothing_is_counted(world)
}

fn two_do_not_count_the_same_socket(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let [one, other] = [connect(&mut client, udp(1))?, connect(&mut client, udp(1))?];
    let [first, second] = [(); 2].map(|()| Connects::new(world.reaper().index()));
    let (first, second) = (first?, second?);
    let counting = first.begin(&[one.cookie])?;
    let (map, counter) = first.to_look()?;
    let looker = ConnectsLooker::new(map, counter);
    let count = |cookie: u64| looker.look(cookie).map(|theirs| theirs.count);
    ensure!(looker.counted() == counting.before && count(one.cookie) == Some(0));
    client.connect(one.handle, udp(2).socket_addr())?;
    ensure!(looker.counted() == counting.before.map(|n| n + 1) && count(one.cookie) == Some(1));
    let later = second.begin(&[one.cookie, other.cookie])?;
    ensure!((later.new.as_slice(), later.busy.as_slice()) == (&[other.cookie][..], &[one.cookie][..]));
    ensure!((count(one.cookie), count(other.cookie)) == (Some(1), Some(0)));
    second.forget(&later.new);
    second.end()?;
    client.connect(one.handle, udp(1).socket_addr())?;
    ensure!((count(one.cookie), count(other.cookie)) == (Some(2), None));
    first.forget(&counting.new);
    first.end()?;
    nothing_is_counted(world)
}

/// It has as many nodes as after its first move, and one thread has moved it each time.
fn a_socket_that_is_moved_time_and_again(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    let mut at = udp(1);
    for i in 0..=MANY {
        let to = Backend::new(at.protocol(), at.addr(), 2000 + i)?;
        ensure!(ends(&moving(world, at, to)?, "") == Some((1, 0)), "move {i}");
        at = to;
    }
    ensure!(peer(&mut client, socket.handle)? == Some(at.socket_addr()));
    // That of its owner, that of its peer, and the one before: it had that peer while it was moved.
    ensure!((world.counters()?.live(), connecting_threads()?) == (3, 1), "{:?}", world.counters()?);
    expect_destroyed(&world.reap(at)?, &mut [&mut client], &[socket.cookie])
}

/// Each further socket whose lock is held costs much less than the first. The best of some rounds counts.
fn held_locks_share_their_bound(world: &mut World) -> Result<()> {
    const HELD: usize = 10;
    world.serve(&[udp(1), udp(2)])?;
    let took = |world: &mut World, held: usize| -> Result<Duration> {
        let mut client = world.client("client")?;
        let free = connect(&mut client, udp(1))?;
        let sockets: Vec<Socket> = (0..held).map(|_| connect(&mut client, udp(1))).collect::<Result<_>>()?;
        for socket in &sockets {
            client.start_hold(socket.handle, Holding::Memory)?;
        }
        let start = Instant::now();
        let report = moving(world, udp(1), udp(2));
        let took = start.elapsed();
        for socket in &sockets {
            client.end_hold(socket.handle)?;
        }
        ensure!(ends(&report?, "ETIMEDOUT") == Some((1, held as u64)));
        ensure!(peer(&mut client, free.handle)? == Some(udp(2).socket_addr()));
        wait_for_threads(0)?;
        Ok(took)
    };
    let best = |world: &mut World, held| -> Result<Duration> {
        (0..4).map(|_| took(world, held)).try_fold(Duration::MAX, |best, took| Ok(best.min(took?)))
    };
    let (one, ten) = (best(world, 1)?, best(world, HELD)?);
    ensure!(ten < one + Duration::from_millis(9 * 20), "{ten:?} with ten held, {one:?} with one");
    Ok(())
}

/// The thread waits for another socket first. Meanwhile the owner of this one gives it another number.
fn a_descriptor_that_goes_meanwhile_is_not_all(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let [held, socket] = [connect(&mut client, udp(1))?, connect(&mut client, udp(1))?];
    client.start_hold(held.handle, Holding::Memory)?;
    let (report, copy) = thread::scope(|scope| {
        let client = &mut client;
        let owner = scope.spawn(move || -> Result<u32> {
            // The pass over open files is over.
            wait_for_threads(1)?;
            let copy = client.dup(socket.handle)?;
            client.close(socket.handle)?;
            Ok(copy)
        });
        (moving(world, udp(1), udp(2)), owner.join())
    });
    client.end_hold(held.handle)?;
    let (report, copy) = (report?, copy.ok().context("panicked")??);
    ensure!(ends(&report, "ETIMEDOUT") == Some((1, 1)), "{report:?}");
    ensure!(peer(&mut client, copy)? == Some(udp(2).socket_addr()));
    Ok(())
}

/// Its connect has its effect during the event.
fn a_pending_connect_is_spared_as_well(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let socket = open(&mut client, spec_for(udp(1)))?;
    let delay = begin_connect(world, &mut client, socket, udp(1))?;
    let report = moving(world, udp(1), udp(2))?;
    end_connect(&mut client, delay)?;
    ensure!(ends(&report, "") == Some((0, 0)) && report.destroyed == 0 && report.complete, "{report:?}");
    ensure!((report.pending_walks, report.pending, report.skipped.spared) == (1, 0, 1), "{report:?}");
    ensure!(peer(&mut client, socket.handle)? == Some(udp(1).socket_addr()));
    Ok(())
}

fn no_event_waits_for_what_was_moved(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    for otherwise in [Instead::Spare, Instead::Destroy] {
        let socket = connect(&mut client, udp(1))?;
        let to = Destinations::new(vec![udp(2)], Spread::Even)?;
        let action = VictimAction::Move(Move { to, tcp: Instead::Spare, otherwise });
        let report = world.tell_to(Action::BackendDeleted { backend: udp(1) }, action)?;
        ensure!(ends(&report, "") == Some((1, 0)), "{report:?}");
        let report = world.reap(udp(1))?;
        expect_complete(&report, 0)?;
        ensure!((report.pending, report.pending_elsewhere) == (0, 0), "{report:?}");
        expect_destroyed(&world.reap(udp(2))?, &mut [&mut client], &[socket.cookie])?;
        client.close(socket.handle)?;
    }
    Ok(())
}

/// Connected to a link-local address a socket is bound to its link, which is nobody's choice for another peer.
fn the_link_of_its_old_peer_does_not_bind_it(world: &mut World) -> Result<()> {
    world.serve(&[udp6(2)])?;
    let far = Netns::create("far-revive")?;
    world.netns(0).join("left", "fe80::a".parse()?, &far, "fe80::1".parse()?, 64)?;
    let mut client = world.client("client")?;
    // SAFETY: a string that ends with a zero.
    let link = world.netns(0).run(|| unsafe { libc::if_nametoindex(c"left".as_ptr()) })?;
    let peer_there = format!("[fe80::1%{link}]:53").parse()?;
    let socket = open_to(&mut client, OpenSpec::new(Protocol::Udp, Family::V6), peer_there)?;
    let backend = "udp://[fe80::1%left]:53".parse()?;
    let mut event = Event::deleted(backend).with_id("link");
    event.netns = Some(format!("/run/netns/{}", world.netns(0).name()));
    let to = Destinations::new(vec![udp6(2)], Spread::Even)?;
    event.victim_action = Some(VictimAction::Revive(Revive { to, after_ms: 0 }));
    ensure!(world.reaper_mut().handle(&event).destroyed == 1);
    let revived = end(world)?;
    ensure!(
        Revived { after_ns: 0, ..revived.clone() }
            == Revived { sockets: 1, revived: 1, ..Revived::default() },
        "{revived:?}"
    );
    let (_, victims) = world.walk(udp6(2))?;
    let found: Vec<_> = victims.iter().map(|victim| (victim.cookie(), victim.ifindex())).collect();
    ensure!(found == [(socket.cookie, 0)], "{victims:?}");
    // It takes the error of the destroy.
    client.state(socket.handle)?;
    expect_answers_on(&mut client, Selection::All, 1)
}

/// However many backends there are whose rules ask for the names of processes.
fn open_files_are_looked_through_once(world: &mut World) -> Result<()> {
    let backends: Vec<Backend> = (1..=8).map(udp).collect();
    world.serve(&backends)?;
    let mut client = world.client("client")?;
    client.rename("left")?;
    let left = ActionRule { commands: vec!["left".parse()?], ..rule("left", VictimAction::None) };
    set(world, vec![left])?;
    for backend in &backends {
        connect(&mut client, *backend)?;
    }
    let _statistics = keep_statistics()?;
    let runs_of = |world: &mut World, backends: &[Backend]| -> Result<u64> {
        let before = tracing_runs()?;
        let report = world.tell(Action::BackendsDeleted { backends: backends.to_vec() }, false)?;
        ensure!((report.destroyed, report.skipped.spared) == (0, backends.len() as u64), "{report:?}");
        Ok(tracing_runs()? - before)
    };
    // The program is loaded on first use.
    runs_of(world, &backends[..1])?;
    let (one, all) = (runs_of(world, &backends[..1])?, runs_of(world, &backends)?);
    ensure!(one > 0 && all < 2 * one, "{one} runs for one backend, {all} for {}", backends.len());
    Ok(())
}

/// As long as the descriptor is open, the kernel counts runs of programs (`BPF_ENABLE_STATS`).
fn keep_statistics() -> Result<OwnedFd> {
    /// `BPF_ENABLE_STATS` (linux/bpf.h); `BPF_STATS_RUN_TIME` is 0.
    const ENABLE_STATS: libc::c_long = 32;
    let run_time = 0_u32;
    // SAFETY: the attribute is four bytes long, as is said.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, ENABLE_STATS, &raw const run_time, size_of::<u32>()) };
    ensure!(fd >= 0, "BPF_ENABLE_STATS: {}", io::Error::last_os_error());
    // SAFETY: the call has just made this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) })
}

/// Runs of the iterators that this process has: one for each file that a pass comes by.
fn tracing_runs() -> Result<u64> {
    /// `BPF_PROG_TYPE_TRACING` (linux/bpf.h).
    const TRACING: u64 = 26;
    let mut runs = std::collections::BTreeMap::new();
    for file in fs::read_dir("/proc/self/fdinfo")?.flatten() {
        // A descriptor may be closed meanwhile.
        let text = fs::read_to_string(file.path()).unwrap_or_default();
        let field = |name: &str| -> Option<u64> {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
        };
        if let (Some(TRACING), Some(id), Some(count)) =
            (field("prog_type"), field("prog_id"), field("run_cnt"))
        {
            runs.insert(id, count);
        }
    }
    Ok(runs.values().sum())
}
