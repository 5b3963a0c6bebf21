//! The sockets that must survive: connected to living backends, spread evenly over netns and
//! backends.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, bail};
use skreap::core::Protocol;
use skreap_testbed::{Cgroup, Client, Family, NetnsRef, Op, OpenMany, OpenSpec, Reply, SpawnOptions};

use super::backends;
use super::space::Space;
use crate::grid::share;
use crate::stop::Stop;

/// Descriptors of a client that are not for sockets.
const OTHER_FILES: u32 = 128;
/// Ports of a netns for UDP sockets without a local address: one each, whatever their peer.
const UDP_PORTS: u32 = 60_000;
/// How long TCP may take to connect the sockets of one request.
const TIMEOUT_MS: u64 = 60_000;
/// Requests sent ahead; their responses must fit a socket buffer.
const AHEAD: usize = 128;

/// Client processes, each with as many sockets as its limit of open files allows.
pub struct Bulk {
    proto: Protocol,
    clients: Vec<Client>,
    per_client: u32,
    /// Sockets that the last client can still take.
    room: u32,
    count: u32,
}

impl Bulk {
    /// No sockets yet. `nofile`: descriptors that a process may have.
    pub fn new(proto: Protocol, nofile: u32) -> Self {
        let per_client = nofile.saturating_sub(OTHER_FILES).max(1);
        Self { proto, clients: Vec::new(), per_client, room: 0, count: 0 }
    }

    /// Opens sockets until there are `count`.
    pub fn grow_to(&mut self, count: u32, cgroup: &Cgroup, space: &Space, stop: &Stop) -> Result<()> {
        let parts = space.len();
        for (number, netns) in (0..).zip(space.netns()) {
            stop.check()?;
            let before = share(self.count, number, parts);
            let after = share(count, number, parts).max(before);
            let reference = netns.reference()?;
            let free = if self.proto == Protocol::Udp { UDP_PORTS.saturating_sub(before) } else { u32::MAX };
            let plain = (after - before).min(free);
            for backend in 0..backends::LIVING {
                let addr = backends::living(backend);
                self.open(share(plain, backend, backends::LIVING), addr, &reference, cgroup)?;
            }
            let taken = before + plain;
            self.open_bound(taken..after, &reference, cgroup)?;
        }
        self.count = self.count.max(count);
        Ok(())
    }

    /// The client to open the next socket with, and how many it can take.
    fn client(&mut self, cgroup: &Cgroup) -> Result<(&mut Client, u32)> {
        if self.room == 0 {
            let label = format!("bulk-{}", self.clients.len());
            let options = SpawnOptions { label: &label, cgroup: Some(cgroup), netns: None };
            self.clients.push(Client::spawn(&options)?);
            self.room = self.per_client;
        }
        let client = self.clients.last_mut().context("there is no client")?;
        Ok((client, self.room))
    }

    /// Opens `count` sockets whose local address and port the kernel chooses.
    fn open(&mut self, mut count: u32, addr: SocketAddr, netns: &NetnsRef, cgroup: &Cgroup) -> Result<()> {
        let protocol = self.proto;
        while count > 0 {
            let (client, room) = self.client(cgroup)?;
            let now = count.min(room);
            let many = OpenMany {
                netns: netns.clone(),
                protocol,
                count: now,
                connect: addr,
                timeout_ms: TIMEOUT_MS,
            };
            match client.call(&Op::OpenMany(many))? {
                Reply::OpenedMany(opened) if opened.failed == 0 => {}
                Reply::OpenedMany(opened) => {
                    let why = opened.first_error.map_or_else(String::new, |e| e.to_string());
                    bail!("{} of {now} sockets to {addr} could not be opened: {why}", opened.failed);
                }
                other => bail!("a client answered {other:?}"),
            }
            self.room -= now;
            count -= now;
        }
        Ok(())
    }

    /// Opens UDP sockets number `range` of a netns that has no port left for sockets without a
    /// local address: each group of [`UDP_PORTS`] gets a local address of its own.
    fn open_bound(&mut self, range: std::ops::Range<u32>, netns: &NetnsRef, cgroup: &Cgroup) -> Result<()> {
        let protocol = self.proto;
        let mut numbers = range.peekable();
        while numbers.peek().is_some() {
            let (client, room) = self.client(cgroup)?;
            let batch: Vec<u32> = numbers.by_ref().take(AHEAD.min(room as usize)).collect();
            for number in &batch {
                let group = u8::try_from(number / UDP_PORTS).context("too many sockets for one netns")?;
                let mut spec = OpenSpec::new(protocol, Family::V4).inside(netns.clone());
                spec.bind = Some(SocketAddr::new(Ipv4Addr::new(127, 0, 1, group).into(), 0));
                client.send(&Op::Open(spec))?;
            }
            let mut handles = Vec::with_capacity(batch.len());
            for _ in &batch {
                match client.receive()? {
                    Reply::Opened { socket } => handles.push(socket),
                    other => bail!("a client answered {other:?}"),
                }
            }
            for (number, &socket) in batch.iter().zip(&handles) {
                client.send(&Op::Connect { socket, addr: backends::living(number % backends::LIVING) })?;
            }
            for _ in &batch {
                client.receive()?;
            }
            // A batch has AHEAD at most.
            self.room -= batch.len() as u32;
        }
        Ok(())
    }
}
