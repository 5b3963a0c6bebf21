//! What is found of one backend of an event.

use std::collections::HashSet;

use skreap_core::{Backend, Incomplete, Outcome, Target};

use super::done::Done;
use crate::engine::{EngineError, Link};
use crate::reaper::pending::Found;

/// One backend of an event.
pub(super) struct One {
    /// As the event names it.
    pub(super) backend: Backend,
    pub(super) link: Option<Link>,
    pub(super) target: Target,
    pub(super) outcome: Outcome,
    /// Sockets for whose connect the event waits.
    pub(super) waiting: HashSet<u64>,
    /// Some of its sockets were moved.
    pub(super) moved: bool,
    /// Its sockets are left alone, and counted.
    pub(super) spares: bool,
}

impl One {
    /// `watched`: the sockets that were on their way there, before it was looked for the victims.
    pub(super) fn new(
        (backend, link): (Backend, Option<Link>),
        target: Target,
        mut outcome: Outcome,
        watched: Result<Found, EngineError>,
        done: &Done,
    ) -> Self {
        let mut watched = watched.unwrap_or_else(|_| {
            outcome.incomplete.insert(Incomplete::EngineFailed);
            Found::default()
        });
        outcome.add_stale(watched.stale);
        let moved = done.take_moved(&mut watched.sockets);
        Self { backend, link, target, outcome, waiting: watched.sockets, moved, spares: false }
    }
}

/// The outcome of a dry run, as one of an event that leaves its victims alone.
pub(super) fn as_spared(mut found: Outcome) -> Outcome {
    found.skipped.spared += std::mem::take(&mut found.victims);
    found.victims_listed = None;
    found.fallbacks.clear();
    found
}

/// Exchanges the outcome of a backend whose sockets are spared for that of a later pass, which has found the same ones, and
/// more.
pub(super) fn count_again(outcome: &mut Outcome, later: Outcome) {
    let before = std::mem::replace(outcome, as_spared(later));
    outcome.pending_walks = before.pending_walks;
    outcome.walk_ns = outcome.walk_ns.saturating_add(before.walk_ns);
    outcome.destroy_ns = outcome.destroy_ns.saturating_add(before.destroy_ns);
    outcome.incomplete.extend(before.incomplete);
    outcome.add_stale(before.skipped.stale);
}
