//! Destroyed sockets that are given a peer later.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use skreap::core::{Action, Backend, Destinations, EngineName, Revive, Revived, Spread, VictimAction};
use skreap_testbed::{Client, Holding, OpenSpec, Selection};

use crate::case::{Case, case};
use crate::moving::rounds;
use crate::sockets::*;
use crate::world::{World, WorldOptions};

/// Longer than any second look takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Milliseconds to the second look: enough to do something about a socket before.
const AFTER_MS: u32 = 300;

pub fn cases() -> Vec<Case> {
    let twenty = WorldOptions { netns: 20, ..WorldOptions::default() };
    let balancer = WorldOptions {
        balancer: &[("udp://10.177.0.9:53", "udp://10.177.0.2:53")],
        ..WorldOptions::default()
    };
    let leave_order = WorldOptions { leave_order: true, ..WorldOptions::default() };
    vec![
        case!(every_family_is_revived),
        case!(exactly_the_victims_of_many_processes).with(twenty).only(EngineName::Netlink),
        case!(a_shared_socket_is_revived_once).only(EngineName::Netlink),
        case!(who_has_a_peer_again_is_left_alone).only(EngineName::Netlink),
        case!(who_sends_to_addresses_is_left_alone).index_only().only(EngineName::Netlink),
        case!(a_number_that_is_used_again_is_not_touched).only(EngineName::Netlink),
        case!(what_a_socket_is_bound_to_stays).only(EngineName::Netlink),
        case!(an_owner_that_does_not_run_is_no_obstacle).only(EngineName::Netlink),
        case!(an_owner_that_dies_leaves_nothing_to_revive).only(EngineName::Netlink),
        case!(a_held_lock_delays_nobody_else).only(EngineName::Netlink),
        case!(in_flight_is_unreachable).only(EngineName::Netlink),
        case!(a_virtual_address_is_translated).with(balancer).only(EngineName::Netlink),
        case!(an_owner_has_the_last_word).only(EngineName::Netlink),
        case!(a_choice_made_meanwhile_stands).with(leave_order).only(EngineName::Netlink),
        case!(counted_only_is_not_touched).only(EngineName::Netlink),
        case!(a_destination_that_is_deleted_meanwhile_is_none).only(EngineName::Netlink),
        case!(what_the_index_had_no_room_for_is_left_as_it_is)
            .with(WorldOptions { max_sockets: 4, ..WorldOptions::default() })
            .only(EngineName::Netlink),
        case!(the_end_of_the_reaper_loses_what_waits).only(EngineName::Netlink),
        case!(only_so_many_wait)
            .with(WorldOptions { reviving_max: 5, ..WorldOptions::default() })
            .only(EngineName::Netlink),
        case!(a_socket_that_was_passed_on_is_revived_once).only(EngineName::Netlink),
    ]
}

fn revive(to: &[Backend], after_ms: u32) -> Result<VictimAction> {
    Ok(VictimAction::Revive(Revive { to: Destinations::new(to.to_vec(), Spread::Even)?, after_ms }))
}

/// How many were destroyed, and how many of these will be looked at again.
fn begin(world: &mut World, gone: &[Backend], to: &[Backend], after_ms: u32) -> Result<(u64, u64)> {
    let report = world.tell_to(Action::BackendsDeleted { backends: gone.to_vec() }, revive(to, after_ms)?)?;
    ensure!(report.complete && report.failed.total() == 0, "{report:?}");
    Ok((report.destroyed, report.reviving.map_or(0, |reviving| reviving.sockets)))
}

/// Waits until every second look is over; returns what came of all of them.
pub fn end(world: &World) -> Result<Revived> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = world.reaper().monitor().status()?;
        if status.reviving == 0 {
            return Ok(status.totals.revived);
        }
        ensure!(Instant::now() < deadline, "{} sockets were never looked at again", status.reviving);
        thread::sleep(Duration::from_millis(5));
    }
}

fn ended(revived: &Revived, expected: Revived) -> Result<()> {
    ensure!(Revived { after_ns: 0, ..revived.clone() } == expected, "{revived:?}, not {expected:?}");
    Ok(())
}

fn peer(client: &mut Client, handle: u32) -> Result<Option<SocketAddr>> {
    let peer = client.state(handle)?.peer;
    Ok(peer.map(|peer| SocketAddr::new(peer.ip().to_canonical(), peer.port())))
}

/// Says that the socket is connected there, and gets an answer.
fn expect_at(client: &mut Client, handle: u32, to: Backend) -> Result<()> {
    let peer = peer(client, handle)?;
    ensure!(peer == Some(to.socket_addr()), "socket {handle} is connected to {peer:?}, not {to}");
    expect_answers_on(client, Selection::List(vec![handle]), 1)
}

fn every_family_is_revived(world: &mut World) -> Result<()> {
    let (gone, living) = ([udp(1), udp6(1)], [udp(2), udp6(2)]);
    world.serve(&[udp(1), udp6(1), udp(2), udp6(2), udp(3), tcp(1)])?;
    let mut client = world.client("client")?;
    let v4 = connect(&mut client, udp(1))?;
    let v6 = connect(&mut client, udp6(1))?;
    let v4_in_v6 = open_to(&mut client, spec_for(udp6(1)), mapped(udp(1)))?;
    let other = connect(&mut client, udp(3))?;
    ensure!(begin(world, &gone, &living, 0)? == (3, 3));
    ended(&end(world)?, Revived { sockets: 3, revived: 3, ..Revived::default() })?;
    expect_at(&mut client, v4.handle, udp(2))?;
    expect_at(&mut client, v6.handle, udp6(2))?;
    expect_at(&mut client, v4_in_v6.handle, udp(2))?;
    expect_at(&mut client, other.handle, udp(3))?;
    // The index knows where they are: the next event finds them, and TCP sockets are destroyed only.
    let on_tcp = connect(&mut client, tcp(1))?;
    ensure!(begin(world, &[udp(2), udp6(2), tcp(1)], &[udp(3), udp6(1)], 0)? == (4, 3));
    ended(&end(world)?, Revived { sockets: 6, revived: 6, ..Revived::default() })?;
    expect_at(&mut client, v4.handle, udp(3))?;
    expect_at(&mut client, v6.handle, udp6(1))?;
    expect_at(&mut client, v4_in_v6.handle, udp(3))?;
    ensure!(peer(&mut client, on_tcp.handle)?.is_none());
    Ok(())
}

fn exactly_the_victims_of_many_processes(world: &mut World) -> Result<()> {
    const EACH: u32 = 25;
    world.serve(&[udp(1), udp(2), udp(3), udp(4)])?;
    let mut clients: Vec<_> =
        (0..20).map(|i| world.client_in(&format!("client{i}"), i)).collect::<Result<_>>()?;
    let mut opened = Vec::new();
    for client in &mut clients {
        let victims = connect_many(client, skreap_testbed::NetnsRef::Own, udp(1), EACH)?;
        let others = connect_many(client, skreap_testbed::NetnsRef::Own, udp(2), EACH)?;
        opened.push((victims, others));
    }
    ensure!(begin(world, &[udp(1)], &[udp(3), udp(4)], 0)? == (500, 500));
    ended(&end(world)?, Revived { sockets: 500, revived: 500, ..Revived::default() })?;
    let (mut third, mut fourth) = (0, 0);
    for (client, (victims, others)) in clients.iter_mut().zip(&opened) {
        for state in client.states(victims.selection())? {
            let peer = state.peer;
            third += u32::from(peer == Some(udp(3).socket_addr()));
            fourth += u32::from(peer == Some(udp(4).socket_addr()));
        }
        for state in client.states(others.selection())? {
            ensure!(state.peer == Some(udp(2).socket_addr()) && state.errno == 0, "{state:?}");
        }
        expect_answers_on(client, Selection::All, 2 * EACH)?;
    }
    ensure!((third, fourth) == (250, 250), "not spread evenly: {third} and {fourth}");
    Ok(())
}

fn a_shared_socket_is_revived_once(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    let copy = client.dup(socket.handle)?;
    let fork = client.fork()?;
    // Another process with a socket of its own on the same backend.
    let mut second = world.client("second")?;
    let own = connect(&mut second, udp(1))?;
    begin(world, &[udp(1)], &[udp(2)], 0)?;
    ended(&end(world)?, Revived { sockets: 2, revived: 2, ..Revived::default() })?;
    expect_at(&mut client, copy, udp(2))?;
    expect_at(&mut second, own.handle, udp(2))?;
    // Only the fork has it open.
    begin(world, &[udp(2)], &[udp(1)], AFTER_MS)?;
    client.close(socket.handle)?;
    client.close(copy)?;
    ended(&end(world)?, Revived { sockets: 4, revived: 4, ..Revived::default() })?;
    client.reap_fork(fork)?;
    Ok(())
}

fn who_has_a_peer_again_is_left_alone(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2), udp(3)])?;
    let mut client = world.client("client")?;
    let healed = connect(&mut client, udp(1))?;
    let closed = connect(&mut client, udp(1))?;
    let back = connect(&mut client, udp(1))?;
    begin(world, &[udp(1)], &[udp(2)], AFTER_MS)?;
    client.connect(healed.handle, udp(3).socket_addr())?;
    client.close(closed.handle)?;
    // The backend is back, and so is its client.
    client.connect(back.handle, udp(1).socket_addr())?;
    ended(&end(world)?, Revived { sockets: 3, healed: 1, closed: 1, changed: 1, ..Revived::default() })?;
    expect_at(&mut client, healed.handle, udp(3))?;
    expect_at(&mut client, back.handle, udp(1))
}

fn who_sends_to_addresses_is_left_alone(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2), udp(3)])?;
    let mut client = world.client("client")?;
    let sends = connect(&mut client, udp(1))?;
    let silent = connect(&mut client, udp(1))?;
    begin(world, &[udp(1)], &[udp(2)], AFTER_MS)?;
    // The first call takes the error.
    let _ = client.send_to(sends.handle, udp(3).socket_addr(), b"x");
    client.send_to(sends.handle, udp(3).socket_addr(), b"x")?;
    ended(&end(world)?, Revived { sockets: 2, revived: 1, changed: 1, ..Revived::default() })?;
    ensure!(peer(&mut client, sends.handle)?.is_none());
    expect_at(&mut client, silent.handle, udp(2))
}

fn a_number_that_is_used_again_is_not_touched(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let victim = connect(&mut client, udp(1))?;
    begin(world, &[udp(1)], &[udp(2)], AFTER_MS)?;
    client.close(victim.handle)?;
    // The lowest free number is that of the one that was closed.
    let successor = open(&mut client, spec_for(udp(1)))?;
    ensure!(successor.cookie != victim.cookie);
    ended(&end(world)?, Revived { sockets: 1, closed: 1, ..Revived::default() })?;
    ensure!(peer(&mut client, successor.handle)?.is_none());
    Ok(())
}

fn what_a_socket_is_bound_to_stays(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let device = OpenSpec { device: Some("lo".to_owned()), ..spec_for(udp(1)) };
    let device = open_to(&mut client, device, udp(1).socket_addr())?;
    let source: SocketAddr = SocketAddr::new(udp(1).addr(), 40_001);
    let bound = OpenSpec { bind: Some(source), ..spec_for(udp(1)) };
    let bound = open_to(&mut client, bound, udp(1).socket_addr())?;
    let shared: SocketAddr = "0.0.0.0:40002".parse()?;
    let spec = OpenSpec { bind: Some(shared), reuse_port: true, ..spec_for(udp(1)) };
    let group: Vec<Socket> =
        (0..3).map(|_| open_to(&mut client, spec.clone(), udp(1).socket_addr())).collect::<Result<_>>()?;
    begin(world, &[udp(1)], &[udp(2)], 0)?;
    ended(&end(world)?, Revived { sockets: 5, revived: 5, ..Revived::default() })?;
    expect_at(&mut client, device.handle, udp(2))?;
    expect_at(&mut client, bound.handle, udp(2))?;
    ensure!(client.state(bound.handle)?.local == Some(source));
    for socket in group {
        ensure!(peer(&mut client, socket.handle)? == Some(udp(2).socket_addr()));
        ensure!(client.state(socket.handle)?.local.is_some_and(|local| local.port() == 40_002));
    }
    // The next event names the socket with its interface, or not at all.
    let (_, victims) = world.walk(udp(2))?;
    let on_device = victims.iter().find(|victim| victim.cookie() == device.cookie);
    ensure!(on_device.is_some_and(|victim| victim.ifindex() == 1), "{victims:?}");
    Ok(())
}

fn an_owner_that_does_not_run_is_no_obstacle(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    signal(&client, libc::SIGSTOP)?;
    let revived = begin(world, &[udp(1)], &[udp(2)], 0).and_then(|_| end(world));
    signal(&client, libc::SIGCONT)?;
    ended(&revived?, Revived { sockets: 1, revived: 1, ..Revived::default() })?;
    expect_at(&mut client, socket.handle, udp(2))
}

fn signal(client: &Client, signal: i32) -> Result<()> {
    // SAFETY: no pointers; the process is our child, so its number is still its own.
    let sent = unsafe { libc::kill(client.pid().cast_signed(), signal) };
    ensure!(sent == 0, "kill: {}", std::io::Error::last_os_error());
    Ok(())
}

fn an_owner_that_dies_leaves_nothing_to_revive(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    connect_many(&mut client, skreap_testbed::NetnsRef::Own, udp(1), 20)?;
    begin(world, &[udp(1)], &[udp(2)], AFTER_MS)?;
    client.kill()?;
    ended(&end(world)?, Revived { sockets: 20, closed: 20, ..Revived::default() })
}

fn a_held_lock_delays_nobody_else(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2), udp(3)])?;
    let mut client = world.client("client")?;
    let held = connect(&mut client, udp(1))?;
    let free: Vec<Socket> = (0..5).map(|_| connect(&mut client, udp(1))).collect::<Result<_>>()?;
    begin(world, &[udp(1)], &[udp(2)], AFTER_MS)?;
    // It takes the error, and then the peer whose lock it holds.
    client.state(held.handle)?;
    client.connect(held.handle, udp(3).socket_addr())?;
    client.start_hold(held.handle, Holding::Memory)?;
    let revived = end(world);
    client.end_hold(held.handle)?;
    let mut expected = Revived { sockets: 6, revived: 5, ..Revived::default() };
    expected.failed.insert("ETIMEDOUT".to_owned(), 1);
    ended(&revived?, expected)?;
    for socket in free {
        expect_at(&mut client, socket.handle, udp(2))?;
    }
    expect_at(&mut client, held.handle, udp(3))
}

fn in_flight_is_unreachable(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    client.start_flight(socket.handle)?;
    begin(world, &[udp(1)], &[udp(2)], 0)?;
    ended(&end(world)?, Revived { sockets: 1, unreachable: 1, ..Revived::default() })?;
    let landed = client.land_flight(socket.handle)?;
    ensure!(peer(&mut client, landed)?.is_none());
    Ok(())
}

fn a_virtual_address_is_translated(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    begin(world, &[udp(1)], &[udp(9)], 0)?;
    ended(&end(world)?, Revived { sockets: 1, revived: 1, ..Revived::default() })?;
    expect_at(&mut client, socket.handle, udp(2))?;
    let report = world.reap(udp(2))?;
    expect_exactly(&report, &mut [&mut client], &[socket.cookie])
}

/// However often a socket is connected by its owner and by us at the same moment, the owner's choice stands.
fn an_owner_has_the_last_word(world: &mut World) -> Result<()> {
    const SOCKETS: u32 = 400;
    let rounds = rounds(SOCKETS)?;
    world.serve(&[udp(1), udp(2), udp(3)])?;
    let mut client = world.client("client")?;
    let opened = connect_many(&mut client, skreap_testbed::NetnsRef::Own, udp(1), SOCKETS)?;
    let handles: Vec<u32> = (opened.first..opened.first + SOCKETS).collect();
    for round in 0..rounds {
        begin(world, &[udp(1)], &[udp(2)], 0)?;
        // In another order each time, so that both meet somewhere.
        let at = (round * SOCKETS / rounds) as usize;
        for handle in handles[at..].iter().chain(&handles[..at]) {
            client.connect(*handle, udp(3).socket_addr())?;
        }
        let revived = end(world)?;
        ensure!(revived.sockets == u64::from(SOCKETS * (round + 1)), "{revived:?}");
        for state in client.states(opened.selection())? {
            ensure!(state.peer == Some(udp(3).socket_addr()), "round {round}: {state:?}, {revived:?}");
        }
        for handle in &handles {
            client.connect(*handle, udp(1).socket_addr())?;
        }
    }
    let revived = end(world)?;
    let sum = revived.revived + revived.healed + revived.overtaken;
    ensure!(sum == revived.sockets && revived.all_failed() == 0, "{revived:?}");
    eprintln!("{} overtaken of {}: {revived:?}", revived.overtaken, revived.sockets);
    Ok(())
}

/// Both are on their way at one time. The kernel runs hooks and connects one after the other, so either may be first.
fn a_choice_made_meanwhile_stands(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2), udp(3)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    let delay = world.delay_connects()?;
    let before = world.counters()?.inserts;
    begin(world, &[udp(1)], &[udp(2)], 0)?;
    // Ours has passed the hooks, and is held up for most of a second.
    let deadline = Instant::now() + PATIENCE;
    while world.counters()?.inserts == before {
        ensure!(Instant::now() < deadline, "the socket was never connected");
        thread::sleep(Duration::from_micros(200));
    }
    drop(delay);
    client.connect(socket.handle, udp(3).socket_addr())?;
    let revived = end(world)?;
    ensure!((revived.sockets, revived.revived + revived.overtaken) == (1, 1), "{revived:?}");
    expect_at(&mut client, socket.handle, udp(3))
}

fn counted_only_is_not_touched(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), tcp(1)])?;
    let mut client = world.client("client")?;
    connect(&mut client, udp(1))?;
    connect(&mut client, tcp(1))?;
    let gone = Action::BackendsDeleted { backends: vec![udp(1), tcp(1)] };
    let report = world.tell_to(gone, VictimAction::None)?;
    ensure!(report.dry_run && report.victims == 2 && report.destroyed == 0, "{report:?}");
    ensure!(report.sockets.is_none(), "{report:?}");
    ensure!(expect_answers(&mut client)? == 2);
    Ok(())
}

fn a_destination_that_is_deleted_meanwhile_is_none(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2), udp(3)])?;
    let mut client = world.client("client")?;
    let opened = connect_many(&mut client, Default::default(), udp(1), 4)?;
    ensure!(begin(world, &[udp(1)], &[udp(2), udp(3)], AFTER_MS)? == (4, 4));
    expect_complete(&world.reap(udp(2))?, 0)?;
    ended(&end(world)?, Revived { sockets: 4, revived: 4, ..Revived::default() })?;
    for state in client.states(opened.selection())? {
        ensure!(state.peer == Some(udp(3).socket_addr()), "{state:?}");
    }
    // Who names it later says that it lives. Deleted again, and nothing else is left.
    ensure!(begin(world, &[udp(3)], &[udp(2)], AFTER_MS)? == (4, 4));
    expect_complete(&world.reap(udp(2))?, 0)?;
    ended(&end(world)?, Revived { sockets: 8, revived: 4, nowhere: 4, ..Revived::default() })?;
    // Until it is added.
    connect_many(&mut client, Default::default(), udp(1), 1)?;
    ensure!(begin(world, &[udp(1)], &[udp(2)], AFTER_MS)? == (1, 1));
    expect_complete(&world.reap(udp(2))?, 0)?;
    let _ = world.tell(Action::BackendAdded { backend: udp(2) }, false)?;
    ended(&end(world)?, Revived { sockets: 9, revived: 5, nowhere: 4, ..Revived::default() })
}

/// Whether they have sent to addresses since is not known.
fn what_the_index_had_no_room_for_is_left_as_it_is(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    connect_many(&mut client, Default::default(), udp(1), 4)?;
    let unknown = connect_many(&mut client, Default::default(), udp(1), 3)?;
    let report = world.tell_to(Action::BackendDeleted { backend: udp(1) }, revive(&[udp(2)], AFTER_MS)?)?;
    ensure!(report.destroyed == 7, "{report:?}");
    client.close(unknown.first)?;
    let found = end(world)?;
    ensure!((found.revived, found.changed, found.closed) == (4, 2, 1), "{found:?}");
    Ok(())
}

fn the_end_of_the_reaper_loses_what_waits(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    ensure!(begin(world, &[udp(1)], &[udp(2)], 60_000)? == (1, 1));
    world.reaper_mut().end_revivals();
    ended(&end(world)?, Revived { sockets: 1, lost: 1, ..Revived::default() })?;
    if let Some(peer) = peer(&mut client, socket.handle)? {
        bail!("it was revived: {peer}");
    }
    Ok(())
}

/// Those of the second event are lost, and the others not.
fn only_so_many_wait(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2), udp(3)])?;
    let mut client = world.client("client")?;
    let first = connect_many(&mut client, Default::default(), udp(1), 5)?;
    ensure!(begin(world, &[udp(1)], &[udp(3)], AFTER_MS)? == (5, 5));
    let second = connect_many(&mut client, Default::default(), udp(2), 2)?;
    ensure!(begin(world, &[udp(2)], &[udp(3)], 0)? == (2, 2));
    ended(&end(world)?, Revived { sockets: 7, revived: 5, lost: 2, ..Revived::default() })?;
    for (opened, peer) in [(first, Some(udp(3).socket_addr())), (second, None)] {
        let states = client.states(opened.selection())?;
        ensure!(states.iter().all(|state| state.peer == peer), "{states:?}");
    }
    // There is room again.
    connect_many(&mut client, Default::default(), udp(2), 5)?;
    ensure!(begin(world, &[udp(2)], &[udp(3)], 0)? == (5, 5));
    ended(&end(world)?, Revived { sockets: 12, revived: 10, lost: 2, ..Revived::default() })
}

/// One descriptor is on its way over a unix socket, or has come that way.
fn a_socket_that_was_passed_on_is_revived_once(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    let copy = client.dup(socket.handle)?;
    client.start_flight(copy)?;
    ensure!(begin(world, &[udp(1)], &[udp(2)], 0)? == (1, 1));
    ended(&end(world)?, Revived { sockets: 1, revived: 1, ..Revived::default() })?;
    let landed = client.land_flight(copy)?;
    expect_at(&mut client, landed, udp(2))?;
    ensure!(begin(world, &[udp(2)], &[udp(1)], 0)? == (1, 1));
    ended(&end(world)?, Revived { sockets: 2, revived: 2, ..Revived::default() })?;
    client.close(socket.handle)?;
    expect_at(&mut client, landed, udp(1))
}
