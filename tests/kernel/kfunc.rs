//! Destroying in the walk: what only an engine that takes the socket's lock, and holds references, can get wrong.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd as _;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use skreap::bpf::{Undestroyed, Walker};
use skreap::core::{Backend, EngineName, Target, Unconnected};
use skreap_testbed::bpf::LoadBalancer;
use skreap_testbed::{Bpffs, Client, Selection};

use crate::case::{Case, case};
use crate::holder::{LockHolder, descriptor_of, wait_until_asleep_in};
use crate::portless::between_hook_and_connect;
use crate::sockets::*;
use crate::world::{World, WorldOptions};
use crate::{preexisting, takeover};

pub fn cases() -> Vec<Case> {
    let two_netns = WorldOptions { netns: 2, missed_releases: 2, ..WorldOptions::default() };
    vec![
        case!(walk_does_not_wait_for_a_socket_lock).only(EngineName::Kfunc),
        case!(socket_whose_lock_is_held_is_destroyed_when_it_is_free).only(EngineName::Kfunc),
        case!(socket_that_moves_while_its_lock_is_held_survives_the_walk).only(EngineName::Kfunc),
        case!(walk_lists_whom_it_destroyed).only(EngineName::Kfunc),
        case!(two_walks_destroy_one_backend).only(EngineName::Kfunc),
        case!(every_recorded_socket_is_held).only(EngineName::Kfunc),
        case!(closed_sockets_and_dead_netns_have_no_references).only(EngineName::Kfunc),
        case!(churn_with_six_workers_and_two_reapers).only(EngineName::Kfunc).with(two_netns),
        case!(rekeyed_sockets_are_finished_by_their_id).only(EngineName::Kfunc),
        case!(preexisting_sockets_have_references).only(EngineName::Kfunc),
        case!(references_outlive_the_process).only(EngineName::Kfunc),
        case!(module_stays_while_in_use).only(EngineName::Kfunc),
    ]
}

/// How long the lock of a socket is held in these tests.
const HELD: Duration = Duration::from_millis(400);

fn target(backend: Backend) -> Target {
    Target { backend, unconnected: Unconnected::Preserve, dry_run: false }
}

/// The walk leaves the one socket whose lock is held, and destroys the others of its backend meanwhile.
fn walk_does_not_wait_for_a_socket_lock(world: &mut World) -> Result<()> {
    world.serve(&[tcp(1), udp(1)])?;
    let mut client = world.client("client")?;
    let mut walker = world.reaper().index().walker()?;
    for backend in [tcp(1), udp(1)] {
        let mut cookies = Vec::new();
        for _ in 0..3 {
            cookies.push(connect(&mut client, backend)?.cookie);
        }
        let holder = LockHolder::take(descriptor_of(client.pid(), cookies[1])?)?;
        let mut left = Vec::new();
        let counts = walker.destroy(&target(backend), 0, false, None, &mut left)?;
        // Only this lets go of the lock.
        holder.release()?;
        let found: Vec<_> = left.iter().map(|left| (left.victim.cookie(), left.errno)).collect();
        ensure!(found == [(cookies[1], libc::EBUSY)], "{backend}: {left:?}");
        ensure!(counts.destroyed == 2 && counts.visited == 3, "{backend}: {counts:?}");
        let died = client.destroyed(Selection::All)?;
        ensure!(died == [cookies[0], cookies[2]], "{backend}: {died:?} of {cookies:?}");
        left.clear();
        let counts = walker.destroy(&target(backend), 0, false, None, &mut left)?;
        ensure!(counts.destroyed == 1 && left.is_empty(), "{backend}: {counts:?} {left:?}");
        ensure!(client.destroyed(Selection::All)? == [cookies[1]], "{backend}");
    }
    Ok(())
}

fn socket_whose_lock_is_held_is_destroyed_when_it_is_free(world: &mut World) -> Result<()> {
    world.serve(&[tcp(1), tcp(2)])?;
    let mut client = world.client("client")?;
    let cookies = [connect(&mut client, tcp(1))?.cookie, connect(&mut client, tcp(1))?.cookie];
    connect(&mut client, tcp(2))?;
    let holder = LockHolder::take(descriptor_of(client.pid(), cookies[0])?)?;
    let report = thread::scope(|scope| {
        let released = scope.spawn(|| {
            thread::sleep(HELD);
            holder.release()
        });
        let report = world.reap(tcp(1));
        released.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        report
    })?;
    expect_exactly(&report, &mut [&mut client], &cookies)
}

/// What was a victim when the walk looked is connected elsewhere when its lock is free.
fn socket_that_moves_while_its_lock_is_held_survives_the_walk(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let pid = client.pid();
    let socket = connect(&mut client, udp(1))?;
    let descriptor = descriptor_of(pid, socket.cookie)?;
    let mut walker = world.reaper().index().walker()?;
    let mut left = Vec::new();
    let pause = between_hook_and_connect(&client)?;
    let counts = thread::scope(|scope| {
        let moved = scope.spawn(|| client.connect(socket.handle, udp(2).socket_addr()));
        let holder = pause.wait(1).map_err(anyhow::Error::from).and_then(|()| LockHolder::take(descriptor));
        pause.let_go(1)?;
        let holder = holder?;
        wait_until_asleep_in(pid, pid as i32, libc::SYS_connect)?;
        let counts = walker.destroy(&target(udp(1)), 0, false, None, &mut left);
        holder.release()?;
        moved.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        Ok::<_, anyhow::Error>(counts?)
    })?;
    ensure!(counts.destroyed == 0 && left.len() == 1 && left[0].errno == libc::EBUSY, "{counts:?} {left:?}");
    left.clear();
    let counts = walker.destroy(&target(udp(1)), 0, false, None, &mut left)?;
    ensure!(counts.destroyed == 0 && counts.moved_on == 1 && left.is_empty(), "{counts:?} {left:?}");
    let state = client.state(socket.handle)?;
    ensure!(state.errno == 0 && state.peer == Some(udp(2).socket_addr()), "{state:?}");
    Ok(())
}

fn walk_lists_whom_it_destroyed(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    // More than are destroyed in one call.
    let victims = connect_many(&mut client, Default::default(), udp(1), 2500)?;
    connect_many(&mut client, Default::default(), udp(2), 7)?;
    let mut walker = world.reaper().index().walker()?;
    let mut listed = Vec::new();
    let counts = walker.destroy(&target(udp(1)), 0, true, None, &mut listed)?;
    ensure!(counts.destroyed == 2500 && counts.gone == 0 && counts.calls == 2, "{counts:?}");
    let mut cookies: Vec<u64> = listed.iter().map(|left| left.victim.cookie()).collect();
    cookies.sort_unstable();
    let mut expected = victims.cookies.clone();
    expected.sort_unstable();
    ensure!(cookies == expected && listed.iter().all(|left| left.errno == 0));
    // Without the list, only what went wrong is told of: nothing.
    listed.clear();
    let counts = walker.destroy(&target(udp(2)), 0, false, None, &mut listed)?;
    ensure!(counts.destroyed == 7 && listed.is_empty(), "{counts:?} {listed:?}");
    let mut died = client.destroyed(Selection::All)?;
    died.sort_unstable();
    ensure!(died.len() == 2507 && expected.iter().all(|cookie| died.binary_search(cookie).is_ok()));
    Ok(())
}

/// Two reaps of one backend at once: each socket is destroyed by one of them, and the other says so.
fn two_walks_destroy_one_backend(world: &mut World) -> Result<()> {
    const SOCKETS: u32 = 2000;
    world.serve(&[tcp(1), udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    connect_many(&mut client, Default::default(), udp(2), 10)?;
    for backend in [udp(1), tcp(1)] {
        let victims = connect_many(&mut client, Default::default(), backend, SOCKETS)?;
        let walkers = [world.reaper().index().walker()?, world.reaper().index().walker()?];
        let results = thread::scope(|scope| {
            walkers
                .map(|mut walker| {
                    scope.spawn(move || {
                        let mut left: Vec<Undestroyed> = Vec::new();
                        walker
                            .destroy(&target(backend), 0, false, None, &mut left)
                            .map(|counts| (counts, left))
                    })
                })
                .map(|walk| walk.join().unwrap_or_else(|panic| resume_unwind(panic)))
        });
        let mut destroyed = 0;
        for result in results {
            let (counts, left) = result?;
            // Only what the other one has in hand at this moment is left.
            ensure!(left.iter().all(|left| left.errno == libc::EBUSY), "{left:?}");
            destroyed += counts.destroyed;
        }
        ensure!(destroyed == u64::from(SOCKETS), "{destroyed} destroyed");
        let mut died = client.destroyed(Selection::All)?;
        died.sort_unstable();
        let mut expected = victims.cookies.clone();
        expected.sort_unstable();
        ensure!(died == expected);
    }
    ensure!(expect_answers(&mut client)? == 10);
    Ok(())
}

/// None is left to be finished by its id: not those that moved, are wildcards, or are known under many backends.
fn every_recorded_socket_is_held(world: &mut World) -> Result<()> {
    let backends: Vec<Backend> = (1..=5).map(udp).collect();
    world.serve(&backends)?;
    let mut client = world.client("client")?;
    let mut expected = Vec::new();
    for round in 0..3_usize {
        let socket = connect(&mut client, backends[round])?;
        // There and back again, and to where the reap looks.
        for &backend in backends.iter().skip(round).rev() {
            client.connect(socket.handle, backend.socket_addr())?;
        }
        client.connect(socket.handle, udp(1).socket_addr())?;
        expected.push(socket.cookie);
    }
    let many: Vec<Backend> = (1..=70).map(udp).collect();
    for backend in &many[5..] {
        world.add_address(backend.addr())?;
    }
    let wildcard = open(&mut client, spec_for(udp(1)))?;
    crate::unconnected::send_to_all(&mut client, wildcard, &many)?;
    client.connect(wildcard.handle, udp(1).socket_addr())?;
    expected.push(wildcard.cookie);
    ensure!(world.counters()?.wildcard == 1 && world.counters()?.without_ref == 0, "{:?}", world.counters()?);

    let mut left = Vec::new();
    let counts = world.reaper().index().walker()?.destroy(&target(udp(1)), 0, true, None, &mut left)?;
    ensure!(counts.destroyed == 4, "{counts:?} {left:?}");
    let mut died = client.destroyed(Selection::All)?;
    died.sort_unstable();
    expected.sort_unstable();
    ensure!(died == expected, "{died:?} instead of {expected:?}");
    Ok(())
}

fn cookies_of(left: &[Undestroyed]) -> Vec<u64> {
    let mut cookies: Vec<u64> = left.iter().map(|left| left.victim.cookie()).collect();
    cookies.sort_unstable();
    cookies
}

/// What was recorded under a virtual address and put right later has a node without a reference: the walk leaves it, and
/// says why; the engine ends it by its id.
fn rekeyed_sockets_are_finished_by_their_id(world: &mut World) -> Result<()> {
    let vips: [Backend; 2] = ["udp://10.177.9.9:5353".parse()?, "tcp://10.177.9.9:8080".parse()?];
    world.serve(&[udp(1), tcp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let mut held = connect_many(&mut client, Default::default(), udp(1), 4)?.cookies;
    let entries = [(vips[0], udp(1)), (vips[1], tcp(1))];
    let _balancer = LoadBalancer::attach(&entries, world.cgroup().open()?.as_fd())?;
    let mut rekeyed = connect_many(&mut client, Default::default(), vips[0], 6)?.cookies;
    let rekeyed_tcp = connect_many(&mut client, Default::default(), vips[1], 5)?.cookies;
    connect_many(&mut client, Default::default(), udp(2), 3)?;
    world.tidy();
    ensure!(world.reaper().order().rekeyed == 11, "{:?}", world.reaper().order());

    let mut left = Vec::new();
    let counts = world.reaper().index().walker()?.destroy(&target(udp(1)), 0, false, None, &mut left)?;
    ensure!(counts.destroyed == 4 && counts.gone == 0, "{counts:?}");
    ensure!(left.iter().all(|left| left.errno == libc::ENODATA), "{left:?}");
    rekeyed.sort_unstable();
    ensure!(cookies_of(&left) == rekeyed, "{left:?}, not {rekeyed:?}");
    let mut died = client.destroyed(Selection::All)?;
    died.sort_unstable();
    held.sort_unstable();
    ensure!(died == held, "{died:?}, not {held:?}");

    let report = world.reap(udp(1))?;
    ensure!(report.victims == 6 && report.fallbacks.is_empty(), "{report:?}");
    expect_exactly(&report, &mut [&mut client], &rekeyed)?;
    let report = world.reap(tcp(1))?;
    ensure!(report.victims == 5, "{report:?}");
    expect_exactly(&report, &mut [&mut client], &rekeyed_tcp)?;
    ensure!(expect_answers(&mut client)? == 3);
    Ok(())
}

/// The iterators that look for pre-existing sockets take references too.
fn preexisting_sockets_have_references(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp6(1), tcp(1)])?;
    let mut client = world.client("client")?;
    let mut expected = Vec::new();
    for (backend, count) in [(udp(1), 5), (udp6(1), 6), (tcp(1), 7)] {
        expected.push((backend, connect_many(&mut client, Default::default(), backend, count)?.cookies));
    }
    let second = preexisting::second(world, preexisting::small())?;
    ensure!(
        second.counters()?.inserts == 18 && second.counters()?.without_ref == 0,
        "{:?}",
        second.counters()?
    );
    let mut walker = second.index().walker()?;
    for (backend, mut cookies) in expected {
        let mut listed = Vec::new();
        let counts = walker.destroy(&target(backend), 0, true, None, &mut listed)?;
        ensure!(counts.destroyed == cookies.len() as u64, "{backend}: {counts:?} {listed:?}");
        cookies.sort_unstable();
        ensure!(cookies_of(&listed) == cookies && listed.iter().all(|left| left.errno == 0), "{listed:?}");
        let mut died = client.destroyed(Selection::All)?;
        died.sort_unstable();
        ensure!(died == cookies, "{backend}: {died:?}, not {cookies:?}");
    }
    drop(client);
    world.wait_for_nodes(0)?;
    preexisting::expect_empty(second.index())
}

/// Pinned references are those of the next process, with what the hooks have recorded while there was none.
fn references_outlive_the_process(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), tcp(1)])?;
    let bpffs = Bpffs::create()?;
    let directory = bpffs.path("pins");
    let mut client = world.client("client")?;
    let first = takeover::pinned(world, &directory, 4096)?;
    let mut cookies = connect_many(&mut client, Default::default(), udp(1), 5)?.cookies;
    drop(first);
    cookies.extend(connect_many(&mut client, Default::default(), udp(1), 6)?.cookies);
    connect_many(&mut client, Default::default(), tcp(1), 3)?;
    let second = takeover::pinned(world, &directory, 4096)?;
    cookies.extend(connect_many(&mut client, Default::default(), udp(1), 7)?.cookies);
    let mut listed = Vec::new();
    let counts = second.index().walker()?.destroy(&target(udp(1)), 0, true, None, &mut listed)?;
    ensure!(counts.destroyed == 18 && second.counters()?.without_ref == 0, "{counts:?} {listed:?}");
    cookies.sort_unstable();
    ensure!(cookies_of(&listed) == cookies && listed.iter().all(|left| left.errno == 0), "{listed:?}");
    let mut died = client.destroyed(Selection::All)?;
    died.sort_unstable();
    ensure!(died == cookies, "{died:?}, not {cookies:?}");
    ensure!(expect_answers(&mut client)? == 3);
    drop(client);
    world.wait_for_nodes(0)?;
    preexisting::expect_empty(second.index())
}

/// The kernel's own counts are back where they were: of sockets, and of network namespaces.
fn closed_sockets_and_dead_netns_have_no_references(world: &mut World) -> Result<()> {
    let slabs = Slabs::now()?;
    for round in 0..3 {
        let netns = world.fresh_netns(&format!("dying{round}"), udp(1).addr())?;
        let mut client = world.client_at("dying", &netns)?;
        connect_many(&mut client, Default::default(), udp(1), 100)?;
        let sender = open(&mut client, spec_for(udp(1)))?;
        crate::unconnected::send_to_all(&mut client, sender, &[udp(1)])?;
        if round > 0 {
            let report = world.reap(udp(1))?;
            ensure!(report.destroyed == 100 && report.skipped.unconnected == 1, "{report:?}");
        }
        // Killed with its sockets open, or after they were destroyed.
        client.kill()?;
        world.wait_for_nodes(0)?;
    }
    slabs.wait_until_back()
}

/// Everything at once, for ten seconds.
fn churn_with_six_workers_and_two_reapers(world: &mut World) -> Result<()> {
    const TIME: Duration = Duration::from_secs(10);
    const BATCH: u32 = 24;
    for netns in [0, 1] {
        world.netns(netns).set_sysctl("net.ipv4.ip_local_port_range", "1024 65535")?;
    }
    world.serve(&[udp(1), udp(2), tcp(1), tcp(2)])?;
    let slabs = Slabs::now()?;
    let mut clients = Vec::new();
    for worker in 0..6 {
        clients.push(world.client_in(&format!("worker{worker}"), worker % 2)?);
    }
    let (stop, destroyed, opened) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let walkers = [world.reaper().index().walker()?, world.reaper().index().walker()?];
    thread::scope(|scope| -> Result<()> {
        let (stop, destroyed, opened) = (&stop, &destroyed, &opened);
        let mut threads = Vec::new();
        for (worker, client) in clients.iter_mut().enumerate() {
            let (gone, stays) = if worker % 3 == 2 { (tcp(1), tcp(2)) } else { (udp(1), udp(2)) };
            threads.push(scope.spawn(move || work(client, gone, stays, BATCH, stop, opened)));
        }
        for walker in walkers {
            threads.push(scope.spawn(move || reap_on_and_on(walker, stop, destroyed)));
        }
        thread::sleep(TIME);
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })?;
    let (destroyed, opened) = (destroyed.into_inner(), opened.into_inner());
    ensure!(destroyed > 100 && opened > 1000, "{destroyed} of {opened} sockets destroyed: no churn");
    ensure!(world.counters()?.without_ref == 0, "{:?}", world.counters()?);
    drop(clients);
    // A release that the kernel kept from us leaves a node, and a reference, to the next walk.
    world.wait_for_nodes(0).or_else(|_| world.listing().map(drop))?;
    slabs.wait_until_back()
}

fn work(
    client: &mut Client,
    gone: Backend,
    stays: Backend,
    batch: u32,
    stop: &AtomicBool,
    opened: &AtomicU64,
) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let victims = client.open_many(many(Default::default(), gone, batch))?;
        let others = connect_many(client, Default::default(), stays, batch)?;
        opened.fetch_add(victims.cookies.len() as u64 + u64::from(batch), Ordering::Relaxed);
        if gone.protocol() == skreap::core::Protocol::Udp {
            // Between the backend that is gone and the one that stays.
            for handle in others.first..others.first + batch / 4 {
                client.connect(handle, gone.socket_addr())?;
                client.connect(handle, stays.socket_addr())?;
            }
        } else {
            for state in client.states(others.selection())? {
                ensure!(
                    state.errno == 0 && state.peer == Some(stays.socket_addr()),
                    "wrongly destroyed: {state:?}"
                );
            }
        }
        client.close_all()?;
    }
    Ok(())
}

fn reap_on_and_on(mut walker: Walker, stop: &AtomicBool, destroyed: &AtomicU64) -> Result<()> {
    let mut left = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        for backend in [udp(1), tcp(1)] {
            left.clear();
            let counts = walker.destroy(&target(backend), 0, false, None, &mut left)?;
            ensure!(left.iter().all(|left| left.errno == libc::EBUSY), "{left:?}");
            destroyed.fetch_add(counts.destroyed, Ordering::Relaxed);
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn module_stays_while_in_use(_: &mut World) -> Result<()> {
    // SAFETY: the name is a C string; nothing is written.
    let ret = unsafe { libc::syscall(libc::SYS_delete_module, c"skreap".as_ptr(), libc::O_NONBLOCK) };
    let error = std::io::Error::last_os_error();
    ensure!(ret == -1 && error.raw_os_error() == Some(libc::EAGAIN), "rmmod: {ret}, {error}");
    Ok(())
}

/// How many objects of each kind the kernel has allocated.
struct Slabs(BTreeMap<&'static str, u64>);

impl Slabs {
    const NAMES: [&str; 5] = ["TCP", "TCPv6", "UDP", "UDPv6", "net_namespace"];

    fn now() -> Result<Self> {
        let mut counts = BTreeMap::new();
        for name in Self::NAMES {
            let slab = Path::new("/sys/kernel/slab").join(name);
            // What each CPU keeps for itself counts as in use; this gives it back.
            fs::write(slab.join("shrink"), "1").with_context(|| slab.display().to_string())?;
            let objects = fs::read_to_string(slab.join("objects"))?;
            let count = objects.split_whitespace().next().context("no count of objects")?;
            counts.insert(name, count.parse()?);
        }
        Ok(Self(counts))
    }

    /// No more than there were; sockets and namespaces go some time after the last one has let go of them.
    fn wait_until_back(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let now = Self::now()?;
            let more: Vec<_> =
                now.0.iter().filter(|(name, count)| self.0.get(*name) < Some(*count)).collect();
            if more.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "still allocated: {more:?}, before: {:?}", self.0);
            thread::sleep(Duration::from_millis(50));
        }
    }
}
