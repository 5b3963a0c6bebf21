//! Owners that hold the lock of a socket. What is to be destroyed meanwhile is reported as failed, and destroyed when they
//! let go.

use std::collections::BTreeSet;

use anyhow::Result;
use skreap::core::{EngineName, Protocol};
use skreap_testbed::Holding;

use crate::driver::{Driver, errno, wait_for};
use crate::script::Place;

/// A send that holds the lock of a socket.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    handle: u32,
    /// An event has found it, and destroys it as soon as it can.
    doomed: bool,
}

impl Driver<'_> {
    /// Not with the engine that is an iterator: it gives up at the first lock that is held, and the report says `socket-locked`.
    ///
    /// One that cannot send holds no lock. The other end of a connection to the script's own listener may end it meanwhile,
    /// and then nobody can say who was first.
    pub fn hold(&mut self, slot: u8) -> Result<Option<()>> {
        let Some((socket, handle)) = self.connecting(slot) else { return Ok(None) };
        let (client, cookie, family) = (socket.client, socket.cookie, socket.family);
        let to_own = |peer| socket.protocol == Protocol::Tcp && peer == Place::Own.addr();
        if self.world.kind().engine == EngineName::Iter {
            return Ok(None);
        }
        if socket.shut || socket.multipath.is_some() || self.truth.peer(cookie).is_none_or(to_own) {
            return Ok(None);
        }
        let held = errno(self.world.client(client)?.start_hold(handle, Holding::Memory))? == 0;
        self.truth.sent(cookie, family);
        if held {
            self.truth.held(cookie);
            self.slots.entry(slot).and_modify(|slot| slot.held = Some(Held { handle, doomed: false }));
        }
        Ok(Some(()))
    }

    pub fn let_go(&mut self, slot: u8) -> Result<Option<()>> {
        let Some(socket) = self.slots.get_mut(&slot) else { return Ok(None) };
        let Some(Held { handle, doomed }) = socket.held.take() else { return Ok(None) };
        let (client, cookie, protocol) = (socket.client, socket.cookie, socket.protocol);
        let process = self.world.client(client)?;
        process.end_hold(handle)?;
        if doomed {
            wait_for("the end of a socket whose lock was held", || {
                Ok(process.state(handle)?.errno == libc::ECONNABORTED)
            })?;
            self.truth.destroyed(cookie);
        }
        self.truth.released(cookie);
        if protocol == Protocol::Udp {
            // What was sent has waited for more. It outlives the peer, and goes where it was to go.
            errno(process.send_bytes(handle, b"more"))?;
            self.truth.took_port(cookie);
        }
        Ok(Some(()))
    }

    /// Victims whose locks are held, and the others. The former are doomed.
    pub fn split_held(&mut self, victims: &BTreeSet<u64>) -> (BTreeSet<u64>, BTreeSet<u64>) {
        let mut late = BTreeSet::new();
        for slot in self.slots.values_mut().filter(|slot| victims.contains(&slot.cookie)) {
            if let Some(held) = &mut slot.held {
                held.doomed = true;
                late.insert(slot.cookie);
            }
        }
        let others = victims.difference(&late).copied().collect();
        (late, others)
    }

    /// No thread of the reaper waits for a lock any more, and whatever it has waited for has come to something.
    pub fn check_nothing_awaited(&mut self) -> Result<()> {
        let monitor = self.world.reaper()?.monitor();
        wait_for("the end of what was waited for", || {
            let held = monitor.status()?.held;
            Ok(held.waiting == 0 && held.given_up == 0)
        })
    }
}
