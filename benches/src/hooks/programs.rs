//! The kernel's own statistics of BPF programs.

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use skreap::bpf::hooks::Hooks;
use skreap::bpf::plumbing;

/// Turns run time statistics on while the descriptor is open; the sysctl is not changed.
///
/// # Errors
/// Without CAP_SYS_ADMIN, or before Linux 5.8.
pub fn enable_statistics() -> Result<OwnedFd> {
    // SAFETY: the call takes no pointer.
    let fd = unsafe { libbpf_sys::bpf_enable_stats(libbpf_sys::BPF_STATS_RUN_TIME) };
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(-fd))
            .context("enable the run time statistics of BPF programs");
    }
    // SAFETY: a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Time spent in all programs of the hooks since they were loaded, in nanoseconds.
///
/// # Errors
/// When a program cannot be asked.
pub fn run_time_ns(hooks: &Hooks) -> Result<u64> {
    hooks.program_ids().into_iter().try_fold(0, |sum, id| Ok(sum + run_time_of(id)?))
}

fn run_time_of(id: u32) -> Result<u64> {
    let info = plumbing::by_id(id).and_then(|program| plumbing::info(&program));
    Ok(info.with_context(|| format!("ask BPF program {id} for its run time"))?.run_time_ns)
}
