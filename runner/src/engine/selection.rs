//! The sockets that a selector selects, in the terms of the kernel.

use skreap_bpf::{Filter, Rule};
use skreap_core::{Backend, Protocol, Target, Through, Unconnected};

use super::link::Link;
use super::{EngineError, StateMask};

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
        let admits = |rule: &Rule| rule.admits(backend.protocol(), backend.addr(), backend.port());
        if !admits(&rules.selected) || rules.allowed.iter().any(admits) {
            return None;
        }
        rules.except = rules.except.filter(admits);
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

    /// True if sockets that send without connecting may be selected: only UDP has those.
    #[must_use]
    pub fn may_select_senders(&self) -> bool {
        self.selected.protocol != Some(Protocol::Tcp)
    }
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
    /// True if sockets that have only sent may be victims.
    pub(crate) fn has_senders(&self) -> bool {
        self.unconnected == Unconnected::Destroy && self.rules.may_select_senders()
    }

    /// What a walk must match.
    pub(super) fn target(&self, backend: Backend) -> Target {
        Target { backend, unconnected: self.unconnected, dry_run: self.dry_run }
    }
}
