//! Fallbacks: the work of a second engine for an event.

use serde::{Deserialize, Serialize};

use crate::engine::EngineName;

/// Reason why another engine had to help with an event, as a fallback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FallbackReason {
    /// The index does not hold every socket of the backend: a full scan finds the rest.
    IndexFull,
    /// The index may lack sockets of any backend: a full scan finds the rest.
    IndexUnsure,
    /// Sockets may be recorded under a virtual address: a full scan finds them by their peer.
    HookOrder,
    /// Sockets that differ only in their cookie (SO_REUSEPORT groups): sock_diag cannot name them,
    /// an iterator can.
    NoExactId,
    /// The kernel's own sockets have connected to the backend, and the index has none of those: a
    /// dump finds them. Its victims are subflows of MPTCP.
    KernelSockets,
}

/// The result of a second engine. Its numbers are part of the totals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct FallbackRun {
    /// The engine of the fallback.
    pub engine: EngineName,
    /// Why it had to.
    pub because: FallbackReason,
    /// Victims that it found or was given.
    pub victims: u64,
    /// Those that it destroyed.
    pub destroyed: u64,
    /// Nanoseconds it took; part of the phases.
    pub ns: u64,
}

impl FallbackRun {
    /// What an engine has done in `ns` nanoseconds of help.
    #[must_use]
    pub const fn new(
        engine: EngineName,
        because: FallbackReason,
        victims: u64,
        destroyed: u64,
        ns: u64,
    ) -> Self {
        Self { engine, because, victims, destroyed, ns }
    }
}
