//! Sends of all kinds, and connects from two threads at once.

use std::net::SocketAddr;

use anyhow::{Result, bail, ensure};
use skreap::bpf::Counters;
use skreap::core::Protocol;
use skreap_testbed::{Family, Op as LabOp, Reply};

use crate::driver::{Driver, canonical, errno};
use crate::script::To;

impl Driver<'_> {
    pub fn race(&mut self, slot: u8, a: To, b: To) -> Result<Option<()>> {
        let Some((socket, handle)) = self.connecting(slot) else { return Ok(None) };
        let is_one = |to: To| !to.place.is_zero() && !to.place.is_virtual();
        if socket.protocol == Protocol::Tcp || !is_one(a) || !is_one(b) {
            return Ok(None);
        }
        let (client, cookie) = (socket.client, socket.cookie);
        let (a, b) = (a.addr(socket.family), b.addr(socket.family));
        let op = LabOp::ConnectFromTwoThreads { socket: handle, a, b, rounds: 3 };
        let Reply::Raced(raced) = self.world.client(client)?.call(&op)? else { bail!("not a race") };
        let possible: Vec<SocketAddr> = [(raced.connected_a, a), (raced.connected_b, b)]
            .into_iter()
            .filter_map(|(connected, addr)| (connected > 0).then_some(addr))
            .collect();
        [a, b].iter().for_each(|to| self.truth.gone_to(cookie, *to, canonical(*to)));
        ensure!(self.truth.raced(cookie, &possible, raced.peer), "an impossible peer: {raced:?}");
        Ok(Some(()))
    }

    pub fn send(&mut self, slot: u8) -> Result<Option<()>> {
        let Some((socket, handle)) = self.handle(slot) else { return Ok(None) };
        let (client, cookie, family) = (socket.client, socket.cookie, socket.family);
        errno(self.world.client(client)?.send_bytes(handle, b"hello"))?;
        self.truth.sent(cookie, family);
        Ok(Some(()))
    }

    /// With a control message the kernel asks its hooks as if there was a name; there is none to record.
    pub fn send_marked(&mut self, slot: u8) -> Result<Option<()>> {
        let Some((socket, handle)) = self.connecting(slot) else { return Ok(None) };
        if socket.protocol == Protocol::Tcp {
            return Ok(None);
        }
        let (client, cookie, family) = (socket.client, socket.cookie, socket.family);
        let by_name = family == Family::V6 && self.truth.peer(cookie).is_some_and(|peer| peer.is_ipv4());
        let before = self.world.counters()?;
        errno(self.world.client(client)?.send_marked(handle, b"hello"))?;
        self.truth.sent(cookie, family);
        let after = self.world.counters()?;
        let attempts = |counters: &Counters| (counters.inserts, counters.dropped_full);
        ensure!(
            by_name || attempts(&before) == attempts(&after),
            "a send without a name was recorded: {before:?} {after:?}"
        );
        Ok(Some(()))
    }

    pub fn send_to(&mut self, slot: u8, to: To) -> Result<Option<()>> {
        let Some((socket, handle)) = self.connecting(slot) else { return Ok(None) };
        if socket.protocol == Protocol::Tcp || !self.fits(socket, to) {
            return Ok(None);
        }
        let (client, cookie, family) = (socket.client, socket.cookie, socket.family);
        let addr = to.addr(family);
        let Some(leads) = self.truth.leads_to(cookie, addr) else { return Ok(None) };
        let errno = errno(self.world.client(client)?.send_to(handle, addr, b"hello"))?;
        self.truth.gone_to(cookie, addr, leads);
        self.truth.sent_to(cookie, family, leads, errno);
        Ok(Some(()))
    }

    pub fn send_many(&mut self, slot: u8, to: &[To]) -> Result<Option<()>> {
        let Some((socket, handle)) = self.connecting(slot) else { return Ok(None) };
        if socket.protocol == Protocol::Tcp || !to.iter().all(|to| self.fits(socket, *to)) {
            return Ok(None);
        }
        let (client, cookie, family) = (socket.client, socket.cookie, socket.family);
        let addrs: Vec<SocketAddr> = to.iter().map(|to| to.addr(family)).collect();
        let leads: Option<Vec<SocketAddr>> =
            addrs.iter().map(|addr| self.truth.leads_to(cookie, *addr)).collect();
        let Some(leads) = leads else { return Ok(None) };
        let op = LabOp::SendToMany { socket: handle, addrs: addrs.clone(), payload: b"hello".to_vec() };
        let reply = self.world.client(client)?.call(&op)?;
        let Reply::SentMany { sent, first_error } = reply else { bail!("not sent: {reply:?}") };
        for (named, leads) in addrs.iter().zip(&leads) {
            self.truth.gone_to(cookie, *named, *leads);
        }
        for addr in leads.iter().take(sent as usize) {
            self.truth.sent_to(cookie, family, *addr, 0);
        }
        if let (Some(error), Some(addr)) = (first_error, leads.get(sent as usize)) {
            self.truth.sent_to(cookie, family, *addr, error.errno);
        }
        Ok(Some(()))
    }
}
