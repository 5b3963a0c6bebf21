//! Victims that are connected to a living backend in place of their destroy.

use std::collections::HashSet;
use std::time::Instant;

use skreap_bpf::{Relation, Victim};
use skreap_core::{Backend, Connected, Incomplete, Instead, Move, Moved, Protocol};

use super::Reaper;
use super::done::Done;
use crate::engine::connect::{Connector, Wanted};
use crate::engine::{Chosen, EngineError, Link, nanos};

/// A backend, with its link if the event names one.
type Named = (Backend, Option<Link>);

impl Reaper {
    /// Moves the sockets of these backends; returns the backends whose sockets are destroyed then: what could not be moved,
    /// and TCP sockets.
    pub(super) fn move_victims(&mut self, how: &Move, backends: Vec<Named>, done: &mut Done) -> Vec<Named> {
        let udp: Vec<Named> = backends.iter().copied().filter(|(backend, _)| is_udp(backend)).collect();
        self.move_found(&udp, done, |victims, gone| {
            let mut turn = 0;
            let to =
                |victim: &Victim| (*victim, how.to.of(victim.peer().ip(), victim.cookie(), gone, &mut turn));
            victims.iter().map(to).collect()
        });
        let is_destroyed = |backend: &Backend| {
            let instead = if is_udp(backend) { how.otherwise } else { how.tcp };
            instead == Instead::Destroy
        };
        backends.into_iter().filter(|(backend, _)| is_destroyed(backend)).collect()
    }

    /// Moves those sockets of these UDP backends that `choose` chooses, each with its destination if it has one.
    pub(super) fn move_found(
        &mut self,
        backends: &[Named],
        done: &mut Done,
        choose: impl FnOnce(&[Victim], &HashSet<Backend>) -> Vec<(Victim, Option<Backend>)>,
    ) {
        let start = Instant::now();
        let gone: HashSet<Backend> = backends.iter().map(|(backend, _)| backend.without_zone()).collect();
        let ends = self.find_udp(backends).and_then(|victims| self.try_move(choose(&victims, &gone)));
        match ends {
            Ok(ends) => {
                let mut moved = Moved::default();
                ends.iter().for_each(|(_, end)| moved.add(*end));
                self.monitor.moved(&moved);
                self.pace.after(moved.moved);
                let is_moved = |(_, end): &&(Victim, Connected)| *end == Connected::Done;
                done.moved_cookies.extend(ends.iter().filter(is_moved).map(|(victim, _)| victim.cookie()));
                done.moved.get_or_insert_default().add_all(&moved);
                if self.pool.ledger().is_on() {
                    done.moved_sockets.extend(ends);
                }
            }
            Err(e) => {
                tracing::warn!("cannot move sockets: {e}");
                done.fail(Incomplete::EngineFailed, format!("sockets could not be moved: {e}"));
            }
        }
        done.total.destroy_ns = done.total.destroy_ns.saturating_add(nanos(start.elapsed()));
    }

    /// What came of each.
    fn try_move(
        &mut self,
        chosen: Vec<(Victim, Option<Backend>)>,
    ) -> Result<Vec<(Victim, Connected)>, EngineError> {
        let (mut ends, mut victims, mut wanted) = (Vec::with_capacity(chosen.len()), Vec::new(), Vec::new());
        for (victim, to) in chosen {
            let (cookie, was) = (victim.cookie(), victim.peer());
            match to {
                // Bound to an interface it stays so.
                Some(to) => {
                    wanted.push(Wanted { cookie, was, connected: true, to, ifindex: 0 });
                    victims.push(victim);
                }
                None => ends.push((victim, Connected::Nowhere)),
            }
        }
        if !wanted.is_empty() {
            let connector = match &mut self.connector {
                Some(connector) => connector,
                none => none.insert(Connector::new(&self.index)?),
            };
            ends.extend(victims.into_iter().zip(connector.run(&wanted)?));
        }
        Ok(ends)
    }

    /// The connected sockets of these backends that the index knows, in the order of their cookies.
    fn find_udp(&mut self, backends: &[Named]) -> Result<Vec<Victim>, EngineError> {
        let (mut all, mut chosen) = (Vec::new(), Chosen::default());
        for (backend, link) in backends {
            let mut victims = Vec::new();
            let target = self.target(*backend, true);
            self.walker.walk(&target, &mut victims)?;
            chosen.set_link(*link);
            victims.retain(|victim| victim.relation() == Relation::Connected && chosen.on_link(victim));
            all.append(&mut victims);
        }
        all.sort_unstable_by_key(Victim::cookie);
        all.dedup_by_key(|victim| victim.cookie());
        Ok(all)
    }
}

fn is_udp(backend: &Backend) -> bool {
    backend.protocol() == Protocol::Udp
}
