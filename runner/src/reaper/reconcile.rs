//! The backends in the index, and those of them that are not among the living.
//!
//! One pass over the index finds the backends; each is then reaped by a walk of its own. Those
//! walks visit no node twice, so all of them together are at most one more pass. The rest of their
//! work (waiting for connects, a scan where the index lacks sockets, a line in the report) is per
//! backend anyway.

use std::collections::{BTreeSet, HashSet};

use skreap_bpf::{Error, Relation, Walker};
use skreap_core::{Backend, Incomplete, Unconnected};

/// The indexed backends that are not in `living`, and the reasons why there may be more of them.
///
/// # Errors
/// [`Error`] if the index cannot be walked.
pub(crate) fn gone(
    walker: &mut Walker,
    living: &[Backend],
    unconnected: Unconnected,
) -> Result<(Vec<Backend>, BTreeSet<Incomplete>), Error> {
    let living: HashSet<&Backend> = living.iter().collect();
    let mut gone = BTreeSet::new();
    let mut incomplete = BTreeSet::new();
    walker.walk_all(|batch| {
        for victim in batch {
            let wanted = match victim.relation() {
                Relation::Connected => true,
                Relation::Unconnected => unconnected == Unconnected::Destroy,
                Relation::MovedOn | Relation::NoPeer | Relation::Stale => false,
            };
            match victim.backend() {
                Some(backend) if wanted && !living.contains(&backend) => {
                    gone.insert(backend);
                }
                // A multicast address cannot be a backend, so a socket connected to one is not a
                // victim.
                None if wanted && victim.relation() == Relation::Unconnected => {
                    incomplete.insert(Incomplete::WideUnconnected);
                }
                _ => {}
            }
        }
    })?;
    Ok((gone.into_iter().collect(), incomplete))
}
