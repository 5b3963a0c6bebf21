//! The features that this kernel and these privileges offer, found by trying.

use crate::scan::Scan;
use crate::{Error, Victim};

/// Destroys this UDP socket, in the netns of the calling thread, from an iterator; returns how many
/// were found.
///
/// # Errors
/// [`Error`] naming the missing feature.
pub fn iterator_destroy(victim: &Victim) -> Result<u64, Error> {
    Scan::load(None)?.destroy_udp(victim)
}

/// True if this process has the capabilities that loading takes.
#[must_use]
pub fn may_load() -> bool {
    // CAP_NET_ADMIN 12, CAP_SYS_ADMIN 21, CAP_PERFMON 38, CAP_BPF 39 (linux/capability.h)
    let has = |bits: u64, cap: u32| bits & 1 << cap != 0;
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let hex = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
            u64::from_str_radix(hex.trim(), 16).ok()
        })
        .is_some_and(|bits| has(bits, 12) && (has(bits, 21) || has(bits, 38) && has(bits, 39)))
}
