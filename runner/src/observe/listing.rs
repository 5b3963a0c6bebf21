//! The contents of the index, per backend.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs;

use serde::{Deserialize, Serialize};
use skreap_bpf::{Counters, Error, FrontendCounters, Index, Relation, Victim, Walker};
use skreap_core::{Backend, Frontend, Protocol};

/// Sockets of one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct BackendEntry {
    /// Connected to it now.
    pub connected: u64,
    /// Without a peer, have sent to it.
    pub unconnected: u64,
    /// Those of `unconnected` that look like servers that replied to a client ([`looks_like_reply`]).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub replies: u64,
    /// Network namespaces these sockets are in.
    pub netns: u64,
    /// The same sockets by the frontend that they came through: its address, `direct` or `unknown`. Empty where
    /// frontends are not recorded.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub frontends: BTreeMap<String, FrontendEntry>,
}

/// Sockets of one backend that came through one frontend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct FrontendEntry {
    /// Connected to the backend now.
    pub connected: u64,
    /// Without a peer, have sent to it.
    pub unconnected: u64,
}

impl BackendEntry {
    /// True for the address of a client, to which servers on this machine replied: not a backend of anybody.
    #[must_use]
    pub fn is_client(&self) -> bool {
        self.connected == 0 && self.unconnected > 0 && self.replies == self.unconnected
    }
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// True if an unconnected UDP socket on `local` that sent to `peer` looks like a server that replied. The kernel gives
/// clients ports from a range that begins at `automatic`, and nobody is given one below it: a server has chosen its port,
/// and its clients have not.
#[must_use]
pub fn looks_like_reply(local: u16, peer: u16, automatic: u16) -> bool {
    local != 0 && local < automatic && peer >= automatic
}

/// Where the ports begin that the kernel gives to sockets, in the netns of the service (`ip_local_port_range`).
fn automatic_ports() -> u16 {
    const DEFAULT: u16 = 32_768;
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(DEFAULT)
}

/// The index at one moment. Sockets that come and go while it is read may or may not be in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Listing {
    /// By backend, as `udp://10.0.0.1:53`.
    pub backends: BTreeMap<Backend, BackendEntry>,
    /// Distinct sockets in the index.
    pub sockets: u64,
    /// Memberships recorded under a backend the socket has left (failed or repeated connect).
    pub moved_on: u64,
    /// Memberships of sockets that have no peer (connect pending or failed, disconnected,
    /// destroyed).
    pub no_peer: u64,
    /// Unconnected IPv6 memberships, or sockets with very many peers, whose backend is not known by
    /// name.
    pub unnamed: u64,
    /// Nodes without their socket: an alarm.
    pub stale: u64,
    /// Nodes in use, of `counters.capacity`.
    pub nodes: u64,
    /// Everything that was counted since load.
    pub counters: Counters,
    /// Numbers of the frontends. Left out where they are not recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontends: Option<FrontendCounters>,
}

/// How many memberships of each kind the index holds: what `status`, `top` and `index` say alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Census {
    /// Of sockets connected to the backend they are recorded under.
    pub connected: u64,
    /// Of sockets without a peer that have sent to a backend, known by name or not.
    pub unconnected: u64,
    /// Of sockets that have no peer (connect pending or failed, disconnected, destroyed).
    pub no_peer: u64,
    /// Of sockets that have left the backend they are recorded under.
    pub moved_on: u64,
    /// The connected and the unconnected ones by the way that their sockets came. Left out where frontends are not
    /// recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontends: Option<FrontendCensus>,
}

/// How many memberships of backends are known by the way that their sockets came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct FrontendCensus {
    /// Their owners named the backend itself.
    pub direct: u64,
    /// Their owners named another address, which a load balancer translated.
    pub translated: u64,
    /// It is not known what their owners named: an event with a frontend leaves them alone.
    pub unknown: u64,
}

impl FrontendCensus {
    /// Counts memberships with this frontend.
    pub(crate) fn add(&mut self, frontend: Option<Frontend>, memberships: u64) {
        *match frontend {
            Some(Frontend::Direct) => &mut self.direct,
            Some(Frontend::Address(_)) => &mut self.translated,
            None => &mut self.unknown,
        } += memberships;
    }
}

impl fmt::Display for FrontendCensus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} direct, {} through a frontend, {} unknown", self.direct, self.translated, self.unknown)
    }
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connected, unconnected, no_peer, moved_on, .. } = self;
        write!(
            f,
            "{connected} connected, {unconnected} unconnected, {no_peer} without a peer, {moved_on} moved on"
        )
    }
}

impl Listing {
    /// The kinds of memberships.
    #[must_use]
    pub fn census(&self) -> Census {
        let sum = |part: fn(&BackendEntry) -> u64| self.backends.values().map(part).sum::<u64>();
        Census {
            connected: sum(|entry| entry.connected),
            unconnected: sum(|entry| entry.unconnected) + self.unnamed,
            no_peer: self.no_peer,
            moved_on: self.moved_on,
            frontends: self.frontends.map(|_| self.frontend_census()),
        }
    }

    fn frontend_census(&self) -> FrontendCensus {
        let mut census = FrontendCensus::default();
        for (name, n) in self.backends.values().flat_map(|entry| &entry.frontends) {
            census.add(name.parse().ok(), n.connected + n.unconnected);
        }
        census
    }

    /// Reads the whole index.
    ///
    /// # Errors
    /// [`Error`] if it cannot be walked.
    pub fn take(walker: &mut Walker, index: &Index) -> Result<Self, Error> {
        let mut listing = Self::default();
        let mut sockets = HashSet::new();
        let mut netns: BTreeMap<Backend, HashSet<u64>> = BTreeMap::new();
        let automatic = automatic_ports();
        let mut frontends: BTreeMap<(Backend, u32), FrontendEntry> = BTreeMap::new();
        walker.walk_all_with_frontends(|victim, frontend| {
            sockets.insert(victim.cookie());
            if let Some(backend) = listing.add(victim, automatic, &mut netns) {
                let entry = frontends.entry((backend, frontend)).or_default();
                *(if victim.relation() == Relation::Connected {
                    &mut entry.connected
                } else {
                    &mut entry.unconnected
                }) += 1;
            }
        })?;
        if let Some(known) = index.frontends() {
            for ((backend, id), n) in frontends {
                let name =
                    known.name(id).map_or_else(|| "unknown".to_owned(), |frontend| frontend.to_string());
                let entry = listing.backends.entry(backend).or_default().frontends.entry(name).or_default();
                entry.connected += n.connected;
                entry.unconnected += n.unconnected;
            }
            listing.frontends = Some(known.counters()?);
        }
        for (backend, seen) in netns {
            listing.backends.entry(backend).or_default().netns = seen.len() as u64;
        }
        let counters = index.counters()?;
        listing.sockets = sockets.len() as u64;
        listing.nodes = counters.capacity.saturating_sub(counters.free_nodes);
        listing.counters = counters;
        Ok(listing)
    }

    /// Returns the backend, if the socket counts as one of a backend.
    fn add(
        &mut self,
        victim: &Victim,
        automatic: u16,
        netns: &mut BTreeMap<Backend, HashSet<u64>>,
    ) -> Option<Backend> {
        let relation = victim.relation();
        match relation {
            Relation::MovedOn => self.moved_on += 1,
            Relation::NoPeer => self.no_peer += 1,
            Relation::Stale => self.stale += 1,
            Relation::Connected | Relation::Unconnected => {
                let Some(backend) = victim.backend() else {
                    self.unnamed += 1;
                    return None;
                };
                let entry = self.backends.entry(backend).or_default();
                if relation == Relation::Connected {
                    entry.connected += 1;
                } else {
                    entry.unconnected += 1;
                    let udp = victim.protocol() == Some(Protocol::Udp);
                    let reply = udp && looks_like_reply(victim.sport(), victim.dport(), automatic);
                    entry.replies += u64::from(reply);
                }
                netns.entry(backend).or_default().insert(victim.netns());
                return Some(backend);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_goes_from_a_chosen_port_to_one_that_was_given() {
        for (local, peer, reply) in [
            (53, 40_000, true),
            (32_767, 32_768, true),
            // A client; two that have both chosen; two that have both been given theirs; not bound.
            (40_000, 53, false),
            (123, 123, false),
            (32_768, 50_000, false),
            (0, 40_000, false),
        ] {
            assert_eq!(looks_like_reply(local, peer, 32_768), reply, "{local} to {peer}");
        }
    }

    #[test]
    fn one_real_client_makes_a_backend() {
        let entry = |connected, unconnected, replies| BackendEntry {
            connected,
            unconnected,
            replies,
            ..BackendEntry::default()
        };
        assert!(entry(0, 2, 2).is_client());
        assert!(!entry(0, 2, 1).is_client() && !entry(1, 2, 2).is_client() && !entry(0, 0, 0).is_client());
    }
}
