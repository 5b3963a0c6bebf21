//! The status of sockets whose owners hold their locks.

use serde::{Deserialize, Serialize};

/// Sockets whose destroy waited for a lock for longer than their event did, since the service started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct HeldStatus {
    /// Sockets that reports have listed as failed and that are still waited for, so that those failures may yet be taken
    /// back. Each counts once, however many events have asked for it.
    pub waiting: u64,
    /// Sockets that were destroyed after an event had reported them as failed. They are no part of what the totals
    /// count as destroyed or failed.
    pub late_destroyed: u64,
    /// Sockets that their owner had closed when it let go, likewise.
    pub late_gone: u64,
    /// Failures that were taken out of the totals because of those.
    pub taken_back: u64,
    /// Threads that wait for a lock, and that nothing else is given to do.
    pub given_up: u64,
}
