//! Network namespaces that are hard to reach: through a socket in flight, of another user namespace, and on kernels
//! that open none by handle.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, io};

use anyhow::{Context as _, Result, ensure};
use skreap::core::{EngineName, Incomplete};
use skreap::netns::{Method, NetnsId};
use skreap::sock_diag::{DiagSockets, Verdict};
use skreap_testbed::{Client, Netns, NetnsRef, Selection};

use crate::case::{Case, case};
use crate::hidden::{handles_reach_sockets, in_flight};
use crate::sockets::*;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let two = WorldOptions { netns: 2, ..WorldOptions::default() };
    vec![
        case!(socket_in_flight),
        case!(netns_of_another_user_namespace),
        case!(reached_through_a_process).with(two).index_only(),
        case!(reached_through_a_socket).with(two).index_only(),
    ]
}

/// The netns lives by one socket, and that is on its way between two ends of a unix socket: no process is in it, no
/// descriptor, no name leads to it. A handle does, on some kernels; or the walk destroys the socket where it is. Else the
/// report says that a netns was out of reach.
fn socket_in_flight(world: &mut World) -> Result<()> {
    let mut client = world.client("client")?;
    world.serve(&[udp(1)])?;
    let reached = handles_reach_sockets(world, &mut client)?;
    let in_place = world.reaper().engine() == EngineName::Kfunc;
    let stays = connect(&mut client, udp(1))?;
    let (id, away) = in_flight(world, &mut client, udp(1))?;
    for method in [Method::Shown, Method::Descriptor] {
        ensure!(gave_up(&method.open(id)), "{method:?} leads to it");
    }

    if reached || in_place {
        let report = world.dry_run(udp(1))?;
        ensure!(report.victims == 2, "{report:?}");
    }
    let report = world.reap(udp(1))?;
    // Its cookie is not asked for in between: that would take the error.
    let landed = client.land_flight(away.handle)?;
    if reached || in_place {
        expect_destroyed(&report, &mut [&mut client], &[stays.cookie, away.cookie])?;
    } else {
        ensure!(report.destroyed == 1 && !report.complete, "{report:?}");
        ensure!(report.incomplete_because == [Incomplete::NetnsUnreachable].into(), "{report:?}");
        ensure!(client.destroyed(Selection::All)? == [stays.cookie]);
        // Now a descriptor leads to it.
        let report = world.reap(udp(1))?;
        expect_destroyed(&report, &mut [&mut client], &[away.cookie])?;
    }
    ensure!(client.cookie(landed)? == away.cookie);
    Ok(())
}

fn gave_up(opened: &io::Result<OwnedFd>) -> bool {
    opened.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::ESRCH))
}

/// A process that made itself a user namespace and, owned by that, a netns.
struct Rootless(Child);

impl Rootless {
    fn start() -> Result<Self> {
        let child = Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "sleep", "60"])
            .stdin(Stdio::null())
            .spawn()
            .context("unshare (util-linux)")?;
        let rootless = Self(child);
        let deadline = Instant::now() + Duration::from_secs(10);
        // The first name it has is ours, the second that of unshare.
        while fs::read_to_string(format!("/proc/{}/comm", rootless.0.id()))?.trim() != "sleep" {
            ensure!(Instant::now() < deadline, "unshare does not come to its end");
            thread::sleep(Duration::from_millis(1));
        }
        Ok(rootless)
    }

    fn netns(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.id()).into()
    }
}

impl Drop for Rootless {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn netns_of_another_user_namespace(world: &mut World) -> Result<()> {
    let rootless = Rootless::start()?;
    let netns = Netns::open(&rootless.netns())?;
    ensure!(netns.cookie() != Netns::current()?.cookie(), "unshare has made no netns");
    netns.bring_up()?;
    let addr: IpAddr = udp(1).addr();
    netns.add_address(addr)?;
    let mut client = world.client("client")?;
    let victims = connect_many(&mut client, NetnsRef::Path(rootless.netns()), udp(1), 4)?;
    connect_many(&mut client, NetnsRef::Path(rootless.netns()), "udp://10.177.0.1:54".parse()?, 3)?;
    expect_destroyed(&world.reap(udp(1))?, &mut [&mut client], &victims.cookies)
}

fn reached_through_a_process(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    // The first netns has a process, and the second one too.
    let mut clients = [world.client_in("first", 0)?, world.client_in("second", 1)?];
    let mut cookies = Vec::new();
    for client in &mut clients {
        cookies.extend(connect_many(client, NetnsRef::Own, udp(1), 5)?.cookies);
        connect_many(client, NetnsRef::Own, udp(2), 2)?;
    }
    kill_by(world, Method::Shown, &mut clients, &cookies)
}

/// No process lives in the second netns, and it has no name: the client has sockets in it, and so has the backend.
fn reached_through_a_socket(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let place = world.place(1)?;
    let id = NetnsId { cookie: world.netns(1).cookie(), inum: world.netns(1).inum() };
    let cookies = connect_many(&mut client, place.clone(), udp(1), 5)?.cookies;
    connect_many(&mut client, place, udp(2), 2)?;
    world.forget_netns(1)?;
    ensure!(gave_up(&Method::Shown.open(id)), "something shows it");
    kill_by(world, Method::Descriptor, &mut [client], &cookies)
}

/// Destroys what a walk finds, in netns that are opened by this method only.
fn kill_by(world: &mut World, method: Method, clients: &mut [Client], cookies: &[u64]) -> Result<()> {
    ensure!(world.reaper().engine() != EngineName::Iter);
    let (_, mut victims) = world.walk(udp(1))?;
    ensure!(victims.len() == cookies.len(), "{victims:?}");
    victims.sort_unstable_by_key(skreap::bpf::Victim::netns);
    let id = |v: &skreap::bpf::Victim| NetnsId { cookie: v.netns(), inum: v.netns_inum() };
    let mut diag = DiagSockets::opened_by(move |id| method.open(id))?;
    let ids: Vec<NetnsId> =
        victims.chunk_by(|a, b| a.netns() == b.netns()).filter_map(<[_]>::first).map(id).collect();
    let (opened, failed) = diag.open_some(&ids);
    ensure!(opened == ids.len() && failed.is_empty(), "{method:?}: {failed:?}");
    for group in victims.chunk_by(|a, b| a.netns() == b.netns()) {
        let socket = diag.get(group[0].netns()).context("no diag socket")?;
        let mut verdicts = Vec::new();
        socket.destroy(group, &mut verdicts)?;
        ensure!(verdicts.iter().all(|v| matches!(v, Verdict::Destroyed)) && verdicts.len() == group.len());
    }
    let mut died = Vec::new();
    for client in clients.iter_mut() {
        died.extend(client.destroyed(Selection::All)?);
    }
    died.sort_unstable();
    let mut expected = cookies.to_vec();
    expected.sort_unstable();
    ensure!(died == expected, "{method:?} has destroyed {died:?}, not {expected:?}");
    for client in clients {
        expect_answers(client)?;
    }
    Ok(())
}
