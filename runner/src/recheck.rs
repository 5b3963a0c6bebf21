//! Looking again for sockets whose `connect()` was under way when the event came.
//!
//! The hooks record a socket before its connect takes effect. An event that comes in between finds a node whose
//! socket is not connected to the backend yet, and must not leave it at that. What a failed connect or a destroy
//! leaves behind looks the same, so there is a bound, and what was waited for in vain once is settled: later
//! events do not wait for it (`pending.bpf.h`).

use std::collections::HashSet;
use std::time::Duration;

use skreap_bpf::{InFlight, Walker};
use skreap_core::Target;

use crate::engine::EngineError;

/// The first pause; each one after is twice as long.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_micros(200);

/// Waits until every hook that runs now has ended: membarrier(2) is an RCU grace period.
///
/// # Errors
/// [`EngineError::Io`], with `EINVAL` on a kernel that runs with nohz_full.
pub(crate) fn grace_period() -> Result<(), EngineError> {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: membarrier takes no pointers.
    match unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } {
        0 => Ok(()),
        _ => Err(EngineError::Io {
            what: "cannot wait for an RCU grace period (membarrier)".to_owned(),
            source: std::io::Error::last_os_error(),
        }),
    }
}

/// The sockets that may be connecting to the target now, and begins to watch them.
pub(crate) fn watch(walker: &mut Walker, target: &Target) -> HashSet<u64> {
    ask(walker, target, InFlight::Watch)
}

/// Those of `before` that still may.
pub(crate) fn look(walker: &mut Walker, target: &Target, before: &HashSet<u64>) -> HashSet<u64> {
    let mut now = ask(walker, target, InFlight::Look);
    now.retain(|cookie| before.contains(cookie));
    now
}

/// Time is up: those that are still watched are not waited for again.
pub(crate) fn settle(walker: &mut Walker, target: &Target) {
    ask(walker, target, InFlight::Settle);
}

fn ask(walker: &mut Walker, target: &Target, what: InFlight) -> HashSet<u64> {
    let found = walker.in_flight(target, what).unwrap_or_else(|e| {
        // The walk that reaps goes the same way, and fails the event if this was no accident.
        tracing::warn!(backend = %target.backend, "cannot look for connects under way: {e}");
        Vec::new()
    });
    found.into_iter().collect()
}
