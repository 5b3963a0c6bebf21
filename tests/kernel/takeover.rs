//! One process takes over from another. A second index is pinned and handed on again and again, beside that of the
//! world, which is never interrupted and so knows what must be in the other.

use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::{ffi::CString, io};

use anyhow::{Context as _, Result, ensure};
use skreap::Reaper;
use skreap::bpf::{ABI_VERSION, Config};
use skreap::choice::EngineChoice;
use skreap::core::EngineName;
use skreap_testbed::{Bpffs, Client};

use crate::case::{Case, case};
use crate::preexisting::{cookies, expect_empty, reap};
use crate::sockets::*;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let two_netns = WorldOptions { netns: 2, ..WorldOptions::default() };
    vec![
        case!(taken_over_under_churn).only(EngineName::Netlink).with(two_netns),
        case!(replaced_under_churn).only(EngineName::Netlink).with(two_netns),
        case!(hooks_made_the_last_again).only(EngineName::Netlink),
        case!(a_walk_that_nobody_ends).only(EngineName::Netlink),
        case!(a_walk_of_another_version_is_refused).only(EngineName::Netlink),
    ]
}

pub fn pinned(world: &World, directory: &Path, max_sockets: u32) -> Result<Reaper> {
    let reaper = Reaper::builder()
        .cgroup(world.cgroup().path())
        .config(Config::default().max_sockets(max_sockets).buckets(1024))
        .engine(EngineChoice::Named(world.reaper().engine()))
        .pin(directory)
        .build()?;
    Ok(reaper)
}

/// Opens, moves and closes until told to stop, and leaves the last batch open.
fn churn(client: &mut Client, stop: &AtomicBool) -> Result<u64> {
    let mut opened = 0;
    loop {
        for backend in [udp(1), udp6(1), tcp(1)] {
            opened += connect_many(client, Default::default(), backend, 40)?.cookies.len() as u64;
        }
        let moving = connect(client, udp(1))?;
        client.connect(moving.handle, udp(2).socket_addr())?;
        opened += 1;
        if stop.load(Ordering::Relaxed) {
            return Ok(opened);
        }
        client.close_all()?;
    }
}

/// Two clients churn in two netns while `hand_on` is called; returns how many sockets they have opened.
fn under_churn(world: &World, clients: &mut [Client], hand_on: impl FnOnce() -> Result<()>) -> Result<u64> {
    for netns in [0, 1] {
        world.netns(netns).set_sysctl("net.ipv4.ip_local_port_range", "1024 65535")?;
    }
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let churners: Vec<_> =
            clients.iter_mut().map(|client| scope.spawn(|| churn(client, &stop))).collect();
        let handed_on = hand_on();
        stop.store(true, Ordering::Relaxed);
        let mut opened = 0;
        for churner in churners {
            opened += churner.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        handed_on?;
        Ok(opened)
    })
}

fn taken_over_under_churn(world: &mut World) -> Result<()> {
    const TAKE_OVERS: u32 = 4;
    world.serve(&[udp(1), udp6(1), tcp(1), udp(2)])?;
    let bpffs = Bpffs::create()?;
    let directory = bpffs.path("pins");
    let mut second = Some(pinned(world, &directory, 4096)?);
    let mut clients = [world.client_in("first", 0)?, world.client_in("second", 1)?];
    let opened = under_churn(world, &mut clients, || {
        for _ in 0..TAKE_OVERS {
            // As good as killed: nothing is said to the kernel but the close of descriptors.
            second = None;
            second = Some(pinned(world, &directory, 4096)?);
        }
        Ok(())
    })?;
    let mut second = second.context("no second reaper")?;

    // Every connect and every close was seen by both.
    let (first, taken) = (world.counters()?, second.counters()?);
    ensure!(opened > 200 && first.inserts > opened, "{opened} opened: {first:?}");
    ensure!((taken.inserts, taken.removals) == (first.inserts, first.removals), "{first:?} {taken:?}");
    ensure!(taken.releases == first.releases && taken.balanced(), "{first:?} {taken:?}");
    ensure!(cookies(second.index())? == cookies(world.reaper().index())?);
    expect_complete(&reap(&mut second, udp(1)), 2 * 40)?;
    expect_complete(&reap(&mut second, tcp(1)), 2 * 40)?;
    for client in &mut clients {
        let destroyed = client.destroyed(skreap_testbed::Selection::All)?.len();
        ensure!(destroyed == 80, "{destroyed} destroyed");
        ensure!(expect_answers(client)? == 41);
    }
    drop(clients);
    world.wait_for_nodes(0)?;
    expect_empty(second.index())
}

/// Each time with another size, so that a new index has to be made, filled and put in the place of the old one.
fn replaced_under_churn(world: &mut World) -> Result<()> {
    const REPLACEMENTS: u32 = 3;
    world.serve(&[udp(1), udp6(1), tcp(1), udp(2)])?;
    let bpffs = Bpffs::create()?;
    let directory = bpffs.path("pins");
    let mut older = world.client("older")?;
    connect_many(&mut older, Default::default(), udp(2), 100)?;
    let mut second = Some(pinned(world, &directory, 4096)?);
    let mut clients = [world.client_in("first", 0)?, world.client_in("second", 1)?];
    under_churn(world, &mut clients, || {
        for i in 1..=REPLACEMENTS {
            second = None;
            second = Some(pinned(world, &directory, 4096 + i)?);
        }
        Ok(())
    })?;
    let mut second = second.context("no second reaper")?;
    ensure!(second.index().max_sockets() == 4096 + REPLACEMENTS);
    ensure!(cookies(second.index())? == cookies(world.reaper().index())?, "the two know different sockets");
    expect_complete(&reap(&mut second, udp(2)), 100 + 2)?;
    drop((clients, older));
    world.wait_for_nodes(0)?;
    expect_empty(second.index())
}

/// A new link behind the others and then the old one away, pins and all: what is pinned can still be taken over.
fn hooks_made_the_last_again(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let bpffs = Bpffs::create()?;
    let directory = bpffs.path("pins");
    let pins = skreap::bpf::pin::Pins::lock(&directory)?;
    let cgroup = world.cgroup().open()?;
    let config = Config::default().max_sockets(4096).buckets(1024);
    let (index, origin) = pins.load(&config, cgroup.as_fd())?;
    let cgroup_fd = cgroup.as_fd();
    let mut hooks = skreap::bpf::hooks::Hooks::attach_pinned(&index, cgroup_fd, &pins, &origin)?;
    pins.publish(&mut hooks)?;
    let mut clients = [world.client("client")?];
    let opened = under_churn_in_one(&mut clients[0], || {
        for _ in 0..50 {
            for hook in skreap::bpf::attach_order::Hook::ALL {
                hooks.become_last(&index, hook, cgroup_fd)?;
            }
        }
        Ok(())
    })?;
    let (first, taken) = (world.counters()?, index.counters()?);
    ensure!(first.inserts >= opened && taken.inserts == first.inserts, "{first:?} {taken:?}");
    ensure!(taken.removals == first.removals && taken.balanced(), "{first:?} {taken:?}");
    drop((hooks, index, pins));
    let second = pinned(world, &directory, 4096)?;
    ensure!(second.counters()?.inserts == first.inserts, "not taken over");
    ensure!(cookies(second.index())? == cookies(world.reaper().index())?);
    drop(clients);
    world.wait_for_nodes(0)?;
    expect_empty(second.index())
}

fn under_churn_in_one(client: &mut Client, meanwhile: impl FnOnce() -> Result<()>) -> Result<u64> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let churner = scope.spawn(|| -> Result<u64> {
            let mut opened = 0;
            loop {
                opened +=
                    u64::from(connect_many(client, Default::default(), udp(1), 50)?.cookies.len() as u32);
                if stop.load(Ordering::Relaxed) {
                    return Ok(opened);
                }
                client.close_all()?;
            }
        });
        let done = meanwhile();
        stop.store(true, Ordering::Relaxed);
        let opened = churner.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        done?;
        Ok(opened)
    })
}

/// Somebody runs the pinned walk program, is told that there is more, and is never seen again. Its cursor is in the
/// chain, and its slot remembers that; whoever takes over walks as ever.
fn a_walk_that_nobody_ends(world: &mut World) -> Result<()> {
    const SOCKETS: u32 = 2500;
    world.serve(&[udp(1)])?;
    let bpffs = Bpffs::create()?;
    let directory = bpffs.path("pins");
    let second = pinned(world, &directory, 4096)?;
    let mut client = world.client("client")?;
    let victims = connect_many(&mut client, Default::default(), udp(1), SOCKETS)?;
    let walk = walk_once(&directory.join("index/walk"), 0)?;
    ensure!(walk == Walk { emitted: 2048, more: 1 }, "{walk:?}");
    drop(second);

    let mut second = pinned(world, &directory, 4096)?;
    expect_exactly(&reap(&mut second, udp(1)), &mut [&mut client], &victims.cookies)?;
    drop(client);
    world.wait_for_nodes(0)?;
    let walk = walk_once(&directory.join("index/walk"), 0)?;
    ensure!(walk == Walk { emitted: 0, more: 0 }, "{walk:?}");
    expect_empty(second.index())
}

/// A program that was built with the header of another version: it is told so, and nothing else is written.
fn a_walk_of_another_version_is_refused(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let bpffs = Bpffs::create()?;
    let directory = bpffs.path("pins");
    let second = pinned(world, &directory, 4096)?;
    let mut client = world.client("client")?;
    connect_many(&mut client, Default::default(), udp(1), 3)?;
    let path = directory.join("index/walk");
    for version in [0, ABI_VERSION - 1, ABI_VERSION + 1] {
        let (error, walk) = walk_as(version, &path, 7)?;
        ensure!(
            error == -libc::EPROTO && walk == Walk { emitted: 0, more: 0 },
            "{version}: {error}, {walk:?}"
        );
    }
    let walk = walk_once(&path, 7)?;
    ensure!(walk == Walk { emitted: 3, more: 0 }, "{walk:?}");
    drop(client);
    world.wait_for_nodes(0)?;
    expect_empty(second.index())
}

#[derive(Debug, PartialEq, Eq)]
struct Walk {
    emitted: u32,
    more: u32,
}

/// What a program in another language does: opens the pinned walk program and runs it for `udp(1)`, with nothing but
/// bpf(2) and `abi.h`.
fn walk_once(path: &Path, slot: u16) -> Result<Walk> {
    let (error, walk) = walk_as(ABI_VERSION, path, slot)?;
    ensure!(error == 0, "the walk failed: {error}");
    Ok(walk)
}

/// As [`walk_once`], with this version; also answers the error that the program has written.
fn walk_as(version: u32, path: &Path, slot: u16) -> Result<(i32, Walk)> {
    const OBJ_GET: libc::c_long = 7;
    const TEST_RUN: libc::c_long = 10;
    /// Where `error` is in `struct skreap_walk`; the outputs that are of interest follow.
    const ERROR: usize = if ABI_VERSION < 2 { 28 } else { 32 };
    let bpf = |command: libc::c_long, attr: &mut [u64]| -> io::Result<libc::c_long> {
        // SAFETY: the attributes are as long as is said, and what they point to outlives the call.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(attr)) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
    };
    let name = CString::new(path.to_str().context("not UTF-8")?)?;
    let program = bpf(OBJ_GET, &mut [name.as_ptr() as u64, 0])?;
    // SAFETY: a fresh descriptor that nobody else owns.
    let program = unsafe { OwnedFd::from_raw_fd(i32::try_from(program)?) };
    // Longer than the struct is now: the program reads and writes only what it knows.
    let mut ctx = [0_u8; 256];
    ctx[..4].copy_from_slice(&version.to_ne_bytes());
    ctx[4..6].copy_from_slice(&slot.to_ne_bytes());
    let std::net::IpAddr::V4(addr) = udp(1).addr() else { anyhow::bail!("not IPv4") };
    ctx[8..12].copy_from_slice(&addr.octets());
    ctx[24..26].copy_from_slice(&udp(1).port().to_be_bytes());
    ctx[26] = libc::AF_INET as u8;
    ctx[27] = libc::IPPROTO_UDP as u8;
    let mut attr = [0_u64; 10];
    attr[0] = program.as_raw_fd() as u64;
    // ctx_size_in and ctx_in of struct bpf_attr's `test`
    attr[5] = ctx.len() as u64;
    attr[6] = ctx.as_ptr() as u64;
    bpf(TEST_RUN, &mut attr)?;
    let word = |at: usize| u32::from_ne_bytes([ctx[at], ctx[at + 1], ctx[at + 2], ctx[at + 3]]);
    Ok((word(ERROR).cast_signed(), Walk { emitted: word(ERROR + 4), more: word(ERROR + 8) }))
}
