//! How engines that walk the index find the sockets of a selection.

use std::collections::HashSet;
use std::time::Instant;

use skreap_bpf::{Filter, Relation, Select, Victim, Walker};
use skreap_core::{EngineName, Incomplete, Outcome, Target};

use super::counts::note_walk;
use super::destroy::Destroyer;
use super::selection::Selection;
use super::{Chosen, EngineError, StateMask, nanos};

/// An engine that walks the index, as far as a selection needs it.
pub(super) struct InIndex<'a> {
    pub(super) name: EngineName,
    pub(super) walker: &'a mut Walker,
    pub(super) destroyer: &'a mut Destroyer,
    pub(super) states: StateMask,
}

impl InIndex<'_> {
    /// Finds the sockets of the selection, and destroys them by their ids. If all backends are named, only their buckets
    /// are walked, and what else is said is then asked of the sockets that are found; else one pass asks all of it.
    pub(super) fn run(
        mut self,
        selection: &Selection,
        select: &mut Select,
        chosen: &mut Chosen,
    ) -> Result<Outcome, EngineError> {
        let start = Instant::now();
        let filter = selection.rules.filter(self.states)?;
        let mut outcome = Outcome::new(self.name);
        let found = if selection.backends.is_empty() {
            pass(selection, &filter, select, &mut outcome)?
        } else {
            self.walk_each(selection, &filter, select, &mut outcome)?
        };
        let (mut victims, excepted) = found.together();
        // A sender is in the bucket of each backend that it has sent to.
        outcome.skipped.no_peer += chosen.take_once(selection.has_senders(), &mut victims);
        if !selection.through.is_any() {
            chosen.note_unknown(self.walker.unknown_frontends(), &victims);
        }
        let walked = Instant::now();
        outcome.victims = victims.len() as u64;
        outcome.visited = outcome.victims + outcome.skipped.total();
        let first = victims.clone();
        self.destroyer.finish(selection.dry_run, &mut victims, &mut outcome, |victims| {
            let (mut excepted, mut others): (Vec<Victim>, Vec<Victim>) =
                first.iter().copied().partition(|victim| excepted.contains(&victim.cookie()));
            select.sift(&filter, true, &mut excepted)?;
            select.sift(&filter, false, &mut others)?;
            victims.extend(excepted.into_iter().chain(others));
            Ok(())
        });
        outcome.walk_ns = nanos(walked.duration_since(start));
        outcome.destroy_ns = nanos(walked.elapsed());
        Ok(outcome)
    }

    /// Walks the bucket of each named backend.
    fn walk_each(
        &mut self,
        selection: &Selection,
        filter: &Filter,
        select: &mut Select,
        outcome: &mut Outcome,
    ) -> Result<Found, EngineError> {
        let mut found = Found::default();
        self.walker.restrict(&selection.through)?;
        for backend in &selection.backends {
            let mut victims = Vec::new();
            walk(self.walker, &selection.target(*backend), self.states, &mut victims, outcome)?;
            let in_bucket = victims.len();
            let excepted = filter.excepts(backend.protocol(), backend.addr(), backend.port());
            select.sift(filter, excepted, &mut victims)?;
            outcome.skipped.not_selected += (in_bucket - victims.len()) as u64;
            if excepted { &mut found.excepted } else { &mut found.victims }.extend(victims);
        }
        Ok(found)
    }
}

/// What was found of a selection.
#[derive(Default)]
struct Found {
    victims: Vec<Victim>,
    /// Under backends that the exception may mean: what it says of the socket itself has decided, and decides again.
    excepted: Vec<Victim>,
}

impl Found {
    /// All of them, and the cookies of those that were found under such backends only.
    fn together(self) -> (Vec<Victim>, HashSet<u64>) {
        let mut only: HashSet<u64> = self.excepted.iter().map(Victim::cookie).collect();
        for victim in &self.victims {
            only.remove(&victim.cookie());
        }
        let mut all = self.victims;
        all.extend(self.excepted);
        (all, only)
    }
}

/// One pass over the index.
fn pass(
    selection: &Selection,
    filter: &Filter,
    select: &mut Select,
    outcome: &mut Outcome,
) -> Result<Found, EngineError> {
    let senders = selection.has_senders();
    let mut victims = Vec::new();
    let counts = select.pass(filter, senders, &mut victims)?;
    outcome.skipped.unconnected = counts.senders;
    outcome.skipped.state = counts.state;
    if senders && counts.unnamed {
        outcome.incomplete.insert(Incomplete::WildcardUnconnected);
    }
    if counts.unsure {
        outcome.incomplete.insert(Incomplete::IndexUnsure);
    }
    let is_excepted = |victim: &Victim| {
        let peer = victim.peer();
        victim.relation() == Relation::Unconnected
            && victim.protocol().is_some_and(|protocol| filter.excepts(protocol, peer.ip(), peer.port()))
    };
    let (excepted, victims) = victims.into_iter().partition(is_excepted);
    Ok(Found { victims, excepted })
}

/// One bucket: adds what its walk says to the outcome.
fn walk(
    walker: &mut Walker,
    target: &Target,
    states: StateMask,
    victims: &mut Vec<Victim>,
    outcome: &mut Outcome,
) -> Result<(), EngineError> {
    let counts = walker.walk_states(target, states.bits(), None, victims)?;
    note_walk(&counts, target, outcome);
    if counts.incomplete_kernel {
        // The index has none of them, and what they are bound to nobody has looked at.
        outcome.incomplete.insert(Incomplete::KernelSockets);
    }
    Ok(())
}
