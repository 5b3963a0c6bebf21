//! Whose sockets are: told for exactly the socket that is asked about, also where its owner holds its lock.

use std::collections::HashMap;

use anyhow::{Context as _, Result, ensure};
use skreap::bpf::{Owner, Victim};
use skreap::core::{Backend, EngineName, Protocol};
use skreap::engine::OwnerFinder;
use skreap::sock_diag::{DiagSockets, Dump, Filter};
use skreap_testbed::{Family, OpenSpec};

use crate::case::{Case, Skip, case};
use crate::hidden::id_of;
use crate::holder::{LockHolder, descriptor_of};
use crate::sockets::*;
use crate::world::World;

pub fn cases() -> Vec<Case> {
    vec![
        case!(sockets_of_programs_are_told_as_such).only(EngineName::Netlink),
        case!(subflows_of_mptcp_are_told_from_other_sockets).only(EngineName::Netlink),
        case!(what_is_not_found_is_not_known).only(EngineName::Netlink),
    ]
}

/// Skips the test where there is no MPTCP.
pub fn need_mptcp() -> Result<()> {
    let enabled = std::fs::read_to_string("/proc/sys/net/mptcp/enabled").unwrap_or_default();
    match enabled.trim() {
        "1" => Ok(()),
        _ => Err(Skip("no MPTCP: net.mptcp.enabled is not 1").into()),
    }
}

/// What sock_diag shows of the backend's sockets in the first netns of the world, and whether they are subflows of MPTCP.
pub fn shown(world: &World, backend: Backend) -> Result<Vec<(Victim, bool)>> {
    let id = id_of(world.netns(0));
    let mut diag = DiagSockets::new()?;
    let (_, failed) = diag.open_some(&[id]);
    ensure!(failed.is_empty(), "{failed:?}");
    let filter = Filter::destination(&backend);
    let (mut found, mut buffer) = (Vec::new(), Vec::new());
    for family in [libc::AF_INET, libc::AF_INET6] {
        let dump = Dump {
            family: family as u8,
            protocol: backend.protocol(),
            states: !(1 << 6 | 1 << 12),
            filter: Some(&filter),
            info: true,
        };
        let socket = diag.get(id.cookie).context("no diag socket")?;
        socket.dump(&dump, &mut buffer, |message| {
            let victim = Victim::from_inet_diag(message.bytes(), backend.protocol(), id.cookie, id.inum);
            found.extend(victim.map(|victim| (victim, message.is_mptcp_subflow())));
        })?;
    }
    Ok(found)
}

fn owners(sockets: &[(Victim, bool)]) -> Result<HashMap<u64, Owner>> {
    let sockets: Vec<Victim> = sockets.iter().map(|(victim, _)| *victim).collect();
    Ok(OwnerFinder::default().find(&sockets)?)
}

fn sockets_of_programs_are_told_as_such(world: &mut World) -> Result<()> {
    let backends = [udp(1), udp6(1), tcp(1), tcp6(1)];
    world.serve(&backends)?;
    let mut client = world.client("client")?;
    for backend in backends {
        let mut cookies = Vec::new();
        let device = OpenSpec { device: Some("lo".to_owned()), ..spec_for(backend) };
        let mapped_spec = OpenSpec::new(backend.protocol(), Family::V6);
        for (spec, peer) in [
            (spec_for(backend), backend.socket_addr()),
            (device, backend.socket_addr()),
            (mapped_spec, mapped(backend)),
        ] {
            cookies.push(open_to(&mut client, spec, peer)?.cookie);
        }
        let shown = shown(world, backend)?;
        // Its owner holds the lock of the first, for which nobody waits here.
        let holder = LockHolder::take(descriptor_of(client.pid(), cookies[0])?)?;
        let found = owners(&shown)?;
        holder.release()?;
        let expected: HashMap<u64, Owner> = cookies.iter().map(|c| (*c, Owner::Program)).collect();
        ensure!(found == expected, "{backend}: {found:?}, not {expected:?}");
    }
    Ok(())
}

fn subflows_of_mptcp_are_told_from_other_sockets(world: &mut World) -> Result<()> {
    need_mptcp()?;
    world.serve(&[tcp(1), tcp6(1)])?;
    let mut client = world.client("client")?;
    for backend in [tcp(1), tcp6(1)] {
        let own = connect(&mut client, backend)?;
        open_to(&mut client, OpenSpec { mptcp: true, ..spec_for(backend) }, backend.socket_addr())?;
        let shown = shown(world, backend)?;
        ensure!(shown.len() == 2, "{shown:?}");
        let expected = shown
            .iter()
            .map(|(victim, mptcp)| (victim.cookie(), if *mptcp { Owner::Subflow } else { Owner::Program }));
        let expected: HashMap<u64, Owner> = expected.collect();
        let found = owners(&shown)?;
        ensure!(found == expected && found[&own.cookie] == Owner::Program, "{backend}: {found:?}");
    }
    Ok(())
}

/// Closed meanwhile, or another socket stands where it was.
fn what_is_not_found_is_not_known(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let mut client = world.client("client")?;
    let bound =
        || -> Result<OpenSpec> { Ok(OpenSpec { bind: Some("0.0.0.0:4001".parse()?), ..spec_for(udp(1)) }) };
    let first = open_to(&mut client, bound()?, udp(1).socket_addr())?;
    let before = shown(world, udp(1))?;
    ensure!(before.len() == 1 && before[0].0.protocol() == Some(Protocol::Udp));
    client.close(first.handle)?;
    ensure!(owners(&before)?[&first.cookie] == Owner::Unknown);
    let second = open_to(&mut client, bound()?, udp(1).socket_addr())?;
    ensure!(owners(&before)?[&first.cookie] == Owner::Unknown);
    ensure!(owners(&shown(world, udp(1))?)?[&second.cookie] == Owner::Program);
    Ok(())
}
