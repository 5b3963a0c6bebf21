//! Connected UDP sockets in client processes, each with a netns of its own.
//!
//! Nothing listens at the other end, and nothing is sent: a backend is only an address on `lo`.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, bail};
use skreap::core::Protocol;
use skreap_testbed::{
    Cgroup, Client, Netns, NetnsRef, Op, OpenMany, OpenedMany, Reply, Selection, SpawnOptions,
};

use crate::stop::Stop;

/// Sockets of one client: its netns has some 28,000 ports, and one socket takes one of them.
const PER_CLIENT: u32 = 20_000;
/// Descriptors of a client that are not for sockets.
const OTHER_FILES: u32 = 128;
/// Requests sent ahead; their responses must fit a socket buffer.
const AHEAD: usize = 128;

/// A socket of a client.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    client: usize,
    handle: u32,
    addr: SocketAddr,
}

/// The clients of one cgroup.
pub struct Crowd {
    clients: Vec<Client>,
    netns: Vec<Netns>,
    label: &'static str,
    per_client: u32,
    /// Sockets that the last client can still take.
    room: u32,
}

impl Crowd {
    /// No sockets yet. `nofile`: descriptors that a process may have.
    pub fn new(label: &'static str, nofile: u64) -> Self {
        let nofile = u32::try_from(nofile).unwrap_or(u32::MAX);
        let per_client = nofile.saturating_sub(OTHER_FILES).clamp(1, PER_CLIENT);
        Self { clients: Vec::new(), netns: Vec::new(), label, per_client, room: 0 }
    }

    /// Opens `count` sockets to one backend; the oldest comes first.
    ///
    /// # Errors
    /// When one cannot be opened, or the user stops.
    pub fn join(
        &mut self,
        addr: SocketAddr,
        count: u32,
        cgroup: &Cgroup,
        stop: &Stop,
    ) -> Result<VecDeque<Member>> {
        let mut members = VecDeque::with_capacity(count as usize);
        let mut missing = count;
        while missing > 0 {
            stop.check()?;
            let (number, client, room) = self.client(cgroup)?;
            let now = missing.min(room);
            let opened = opened(client.call(&open(addr, now))?, now, addr)?;
            members.extend((opened.first..).take(now as usize).map(|handle| Member {
                client: number,
                handle,
                addr,
            }));
            self.room -= now;
            missing -= now;
        }
        Ok(members)
    }

    /// Opens one socket to each of `count` backends; the oldest comes first.
    ///
    /// # Errors
    /// When one cannot be opened, or the user stops.
    pub fn join_each(&mut self, count: u32, cgroup: &Cgroup, stop: &Stop) -> Result<VecDeque<Member>> {
        let mut members = VecDeque::with_capacity(count as usize);
        let mut addrs = (0..count).map(backend).peekable();
        while addrs.peek().is_some() {
            stop.check()?;
            let (number, client, room) = self.client(cgroup)?;
            let batch: Vec<SocketAddr> = addrs.by_ref().take(AHEAD.min(room as usize)).collect();
            for &addr in &batch {
                client.send(&open(addr, 1))?;
            }
            for &addr in &batch {
                let handle = opened(client.receive()?, 1, addr)?.first;
                members.push_back(Member { client: number, handle, addr });
            }
            // A batch has AHEAD at most.
            self.room -= batch.len() as u32;
        }
        Ok(members)
    }

    /// Closes a socket and opens another one to the same backend.
    ///
    /// # Errors
    /// When its client does not do so.
    pub fn renew(&mut self, member: Member) -> Result<Member> {
        let client = self.clients.get_mut(member.client).context("there is no such client")?;
        match client.call(&Op::Close { sockets: Selection::List(vec![member.handle]) })? {
            Reply::Closed { count: 1 } => {}
            other => bail!("a client answered {other:?}"),
        }
        let handle = opened(client.call(&open(member.addr, 1))?, 1, member.addr)?.first;
        Ok(Member { handle, ..member })
    }

    /// The client that opens the next socket, its number, and how many sockets it can take.
    fn client(&mut self, cgroup: &Cgroup) -> Result<(usize, &mut Client, u32)> {
        if self.room == 0 {
            let label = format!("{}-{}", self.label, self.clients.len());
            let netns = Netns::create(&label)?;
            let options = SpawnOptions { label: &label, cgroup: Some(cgroup), netns: Some(&netns) };
            self.clients.push(Client::spawn(&options)?);
            self.netns.push(netns);
            self.room = self.per_client;
        }
        let number = self.netns.len() - 1;
        let client = self.clients.last_mut().context("there is no client")?;
        Ok((number, client, self.room))
    }
}

/// The address of backend `number` of those with one socket each.
pub fn backend(number: u32) -> SocketAddr {
    on_lo(Ipv4Addr::new(127, 16, 0, 0), number)
}

/// The address of the backend of chain `number`.
pub fn of_chain(number: u32) -> SocketAddr {
    on_lo(Ipv4Addr::new(127, 8, 0, 0), number)
}

/// All of 127.0.0.0/8 can be connected to in every netns.
fn on_lo(first: Ipv4Addr, number: u32) -> SocketAddr {
    (Ipv4Addr::from_bits(first.to_bits() + number), 53).into()
}

fn open(connect: SocketAddr, count: u32) -> Op {
    Op::OpenMany(OpenMany {
        netns: NetnsRef::Own,
        protocol: Protocol::Udp,
        count,
        connect,
        // UDP connects at once.
        timeout_ms: 1_000,
    })
}

fn opened(reply: Reply, count: u32, addr: SocketAddr) -> Result<OpenedMany> {
    match reply {
        Reply::OpenedMany(opened) if opened.failed == 0 => Ok(opened),
        Reply::OpenedMany(opened) => {
            let why = opened.first_error.map_or_else(String::new, |e| e.to_string());
            bail!("{} of {count} sockets to {addr} could not be opened: {why}", opened.failed)
        }
        other => bail!("a client answered {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_and_chains_have_addresses_of_their_own() {
        assert_eq!(backend(256).to_string(), "127.16.1.0:53");
        assert_eq!(of_chain(3).to_string(), "127.8.0.3:53");
    }
}
