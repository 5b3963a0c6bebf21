//! How many sockets one event may destroy or move, and the refusal of an event that would touch more.

use skreap_core::{
    Action, Backend, Event, Guarded, Incomplete, Limit, Protocol, ReconcileMax, Selector, SocketTuple,
    VictimAction, counted,
};

use super::done::Done;
use super::{Reaper, attribution};
use crate::engine::{Chosen, EngineError, Link, Rules};

/// A backend, with its link if the event names one.
type Named = (Backend, Option<Link>);

/// Backends that a refused reconcile names, those with the most victims first.
const NAMED: usize = 5;

/// What a pass that destroys nothing has found.
#[derive(Debug, Default)]
struct Count {
    by_backend: Vec<(Backend, u64)>,
    sockets: Vec<SocketTuple>,
}

impl Count {
    fn total(&self) -> u64 {
        self.by_backend.iter().map(|(_, n)| n).sum()
    }

    /// `it would have destroyed 7 sockets of 2 backends: udp://10.0.0.1:53 (4), tcp://10.0.0.1:80
    /// (3)`.
    fn sentence(&self) -> String {
        let mut hit: Vec<&(Backend, u64)> = self.by_backend.iter().filter(|(_, n)| *n > 0).collect();
        hit.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        let named: Vec<String> = hit.iter().take(NAMED).map(|(b, n)| format!("{b} ({n})")).collect();
        let more = if hit.len() > NAMED { ", …" } else { "" };
        let (sockets, backends) = (counted(self.total(), "socket"), counted(hit.len() as u64, "backend"));
        format!("it would have destroyed {sockets} of {backends}: {}{more}", named.join(", "))
    }
}

/// What the service allows one event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) max_victims: Option<u64>,
    pub(super) reconcile_max: ReconcileMax,
    /// The cgroup is the root: every socket is in it.
    pub(super) whole_machine: bool,
}

impl Limits {
    /// The limits that hold for this event; `connected` sockets are in the index, if that was
    /// counted.
    pub(super) fn apply(&self, event: &Event, connected: u64, guard: &mut Guarded) {
        if let Some(most) = self.max_victims {
            guard.lower(most, Limit::MaxVictims);
        }
        if let Some(most) = event.action.max_victims() {
            guard.lower(most, Limit::OfTheEvent);
        }
        let Action::Reconcile { within, .. } = &event.action else {
            return;
        };
        // A protocol or a port alone is no restriction: it still selects hosts that the sender of the event does not know.
        let everywhere = within.is_empty() && !event.selector.as_deref().is_some_and(Selector::is_bounded);
        if self.whole_machine && everywhere && guard.max_victims.is_none() {
            guard.limit = Some(Limit::Unrestricted);
        } else {
            guard.lower(self.reconcile_max.of(connected), Limit::ReconcileMax);
        }
    }
}

impl Reaper {
    /// Counts the victims, if their number is limited or they are to be attributed, and refuses the
    /// event if they are too many.
    pub(super) fn may_reap(
        &mut self,
        event: &Event,
        backends: &[Named],
        rules: Option<&Rules>,
        done: &mut Done,
    ) -> bool {
        if done.action == VictimAction::None {
            // Nothing is touched, so nothing is limited.
            return true;
        }
        let unrestricted = done.guard.limit == Some(Limit::Unrestricted);
        if unrestricted && !event.dry_run {
            return self.refuse(event, 0, None, done);
        }
        let attribute = self.names_victims() && !event.dry_run;
        if done.guard.max_victims.is_none() && !attribute {
            done.guard.refused = unrestricted;
            return true;
        }
        let Some(found) = self.count(event, backends, rules, done) else {
            return false;
        };
        let total = found.total();
        if done.guard.max_victims.is_some() {
            done.guard.found = Some(total);
        }
        if unrestricted || done.guard.refusal(total).is_some() {
            done.guard.refused = true;
            if !event.dry_run {
                if self.pool.ledger().is_on() {
                    done.refused.clone_from(&found.sockets);
                    attribute_all(&mut done.refused);
                }
                let would = matches!(event.action, Action::Reconcile { .. }).then(|| found.sentence());
                return self.refuse(event, total, would, done);
            }
        }
        if attribute {
            let mut sockets = found.sockets;
            attribute_all(&mut sockets);
            done.attributed = Some(sockets);
        }
        true
    }

    /// Victims are listed before any is destroyed.
    pub(super) fn names_victims(&self) -> bool {
        self.attribute || self.pool.ledger().is_on()
    }

    /// What the event would destroy or move: what rules or the action spare is no victim.
    fn count(
        &mut self,
        event: &Event,
        backends: &[Named],
        rules: Option<&Rules>,
        done: &mut Done,
    ) -> Option<Count> {
        let mut found = Count::default();
        let by = self.rules_for(event);
        let is_left_alone = |backend: &Backend| {
            by.is_none() && backend.protocol() == Protocol::Tcp && !done.action.destroys_tcp()
        };
        let destroys = |backend: &Backend| match &by {
            Some(by) => by.only_destroy(&backend.without_zone()),
            None => true,
        };
        let touched = backends.iter().copied().filter(|(backend, _)| !is_left_alone(backend));
        let (plain, others): (Vec<Named>, Vec<Named>) = touched.partition(|(backend, _)| destroys(backend));
        // The count is a pass of its own: what it finds is still to be done.
        let mut chosen = Chosen::through(&event.through).with_rules(rules.cloned());
        let mut counted = self.count_each(&plain, &mut chosen, &mut found, done);
        if let Some(by) = by.filter(|_| !others.is_empty()) {
            let mut chosen = Chosen::through(&event.through);
            chosen.set_assigner(self.assigner(&by, &others).with_moves_as_victims());
            counted = counted.and_then(|()| self.count_each(&others, &mut chosen, &mut found, done));
            self.put_back(chosen.take_assigner());
        }
        match counted {
            Ok(()) => Some(found),
            Err(e) => {
                done.fail(Incomplete::EngineFailed, format!("cannot count the victims: {e}"));
                None
            }
        }
    }

    fn count_each(
        &mut self,
        backends: &[Named],
        chosen: &mut Chosen,
        found: &mut Count,
        done: &mut Done,
    ) -> Result<(), EngineError> {
        for &(backend, link) in backends {
            chosen.set_link(link);
            let outcome = self.run(&self.target(backend, true), chosen)?;
            done.count_ns = done.count_ns.saturating_add(outcome.walk_ns);
            found.by_backend.push((backend, outcome.victims));
            if self.names_victims() {
                found.sockets.extend(outcome.victims_listed.unwrap_or_default());
            }
        }
        Ok(())
    }

    /// Always false: the event is not carried out.
    pub(super) fn refuse(&self, event: &Event, found: u64, would: Option<String>, done: &mut Done) -> bool {
        done.guard.refused = true;
        let refusal = done.guard.refusal(found).unwrap_or_default();
        let refusal = match would {
            Some(would) => format!("{refusal}; {would}"),
            None => refusal,
        };
        tracing::warn!(id = ?event.id, found, "{refusal}");
        done.fail(Incomplete::Refused, refusal);
        false
    }
}

pub(super) fn attribute_all(sockets: &mut [SocketTuple]) {
    attribution::attribute(&mut sockets.iter_mut().collect::<Vec<_>>());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reconcile_of_the_whole_machine_needs_a_restriction() {
        let whole = Limits { max_victims: None, reconcile_max: ReconcileMax::default(), whole_machine: true };
        let part = Limits { whole_machine: false, ..whole };
        let limited = Limits { max_victims: Some(7), ..whole };
        let backends = vec!["udp://10.0.0.1:53".parse().unwrap()];
        let reconcile = |within: &[&str], max_victims| {
            let within = within.iter().map(|network| network.parse().unwrap()).collect();
            Action::Reconcile { backends: backends.clone(), within, max_victims }
        };
        let apply = |limits: Limits, action: Action| {
            let mut guard = Guarded::default();
            limits.apply(&Event::new("e", action), 5000, &mut guard);
            (guard.limit, guard.max_victims)
        };
        let deleted = || Action::BackendsDeleted { backends: backends.clone() };
        for (limits, action, limit, most) in [
            (whole, reconcile(&[], None), Some(Limit::Unrestricted), None),
            (whole, reconcile(&["10.0.0.0/8"], None), Some(Limit::ReconcileMax), Some(500)),
            (whole, reconcile(&[], Some(7)), Some(Limit::OfTheEvent), Some(7)),
            (whole, reconcile(&[], Some(501)), Some(Limit::ReconcileMax), Some(500)),
            (limited, reconcile(&[], None), Some(Limit::MaxVictims), Some(7)),
            (part, reconcile(&[], None), Some(Limit::ReconcileMax), Some(500)),
            (whole, deleted(), None, None),
            (limited, deleted(), Some(Limit::MaxVictims), Some(7)),
        ] {
            assert_eq!(apply(limits, action.clone()), (limit, most), "{limits:?} {action:?}");
        }
    }

    #[test]
    fn a_selector_restricts_a_reconcile_of_the_whole_machine_by_place_or_network() {
        let limits =
            Limits { max_victims: None, reconcile_max: ReconcileMax::default(), whole_machine: true };
        for (json, restricted) in [
            (r#"{"protocol":"udp"}"#, false),
            (r#"{"ports":["53"]}"#, false),
            (r#"{"protocol":"tcp","ports":["1-65535"]}"#, false),
            (r#"{"to":["0.0.0.0/0"]}"#, false),
            (r#"{"to":["10.0.0.0/8","::/0"],"protocol":"udp"}"#, false),
            (r#"{"to":["10.0.0.0/8"]}"#, true),
            (r#"{"to":["10.0.0.0/8","fd00::1"],"ports":["53"]}"#, true),
            (r#"{"uid":1000}"#, true),
            (r#"{"protocol":"udp","netns":"blue"}"#, true),
            (r#"{"cgroup":"/sys/fs/cgroup/a.slice"}"#, true),
            (r#"{"netns":"blue","interface":"eth0"}"#, true),
        ] {
            let mut event = Event::reconcile(["udp://10.0.0.1:53".parse().unwrap()], []);
            event.selector = Some(Box::new(serde_json::from_str(json).unwrap()));
            let mut guard = Guarded::default();
            limits.apply(&event, 5000, &mut guard);
            let limit = if restricted { Limit::ReconcileMax } else { Limit::Unrestricted };
            assert_eq!(guard.limit, Some(limit), "{json}");
            // What it excepts is no restriction.
            event.except = event.selector.take();
            let mut guard = Guarded::default();
            limits.apply(&event, 5000, &mut guard);
            assert_eq!(guard.limit, Some(Limit::Unrestricted), "except {json}");
        }
    }

    #[test]
    fn a_refusal_names_the_backends_that_are_hit_most() {
        let backend = |i: u64| format!("udp://10.0.0.{i}:53").parse().unwrap();
        let mut found = Count { by_backend: vec![(backend(1), 1), (backend(2), 0)], sockets: Vec::new() };
        assert_eq!(found.sentence(), "it would have destroyed 1 socket of 1 backend: udp://10.0.0.1:53 (1)");
        found.by_backend.extend((3..8).map(|i| (backend(i), i)));
        assert_eq!(
            found.sentence(),
            "it would have destroyed 26 sockets of 6 backends: udp://10.0.0.7:53 (7), udp://10.0.0.6:53 (6), \
             udp://10.0.0.5:53 (5), udp://10.0.0.4:53 (4), udp://10.0.0.3:53 (3), …"
        );
    }
}
