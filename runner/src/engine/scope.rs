//! Which network namespaces a scan visits.

use std::collections::{BTreeMap, HashSet};

use skreap_bpf::{Victim, Walker};
use skreap_core::{Target, Unconnected};

use super::EngineError;
use super::named::netns_id;
use crate::sys::netns::{self, AllNetns, NetnsId};

/// Which network namespaces a scan visits. Engines that walk the index need none: it covers all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Every netns that the kernel has, whatever keeps it alive. Where its list cannot be read: those that this
    /// machine shows (`/proc/PID/ns/net`, `/run/netns`) and those that the index knows to hold sockets of the
    /// target; the scan is incomplete then. Listing them is part of the time of each scan.
    #[default]
    All,
    /// These only: the cost of a scan that knows the right netns. [`Scope::known`] finds them with
    /// the index; that is not part of the time of a scan, and such a measurement must say so.
    Known(Vec<NetnsId>),
}

impl Scope {
    /// The netns that hold sockets recorded under the target: a walk of its bucket that destroys nothing. All, if the
    /// index lacks sockets of the target.
    ///
    /// # Errors
    /// [`EngineError::Walk`] if the index cannot be walked.
    pub fn known(walker: &mut Walker, target: &Target) -> Result<Self, EngineError> {
        let mut victims = Vec::new();
        let counts = walker.walk(&everything(target), &mut victims)?;
        if counts.incomplete_full || counts.incomplete_everything {
            return Ok(Self::All);
        }
        let mut known: Vec<NetnsId> = victims.iter().map(netns_id).collect();
        known.sort_unstable();
        known.dedup();
        Ok(Self::Known(known))
    }
}

fn everything(target: &Target) -> Target {
    Target { unconnected: Unconnected::Destroy, dry_run: true, ..*target }
}

/// Keeps the netns with this cookie, if only that is to be visited. True if it is there: then no other matters.
pub(super) fn keep(wanted: Option<u64>, netns: &mut Vec<NetnsId>) -> bool {
    let Some(wanted) = wanted else {
        return false;
    };
    netns.retain(|id| id.cookie == wanted);
    !netns.is_empty()
}

/// Lists the netns of a scope.
#[derive(Debug)]
pub(super) struct Finder {
    walker: Walker,
    scope: Scope,
    victims: Vec<Victim>,
}

impl Finder {
    pub(super) fn new(walker: Walker, scope: Scope) -> Self {
        Self { walker, scope, victims: Vec::new() }
    }

    pub(super) fn set_scope(&mut self, scope: Scope) {
        self.scope = scope;
    }

    /// Cookies of the sockets recorded under the target.
    ///
    /// # Errors
    /// [`EngineError::Walk`] if the index cannot be walked.
    pub(super) fn recorded(&mut self, target: &Target) -> Result<HashSet<u64>, EngineError> {
        self.victims.clear();
        self.walker.walk(&everything(target), &mut self.victims)?;
        Ok(self.victims.iter().map(Victim::cookie).collect())
    }

    /// The netns to visit for a selection, and whether these are all of the scope.
    ///
    /// # Errors
    /// [`EngineError`] if `/proc` cannot be read.
    pub(super) fn find_any(&self) -> Result<AllNetns, EngineError> {
        match &self.scope {
            Scope::Known(known) => Ok(AllNetns { netns: known.clone(), whole: true }),
            Scope::All => netns::everywhere().map_err(|source| EngineError::Io {
                what: "cannot list the netns in /proc".to_owned(),
                source,
            }),
        }
    }

    /// The netns to visit for this target, and whether these are all of the scope.
    ///
    /// # Errors
    /// [`EngineError`] if `/proc` cannot be read or the index cannot be walked.
    pub(super) fn find(&mut self, target: &Target) -> Result<AllNetns, EngineError> {
        let listed = self.find_any()?;
        if listed.whole {
            return Ok(listed);
        }
        let mut all: BTreeMap<u64, NetnsId> = listed.netns.into_iter().map(|id| (id.cookie, id)).collect();
        self.victims.clear();
        let counts = self.walker.walk(&everything(target), &mut self.victims)?;
        let mut add = |victims: &[Victim]| all.extend(victims.iter().map(|v| (v.netns(), netns_id(v))));
        add(&self.victims);
        if counts.incomplete_full {
            // The index lacks sockets of this target, in unknown netns: all known netns are
            // scanned.
            self.walker.walk_all(|victims| add(victims))?;
        }
        Ok(AllNetns { netns: all.into_values().collect(), whole: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_netns_that_is_named_and_there_is_all_that_matters() {
        let all = [1, 2, 3].map(|cookie| NetnsId { cookie, inum: 7 });
        for (wanted, is_there, left) in
            [(None, false, &all[..]), (Some(2), true, &all[1..2]), (Some(9), false, &[])]
        {
            let mut netns = all.to_vec();
            assert_eq!((keep(wanted, &mut netns), netns.as_slice()), (is_there, left), "{wanted:?}");
        }
    }
}
