//! Processes with many descriptors each, a few of which are the victims.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use skreap::core::Protocol;
use skreap_testbed::{self as testbed, Cgroup, Client, Netns, NetnsRef, Op, OpenMany, Reply, SpawnOptions};

use crate::stop::Stop;

/// The sockets that are moved are connected to the first, and then to the other, and so on.
pub const MOVED: [SocketAddr; 2] = [on_lo(1), on_lo(2)];
/// Those that are destroyed, and connected again.
pub const DESTROYED: SocketAddr = on_lo(3);
/// As [`MOVED`], of those that are revived.
pub const REVIVED: [SocketAddr; 2] = [on_lo(4), on_lo(5)];
/// All others.
const OTHERS: SocketAddr = on_lo(6);
/// Descriptors of a client that are not for sockets.
const OTHER_FILES: u32 = 10;

/// All of 127.0.0.0/8 can be connected to in every netns.
const fn on_lo(number: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 8, 0, number)), 53)
}

/// The processes, their netns and their cgroup.
pub struct Crowd {
    clients: Vec<Client>,
    /// First handle and number of those that are destroyed, by client.
    destroyed: Vec<(u32, u32)>,
    /// Of those that are moved.
    cookies: Vec<u64>,
    _netns: Vec<Netns>,
    cgroup: Cgroup,
}

impl Crowd {
    /// Without sockets.
    ///
    /// # Errors
    /// When the kernel lacks something.
    pub fn new(processes: u32, netns: u32) -> Result<Self> {
        testbed::raise_nofile_limit().context("raise the limit of open files")?;
        let cgroup = Cgroup::create("moves")?;
        let netns: Vec<Netns> =
            (0..netns).map(|i| Netns::create(&format!("moves{i}"))).collect::<Result<_>>()?;
        let spawn = |(i, netns): (u32, &Netns)| {
            let label = format!("moves{i}");
            Client::spawn(&SpawnOptions { label: &label, cgroup: Some(&cgroup), netns: Some(netns) })
        };
        let clients = (0..processes).zip(netns.iter().cycle()).map(spawn).collect::<Result<_>>()?;
        Ok(Self { clients, destroyed: Vec::new(), cookies: Vec::new(), _netns: netns, cgroup })
    }

    /// The cgroup of all.
    pub fn cgroup(&self) -> &Path {
        self.cgroup.path()
    }

    /// Opens the sockets.
    ///
    /// # Errors
    /// When one cannot be opened, or the user stops.
    pub fn open(&mut self, descriptors: u32, each: u32, stop: &Stop) -> Result<()> {
        let ([moved, _], [revived, _]) = (MOVED, REVIVED);
        for client in &mut self.clients {
            stop.check()?;
            let (_, cookies) = open(client, moved, each)?;
            self.cookies.extend(cookies);
            let (first, _) = open(client, DESTROYED, each)?;
            self.destroyed.push((first, each));
            open(client, revived, each)?;
            open(client, OTHERS, descriptors.saturating_sub(3 * each + OTHER_FILES))?;
        }
        Ok(())
    }

    /// Cookies of the sockets that are moved.
    pub fn cookies(&self) -> &[u64] {
        &self.cookies
    }

    /// Connects the destroyed ones again.
    ///
    /// # Errors
    /// When a client does not do so.
    pub fn connect_destroyed(&mut self) -> Result<()> {
        for (client, (first, count)) in self.clients.iter_mut().zip(&self.destroyed) {
            for socket in *first..first + count {
                match client.call(&Op::Connect { socket, addr: DESTROYED })? {
                    Reply::Done => {}
                    other => bail!("a client answered {other:?}"),
                }
            }
        }
        Ok(())
    }
}

fn open(client: &mut Client, connect: SocketAddr, count: u32) -> Result<(u32, Vec<u64>)> {
    let open = OpenMany { netns: NetnsRef::Own, protocol: Protocol::Udp, count, connect, timeout_ms: 1_000 };
    match client.call(&Op::OpenMany(open))? {
        Reply::OpenedMany(opened) if opened.failed == 0 => Ok((opened.first, opened.cookies)),
        Reply::OpenedMany(opened) => {
            bail!("{} of {count} sockets could not be opened: {:?}", opened.failed, opened.first_error)
        }
        other => bail!("a client answered {other:?}"),
    }
}
