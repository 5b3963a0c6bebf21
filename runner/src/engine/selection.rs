//! The sockets that a selector selects, in the terms of the kernel; and how engines that walk the index find them.

use std::time::Instant;

use skreap_bpf::{Filter, Rule, Select, Victim, Walker};
use skreap_core::{Backend, EngineName, Incomplete, Outcome, Target, Through, Unconnected};

use super::counts::note_walk;
use super::destroy::Destroyer;
use super::link::Link;
use super::{EngineError, StateMask, nanos};

/// What an event says of its sockets: those of one rule, without those of others.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// The sockets that are selected.
    pub selected: Rule,
    /// Those of them that are spared.
    pub except: Option<Rule>,
    /// Those of them that are spared, too; these rules say nothing but protocol and peer.
    pub allowed: Vec<Rule>,
}

impl Rules {
    /// The same for the sockets of one backend; `None` if there can be none.
    #[must_use]
    pub fn of_backend(&self, backend: &Backend, link: Option<Link>) -> Option<Self> {
        let mut rules = self.clone();
        if !admits(&rules.selected, backend) || rules.allowed.iter().any(|rule| admits(rule, backend)) {
            return None;
        }
        rules.except = rules.except.filter(|rule| admits(rule, backend));
        rules.allowed.clear();
        let selected = &mut rules.selected;
        selected.protocol = Some(backend.protocol());
        selected.to = vec![backend.addr().into()];
        selected.ports = skreap_core::PortRange::new(backend.port(), backend.port()).into_iter().collect();
        if let Some(link) = link {
            let place = &mut selected.place;
            if place.netns.is_some_and(|netns| netns != link.netns)
                || place.ifindex.is_some_and(|ifindex| ifindex != link.ifindex)
            {
                return None;
            }
            (place.netns, place.ifindex) = (Some(link.netns), Some(link.ifindex));
        }
        Some(rules)
    }
}

/// Whether what a rule says of protocol and peer holds for this backend.
fn admits(rule: &Rule, backend: &Backend) -> bool {
    rule.protocol.is_none_or(|protocol| protocol == backend.protocol())
        && (rule.to.is_empty() || rule.to.iter().any(|prefix| prefix.contains(backend.addr())))
        && (rule.ports.is_empty() || rule.ports.iter().any(|ports| ports.contains(backend.port())))
}

/// The sockets that an engine has to find, and what to do with them.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Which.
    pub rules: Rules,
    /// All of them are connected to one of these; to any if there are none.
    pub backends: Vec<Backend>,
    /// The frontends that they have come through. Only with backends, and with engines that walk the index.
    pub through: Through,
    /// Policy for sockets that have sent to a selected backend without connecting to it.
    pub unconnected: Unconnected,
    /// Choose and list the victims, destroy nothing.
    pub dry_run: bool,
}

impl Rules {
    /// As the programs read them.
    ///
    /// # Errors
    /// [`EngineError::Io`] if there are more than they have room for.
    pub(crate) fn filter(&self, states: StateMask) -> Result<Filter, EngineError> {
        let Self { selected, except, allowed } = self;
        Filter::new(selected, except.as_ref(), allowed, states.bits()).map_err(|what| EngineError::Io {
            what: format!("too many {what} for one event"),
            source: std::io::ErrorKind::QuotaExceeded.into(),
        })
    }
}

impl Selection {
    fn target(&self, backend: Backend) -> Target {
        Target { backend, unconnected: self.unconnected, dry_run: self.dry_run }
    }
}

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
    pub(super) fn run(self, selection: &Selection, select: &mut Select) -> Result<Outcome, EngineError> {
        let start = Instant::now();
        let filter = selection.rules.filter(self.states)?;
        let mut outcome = Outcome::new(self.name);
        let mut victims = Vec::new();
        if selection.backends.is_empty() {
            let senders = selection.unconnected == Unconnected::Destroy;
            let counts = select.pass(&filter, senders, &mut victims)?;
            outcome.skipped.unconnected = counts.senders;
            outcome.skipped.state = counts.state;
            if senders && counts.unnamed {
                outcome.incomplete.insert(Incomplete::WildcardUnconnected);
            }
        } else {
            self.walker.restrict(&selection.through)?;
            for backend in &selection.backends {
                walk(self.walker, &selection.target(*backend), self.states, &mut victims, &mut outcome)?;
            }
            let found = victims.len();
            select.sift(&filter, &mut victims)?;
            outcome.skipped.not_selected = (found - victims.len()) as u64;
        }
        let walked = Instant::now();
        outcome.victims = victims.len() as u64;
        outcome.visited = outcome.victims + outcome.skipped.total();
        let first = victims.clone();
        self.destroyer.finish(selection.dry_run, &mut victims, &mut outcome, |victims| {
            victims.extend_from_slice(&first);
            select.sift(&filter, victims)?;
            Ok(())
        });
        outcome.walk_ns = nanos(walked.duration_since(start));
        outcome.destroy_ns = nanos(walked.elapsed());
        Ok(outcome)
    }
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
