//! Sizes of an index: the requested ones, and the layout derived from them.

use std::ops::RangeInclusive;

use crate::{Error, FRONTENDS_MAX};

/// Nodes that move between a shard and the depot together (`CHUNK` in `index.bpf.h`).
const CHUNK: u32 = 64;
/// Below this many sockets one shard is enough, and the capacity is exact to the node.
const ONE_SHARD_BELOW: u32 = 16_384;

/// What [`Config::max_sockets`] may be.
pub const MAX_SOCKETS: RangeInclusive<u32> = 1..=1 << 26;
/// What [`Config::buckets`] may be.
pub const BUCKETS: RangeInclusive<u32> = 1..=1 << 20;

/// Size of an index. All of its memory is allocated at load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Memberships (a socket under a backend) that always find room; [`MAX_SOCKETS`]. 44 bytes each.
    pub max_sockets: u32,
    /// Buckets per shard, rounded up to a power of two; [`BUCKETS`]. 4 bytes each in every shard.
    pub buckets: u32,
    /// Peers of one socket that are listed before it is kept as a *wildcard* (found by every walk);
    /// 1 ..= 63.
    pub max_memberships: u32,
    /// Hold a reference to each recorded socket (8 more bytes for each of `max_sockets`). A walk
    /// cannot destroy without one. Takes effect only with the kernel module; see
    /// [`Index::can_destroy`](crate::Index::can_destroy).
    pub refs: bool,
    /// Record the addresses that clients name before a load balancer translates them, up to this many
    /// distinct ones (rounded up to a power of two, at most [`FRONTENDS_MAX`](crate::FRONTENDS_MAX));
    /// 0: record none. 8 more bytes for each of `max_sockets`, and 32 for each frontend.
    pub frontends: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

impl Config {
    /// The default: room for 262,144 memberships, without references and frontends.
    #[must_use]
    pub const fn new() -> Self {
        Self { max_sockets: 262_144, buckets: 16_384, max_memberships: 63, refs: false, frontends: 0 }
    }

    /// Sets [`max_sockets`](Self::max_sockets).
    #[must_use]
    pub const fn max_sockets(self, max_sockets: u32) -> Self {
        Self { max_sockets, ..self }
    }

    /// Sets [`buckets`](Self::buckets).
    #[must_use]
    pub const fn buckets(self, buckets: u32) -> Self {
        Self { buckets, ..self }
    }

    /// Sets [`max_memberships`](Self::max_memberships).
    #[must_use]
    pub const fn max_memberships(self, max_memberships: u32) -> Self {
        Self { max_memberships, ..self }
    }

    /// Sets [`refs`](Self::refs).
    #[must_use]
    pub const fn refs(self, refs: bool) -> Self {
        Self { refs, ..self }
    }

    /// Sets [`frontends`](Self::frontends).
    #[must_use]
    pub const fn frontends(self, frontends: u32) -> Self {
        Self { frontends, ..self }
    }
}

/// Sizes as the programs see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub nodes: u32,
    pub shards: u32,
    pub record_slots: u32,
    pub buckets: u32,
    pub max_memberships: u32,
    pub max_sockets: u32,
    /// A power of two, or 0.
    pub frontends: u32,
}

impl Layout {
    pub(crate) fn new(config: &Config, cpus: u32, walk_slots: u32) -> Result<Self, Error> {
        for (what, value, range) in [
            ("max_sockets", config.max_sockets, (MAX_SOCKETS, "1 to 67108864")),
            ("buckets", config.buckets, (BUCKETS, "1 to 1048576")),
            ("max_memberships", config.max_memberships, (1..=CHUNK - 1, "1 to 63")),
            ("frontends", config.frontends, (0..=FRONTENDS_MAX, "0 to 16384")),
        ] {
            let (range, words) = range;
            if !range.contains(&value) {
                return Err(Error::Config { what, value, range: words });
            }
        }
        // Sixteen shards per CPU make it unlikely that two CPUs use the same one at the same time,
        // and cost a walk a nanosecond or two each.
        let shards = if config.max_sockets < ONE_SHARD_BELOW {
            1
        } else {
            (cpus.saturating_mul(16)).next_power_of_two().clamp(16, 256)
        };
        let reserved = 1 + walk_slots;
        let free = if shards == 1 {
            config.max_sockets
        } else {
            // Every shard may sit on two magazines that another one would need.
            config.max_sockets.next_multiple_of(CHUNK) + shards * 2 * CHUNK
        };
        Ok(Self {
            nodes: reserved + free,
            shards,
            record_slots: (config.max_sockets.next_power_of_two() / shards).max(1),
            buckets: config.buckets.next_power_of_two(),
            max_memberships: config.max_memberships,
            max_sockets: config.max_sockets,
            frontends: if config.frontends == 0 { 0 } else { config.frontends.next_power_of_two() },
        })
    }

    /// Length of the array of buckets. Each shard has one more, for wildcard sockets.
    pub(crate) fn all_buckets(&self) -> u32 {
        self.shards * (self.buckets + 1)
    }

    /// Length of the array of record slots.
    pub(crate) fn all_records(&self) -> u32 {
        self.shards * self.record_slots
    }

    /// Nodes that can be in use or free (all but nil and the cursors).
    pub(crate) fn usable_nodes(&self, walk_slots: u32) -> u64 {
        u64::from(self.nodes - 1 - walk_slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_index_is_exact() {
        let layout = Layout::new(&Config { max_sockets: 100, ..Config::default() }, 64, 4).unwrap();
        assert_eq!((layout.shards, layout.nodes, layout.record_slots), (1, 105, 128));
        assert_eq!(layout.usable_nodes(4), 100);
    }

    #[test]
    fn large_index_has_room_for_full_magazines() {
        let layout = Layout::new(&Config::default(), 2, 4).unwrap();
        assert_eq!(layout.shards, 32);
        assert_eq!(layout.nodes, 5 + 262_144 + 32 * 128);
        assert_eq!(layout.record_slots, 8192);
        assert_eq!(Layout::new(&Config::default(), 512, 4).unwrap().shards, 256);
    }

    #[test]
    fn sizes_out_of_range_are_refused() {
        for (sockets, buckets, memberships) in [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 64), (1 << 27, 1, 1)]
        {
            let config =
                Config { max_sockets: sockets, buckets, max_memberships: memberships, ..Config::default() };
            assert!(matches!(Layout::new(&config, 1, 4), Err(Error::Config { .. })));
        }
    }
}
