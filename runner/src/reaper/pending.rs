//! Repeated checks for sockets whose `connect()` was pending when the event came.
//!
//! The hooks record a socket before its connect takes effect. An event in between finds a node
//! whose socket is not connected to the backend yet, and has to wait for it. The leftover of a
//! failed connect or a destroy looks the same, so the wait is bounded, and a node whose wait has
//! expired delays no later event (`pending.bpf.h`).

use std::collections::HashSet;
use std::time::Duration;

use skreap_bpf::{PendingCheck, PendingConnect, Walker};
use skreap_core::Target;

use crate::engine::EngineError;
use crate::sys::rcu;

/// Result of a walk for pending connects.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Cookies of the sockets.
    pub sockets: HashSet<u64>,
    /// Those of them that are connected to another peer.
    pub elsewhere: HashSet<u64>,
    /// Nodes without their socket that it found and removed: no other walk will report them.
    pub stale: u64,
}

impl From<Vec<PendingConnect>> for Found {
    fn from(sockets: Vec<PendingConnect>) -> Self {
        Self {
            elsewhere: sockets.iter().filter(|socket| socket.elsewhere).map(|socket| socket.cookie).collect(),
            sockets: sockets.into_iter().map(|socket| socket.cookie).collect(),
            stale: 0,
        }
    }
}

/// The first pause; each one after is twice as long.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_micros(200);

/// Waits until every hook that runs now has ended: the kernel runs them in RCU sections. Takes some milliseconds.
///
/// For a dataplane, between the change of its map and the event, unless the change has waited for a grace period itself.
///
/// # Errors
/// [`EngineError::Io`], with `EINVAL` on a kernel that runs with nohz_full.
pub fn grace_period() -> Result<(), EngineError> {
    rcu::grace_period().map_err(|source| EngineError::Io {
        what: "cannot wait for an RCU grace period (membarrier)".to_owned(),
        source,
    })
}

/// Returns the sockets that may be connecting to the target now, and begins to watch them.
///
/// # Errors
/// [`EngineError::Walk`]: the sockets are unknown, and the event does not wait for them.
pub(crate) fn watch(walker: &mut Walker, target: &Target) -> Result<Found, EngineError> {
    ask(walker, target, PendingCheck::Watch)
}

/// Those of `before` that still may, or may for all that is known.
pub(crate) fn look(walker: &mut Walker, target: &Target, before: &HashSet<u64>) -> Found {
    match ask(walker, target, PendingCheck::Look) {
        Ok(mut now) => {
            now.sockets.retain(|cookie| before.contains(cookie));
            now
        }
        Err(_) => Found { sockets: before.clone(), ..Found::default() },
    }
}

/// Ends the wait: later events do not wait for the sockets that are still watched, which are returned.
pub(crate) fn expire(walker: &mut Walker, target: &Target) -> Found {
    // If this fails, later events wait for them, which costs time.
    ask(walker, target, PendingCheck::Expire).unwrap_or_default()
}

fn ask(walker: &mut Walker, target: &Target, what: PendingCheck) -> Result<Found, EngineError> {
    match walker.pending(target, what) {
        Ok((sockets, stale)) => Ok(Found { stale, ..Found::from(sockets) }),
        Err(e) => {
            tracing::warn!(backend = %target.backend, "cannot search for pending connects: {e}");
            Err(e.into())
        }
    }
}
