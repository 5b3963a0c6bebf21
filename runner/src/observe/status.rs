//! The state of a running service: the data of `skreap status` and `skreap top`.

use serde::{Deserialize, Serialize};
use skreap_bpf::{Counters, FrontendCounters, HookCost};
use skreap_core::{ActionName, Backend, EngineName, HeldStatus, Summary, Unconnected};

use crate::observe::clients::ClientCounts;
use crate::observe::listing::{BackendEntry, Census};

pub use crate::observe::totals::{EventResult, Totals};

/// State of a service at one moment. Counters count since it started, those of the index since the
/// index was loaded.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Status {
    /// Version of the service.
    pub version: String,
    /// Process that serves.
    pub pid: u32,
    /// Time since it started, in nanoseconds.
    pub uptime_ns: u64,
    /// The engine in use.
    pub engine: EngineName,
    /// Why this one.
    pub engine_why: String,
    /// The cgroup whose sockets are indexed.
    pub cgroup: String,
    /// Which sockets are not, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_seen: Option<String>,
    /// Policy for UDP sockets that only ever sent to the backend.
    pub unconnected: Unconnected,
    /// The index.
    pub index: IndexStatus,
    /// What it holds, from a look that all who ask share for half a second or more; `None` if nobody has asked for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sockets: Option<Census>,
    /// Totals of the events.
    pub totals: Totals,
    /// Sockets whose owners hold their locks.
    #[serde(default)]
    pub held: HeldStatus,
    /// Destroyed sockets that will be looked at again.
    #[serde(default)]
    pub reviving: u64,
    /// The audit log, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit_log: Option<AuditLogStatus>,
    /// What events may have done with their victims; those that connect sockets only if that is allowed.
    #[serde(default)]
    pub actions: Vec<ActionName>,
    /// Phases of the last events, at most 1,024 of them
    /// ([`LATENCY_EVENTS`](crate::observe::monitor::LATENCY_EVENTS)).
    pub latency: Summary,
    /// Events that wait for the reaper.
    pub waiting: u64,
    /// Deletions that wait to be confirmed; not among `waiting`.
    #[serde(default)]
    pub unconfirmed: u64,
    /// Clients of the unix sockets.
    pub clients: ClientCounts,
    /// Cost of the hooks, where the kernel collects that statistic.
    pub hooks: Vec<HookCost>,
    /// Position of our hooks among those of others; `None` if it is not checked.
    pub order: Option<OrderStatus>,
    /// The last audit, if there was one.
    pub audit: Option<AuditStatus>,
    /// The last events, the newest first, at most 32
    /// ([`RECENT_EVENTS`](crate::observe::monitor::RECENT_EVENTS)).
    pub recent: Vec<Recent>,
}

/// Lines of the audit log since the service started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct AuditLogStatus {
    /// Written.
    pub written: u64,
    /// Dropped, as there was no room for them: their reader is too slow.
    pub dropped: u64,
    /// Waiting to be written.
    pub waiting: u64,
}

/// The index of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct IndexStatus {
    /// Memberships that always find room.
    pub max_sockets: u32,
    /// Memberships now: one for each socket and backend.
    pub nodes: u64,
    /// Kernel memory of the maps, in bytes.
    pub map_bytes: u64,
    /// Bits of backends some membership of which could not be recorded.
    pub incomplete_backends: u64,
    /// Sockets of any backend may be missing: every event has a fallback scan.
    #[serde(default)]
    pub incomplete_everything: bool,
    /// Everything that was counted.
    pub counters: Counters,
    /// Numbers of the frontends. Left out where they are not recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontends: Option<FrontendCounters>,
}

/// One event of late.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Recent {
    /// Time since it was answered, in nanoseconds.
    pub age_ns: u64,
    /// Id of the event.
    pub id: String,
    /// Type of the event.
    #[serde(rename = "type")]
    pub kind: String,
    /// The first backend it names, if any.
    pub backend: Option<Backend>,
    /// How many backends it names.
    pub backends: u64,
    /// Its result.
    pub result: EventResult,
    /// Sockets chosen for destruction.
    pub victims: u64,
    /// Victims that were destroyed.
    pub destroyed: u64,
    /// From the arrival of the event to its report, in nanoseconds.
    pub total_ns: u64,
}

/// Where our hooks stand among those of others on the same cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct OrderStatus {
    /// True if no program runs after ours, so that ours see the final addresses of connects.
    pub last: bool,
    /// How often another program came behind ours and ours were moved.
    pub moves: u64,
    /// Number of times ours were not moved, because they had been moved too often in the last
    /// minute.
    pub held_back: u64,
    /// Hooks after which a foreign program runs now. If not 0, a pass over the whole index precedes
    /// each event.
    pub behind: u64,
    /// Sockets that were recorded under another address meanwhile, and were recorded anew.
    pub rekeyed: u64,
    /// Hooks of ours, including that of releases, that another process has detached. If not 0,
    /// restart the service.
    #[serde(default)]
    pub detached: u64,
    /// The place of our first programs. Left out where no frontends are recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<FirstStatus>,
}

/// Where our first programs stand, which see the address as the client has named it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct FirstStatus {
    /// True if no other program runs before ours. If not, no frontends are recorded.
    pub first: bool,
    /// How often another program came before ours, and ours was attached before it.
    pub moves: u64,
}

/// Result of an audit, which compares the index with an independent scan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct AuditStatus {
    /// Audits since the start.
    pub runs: u64,
    /// Time since the last one, in nanoseconds.
    pub age_ns: u64,
    /// Sockets that are connected and not in the index.
    pub missed: u64,
    /// Nodes without their socket.
    pub stale: u64,
    /// Sockets recorded under another peer than theirs.
    pub wrong_key: u64,
    /// Sockets that the index had no room for, and says so: no difference.
    #[serde(default)]
    pub incomplete: u64,
    /// Pre-existing sockets that are, rightly, not in the index: not compared.
    #[serde(default)]
    pub preexisting: u64,
    /// The kernel's own sockets: not compared.
    #[serde(default)]
    pub kernel: u64,
    /// Sockets for which it is undecided whether they should be in the index: not compared.
    #[serde(default)]
    pub undecided: u64,
}

impl AuditStatus {
    /// All differences.
    #[must_use]
    pub fn differences(&self) -> u64 {
        self.missed + self.stale + self.wrong_key
    }
}

/// The status, and the largest backends.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Top {
    /// As `status` has it.
    pub status: Status,
    /// Sockets in the index.
    pub sockets: u64,
    /// Backends with at least one socket, without the clients of servers on this machine
    /// ([`BackendEntry::is_client`]).
    pub backends: u64,
    /// The backends with the most sockets, most first, at most 100
    /// ([`TOP_BACKENDS`](crate::observe::monitor::TOP_BACKENDS)).
    pub largest: Vec<TopBackend>,
    /// Memberships of sockets that have left that backend.
    pub moved_on: u64,
    /// Memberships of sockets that have no peer now.
    pub no_peer: u64,
    /// Age of the listing, in nanoseconds: clients share one for a while.
    pub age_ns: u64,
    /// How long that took, in nanoseconds.
    pub took_ns: u64,
}

/// One backend and its sockets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct TopBackend {
    /// The backend.
    pub backend: Backend,
    /// Its sockets.
    #[serde(flatten)]
    pub sockets: BackendEntry,
}
