//! What keeps a socket: descriptors, messages under way, forks.

use std::collections::BTreeMap;
use std::fs;

use anyhow::Result;
use skreap::core::Protocol;

use crate::driver::{Driver, Fork, Slot, wait_for};
use crate::script::Place;

impl Driver<'_> {
    pub fn dup(&mut self, slot: u8) -> Result<Option<()>> {
        let Some((socket, handle)) = self.handle(slot) else { return Ok(None) };
        let (client, cookie) = (socket.client, socket.cookie);
        let copy = self.world.client(client)?.dup(handle)?;
        self.truth.held(cookie);
        self.slots.entry(slot).and_modify(|slot| slot.handles.push(copy));
        Ok(Some(()))
    }

    /// True if what the other end does to the socket has to be seen: somebody must keep a descriptor.
    pub fn must_stay_visible(&self, slot: &Slot) -> bool {
        slot.protocol == Protocol::Tcp && self.truth.peer(slot.cookie) == Some(Place::Own.addr())
    }

    pub fn fly(&mut self, slot: u8) -> Result<Option<()>> {
        let Some((socket, handle)) = self.handle(slot) else { return Ok(None) };
        if socket.handles.len() == 1 && self.must_stay_visible(socket) {
            return Ok(None);
        }
        let client = socket.client;
        self.world.client(client)?.start_flight(handle)?;
        self.slots.entry(slot).and_modify(|slot| {
            slot.handles.pop();
            slot.flights.push(handle);
        });
        Ok(Some(()))
    }

    pub fn land(&mut self, slot: u8) -> Result<Option<()>> {
        let socket = self.slots.get_mut(&slot).filter(|socket| socket.held.is_none());
        let Some(socket) = socket else { return Ok(None) };
        let Some(flight) = socket.flights.pop() else { return Ok(None) };
        let process = self.world.client(socket.client)?;
        let handle = process.land_flight(flight)?;
        socket.handles.push(handle);
        // If it was destroyed meanwhile, that was counted then: the error is not news.
        process.state(handle)?;
        Ok(Some(()))
    }

    pub fn close(&mut self, slot: u8) -> Result<Option<()>> {
        let Some((socket, handle)) = self.handle(slot) else { return Ok(None) };
        let (client, cookie) = (socket.client, socket.cookie);
        let last = socket.handles.len() == 1;
        let forked = self.forks.iter().any(|fork| fork.cookies.contains(&cookie));
        if last && (forked || !socket.flights.is_empty()) && self.must_stay_visible(socket) {
            return Ok(None);
        }
        self.world.client(client)?.close(handle)?;
        self.truth.released(cookie);
        if let Some(socket) = self.slots.get_mut(&slot) {
            socket.handles.pop();
            if socket.handles.is_empty() && socket.flights.is_empty() {
                self.slots.remove(&slot);
            }
        }
        Ok(Some(()))
    }

    pub fn fork(&mut self, client: u8) -> Result<Option<()>> {
        if self.forks.iter().any(|fork| fork.client == client) {
            return Ok(None);
        }
        let pid = self.world.client(client)?.fork()?;
        let visible = self.slots.values().filter(|slot| slot.client == client && !slot.handles.is_empty());
        let cookies: Vec<u64> = visible.map(|slot| slot.cookie).collect();
        cookies.iter().for_each(|cookie| self.truth.held(*cookie));
        self.forks.push(Fork { client, pid, cookies });
        Ok(Some(()))
    }

    pub fn end_fork(&mut self, client: u8) -> Result<Option<()>> {
        let Some(at) = self.forks.iter().position(|fork| fork.client == client) else { return Ok(None) };
        let fork = self.forks.swap_remove(at);
        self.world.client(client)?.reap_fork(fork.pid)?;
        fork.cookies.iter().for_each(|cookie| self.truth.released(*cookie));
        Ok(Some(()))
    }

    pub fn kill(&mut self, client: u8) -> Result<()> {
        self.world.kill(client)?;
        let slots = std::mem::take(&mut self.slots);
        let (gone, kept): (BTreeMap<u8, Slot>, BTreeMap<u8, Slot>) =
            slots.into_iter().partition(|(_, slot)| slot.client == client);
        self.slots = kept;
        for gone in gone.into_values() {
            let holders = gone.handles.len() + gone.flights.len() + usize::from(gone.held.is_some());
            (0..holders).for_each(|_| self.truth.released(gone.cookie));
        }
        // Its fork is killed by the kernel, a moment later.
        while let Some(at) = self.forks.iter().position(|fork| fork.client == client) {
            let fork = self.forks.swap_remove(at);
            wait_for("the fork of a killed client to end", || Ok(!has_descriptors(fork.pid)))?;
            fork.cookies.iter().for_each(|cookie| self.truth.released(*cookie));
        }
        Ok(())
    }
}

/// False once a process has closed everything: it is a zombie, or gone.
fn has_descriptors(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default().split_whitespace().next();
    !matches!(state, None | Some("Z" | "X"))
}
