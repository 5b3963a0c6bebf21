//! Events that say by a selector which sockets are meant.

use std::time::Instant;

use skreap_bpf::{Select, Victim};
use skreap_core::{
    Backend, Event, Incomplete, Instead, Move, Outcome, Protocol, Target, Through, Unconnected, VictimAction,
};

use super::Reaper;
use super::done::Done;
use super::limits::attribute_all;
use super::moving::directed;
use super::one::as_spared;
use crate::engine::{Chosen, EngineError, Rules, Scope, Selection, StateMask, nanos};
use crate::reaper::place;
use crate::upkeep::revive::Revival;

impl Reaper {
    /// An event that names no backends.
    pub(super) fn terminate(&mut self, event: &Event, done: &mut Done) {
        self.limits.apply(event, 0, &mut done.guard);
        let start = Instant::now();
        let rules = place::rules(event, &self.cgroup);
        done.pending_ns = done.pending_ns.saturating_add(nanos(start.elapsed()));
        let rules = match rules {
            Ok(rules) => rules,
            Err(message) => return done.fail(Incomplete::EngineFailed, message),
        };
        let backends = event.selector.as_ref().and_then(|selector| selector.exact()).unwrap_or_default();
        let backends = if event.action.allowed().is_empty() { backends } else { Vec::new() };
        let through = Through::default();
        let mut selection =
            Selection { rules, backends, through, unconnected: self.unconnected, dry_run: true };
        if !self.may_terminate(event, &selection, done) {
            return;
        }
        selection.dry_run = event.dry_run;
        if event.dry_run {
            done.total.victims_listed = Some(Vec::new());
        }
        let mut to_revive = None;
        let parts = match done.action.clone() {
            VictimAction::Move(how) if event.dry_run => by_protocol(&selection, how.tcp, Instead::Destroy),
            VictimAction::Move(how) => self.move_selected(&how, &selection, done),
            VictimAction::Revive(how) if !event.dry_run => {
                let victims = self.udp_of_selection(&selection.rules, done);
                to_revive = victims.map(|victims| (victims, how));
                vec![(Instead::Destroy, selection)]
            }
            _ => vec![(Instead::Destroy, selection)],
        };
        let mut chosen = Chosen::default();
        for (instead, mut selection) in parts {
            let spares = instead == Instead::Spare;
            selection.dry_run |= spares;
            match self.select(&selection, &mut chosen) {
                Ok(outcome) if spares => done.total.add_backend(as_spared(outcome)),
                Ok(outcome) => done.total.add_backend(outcome),
                Err(e) => return done.fail(Incomplete::EngineFailed, e.to_string()),
            }
        }
        if let Some((victims, how)) = to_revive {
            let gone = peers_of(&victims);
            done.revival = Revival::new(&event.id, vec![(victims, how)], &gone);
        }
    }

    /// Moves what is selected and can be moved. Returns what is done with the rest of it, by protocol.
    fn move_selected(
        &mut self,
        how: &Move,
        selection: &Selection,
        done: &mut Done,
    ) -> Vec<(Instead, Selection)> {
        let start = Instant::now();
        if let Some(victims) = self.udp_of_selection(&selection.rules, done) {
            let gone = peers_of(&victims).into_iter().collect();
            self.move_each(Ok(directed(&how.to, &victims, &gone)), start, done);
        }
        let mut parts = by_protocol(selection, how.tcp, how.otherwise);
        if how.otherwise == Instead::Spare {
            // The move did not try backends with stateful ports. Their sockets are destroyed, also where `else` spares others.
            let of_backend = |backend: &Backend| {
                let rules = selection.rules.of_backend(backend, None)?;
                Some((Instead::Destroy, Selection { rules, backends: vec![*backend], ..selection.clone() }))
            };
            parts.splice(0..0, done.stateful.iter().filter_map(of_backend));
        }
        parts
    }

    /// The selected sockets that can be connected to another peer, without those whose two ends share state; `None`, and a
    /// report of it, if they cannot be found.
    fn udp_of_selection(&mut self, rules: &Rules, done: &mut Done) -> Option<Vec<Victim>> {
        let mut victims = self
            .find_udp_by(rules)
            .inspect_err(|e| {
                tracing::warn!("cannot find the sockets that are to be connected anew: {e}");
                done.fail(Incomplete::EngineFailed, format!("sockets could not be connected anew: {e}"));
            })
            .ok()?;
        let is_stateful = |victim: &Victim| victim.backend().is_some_and(|b| done.action.spares_state_of(&b));
        let stateful: Vec<Victim> = victims.iter().copied().filter(&is_stateful).collect();
        victims.retain(|victim| !is_stateful(victim));
        done.stateful = peers_of(&stateful);
        Some(victims)
    }

    /// Counts the victims, if their number is limited or they are to be attributed. What the action leaves alone is no victim.
    fn may_terminate(&mut self, event: &Event, selection: &Selection, done: &mut Done) -> bool {
        if done.action == VictimAction::None {
            // Nothing is touched, so nothing is limited.
            return true;
        }
        let attribute = self.names_victims() && !event.dry_run;
        if done.guard.max_victims.is_none() && !attribute {
            return true;
        }
        let tcp = if done.action.destroys_tcp() { Instead::Destroy } else { Instead::Spare };
        let mut found = Outcome::new(self.engine.name());
        // The count is a pass of its own: what it finds is still to be done.
        let mut chosen = Chosen::default();
        let parts = by_protocol(selection, tcp, Instead::Destroy).into_iter();
        for (_, touched) in parts.filter(|(instead, _)| *instead == Instead::Destroy) {
            match self.select(&touched, &mut chosen) {
                Ok(outcome) => found.add_backend(outcome),
                Err(e) => {
                    done.fail(Incomplete::EngineFailed, format!("cannot count the victims: {e}"));
                    return false;
                }
            }
        }
        done.count_ns = done.count_ns.saturating_add(found.walk_ns);
        if done.guard.max_victims.is_some() {
            done.guard.found = Some(found.victims);
        }
        if done.guard.refusal(found.victims).is_some() {
            done.guard.refused = true;
            if !event.dry_run {
                if self.pool.ledger().is_on() {
                    done.refused = found.victims_listed.unwrap_or_default();
                    attribute_all(&mut done.refused);
                }
                return self.refuse(event, found.victims, None, done);
            }
        }
        if attribute {
            let mut sockets = found.victims_listed.unwrap_or_default();
            attribute_all(&mut sockets);
            done.attributed = Some(sockets);
        }
        true
    }

    /// One backend of an event, restricted to what its selectors say.
    pub(super) fn run_restricted(
        &mut self,
        target: &Target,
        rules: &Rules,
        chosen: &mut Chosen,
    ) -> Result<Outcome, EngineError> {
        let Some(rules) = rules.of_backend(&target.backend, chosen.link()) else {
            let mut nothing = Outcome::new(self.engine.name());
            nothing.victims_listed = target.dry_run.then(Vec::new);
            return Ok(nothing);
        };
        if chosen.remembers() && target.backend.protocol() == Protocol::Udp {
            let found = self.find_udp(&[(target.backend, chosen.link())], chosen)?;
            chosen.add_remembered(found);
        }
        let Target { backend, unconnected, dry_run } = *target;
        let through = chosen.frontends().clone();
        self.select(&Selection { rules, backends: vec![backend], through, unconnected, dry_run }, chosen)
    }

    /// One selection of an event, completely.
    fn select(&mut self, selection: &Selection, chosen: &mut Chosen) -> Result<Outcome, EngineError> {
        if !selection.dry_run {
            self.pace.before();
        }
        let (before, _) = self.pace.totals();
        let passes = selection.backends.is_empty();
        if self.scan_known {
            // What the index knows of one backend says nothing here.
            self.engine.set_scope(Scope::All);
        }
        let before_pass = self.missed(selection)?;
        let mut select = self.take_select()?;
        let outcome = self.engine.select(selection, &mut select, chosen);
        let mut outcome = match outcome {
            Ok(mut outcome) if self.engine.name().scans() => {
                // Nobody has looked for the kernel's own sockets.
                if self.index.kernel_sockets_seen()? {
                    outcome.incomplete.insert(Incomplete::KernelSockets);
                }
                outcome
            }
            Ok(mut outcome) => {
                if passes {
                    outcome.incomplete.extend(before_pass);
                    outcome.incomplete.extend(self.missed(selection)?);
                }
                if self.order_unknown {
                    outcome.incomplete.insert(Incomplete::HookOrder);
                }
                if let Some(fallback) = self.fallback.as_mut().filter(|_| selection.through.is_any()) {
                    fallback.run_selection(selection, &mut select, &mut outcome);
                }
                outcome
            }
            Err(e) => return Err(e),
        };
        self.select.put_back(select);
        let (spent, _) = self.pace.totals();
        self.pace.after(outcome.destroyed.saturating_sub(spent - before));
        if selection.dry_run {
            self.name_frontends(&selection.backends, &mut outcome)?;
        }
        Ok(outcome)
    }

    /// The program that selects sockets, until it is put back.
    pub(super) fn take_select(&mut self) -> Result<Select, EngineError> {
        Ok(self.select.take(&self.index)?)
    }

    /// The sockets in the index that the rules select, whatever their state: a sender once for each backend. And what may be
    /// missing: senders of whose backends nothing is known, sockets that have changed their place during the pass.
    pub(super) fn selected(&mut self, rules: &Rules) -> Result<(Vec<Victim>, Vec<Incomplete>), EngineError> {
        let (mut select, mut victims) = (self.take_select()?, Vec::new());
        let senders = self.unconnected == Unconnected::Destroy && rules.may_select_senders();
        let counts = select.pass(&rules.filter(StateMask::default())?, senders, &mut victims)?;
        self.select.put_back(select);
        let reasons = [
            (senders && counts.unnamed, Incomplete::WildcardUnconnected),
            (counts.unsure, Incomplete::IndexUnsure),
        ];
        Ok((victims, reasons.into_iter().filter(|(there, _)| *there).map(|(_, why)| why).collect()))
    }

    /// Keeps those of these connected sockets that the rules select now.
    pub(super) fn sift(&mut self, rules: &Rules, victims: &mut Vec<Victim>) -> Result<(), EngineError> {
        let mut select = self.take_select()?;
        select.sift(&rules.filter(StateMask::default())?, false, victims)?;
        self.select.put_back(select);
        Ok(())
    }

    /// Why the index may lack sockets of some backend. Asked before and after a pass: a healing may index a socket behind
    /// the pass and clear its mark.
    fn missed(&self, selection: &Selection) -> Result<Vec<Incomplete>, EngineError> {
        let marks = self.index.incomplete()?;
        let reasons = [
            (marks.backends > 0, Incomplete::IndexFull),
            (marks.everything, Incomplete::IndexUnsure),
            (marks.sent > 0 && selection.has_senders(), Incomplete::WildcardUnconnected),
            // The index has none of the kernel's own, and nobody has looked where these are.
            (self.index.kernel_sockets_seen()?, Incomplete::KernelSockets),
        ];
        Ok(reasons.into_iter().filter(|(there, _)| *there).map(|(_, why)| why).collect())
    }

    /// The rules that restrict an event on backends, if any do.
    pub(super) fn restriction(&self, event: &Event) -> Result<Option<Rules>, String> {
        let restricted = event.selector.is_some() || event.except.is_some();
        restricted.then(|| place::rules(event, &self.cgroup)).transpose()
    }
}

/// A selection, apart by what is done with its sockets of TCP and with those of UDP.
fn by_protocol(selection: &Selection, tcp: Instead, udp: Instead) -> Vec<(Instead, Selection)> {
    if tcp == udp {
        return vec![(tcp, selection.clone())];
    }
    let wanted = selection.rules.selected.protocol;
    [(Protocol::Tcp, tcp), (Protocol::Udp, udp)]
        .into_iter()
        .filter(|(protocol, _)| wanted.is_none_or(|wanted| wanted == *protocol))
        .map(|(protocol, instead)| {
            let mut part = selection.clone();
            part.rules.selected.protocol = Some(protocol);
            (instead, part)
        })
        .collect()
}

/// The backends that these sockets are connected to, each once.
fn peers_of(victims: &[Victim]) -> Vec<Backend> {
    let mut peers: Vec<Backend> = victims.iter().filter_map(Victim::backend).collect();
    peers.sort_unstable();
    peers.dedup();
    peers
}
