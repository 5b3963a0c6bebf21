//! The result of an event, before its report.

use std::collections::{BTreeMap, HashSet};
use std::mem;

use skreap_bpf::Victim;
use skreap_core::{
    ActionName, Backend, BackendReport, Connected, EngineName, Event, Guarded, Incomplete, Moved, Outcome,
    Phases, Report, RuleCount, SocketTuple, VictimAction,
};

use crate::upkeep::revive::Revival;

/// The result of an event so far.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) total: Outcome,
    /// What is done with the victims.
    pub(super) action: VictimAction,
    /// Victims that will be looked at again.
    pub(super) revival: Option<Revival>,
    /// What came of the victims that were to be moved, and those that were.
    pub(super) moved: Option<Moved>,
    pub(super) moved_cookies: HashSet<u64>,
    /// Each of them, if every socket is to be named.
    pub(super) moved_sockets: Vec<(Victim, Connected)>,
    /// How many sockets each rule has given its action.
    pub(super) rules: Vec<RuleCount>,
    /// Backends whose sockets are destroyed, as they share state with their servers.
    pub(super) stateful: Vec<Backend>,
    /// Victims whose frontend is not known.
    pub(super) frontend_unknown: u64,
    pub(super) by_backend: Vec<BackendReport>,
    pub(super) merged: BTreeMap<Backend, String>,
    /// Backends about which nothing is to be done.
    pub(super) cancelled: BTreeMap<Backend, String>,
    /// Nanoseconds that the event has waited to be confirmed.
    pub(super) unconfirmed_ns: u64,
    pub(super) guard: Guarded,
    pub(super) error: Option<String>,
    /// The victims that were counted, with their owners, if those are wanted.
    pub(super) attributed: Option<Vec<SocketTuple>>,
    /// Those of a refused event, if each victim is to be named.
    pub(super) refused: Vec<SocketTuple>,
    /// Nanoseconds of what belongs to no engine.
    pub(super) order_ns: u64,
    pub(super) pending_ns: u64,
    pub(super) count_ns: u64,
}

impl Done {
    pub(super) fn new(engine: EngineName, action: VictimAction) -> Self {
        Self {
            total: Outcome::new(engine),
            action,
            revival: None,
            moved: None,
            moved_cookies: HashSet::new(),
            moved_sockets: Vec::new(),
            rules: Vec::new(),
            stateful: Vec::new(),
            frontend_unknown: 0,
            by_backend: Vec::new(),
            merged: BTreeMap::new(),
            cancelled: BTreeMap::new(),
            unconfirmed_ns: 0,
            guard: Guarded::default(),
            error: None,
            attributed: None,
            refused: Vec::new(),
            order_ns: 0,
            pending_ns: 0,
            count_ns: 0,
        }
    }

    /// Takes the moved ones out of sockets that may be on their way to the backend where they were: they look so. True if
    /// there are any.
    pub(super) fn take_moved(&self, pending: &mut HashSet<u64>) -> bool {
        let before = pending.len();
        pending.retain(|cookie| !self.moved_cookies.contains(cookie));
        pending.len() < before
    }

    pub(super) fn fail(&mut self, why: Incomplete, message: String) {
        self.total.incomplete.insert(why);
        self.error.get_or_insert(message);
    }

    /// Nanoseconds of each phase but the last ones.
    pub(super) fn phases(&self, queue_ns: u64) -> Phases {
        let mut phases = Phases::default();
        phases.queue_ns = queue_ns;
        phases.order_ns = self.order_ns;
        phases.pending_ns = self.pending_ns;
        phases.walk_ns = self.total.walk_ns.saturating_add(self.count_ns);
        phases.destroy_ns = self.total.destroy_ns;
        phases
    }

    /// The report of the event, whose parts are taken from here; without whose the sockets are.
    pub(super) fn report(&mut self, event: &Event, phases: Phases) -> Report {
        let engine = self.total.engine;
        let total = mem::replace(&mut self.total, Outcome::new(engine));
        let mut report = Report::new(event, total, phases);
        report.by_backend = mem::take(&mut self.by_backend);
        report.frontend_unknown = self.frontend_unknown;
        report.merged = mem::take(&mut self.merged);
        report.cancelled = mem::take(&mut self.cancelled);
        report.guard = self.guard.any().then_some(self.guard);
        report.error = self.error.take();
        report.victim_action = Some(self.action.name()).filter(|name| *name != ActionName::Destroy);
        report.moved = self.moved.take();
        report.rules = mem::take(&mut self.rules);
        report.stateful = mem::take(&mut self.stateful);
        report.reviving = self.revival.as_ref().map(Revival::announced);
        if self.action == VictimAction::None {
            report.sockets = None;
        }
        report
    }
}
