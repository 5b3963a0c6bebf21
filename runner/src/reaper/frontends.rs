//! Events that mean only the clients of some frontends.

use std::collections::{BTreeSet, HashMap};

use skreap_bpf::{Relation, Victim};
use skreap_core::{Backend, Event, Incomplete, Outcome, SocketTuple, Target, Unconnected};

use super::Reaper;
use crate::engine::EngineError;

impl Reaper {
    /// Whether this service can distinguish the clients of the event's frontends.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub(super) fn may_restrict(&self, event: &Event) -> Result<(), String> {
        event.check_through().map_err(|e| e.to_string())?;
        if event.through.is_any() {
            return Ok(());
        }
        if self.index.frontends().is_none() {
            return Err(
                "\"frontend\" needs a service that records frontends: start it with `serve --frontends`, \
                        or send the event without"
                    .to_owned(),
            );
        }
        let engine = self.engine.name();
        if engine.scans() {
            return Err(format!(
                "engine {engine} does not look into the index, and nothing else knows frontends: start the service with \
                 --engine netlink, or send the event without \"frontend\""
            ));
        }
        Ok(())
    }

    /// No scan is made for such an event: the frontends of what only a scan finds are not known. So the
    /// outcome stays incomplete where the index is; and where the kernel's own sockets are connected.
    pub(super) fn note_kernel_sockets(
        &mut self,
        target: &Target,
        outcome: &mut Outcome,
    ) -> Result<(), EngineError> {
        if self.index.kernel_sockets_seen()? {
            let all = Target { unconnected: Unconnected::Destroy, dry_run: true, ..*target };
            if self.walker.walk(&all, &mut Vec::new())?.incomplete_kernel {
                outcome.incomplete.insert(Incomplete::KernelSockets);
            }
        }
        Ok(())
    }

    /// Adds to each listed victim the frontend that it came through, where frontends are recorded. `backends`: those whose
    /// walks have found the victims; without any it was a pass. Only such a walk leaves senders without the name of theirs.
    pub(super) fn name_frontends(
        &mut self,
        backends: &[Backend],
        outcome: &mut Outcome,
    ) -> Result<(), EngineError> {
        /// From so many walks on, one over the whole index takes less time.
        const WALKS: usize = 64;
        let (Some(frontends), Some(listed)) = (self.index.frontends(), &mut outcome.victims_listed) else {
            return Ok(());
        };
        let peer = |socket: &SocketTuple| Backend::new(socket.protocol, socket.daddr, socket.dport).ok();
        let mut named: Vec<Backend> = backends.to_vec();
        if backends.is_empty() {
            named = listed.iter().filter_map(peer).collect::<BTreeSet<_>>().into_iter().collect();
        }
        let mut ids = HashMap::new();
        if named.len() > WALKS {
            self.walker.walk_all_with_frontends(|victim: &Victim, id| {
                // One that has moved on is in the list under its peer, of which another node says more.
                let there = matches!(victim.relation(), Relation::Connected | Relation::Unconnected);
                ids.extend(
                    victim.backend().filter(|_| there).map(|backend| ((victim.cookie(), backend), id)),
                );
            })?;
        } else {
            for &backend in &named {
                let all = Target { backend, unconnected: Unconnected::Destroy, dry_run: true };
                self.walker.walk_with_frontends(&all, |victim: &Victim, id| {
                    ids.insert((victim.cookie(), backend), id);
                })?;
            }
        }
        for socket in listed {
            let id = match peer(socket) {
                Some(backend) => ids.get(&(socket.cookie, backend)),
                None => backends.iter().find_map(|backend| ids.get(&(socket.cookie, *backend))),
            };
            let known = id.and_then(|id| frontends.name(*id));
            socket.frontend = Some(known.map_or_else(|| "unknown".to_owned(), |known| known.to_string()));
        }
        Ok(())
    }
}
