//! What the index holds, per backend.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};
use skreap_bpf::{Counters, Error, Index, Relation, Victim, Walker};
use skreap_core::Backend;

/// Sockets of one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendEntry {
    /// Connected to it now.
    pub connected: u64,
    /// Without a peer, have sent to it.
    pub unconnected: u64,
    /// Network namespaces these sockets are in.
    pub netns: u64,
}

/// The index at one moment. Sockets that come and go while it is read may or may not be in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// By backend, as `udp://10.0.0.1:53`.
    pub backends: BTreeMap<Backend, BackendEntry>,
    /// Distinct sockets in the index.
    pub sockets: u64,
    /// Memberships recorded under a backend the socket has left (failed or repeated connect).
    pub moved_on: u64,
    /// Memberships of sockets that have no peer (connect in flight or failed, disconnected, destroyed).
    pub no_peer: u64,
    /// Unconnected IPv6 memberships, or sockets with very many peers, whose backend is not known by name.
    pub unnamed: u64,
    /// Nodes without their socket: an alarm.
    pub stale: u64,
    /// Nodes in use, and how many there can be.
    pub nodes: u64,
    /// Nodes that can be in use.
    pub capacity: u64,
    /// Everything that was counted since load.
    pub counters: CounterEntries,
}

/// [`Counters`] as they are written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterEntries {
    /// Nodes linked into a bucket.
    pub inserts: u64,
    /// Nodes unlinked from a bucket.
    pub removals: u64,
    /// Sockets released that had a node.
    pub releases: u64,
    /// Sockets released that had a cookie but no node.
    pub releases_without_node: u64,
    /// Sockets released that never got a cookie.
    pub releases_without_cookie: u64,
    /// Not recorded: the index was full.
    pub dropped_full: u64,
    /// Not recorded: the record chain was too long.
    pub dropped_chain: u64,
    /// Not recorded: in-kernel sockets.
    pub ignored_kernel: u64,
    /// Not recorded: neither TCP nor UDP.
    pub ignored_protocol: u64,
    /// Sockets that came to have too many peers to list.
    pub wide: u64,
    /// Nodes without their socket that walks have met.
    pub stale: u64,
}

impl From<Counters> for CounterEntries {
    fn from(c: Counters) -> Self {
        Self {
            inserts: c.inserts,
            removals: c.removals,
            releases: c.releases,
            releases_without_node: c.releases_without_node,
            releases_without_cookie: c.releases_without_cookie,
            dropped_full: c.dropped_full,
            dropped_chain: c.dropped_chain,
            ignored_kernel: c.ignored_kernel,
            ignored_protocol: c.ignored_protocol,
            wide: c.wide,
            stale: c.stale,
        }
    }
}

impl Listing {
    /// Reads the whole index.
    ///
    /// # Errors
    /// [`Error`] if it cannot be walked.
    pub fn take(walker: &mut Walker, index: &Index) -> Result<Self, Error> {
        let mut listing = Self::default();
        let mut sockets = HashSet::new();
        let mut netns: BTreeMap<Backend, HashSet<u64>> = BTreeMap::new();
        walker.walk_all(|batch| {
            for victim in batch {
                sockets.insert(victim.cookie());
                listing.add(victim, &mut netns);
            }
        })?;
        for (backend, seen) in netns {
            listing.backends.entry(backend).or_default().netns = seen.len() as u64;
        }
        let counters = index.counters()?;
        listing.sockets = sockets.len() as u64;
        listing.capacity = counters.capacity;
        listing.nodes = counters.capacity.saturating_sub(counters.free_nodes);
        listing.counters = counters.into();
        Ok(listing)
    }

    fn add(&mut self, victim: &Victim, netns: &mut BTreeMap<Backend, HashSet<u64>>) {
        let relation = victim.relation();
        match relation {
            Relation::MovedOn => self.moved_on += 1,
            Relation::NoPeer => self.no_peer += 1,
            Relation::Stale => self.stale += 1,
            Relation::Connected | Relation::Unconnected => {
                let Some(backend) = victim.backend() else {
                    self.unnamed += 1;
                    return;
                };
                let entry = self.backends.entry(backend).or_default();
                if relation == Relation::Connected {
                    entry.connected += 1;
                } else {
                    entry.unconnected += 1;
                }
                netns.entry(backend).or_default().insert(victim.netns());
            }
        }
    }
}
