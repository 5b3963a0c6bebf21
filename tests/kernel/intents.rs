//! Events by selectors beside others, and sockets that change hands.

use std::os::fd::AsFd as _;
use std::os::unix::fs::fchown;
use std::thread;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use skreap::core::{EngineName, Incomplete, Protocol};
use skreap_testbed::{
    Cgroup, Client, Family, Mode, Netns, NetnsRef, Op, OpenSpec, Reply, Selection, SpawnOptions,
};

use crate::case::{Case, case};
use crate::holder::descriptor_of;
use crate::selectors::{event, expect, terminate};
use crate::sockets::*;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let two = WorldOptions { netns: 2, ..WorldOptions::default() };
    vec![
        case!(where_frontends_are_recorded).with(WorldOptions { frontends: 64, ..two }).index_only(),
        case!(a_socket_that_is_passed_on_keeps_its_user),
        case!(a_socket_of_a_removed_cgroup_belongs_to_those_above),
        case!(a_cgroup_is_removed_under_events).only(EngineName::Netlink).and(EngineName::Iter),
        case!(one_address_on_two_links_by_tcp),
    ]
}

/// The nodes of such an index are longer: a pass, a bucket and a reconcile find all of them.
fn where_frontends_are_recorded(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2), udp6(1), tcp(1)])?;
    let [mut here, mut there] = [world.client_in("here", 0)?, world.client_in("there", 1)?];
    let name = world.netns(0).name().to_owned();
    let by_pass = terminate(json!({"to": ["10.177.0.0/31", "fd77::1"], "netns": name}));
    let by_bucket = json!({"type": "backend-deleted", "backend": udp(1), "where": {"netns": name}});
    let living = json!({"type": "reconcile", "backends": [udp(2)], "where": {"netns": name}});
    for (event, also) in [(by_pass, true), (living, true), (by_bucket, false)] {
        let mut victims = connect_many(&mut here, NetnsRef::Own, udp(1), 7)?.cookies;
        connect_many(&mut here, NetnsRef::Own, udp(2), 5)?;
        connect_many(&mut there, NetnsRef::Own, udp(1), 3)?;
        for backend in [udp6(1), tcp(1)] {
            let others = connect_many(&mut here, NetnsRef::Own, backend, 2)?.cookies;
            victims.extend(others.into_iter().filter(|_| also));
        }
        expect(world, &event, &mut [&mut here, &mut there], &victims)?;
        here.close_all()?;
        there.close_all()?;
    }
    Ok(())
}

/// `fchown()` gives a socket away, and whoever is then passed its descriptor is not its user: neither while it is in a unix
/// socket (`SCM_RIGHTS`) nor when only another process has it.
fn a_socket_that_is_passed_on_keeps_its_user(world: &mut World) -> Result<()> {
    const USER: u32 = 4711;
    world.serve(&[udp(1)])?;
    let mut client = world.client("client")?;
    connect(&mut client, udp(1))?;
    let of_user = terminate(json!({"uid": USER}));
    // In flight: no process has it.
    let flies = connect(&mut client, udp(1))?;
    fchown(descriptor_of(client.pid(), flies.cookie)?.as_fd(), Some(USER), None)?;
    client.start_flight(flies.handle)?;
    let listed = world.tell_event(&event(&of_user, true)?)?;
    let cookies: Vec<u64> = listed.sockets.iter().flatten().map(|socket| socket.cookie).collect();
    ensure!(cookies == [flies.cookie], "{listed:?}");
    expect_complete(&world.tell_event(&event(&of_user, false)?)?, 1)?;
    let landed = client.land_flight(flies.handle)?;
    ensure!(client.destroyed(Selection::List(vec![landed]))? == [flies.cookie]);
    // Passed on: this process has it, whose user is another.
    let passed = connect(&mut client, udp(1))?;
    let received = descriptor_of(client.pid(), passed.cookie)?;
    fchown(received.as_fd(), Some(USER), None)?;
    client.close(passed.handle)?;
    expect_complete(&world.tell_event(&event(&terminate(json!({"uid": USER + 1})), false)?)?, 0)?;
    expect_complete(&world.tell_event(&event(&of_user, false)?)?, 1)?;
    let error = std::net::UdpSocket::from(received).take_error()?;
    ensure!(error.and_then(|error| error.raw_os_error()) == Some(libc::ECONNABORTED));
    ensure!(expect_answers(&mut client)? == 1);
    Ok(())
}

fn spawn(world: &World, label: &str, cgroup: &Cgroup) -> Result<Client> {
    Client::spawn(&SpawnOptions { label, cgroup: Some(cgroup), netns: Some(world.netns(0)) })
}

/// Its process has moved on, and its cgroup is gone: those above have it still, by path and by id, and nobody else.
fn a_socket_of_a_removed_cgroup_belongs_to_those_above(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let above = world.cgroup().child("above")?;
    let beside = world.cgroup().child("beside")?;
    let mut neighbour = spawn(world, "neighbour", &beside)?;
    connect(&mut neighbour, udp(1))?;
    let id = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(above.path())?);
    for name in [json!(above.path()), json!(format!("id:{id}"))] {
        let gone = above.child("gone")?;
        let mut client = spawn(world, "client", &gone)?;
        let cookie = connect(&mut client, udp(1))?.cookie;
        beside.add(client.pid())?;
        let path = gone.path().to_owned();
        drop(gone);
        ensure!(!path.exists(), "{} is still there", path.display());
        let by_name = |name: &Value| terminate(json!({"cgroup": name}));
        let report = world.reaper_mut().handle(&event(&by_name(&json!(path)), false)?);
        ensure!(report.error.is_some() && report.destroyed == 0, "{report:?}");
        ensure!(report.incomplete_because.contains(&Incomplete::EngineFailed), "{report:?}");
        expect(world, &by_name(&name), &mut [&mut client, &mut neighbour], &[cookie])?;
    }
    ensure!(expect_answers(&mut neighbour)? == 1);
    Ok(())
}

/// A cgroup that comes and goes while events name it: each event is done, or fails and says why, and nobody else dies.
fn a_cgroup_is_removed_under_events(world: &mut World) -> Result<()> {
    const EVENTS: usize = 40;
    world.serve(&[udp(1)])?;
    let mut neighbour = world.client("neighbour")?;
    connect(&mut neighbour, udp(1))?;
    let place = world.cgroup().path().join("comes-and-goes");
    let by_path = event(&terminate(json!({"cgroup": place})), false)?;
    let (mut done, mut failed) = (0, 0);
    for turn in 0..EVENTS {
        thread::scope(|scope| -> Result<()> {
            let flicker = scope.spawn(|| -> std::io::Result<()> {
                for _ in 0..20 {
                    std::fs::create_dir(&place)?;
                    std::fs::remove_dir(&place)?;
                }
                if turn % 2 == 0 { Ok(()) } else { std::fs::create_dir(&place) }
            });
            let mut handle = || {
                let report = world.reaper_mut().handle(&by_path);
                ensure!(report.victims == 0, "{report:?}");
                match &report.error {
                    None => ensure!(report.complete, "{report:?}"),
                    Some(error) => ensure!(error.contains("it is gone, or was never there"), "{error}"),
                }
                if report.error.is_none() {
                    done += 1
                } else {
                    failed += 1
                }
                Ok(())
            };
            let during = handle();
            flicker.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
            during.and_then(|()| handle())
        })?;
        let _ = std::fs::remove_dir(&place);
    }
    // At rest it is there every other time.
    ensure!(
        done >= EVENTS / 2 && failed >= EVENTS / 2 && done + failed == 2 * EVENTS,
        "{done} done, {failed} failed"
    );
    ensure!(expect_answers(&mut neighbour)? == 1);
    Ok(())
}

/// Each of two links has a host of one address, to which TCP connects too.
fn one_address_on_two_links_by_tcp(world: &mut World) -> Result<()> {
    let devices = ["left", "right"];
    let far = [Netns::create("int-left")?, Netns::create("int-right")?];
    let index = |netns: &Netns, device: &str| -> Result<u32> {
        let name = std::ffi::CString::new(device)?;
        // SAFETY: a string that ends with a zero.
        let index = netns.run(|| unsafe { libc::if_nametoindex(name.as_ptr()) })?;
        ensure!(index > 0, "no {device} in netns {}", netns.name());
        Ok(index)
    };
    let mut hosts = Vec::new();
    for (far, device) in far.iter().zip(devices) {
        world.netns(0).join(device, "fe80::a".parse()?, far, "fe80::1".parse()?, 64)?;
        let mut host = Client::spawn(&SpawnOptions { label: "host", cgroup: None, netns: Some(far) })?;
        let addr = format!("[fe80::1%{}]:80", index(far, device)?).parse()?;
        let echo =
            Op::StartEcho { protocol: Protocol::Tcp, addr, netns: vec![NetnsRef::Own], mode: Mode::Echo };
        let started = host.call(&echo)?;
        ensure!(matches!(started, Reply::EchoStarted { .. }), "{started:?}");
        hosts.push(host);
    }
    let mut client = world.client("client")?;
    let mut open_on = |device: &str, count: usize| -> Result<Vec<u64>> {
        let peer = format!("[fe80::1%{}]:80", index(world.netns(0), device)?).parse()?;
        let one = |_| Ok(open_to(&mut client, OpenSpec::new(Protocol::Tcp, Family::V6), peer)?.cookie);
        (0..count).map(one).collect()
    };
    let (on_left, on_right) = (open_on("left", 2)?, open_on("right", 3)?);
    let name = world.netns(0).name().to_owned();
    let on = |device: &str| {
        terminate(json!({"protocol": "tcp", "to": ["fe80::1"], "netns": name, "interface": device}))
    };
    expect(world, &on("left"), &mut [&mut client], &on_left)?;
    ensure!(expect_answers(&mut client)? == 3);
    expect(world, &on("right"), &mut [&mut client], &on_right)?;
    Ok(())
}
