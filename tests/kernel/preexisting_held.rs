//! Pre-existing sockets, and others, whose owners hold their locks while they are looked for.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use skreap::Reaper;
use skreap::bpf::{Question, Tables};
use skreap::core::{Backend, EngineName, Protocol};
use skreap_testbed::Client;

use crate::case::{Case, case};
use crate::holder::{LockHolder, descriptor_of};
use crate::preexisting::{cookies, expect_empty, reap, second, small};
use crate::sockets::*;
use crate::world::{World, WorldOptions};

/// A start waits for no lock, so this is how slow a busy machine may be. The locks are held until they are let go of.
const START: Duration = Duration::from_secs(15);

pub fn cases() -> Vec<Case> {
    let two = WorldOptions { netns: 2, ..WorldOptions::default() };
    vec![
        case!(start_while_locks_are_held).only(EngineName::Netlink).with(two),
        case!(sockets_that_no_process_has_open).only(EngineName::Netlink).with(two),
        case!(no_process_has_it_open_and_another_lock_is_held).only(EngineName::Netlink).with(two),
        case!(tables_show_every_socket_once).only(EngineName::Netlink).with(two),
    ]
}

/// A socket to the backend, and who holds its lock.
fn held(client: &mut Client, backend: Backend) -> Result<(u64, LockHolder)> {
    let socket = connect(client, backend)?;
    Ok((socket.cookie, LockHolder::take(descriptor_of(client.pid(), socket.cookie)?)?))
}

fn timed(world: &World) -> Result<(Reaper, Duration)> {
    let start = Instant::now();
    Ok((second(world, small())?, start.elapsed()))
}

/// Inside the cgroup or outside: all sockets are found, those whose locks are held too.
fn start_while_locks_are_held(world: &mut World) -> Result<()> {
    let backends = [udp(1), tcp(1), udp6(1), tcp6(1)];
    world.serve(&backends)?;
    let mut client = world.client("client")?;
    let mut holder = world.client("holder")?;
    let mut outsider = world.outsider("outsider")?;
    let place = world.place(1)?;
    let mut holders = Vec::new();
    for backend in backends {
        connect_many(&mut client, Default::default(), backend, 5)?;
        connect_many(&mut client, place.clone(), backend, 2)?;
        holders.push(held(&mut holder, backend)?);
        holders.push(held(&mut outsider, backend)?);
    }
    let (second, took) = timed(world)?;
    ensure!(took < START, "the start has waited for {took:?}");
    ensure!(second.index().is_bootstrapped()?, "not all were found");
    ensure!(!second.index().incomplete()?.any(), "{:?}", second.index().incomplete()?);
    let found = cookies(second.index())?;
    ensure!(found.len() == 4 * 8 && found == cookies(world.reaper().index())?, "{found:?}");
    for (_, holder) in holders {
        holder.release()?;
    }
    drop((client, holder, outsider));
    world.wait_for_nodes(0)?;
    expect_empty(second.index())
}

/// Files do not lead to them; the tables tell that they are there, and iterators find them.
fn sockets_that_no_process_has_open(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), tcp(1)])?;
    let mut client = world.client("client")?;
    let far = world.place(1)?;
    connect_many(&mut client, far.clone(), udp(1), 3)?;
    let mut flying = Vec::new();
    for backend in [udp(1), tcp(1)] {
        let spec = skreap_testbed::OpenSpec { netns: far.clone(), ..spec_for(backend) };
        let socket = open_to(&mut client, spec, backend.socket_addr())?;
        client.start_flight(socket.handle)?;
        flying.push(socket);
    }
    // A lock that is held elsewhere is in nobody's way.
    let (_, holder) = held(&mut client, udp(1))?;
    let (mut second, took) = timed(world)?;
    ensure!(took < START, "the start has waited for {took:?}");
    ensure!(second.index().is_bootstrapped()? && cookies(second.index())?.len() == 6);
    holder.release()?;
    let mut destroyed = reap(&mut second, tcp(1));
    ensure!((destroyed.victims, destroyed.destroyed, destroyed.complete) == (1, 1, true), "{destroyed:?}");
    destroyed = reap(&mut second, udp(1));
    ensure!((destroyed.victims, destroyed.destroyed, destroyed.complete) == (5, 5, true), "{destroyed:?}");
    for socket in flying {
        client.land_flight(socket.handle)?;
    }
    drop(client);
    world.wait_for_nodes(0)?;
    expect_empty(second.index())
}

/// The one case in which a search has to be given up: the index says that it lacks something, and events are finished by a
/// scan.
fn no_process_has_it_open_and_another_lock_is_held(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let mut outsider = world.outsider("outsider")?;
    let open = connect_many(&mut client, Default::default(), udp(1), 3)?;
    let flying = connect(&mut client, udp(1))?;
    // Below and above it in every order of the iterator.
    let holders = (0..40).map(|_| held(&mut outsider, udp(2))).collect::<Result<Vec<_>>>()?;
    client.start_flight(flying.handle)?;
    let (mut second, took) = timed(world)?;
    ensure!(took < START, "the start has waited for {took:?}");
    let known = cookies(second.index())?;
    ensure!(open.cookies.iter().all(|cookie| known.contains(cookie)), "{known:?}");
    let all = known.contains(&flying.cookie);
    ensure!(second.index().is_bootstrapped()? == all && second.index().incomplete()?.everything != all);
    let report = reap(&mut second, udp(1));
    ensure!((report.victims, report.destroyed, report.complete) == (4, 4, true), "{report:?}");
    ensure!(report.fallbacks.is_empty() == all, "{report:?}");
    for (_, holder) in holders {
        holder.release()?;
    }
    client.land_flight(flying.handle)?;
    drop((client, outsider));
    world.wait_for_nodes(0)?;
    expect_empty(second.index())
}

/// What the kernel's tables show is what was opened, with what it is.
fn tables_show_every_socket_once(world: &mut World) -> Result<()> {
    world.add_address(tcp(1).addr())?;
    world.add_address(tcp6(1).addr())?;
    let mut server = world.client("server")?;
    let mut client = world.client("client")?;
    let mut outsider = world.outsider("outsider")?;
    let id = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(world.cgroup().path())?);
    let mut tables = Tables::load(Some(id))?;
    for backend in [tcp(1), tcp6(1)] {
        start_echo(&mut server, backend)?;
        let mut expected = connect_many(&mut client, Default::default(), backend, 300)?.cookies;
        connect_many(&mut outsider, Default::default(), backend, 7)?;
        let question = Question { backend: Some(backend), ..Question::default() };
        let mut shown: Vec<u64> = Vec::new();
        for socket in tables.read(Protocol::Tcp, &question)? {
            ensure!(socket.is_client() && socket.victim.backend() == Some(backend), "{socket:?}");
            shown.push(socket.victim.cookie());
        }
        shown.sort_unstable();
        expected.sort_unstable();
        ensure!(shown == expected, "{} of {}", shown.len(), expected.len());
        let all = tables.read(Protocol::Tcp, &Question { outside: true, ..question })?;
        ensure!(all.iter().filter(|socket| socket.is_outside()).count() == 7 && all.len() == 307);
        ensure!(expect_answers(&mut client)? >= 300);
    }
    let accepted = tables.read(Protocol::Tcp, &Question::default())?;
    let accepted = accepted.iter().filter(|socket| socket.is_accepted()).count();
    ensure!(accepted == 2 * 307, "{accepted} accepted");
    drop((client, outsider));
    world.wait_for_nodes(0)?;
    tables.read(Protocol::Udp, &Question::default()).context("udp").map(drop)
}
