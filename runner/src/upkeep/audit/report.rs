//! The result of an audit.

use std::fmt;

use serde::{Deserialize, Serialize};
use skreap_core::{Backend, SocketTuple};

use crate::observe::listing::FrontendCensus;

/// Differences that are listed one by one; all are counted.
pub const LISTED_MAX: usize = 1000;

/// How the index and the sockets there are differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A connected socket that is not in the index: an event on its backend would not reach it.
    Missed,
    /// A connected socket that is in the index under other backends only, with the same effect. A
    /// load balancer that runs after the hooks causes this.
    WrongKey,
    /// A node of the index whose socket is gone: memory is lost until a walk finds it.
    Stale,
    /// As `Missed`, but the index knows that it lacks sockets of this backend: it was full. Events
    /// on such a backend are reported as incomplete, so this is not a fault of the index.
    Incomplete,
}

impl Kind {
    /// Every kind, in the order of listings.
    pub const ALL: [Self; 4] = [Self::Missed, Self::WrongKey, Self::Stale, Self::Incomplete];

    /// The name in reports and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Missed => "missed",
            Self::WrongKey => "wrong_key",
            Self::Stale => "stale",
            Self::Incomplete => "incomplete",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One socket of which index and scan say different things.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Difference {
    /// How they differ.
    pub kind: Kind,
    /// The socket. For a stale one only the data in the index, which may be the cookie alone.
    pub socket: SocketTuple,
    /// For a wrong key: the backends it is recorded under. Empty if these are unknown, as usually
    /// for IPv6, of which the index keeps only a hash.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recorded: Vec<Backend>,
}

impl Difference {
    /// The backends it is recorded under, as text; `-` if there are none.
    #[must_use]
    pub fn recorded_list(&self) -> String {
        match &self.recorded[..] {
            [] => "-".to_owned(),
            recorded => recorded.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        }
    }
}

/// The index compared with an independent scan of the sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Audit {
    /// True if nothing is missed, stale or under a wrong key.
    pub agrees: bool,
    /// True if every netns was reached.
    pub complete: bool,
    /// Number of checked netns.
    pub netns: u64,
    /// Netns that exist and could not be checked; the log says why.
    pub unreachable_netns: u64,
    /// Sockets that should be in the index, and were looked for in it.
    pub sockets: u64,
    /// Backends these are connected to.
    pub backends: u64,
    /// Nodes of the index, each looked for among the sockets.
    pub nodes: u64,
    /// TCP sockets that a listener has accepted; they are not clients.
    pub accepted: u64,
    /// Pre-existing sockets that are, rightly, not in the index.
    pub preexisting: u64,
    /// Sockets that the kernel has opened for itself, subflows of MPTCP among them: none belongs in
    /// the index.
    #[serde(default)]
    pub kernel: u64,
    /// Sockets for which it is undecided whether they should be in the index: of a removed cgroup,
    /// connected to a multicast address, or TCP sockets of unknown origin.
    pub undecided: u64,
    /// Number of differences of this kind.
    pub missed: u64,
    /// Number of differences of this kind.
    pub wrong_key: u64,
    /// Number of differences of this kind.
    pub stale: u64,
    /// Sockets that the index had no room for, and says so.
    pub incomplete: u64,
    /// The recorded backends of sockets by the way that the sockets came; no scan knows that, so it is compared with
    /// nothing. Left out where frontends are not recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontends: Option<FrontendCensus>,
    /// The first thousand.
    pub differences: Vec<Difference>,
    /// How many more there are.
    pub left_out: u64,
    /// Number of passes over the suspects; a difference holds in every pass.
    pub looks: u32,
    /// How long it took, nanoseconds.
    pub ns: u64,
}

impl Audit {
    /// The number of differences of a kind.
    #[must_use]
    pub fn count(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Missed => self.missed,
            Kind::WrongKey => self.wrong_key,
            Kind::Stale => self.stale,
            Kind::Incomplete => self.incomplete,
        }
    }

    pub(super) fn add(&mut self, difference: Difference) {
        let count = match difference.kind {
            Kind::Missed => &mut self.missed,
            Kind::WrongKey => &mut self.wrong_key,
            Kind::Stale => &mut self.stale,
            Kind::Incomplete => &mut self.incomplete,
        };
        *count += 1;
        if self.differences.len() < LISTED_MAX {
            self.differences.push(difference);
        } else {
            self.left_out += 1;
        }
    }
}
