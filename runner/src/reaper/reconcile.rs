//! The backends in the index, and those of them that are not among the living.
//!
//! One pass over the index finds the backends; each is then reaped by a walk of its own. Those
//! walks visit no node twice, so all of them together are at most one more pass. The rest of their
//! work (waiting for connects, a scan where the index lacks sockets, a line in the report) is per
//! backend anyway.

use std::collections::{BTreeSet, HashSet};

use skreap_bpf::{Error, Relation, Victim, Walker};
use skreap_core::{Backend, Incomplete, Network, Unconnected};

/// What a pass over the index has found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The backends that are gone.
    pub gone: Vec<Backend>,
    /// Why there may be more of them.
    pub incomplete: BTreeSet<Incomplete>,
    /// Sockets that are connected, to whatever.
    pub connected: u64,
}

/// The indexed backends that are not in `living`. With `within`, only those in one of these
/// networks. Never a link-local one: its address names no host.
///
/// # Errors
/// [`Error`] if the index cannot be walked.
pub(crate) fn gone(
    walker: &mut Walker,
    living: &[Backend],
    within: &[Network],
    unconnected: Unconnected,
) -> Result<Found, Error> {
    let mut search = Search::new(living, within, unconnected);
    let counts = walker.walk_all(|batch| search.add(batch))?;
    let mut found = search.found();
    // Its destinations are not known: they may be backends that no other socket is recorded under.
    if counts.incomplete_unconnected && unconnected == Unconnected::Destroy {
        found.incomplete.insert(Incomplete::WildcardUnconnected);
    }
    Ok(found)
}

/// Takes the backends out of sockets that are shown.
pub(crate) struct Search<'a> {
    living: HashSet<&'a Backend>,
    within: &'a [Network],
    unconnected: Unconnected,
    gone: BTreeSet<Backend>,
    found: Found,
}

impl<'a> Search<'a> {
    pub(crate) fn new(living: &'a [Backend], within: &'a [Network], unconnected: Unconnected) -> Self {
        let living = living.iter().collect();
        Self { living, within, unconnected, gone: BTreeSet::new(), found: Found::default() }
    }

    pub(crate) fn add(&mut self, sockets: &[Victim]) {
        for victim in sockets {
            let wanted = match victim.relation() {
                Relation::Connected => {
                    self.found.connected += 1;
                    true
                }
                Relation::Unconnected => self.unconnected == Unconnected::Destroy,
                Relation::MovedOn | Relation::NoPeer | Relation::Stale => false,
            };
            match victim.backend() {
                Some(backend) if wanted && self.is_meant(&backend) => {
                    self.gone.insert(backend);
                }
                // A multicast address cannot be a backend, so a socket connected to one is not a
                // victim.
                None if wanted && victim.relation() == Relation::Unconnected => {
                    self.found.incomplete.insert(Incomplete::WildcardUnconnected);
                }
                _ => {}
            }
        }
    }

    fn is_meant(&self, backend: &Backend) -> bool {
        let within = self.within;
        let inside = within.is_empty() || within.iter().any(|network| network.contains(backend.addr()));
        inside && !backend.is_link_local() && !self.living.contains(backend)
    }

    pub(crate) fn found(self) -> Found {
        Found { gone: self.gone.into_iter().collect(), ..self.found }
    }
}
