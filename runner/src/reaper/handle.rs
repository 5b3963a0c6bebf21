//! From an event to its report.

use std::collections::{BTreeMap, HashSet};
use std::thread;
use std::time::{Duration, Instant};

use skreap_core::{
    Action, Backend, BackendReport, Event, Incomplete, Network, Outcome, Report, Target, Unconnected,
    VictimAction,
};

use super::by_rules::Apart;
use super::done::Done;
use super::one::{One, count_again};
use super::{Reaper, Underway, link};
use crate::engine::{Chosen, EngineError, Link, Rules, Scope, nanos};
use crate::reaper::batch::{Batch, distinct};
use crate::reaper::pending::{self, FIRST_PAUSE, Found, grace_period};
use crate::reaper::reconcile;
use crate::upkeep::hook_order::recorded_on;

/// Backends that are done together: a bound for what is between a walk and its destroys.
const TOGETHER: usize = 4096;

impl Reaper {
    /// Reaps the backends of the event, now.
    pub fn handle(&mut self, event: &Event) -> Report {
        self.handle_received(event, Instant::now())
    }

    /// As [`handle`](Self::handle), for an event that has waited since `received`; the wait is the
    /// report's queue phase.
    pub fn handle_received(&mut self, event: &Event, received: Instant) -> Report {
        self.handle_in(&mut Batch::default(), event, received)
    }

    /// As [`handle_received`](Self::handle_received), for one of several events that were all
    /// received before the first of them was handled: the work of an earlier one is not repeated.
    pub fn handle_in(&mut self, batch: &mut Batch, event: &Event, received: Instant) -> Report {
        let mut underway = self.begin(batch, event, received);
        while !self.poll(&mut underway) {
            self.pool.wait_until(self.due(&underway));
        }
        self.finish(underway)
    }

    /// Does what can be done about an event without waiting for the owners of sockets. For a caller that has others to handle
    /// while one is waited for: [`poll`](Self::poll) says when that is over, and [`finish`](Self::finish) makes the
    /// report, which is due.
    pub fn begin(&mut self, batch: &mut Batch, event: &Event, received: Instant) -> Underway {
        self.begin_confirmed(batch, event, received, Duration::ZERO, BTreeMap::new())
    }

    /// As [`begin`](Self::begin), for an event that has waited to be confirmed, and begins now: without the backends whose
    /// deletion was `cancelled`, and the events that did.
    pub(crate) fn begin_confirmed(
        &mut self,
        batch: &mut Batch,
        event: &Event,
        received: Instant,
        waited: Duration,
        cancelled: BTreeMap<Backend, String>,
    ) -> Underway {
        let queue_ns = nanos(received.elapsed());
        let (_, waited_ns) = self.pace.totals();
        let action = self.action_of(event);
        let mut done = Done::new(self.engine.name(), action);
        done.guard.max_rate = self.pace.rate();
        done.cancelled = cancelled;
        done.unconfirmed_ns = nanos(waited);
        let mut event = event.clone();
        // Victims that are only counted are found as for a dry run.
        event.dry_run |= done.action == VictimAction::None;
        if let Some(objection) = self.objection(&event, &done.action) {
            done.fail(Incomplete::Refused, objection);
        } else if let Err(e) = check(&event) {
            done.fail(Incomplete::EngineFailed, e);
        } else if let Err(why) = self.may_restrict(&event) {
            done.fail(Incomplete::EngineFailed, why);
        } else {
            self.work(batch, &event, &mut done);
        }
        done.guard.paced_ns = self.pace.totals().1 - waited_ns;
        let held = self.pool.take_met();
        Underway::new(event, done, held, received, queue_ns, self.pool.ledger().take())
    }

    /// Everything between the queue and the report.
    fn work(&mut self, batch: &mut Batch, event: &Event, done: &mut Done) {
        if self.grace && !batch.grace {
            match grace_period() {
                Ok(()) => batch.grace = true,
                Err(e) => done.fail(Incomplete::EngineFailed, e.to_string()),
            }
        }
        if !event.dry_run {
            self.engine.get_ready();
        }
        let start = Instant::now();
        self.order_unknown = !self.keep_order(event);
        done.order_ns = nanos(start.elapsed());
        if self.order_unknown && !event.through.is_any() {
            let why = "the order of the programs could not be checked, so a frontend may be wrong: see the log, and \
                       send the event again";
            return done.fail(Incomplete::HookOrder, why.to_owned());
        }
        if event.action.needs_selector() {
            return self.terminate(event, done);
        }
        let rules = match self.restriction(event) {
            Ok(rules) => rules,
            Err(message) => return done.fail(Incomplete::EngineFailed, message),
        };
        let mut backends = self.gone(event, rules.as_ref(), done);
        backends.retain(|backend| !done.cancelled.contains_key(backend));
        if !event.dry_run {
            self.note_deleted(event, rules.as_ref(), &backends);
        }
        // The name of a link means something in one netns only, so it is no key for events that
        // waited together. Nor has an event that is restricted done all the work of another.
        let whole = event.netns.is_none() && event.through.is_any() && rules.is_none();
        let Apart { mut plain, others, by } = self.apart(event, backends, done);
        if !event.dry_run && whole {
            (plain, done.merged) = batch.split(plain);
        }
        let both = links(event, plain).and_then(|plain| Ok((plain, links(event, others)?)));
        let (plain, others) = match both {
            Ok(both) => both,
            Err(message) => return done.fail(Incomplete::EngineFailed, message),
        };
        let all: Vec<(Backend, Option<Link>)> = plain.iter().chain(&others).copied().collect();
        if !self.may_reap(event, &all, rules.as_ref(), done) {
            return;
        }
        if event.dry_run {
            done.total.victims_listed = Some(Vec::new());
        }
        if !others.is_empty() {
            match by {
                Some(by) => self.reap_by_rules(batch, event, others, by, done),
                None => self.reap_otherwise(batch, event, others, rules.clone(), done),
            }
        }
        if !plain.is_empty() {
            let mut chosen = Chosen::through(&event.through).with_rules(rules);
            self.reap(batch, event, plain, &mut chosen, whole, done);
        }
    }

    /// Makes sure that every socket is recorded under its live peer; false if that is not certain.
    fn keep_order(&mut self, event: &Event) -> bool {
        if self.leave_order {
            return true;
        }
        let kept = self.order.before_event(
            recorded_on(event.action.gone(), self.unconnected),
            &mut self.hooks,
            &self.overseer,
        );
        self.monitor.ordered(self.order.status());
        kept
    }

    /// The backends that the event says are gone, each once.
    fn gone(&mut self, event: &Event, rules: Option<&Rules>, done: &mut Done) -> Vec<Backend> {
        let Action::Reconcile { backends: living, within, .. } = &event.action else {
            self.limits.apply(event, 0, &mut done.guard);
            return distinct(event.action.gone());
        };
        let start = Instant::now();
        let found = self.not_among(living, within, rules);
        done.count_ns = nanos(start.elapsed());
        match found {
            Ok(found) => {
                self.limits.apply(event, found.connected, &mut done.guard);
                done.total.incomplete.extend(found.incomplete);
                if self.order_unknown {
                    // The sockets of some backend may all be recorded under a virtual address.
                    done.total.incomplete.insert(Incomplete::HookOrder);
                }
                found.gone
            }
            Err(e) => {
                done.fail(Incomplete::EngineFailed, e.to_string());
                Vec::new()
            }
        }
    }

    fn not_among(
        &mut self,
        living: &[Backend],
        within: &[Network],
        rules: Option<&Rules>,
    ) -> Result<reconcile::Found, EngineError> {
        // Read before and after the pass: a healing may index a socket behind the pass and clear
        // its bit.
        let before = self.index.incomplete()?;
        let mut found = match rules {
            Some(rules) => {
                let mut search = reconcile::Search::new(living, within, self.unconnected);
                let (selected, missed) = self.selected(rules)?;
                search.add(&selected);
                let mut found = search.found();
                // As in a pass without rules: its destinations may be backends that no other socket is recorded under.
                found.incomplete.extend(missed);
                found
            }
            None => reconcile::gone(&mut self.walker, living, within, self.unconnected)?,
        };
        // A backend none of whose sockets was recorded is not known to the index at all; nor is one that only the
        // kernel's own sockets are connected to.
        if self.index.kernel_sockets_seen()? {
            found.incomplete.insert(Incomplete::KernelSockets);
        }
        let senders = self.unconnected == Unconnected::Destroy && rules.is_none_or(Rules::may_select_senders);
        for bits in [before, self.index.incomplete()?] {
            if bits.backends > 0 {
                found.incomplete.insert(Incomplete::IndexFull);
            }
            if bits.everything {
                found.incomplete.insert(Incomplete::IndexUnsure);
            }
            if bits.sent > 0 && senders {
                found.incomplete.insert(Incomplete::WildcardUnconnected);
            }
        }
        Ok(found)
    }

    /// Reaps these backends. `whole`: with nothing missed and nothing failed, an event that was received already need not
    /// do that again.
    pub(super) fn reap(
        &mut self,
        batch: &mut Batch,
        event: &Event,
        backends: Vec<(Backend, Option<Link>)>,
        chosen: &mut Chosen,
        whole: bool,
        done: &mut Done,
    ) {
        let many = !matches!(event.action, Action::BackendDeleted { .. });
        let mut all = Vec::with_capacity(backends.len());
        // A restricted target, and one on a link, has a run of its own; a dry run gains nothing from one for all.
        let alone =
            event.dry_run || chosen.rules().is_some() || self.scan_known || self.pace.rate().is_some();
        let alone = alone || backends.iter().any(|(_, link)| link.is_some());
        for part in backends.chunks(if alone { 1 } else { TOGETHER }) {
            all.extend(self.reap_part(event, part, many, chosen, done));
        }
        let pending_ns = self.look_again(&mut all, chosen);
        done.pending_ns = done.pending_ns.saturating_add(pending_ns);
        done.frontend_unknown += chosen.take_unknown();
        for One { backend, link, outcome, .. } in all {
            if whole && !event.dry_run && link.is_none() && outcome.is_clean() {
                batch.add(backend, &event.id);
            }
            if many {
                done.by_backend.push(BackendReport::new(backend, &outcome));
            }
            done.total.add_backend(outcome);
        }
    }

    /// Some backends of an event, for the first time.
    fn reap_part(
        &mut self,
        event: &Event,
        part: &[(Backend, Option<Link>)],
        many: bool,
        chosen: &mut Chosen,
        done: &mut Done,
    ) -> Vec<One> {
        let targets: Vec<Target> =
            part.iter().map(|(backend, _)| self.target(*backend, event.dry_run)).collect();
        // In the walk for the victims, or before it: afterwards a destroyed socket looks like a pending connect.
        let watches = !event.dry_run && !self.pending_wait.is_zero();
        let in_walk = watches && self.engine.watches() && chosen.rules().is_none();
        let mut before = Vec::new();
        if in_walk {
            chosen.watch();
        } else if watches {
            let start = Instant::now();
            before = targets.iter().map(|target| pending::watch(&mut self.walker, target)).collect();
            done.pending_ns = done.pending_ns.saturating_add(nanos(start.elapsed()));
        }
        let outcomes = match (targets.as_slice(), part) {
            ([target], [(_, link)]) => {
                chosen.set_link(*link);
                vec![self.run(target, chosen)]
            }
            _ => self.run_all(&targets, chosen),
        };
        if let Some(watched) = chosen.take_watched() {
            before = watched.into_iter().map(|sockets| Ok(Found::from(sockets))).collect();
        }
        before.resize_with(part.len(), || Ok(Found::default()));
        let mut all = Vec::with_capacity(part.len());
        let results = before.into_iter().zip(outcomes);
        for ((&(backend, link), target), (watched, outcome)) in part.iter().zip(targets).zip(results) {
            match outcome {
                Ok(outcome) => all.push(One::new((backend, link), target, outcome, watched, done)),
                Err(e) if many => done.fail(Incomplete::EngineFailed, format!("{backend}: {e}")),
                Err(e) => done.fail(Incomplete::EngineFailed, e.to_string()),
            }
        }
        all
    }

    /// Waits for pending connects, of all backends together, and reaps those that have connected. Returns
    /// the nanoseconds of that in which no engine was at work.
    pub(super) fn look_again(&mut self, all: &mut [One], chosen: &mut Chosen) -> u64 {
        let start = Instant::now();
        let mut engine_ns = 0_u64;
        let deadline = Instant::now() + self.pending_wait;
        let mut open: Vec<&mut One> = all.iter_mut().filter(|one| !one.waiting.is_empty()).collect();
        let mut pause = FIRST_PAUSE;
        while !open.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            thread::sleep(pause.min(left));
            pause *= 2;
            for one in &mut open {
                let found = pending::look(&mut self.walker, &one.target, &one.waiting);
                one.outcome.add_stale(found.stale);
                let waiting = found.sockets;
                if waiting.len() == one.waiting.len() {
                    continue;
                }
                one.waiting = waiting;
                engine_ns = engine_ns.saturating_add(self.run_again(one, chosen));
            }
            open.retain(|one| !one.waiting.is_empty());
        }
        for one in open {
            one.outcome.pending = one.waiting.len() as u64;
            let expired = pending::expire(&mut self.walker, &one.target);
            one.outcome.pending_elsewhere = expired.elsewhere.intersection(&one.waiting).count() as u64;
            one.outcome.add_stale(expired.stale);
        }
        // No later event need wait for what was moved: nothing else is watched there any more.
        for one in all.iter_mut().filter(|one| one.moved && one.waiting.is_empty()) {
            let expired = pending::expire(&mut self.walker, &one.target);
            one.outcome.add_stale(expired.stale);
        }
        nanos(start.elapsed()).saturating_sub(engine_ns)
    }

    /// Reaps a backend once more. Answers how many nanoseconds an engine was at work.
    fn run_again(&mut self, one: &mut One, chosen: &mut Chosen) -> u64 {
        one.outcome.pending_walks += 1;
        chosen.set_link(one.link);
        let before = chosen.left_alone();
        let more = match self.run(&one.target, chosen) {
            Ok(more) => more,
            Err(e) => {
                tracing::warn!(backend = %one.target.backend, "cannot walk again: {e}");
                one.outcome.incomplete.insert(Incomplete::EngineFailed);
                return 0;
            }
        };
        let engine_ns = more.walk_ns.saturating_add(more.destroy_ns);
        if one.spares {
            count_again(&mut one.outcome, more);
            return engine_ns;
        }
        one.outcome.add_stale(more.skipped.stale);
        if more.is_complete() {
            // It has found them again, and reports those that still fail.
            one.outcome.forget_failures();
        }
        chosen.left_alone().note_since(before, &mut one.outcome);
        one.outcome.note_left_alone(&more.skipped);
        one.outcome.add_victims(more);
        engine_ns
    }

    /// What a walk must match: sockets know their link by other means than the name of a zone.
    pub(super) fn target(&self, backend: Backend, dry_run: bool) -> Target {
        Target { backend: backend.without_zone(), unconnected: self.unconnected, dry_run }
    }

    /// One target, completely.
    pub(super) fn run(&mut self, target: &Target, chosen: &mut Chosen) -> Result<Outcome, EngineError> {
        if let Some(rules) = chosen.rules().cloned() {
            return self.run_restricted(target, &rules, chosen);
        }
        if self.scan_known {
            let unknown = self.order_unknown;
            let scope = if unknown { Scope::All } else { Scope::known(&mut self.walker, target)? };
            self.engine.set_scope(scope);
        }
        if !target.dry_run {
            self.pace.before();
        }
        let (before, _) = self.pace.totals();
        let outcome = self.engine.run(target, chosen)?;
        let outcome = self.complete(target, chosen, outcome)?;
        // Engines that destroy in one step cannot pause in the middle of it: the next target waits
        // instead.
        let (spent, _) = self.pace.totals();
        self.pace.after(outcome.destroyed.saturating_sub(spent - before));
        Ok(outcome)
    }

    /// Several targets, completely, at no pace and without rules.
    fn run_all(&mut self, targets: &[Target], chosen: &mut Chosen) -> Vec<Result<Outcome, EngineError>> {
        let outcomes = self.engine.run_all(targets, chosen);
        let complete = |(outcome, target): (Result<Outcome, EngineError>, &Target)| {
            self.complete(target, chosen, outcome?)
        };
        outcomes.into_iter().zip(targets).map(complete).collect()
    }

    /// Adds to what the engine has done what it cannot know of.
    fn complete(
        &mut self,
        target: &Target,
        chosen: &mut Chosen,
        mut outcome: Outcome,
    ) -> Result<Outcome, EngineError> {
        if self.order_unknown && !self.engine.name().scans() {
            outcome.incomplete.insert(Incomplete::HookOrder);
        }
        if chosen.frontends().is_any() {
            if let Some(fallback) = &mut self.fallback {
                fallback.run(target, chosen, &mut outcome);
            }
            self.kernel_sockets.finish(&mut self.walker, target, chosen, self.order_unknown, &mut outcome);
        } else {
            self.note_kernel_sockets(target, &mut outcome)?;
        }
        if target.dry_run {
            self.name_frontends(&[target.backend], &mut outcome)?;
        }
        Ok(outcome)
    }
}

/// What is wrong with the event itself, if anything is.
fn check(event: &Event) -> Result<(), String> {
    event.check_selectors().map_err(|e| e.to_string())?;
    event.check_links().map_err(|e| e.to_string())
}

/// The backends, with the link of each if the event names the netns of links.
fn links(event: &Event, backends: Vec<Backend>) -> Result<Vec<(Backend, Option<Link>)>, String> {
    // Where nothing is to be done, the netns may be gone as well.
    let Some(netns) = event.netns.as_ref().filter(|_| !backends.is_empty()) else {
        return Ok(backends.into_iter().map(|backend| (backend, None)).collect());
    };
    let found = link::find(netns, backends.iter().filter_map(Backend::zone).collect())?;
    // A link may be named twice, by its name and by its number.
    let mut seen = HashSet::new();
    let named = backends.into_iter().zip(found);
    Ok(named
        .filter(|(backend, link)| seen.insert((backend.without_zone(), link.ifindex)))
        .map(|(backend, link)| (backend, Some(link)))
        .collect())
}
