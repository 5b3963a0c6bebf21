//! From an event to its report.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::thread;
use std::time::Instant;

use skreap_core::{
    Action, Backend, BackendReport, Event, Guarded, Incomplete, Outcome, Phases, Report, Target, Unconnected,
};

use super::Reaper;
use crate::engine::{Chosen, EngineError, Scope, nanos};
use crate::reaper::batch::{Batch, distinct};
use crate::reaper::recheck::{self, FIRST_PAUSE, Found, grace_period};
use crate::reaper::reconcile;

/// What came of an event so far.
struct Done {
    total: Outcome,
    by_backend: Vec<BackendReport>,
    merged: BTreeMap<Backend, String>,
    guard: Guarded,
    error: Option<String>,
}

/// One backend of an event.
struct One {
    target: Target,
    outcome: Outcome,
    /// Sockets whose connect is waited for.
    waiting: HashSet<u64>,
}

impl Done {
    fn fail(&mut self, why: Incomplete, message: String) {
        self.total.incomplete.insert(why);
        self.error.get_or_insert(message);
    }
}

impl Reaper {
    /// Reaps what the event names, now.
    pub fn handle(&mut self, event: &Event) -> Report {
        self.handle_received(event, Instant::now())
    }

    /// As [`handle`](Self::handle), for an event that has waited since `received`; the wait is the report's
    /// queue phase.
    pub fn handle_received(&mut self, event: &Event, received: Instant) -> Report {
        self.handle_in(&mut Batch::default(), event, received)
    }

    /// As [`handle_received`](Self::handle_received), for one of several events that were all received before
    /// the first of them was handled: what an earlier one has had done is not done again.
    pub fn handle_in(&mut self, batch: &mut Batch, event: &Event, received: Instant) -> Report {
        let report = self.report(batch, event, received);
        self.monitor.report(&report);
        report
    }

    fn report(&mut self, batch: &mut Batch, event: &Event, received: Instant) -> Report {
        let queue_ns = nanos(received.elapsed());
        let (_, waited_ns) = self.pace.totals();
        let mut done = Done {
            total: Outcome::new(self.engine.name()),
            by_backend: Vec::new(),
            merged: BTreeMap::new(),
            guard: Guarded {
                max_victims: self.max_victims,
                max_rate: self.pace.rate(),
                ..Guarded::default()
            },
            error: None,
        };
        if self.grace && !batch.grace {
            match grace_period() {
                Ok(()) => batch.grace = true,
                Err(e) => done.fail(Incomplete::EngineFailed, e.to_string()),
            }
        }
        self.order_unknown = !self.keep_order();
        let mut backends = self.gone(event, &mut done);
        if !event.dry_run {
            (backends, done.merged) = batch.split(backends);
        }
        if self.may_reap(event, &backends, &mut done) {
            self.reap(batch, event, backends, &mut done);
        }
        let Done { total, by_backend, merged, mut guard, error } = done;
        guard.paced_ns = self.pace.totals().1 - waited_ns;
        let phases = Phases {
            queue_ns,
            walk_ns: total.walk_ns,
            destroy_ns: total.destroy_ns,
            total_ns: nanos(received.elapsed()),
        };
        let mut report = Report::new(event, total, phases);
        report.by_backend = by_backend;
        report.merged = merged;
        report.guard = guard.any().then_some(guard);
        report.error = error;
        report
    }

    /// Makes sure that every socket is recorded under the peer it has; false if that cannot be said.
    fn keep_order(&mut self) -> bool {
        if self.leave_order {
            return true;
        }
        let kept = self.order.before_event(&mut self.hooks, &self.overseer);
        self.monitor.ordered(self.order.status());
        kept
    }

    /// The backends that the event says are gone, each once.
    fn gone(&mut self, event: &Event, done: &mut Done) -> Vec<Backend> {
        let Action::Reconcile { backends: living } = &event.action else {
            return distinct(event.action.gone());
        };
        match self.not_among(living) {
            Ok((gone, incomplete)) => {
                done.total.incomplete.extend(incomplete);
                if self.order_unknown {
                    // The sockets of some backend may all be recorded under a virtual address.
                    done.total.incomplete.insert(Incomplete::HookOrder);
                }
                gone
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
    ) -> Result<(Vec<Backend>, BTreeSet<Incomplete>), skreap_bpf::Error> {
        // Before and after: what a healing puts into the index behind the pass takes its mark along.
        let before = self.index.marks()?;
        let (gone, mut incomplete) = reconcile::gone(&mut self.walker, living, self.unconnected)?;
        // A backend none of whose sockets was recorded is not known to the index at all.
        for marks in [before, self.index.marks()?] {
            if marks.backends > 0 {
                incomplete.insert(Incomplete::IndexFull);
            }
            if marks.everything {
                incomplete.insert(Incomplete::IndexUnsure);
            }
            if marks.sent > 0 && self.unconnected == Unconnected::Destroy {
                incomplete.insert(Incomplete::WideUnconnected);
            }
        }
        Ok((gone, incomplete))
    }

    /// Counts the victims, if their number is limited, and refuses the event if they are too many.
    fn may_reap(&mut self, event: &Event, backends: &[Backend], done: &mut Done) -> bool {
        if self.max_victims.is_none() {
            return true;
        }
        let mut found = 0;
        // The count is a pass of its own: what it finds is still to be done.
        let mut chosen = Chosen::default();
        for backend in backends {
            match self.run(&self.target(*backend, true), &mut chosen) {
                Ok(outcome) => found += outcome.victims,
                Err(e) => {
                    done.fail(Incomplete::EngineFailed, format!("cannot count the victims: {e}"));
                    return false;
                }
            }
        }
        done.guard.found = Some(found);
        let Some(refusal) = done.guard.refusal(found) else {
            return true;
        };
        done.guard.refused = true;
        if event.dry_run {
            return true;
        }
        tracing::warn!(id = %event.id, found, "{refusal}");
        done.fail(Incomplete::Refused, refusal);
        false
    }

    fn reap(&mut self, batch: &mut Batch, event: &Event, backends: Vec<Backend>, done: &mut Done) {
        let many = !matches!(event.action, Action::BackendDeleted { .. });
        if event.dry_run {
            done.total.victims_listed = Some(Vec::new());
        }
        let mut all = Vec::with_capacity(backends.len());
        let mut chosen = Chosen::default();
        for backend in backends {
            let target = self.target(backend, event.dry_run);
            // Before the walk: what that destroys looks like a connect under way afterwards.
            let watched = if event.dry_run || self.recheck.is_zero() {
                Ok(Found::default())
            } else {
                recheck::watch(&mut self.walker, &target)
            };
            match self.run(&target, &mut chosen) {
                Ok(mut outcome) => {
                    let waiting = watched.unwrap_or_else(|_| {
                        outcome.incomplete.insert(Incomplete::EngineFailed);
                        Found::default()
                    });
                    outcome.add_stale(waiting.stale);
                    all.push(One { target, outcome, waiting: waiting.sockets });
                }
                Err(e) if many => done.fail(Incomplete::EngineFailed, format!("{backend}: {e}")),
                Err(e) => done.fail(Incomplete::EngineFailed, e.to_string()),
            }
        }
        self.look_again(&mut all, &mut chosen);
        for One { target, outcome, .. } in all {
            if !event.dry_run && outcome.is_clean() {
                batch.add(target.backend, &event.id);
            }
            if many {
                done.by_backend.extend(BackendReport::new(target.backend, &outcome));
            }
            done.total.add_backend(outcome);
        }
    }

    /// Waits for connects under way, of all backends together, and reaps what came of them.
    fn look_again(&mut self, all: &mut [One], chosen: &mut Chosen) {
        let deadline = Instant::now() + self.recheck;
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
                let found = recheck::look(&mut self.walker, &one.target, &one.waiting);
                one.outcome.add_stale(found.stale);
                let waiting = found.sockets;
                if waiting.len() == one.waiting.len() {
                    continue;
                }
                one.waiting = waiting;
                one.outcome.rechecks += 1;
                match self.run(&one.target, chosen) {
                    Ok(more) => {
                        one.outcome.add_stale(more.skipped.stale);
                        if more.is_complete() {
                            // It has met them again, and says which still fail.
                            one.outcome.forget_failures();
                        }
                        one.outcome.add_victims(more);
                    }
                    Err(e) => {
                        tracing::warn!(backend = %one.target.backend, "cannot walk again: {e}");
                        one.outcome.incomplete.insert(Incomplete::EngineFailed);
                    }
                }
            }
            open.retain(|one| !one.waiting.is_empty());
        }
        for one in open {
            one.outcome.pending = one.waiting.len() as u64;
            let stale = recheck::settle(&mut self.walker, &one.target);
            one.outcome.add_stale(stale);
        }
    }

    fn target(&self, backend: Backend, dry_run: bool) -> Target {
        Target { backend, unconnected: self.unconnected, dry_run }
    }

    /// One target, completely.
    fn run(&mut self, target: &Target, chosen: &mut Chosen) -> Result<Outcome, EngineError> {
        if self.scan_known {
            let unknown = self.order_unknown;
            let scope = if unknown { Scope::All } else { Scope::known(&mut self.walker, target)? };
            self.engine.set_scope(scope);
        }
        if !target.dry_run {
            self.pace.before();
        }
        let (before, _) = self.pace.totals();
        let mut outcome = self.engine.run(target, chosen)?;
        if self.order_unknown && !self.engine.name().scans() {
            outcome.incomplete.insert(Incomplete::HookOrder);
        }
        if let Some(fallback) = &mut self.fallback {
            fallback.finish(target, chosen, &mut outcome);
        }
        // Engines that destroy in one step cannot be held up in the middle of it: the next one waits for them.
        let (spent, _) = self.pace.totals();
        self.pace.after(outcome.destroyed.saturating_sub(spent - before));
        Ok(outcome)
    }
}
