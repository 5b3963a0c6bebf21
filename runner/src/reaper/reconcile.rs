//! The backends in the index, and those of them that are not among the living.
//!
//! One pass over the index finds the backends; each is then reaped by a walk of its own. Those
//! walks visit no node twice, so all of them together are at most one more pass. The rest of their
//! work (waiting for connects, a scan where the index lacks sockets, a line in the report) is per
//! backend anyway.

use std::collections::{BTreeSet, HashSet};

use skreap_bpf::{Error, Relation, Walker};
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
    let living: HashSet<&Backend> = living.iter().collect();
    let is_meant = |backend: &Backend| {
        let inside = within.is_empty() || within.iter().any(|network| network.contains(backend.addr()));
        inside && !backend.is_link_local() && !living.contains(backend)
    };
    let mut gone = BTreeSet::new();
    let mut found = Found::default();
    let counts = walker.walk_all(|batch| {
        for victim in batch {
            let wanted = match victim.relation() {
                Relation::Connected => {
                    found.connected += 1;
                    true
                }
                Relation::Unconnected => unconnected == Unconnected::Destroy,
                Relation::MovedOn | Relation::NoPeer | Relation::Stale => false,
            };
            match victim.backend() {
                Some(backend) if wanted && is_meant(&backend) => {
                    gone.insert(backend);
                }
                // A multicast address cannot be a backend, so a socket connected to one is not a
                // victim.
                None if wanted && victim.relation() == Relation::Unconnected => {
                    found.incomplete.insert(Incomplete::WildcardUnconnected);
                }
                _ => {}
            }
        }
    })?;
    // Its destinations are not known: they may be backends that no other socket is recorded under.
    if counts.incomplete_unconnected && unconnected == Unconnected::Destroy {
        found.incomplete.insert(Incomplete::WildcardUnconnected);
    }
    found.gone = gone.into_iter().collect();
    Ok(found)
}
