//! Victims that are connected to a living backend in place of their destroy.

use std::collections::HashSet;
use std::time::Instant;

use skreap_bpf::{Relation, Victim};
use skreap_core::{
    Action, Backend, BackendReport, Connected, Destinations, Event, Incomplete, Instead, Move, Moved,
    Protocol, Through,
};

use super::Reaper;
use super::done::Done;
use super::one::{One, as_spared};
use crate::engine::connect::{Connector, Wanted};
use crate::engine::{Chosen, EngineError, Link, Rules, nanos};
use crate::reaper::pending::{self, Found};

/// A backend, with its link if the event names one.
type Named = (Backend, Option<Link>);

/// A victim, and the destination that it has, if there is one for it.
type Directed = (Victim, Option<Backend>);

impl Reaper {
    /// Moves the sockets of these backends that are chosen; returns the backends whose sockets are destroyed then, those that
    /// could not be moved and TCP sockets, and the backends whose sockets are spared.
    pub(super) fn move_victims(
        &mut self,
        how: &Move,
        backends: Vec<Named>,
        chosen: &mut Chosen,
        done: &mut Done,
    ) -> (Vec<Named>, Vec<Named>) {
        let start = Instant::now();
        let udp: Vec<Named> = backends.iter().copied().filter(|(backend, _)| is_udp(backend)).collect();
        let found = self.find_udp(&udp, chosen);
        self.move_each(found.map(|victims| directed(&how.to, &victims, &without_links(&udp))), start, done);
        let is_destroyed = |backend: &Backend| {
            let instead = if is_udp(backend) { how.otherwise } else { how.tcp };
            instead == Instead::Destroy
        };
        backends.into_iter().partition(|(backend, _)| is_destroyed(backend))
    }

    /// Counts the sockets that are left connected to these backends, as spared: also those that only a scan finds, and those
    /// whose connect is pending.
    pub(super) fn count_spared(
        &mut self,
        event: &Event,
        backends: &[Named],
        chosen: &mut Chosen,
        done: &mut Done,
    ) {
        let many = !matches!(event.action, Action::BackendDeleted { .. });
        let watches = !event.dry_run && !self.pending_wait.is_zero();
        let mut all = Vec::with_capacity(backends.len());
        for &(backend, link) in backends {
            let target = self.target(backend, true);
            let start = Instant::now();
            let watched =
                if watches { pending::watch(&mut self.walker, &target) } else { Ok(Found::default()) };
            done.pending_ns = done.pending_ns.saturating_add(nanos(start.elapsed()));
            chosen.set_link(link);
            match self.run(&target, chosen) {
                Ok(found) => {
                    let one = One::new((backend, link), target, as_spared(found), watched, done);
                    all.push(One { spares: true, ..one });
                }
                Err(e) => done.fail(Incomplete::EngineFailed, format!("{backend}: {e}")),
            }
        }
        let pending_ns = self.look_again(&mut all, chosen);
        done.pending_ns = done.pending_ns.saturating_add(pending_ns);
        for One { backend, outcome, .. } in all {
            if many {
                done.by_backend.push(BackendReport::new(backend, &outcome));
            }
            done.total.add_backend(outcome);
        }
    }

    /// Moves these, which were looked for since `start`.
    pub(super) fn move_each(
        &mut self,
        found: Result<Vec<Directed>, EngineError>,
        start: Instant,
        done: &mut Done,
    ) {
        match found.and_then(|victims| self.try_move(victims)) {
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
    fn try_move(&mut self, directed: Vec<Directed>) -> Result<Vec<(Victim, Connected)>, EngineError> {
        let (mut ends, mut victims, mut wanted) =
            (Vec::with_capacity(directed.len()), Vec::new(), Vec::new());
        for (victim, to) in directed {
            match to {
                Some(to) => {
                    wanted.push(Wanted::new(&victim, to));
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

    /// The connected sockets of these UDP backends that the index knows and that are chosen, in the order of their cookies.
    pub(super) fn find_udp(
        &mut self,
        backends: &[Named],
        chosen: &mut Chosen,
    ) -> Result<Vec<Victim>, EngineError> {
        self.walker.restrict(chosen.frontends())?;
        let found =
            backends.iter().map(|named| self.find_udp_of(named, chosen)).collect::<Result<Vec<_>, _>>();
        self.walker.restrict(&Through::default())?;
        Ok(in_order(found?.concat()))
    }

    fn find_udp_of(
        &mut self,
        (backend, link): &Named,
        chosen: &mut Chosen,
    ) -> Result<Vec<Victim>, EngineError> {
        let target = self.target(*backend, true);
        let mut victims = Vec::new();
        self.walker.walk(&target, &mut victims)?;
        chosen.set_link(*link);
        victims.retain(|victim| victim.relation() == Relation::Connected && chosen.on_link(victim));
        if let Some(rules) = chosen.rules() {
            match rules.of_backend(&target.backend, *link) {
                Some(rules) => self.sift(&rules, &mut victims)?,
                None => victims.clear(),
            }
        }
        Ok(victims)
    }

    /// The connected UDP sockets in the index that the rules select, in the order of their cookies.
    pub(super) fn find_udp_by(&mut self, rules: &Rules) -> Result<Vec<Victim>, EngineError> {
        let (mut victims, _) = self.selected(rules)?;
        victims.retain(|victim| {
            victim.relation() == Relation::Connected && victim.protocol() == Some(Protocol::Udp)
        });
        Ok(in_order(victims))
    }
}

/// Each once.
fn in_order(mut victims: Vec<Victim>) -> Vec<Victim> {
    victims.sort_unstable_by_key(Victim::cookie);
    victims.dedup_by_key(|victim| victim.cookie());
    victims
}

/// Gives each its destination, which is none of those that are gone.
pub(super) fn directed(to: &Destinations, victims: &[Victim], gone: &HashSet<Backend>) -> Vec<Directed> {
    let mut to = to.without(gone);
    victims.iter().map(|victim| (*victim, to.of(victim.peer().ip(), victim.cookie()))).collect()
}

/// The backends themselves.
pub(super) fn without_links(backends: &[Named]) -> HashSet<Backend> {
    backends.iter().map(|(backend, _)| backend.without_zone()).collect()
}

fn is_udp(backend: &Backend) -> bool {
    backend.protocol() == Protocol::Udp
}
