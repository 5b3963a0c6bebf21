//! The counters of the index, as one snapshot.

use serde::{Deserialize, Serialize};

/// Counters of an index since load, summed over shards and CPUs. Exact while no hook is running;
/// under load the members are read one after the other.
///
/// Two things always hold at rest: `inserts == removals + nodes in buckets`, and
/// `free_nodes + (inserts - removals) == capacity`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Counters {
    /// Nodes that the pool can hand out.
    pub capacity: u64,
    /// Nodes not in use.
    pub free_nodes: u64,
    /// Nodes linked into a bucket.
    pub inserts: u64,
    /// Nodes unlinked from a bucket.
    pub removals: u64,
    /// Sockets released that had at least one node.
    pub releases: u64,
    /// Sockets released that had a cookie but no node.
    pub releases_without_node: u64,
    /// Sockets released that never got a cookie.
    pub releases_without_cookie: u64,
    /// Memberships not recorded: no free node. Their backends are incomplete.
    pub dropped_full: u64,
    /// Memberships not recorded: record chain too long. Their backends are incomplete.
    pub dropped_chain: u64,
    /// In-kernel sockets that were not recorded.
    pub ignored_kernel: u64,
    /// Sockets of another protocol that were not recorded.
    pub ignored_protocol: u64,
    /// Sockets that came to have too many peers to list.
    pub wildcard: u64,
    /// Nodes without their socket that walks have visited: an alarm.
    pub stale: u64,
    /// Sockets recorded without a reference although the index holds references; 0 without the
    /// kernel module.
    pub without_ref: u64,
    /// Cookie of the socket of the last stale node; 0: there was none.
    pub last_stale: u64,
}

impl Counters {
    /// Nodes in buckets now.
    #[must_use]
    pub fn live(&self) -> u64 {
        self.inserts.saturating_sub(self.removals)
    }

    /// True if no node is lost or counted twice. Only meaningful while no hook is running.
    #[must_use]
    pub fn balanced(&self) -> bool {
        self.inserts >= self.removals && self.free_nodes + self.live() == self.capacity
    }
}
