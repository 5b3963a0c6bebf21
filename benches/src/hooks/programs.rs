//! The kernel's own statistics of BPF programs.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use skreap::bpf::hooks::Hooks;

/// Turns run time statistics on while the descriptor is open; the sysctl is not changed.
///
/// # Errors
/// Without CAP_SYS_ADMIN, or before Linux 5.8.
pub fn enable_statistics() -> Result<OwnedFd> {
    // SAFETY: the call takes no pointer.
    let fd = unsafe { libbpf_sys::bpf_enable_stats(libbpf_sys::BPF_STATS_RUN_TIME) };
    owned(fd).context("enable the run time statistics of BPF programs")
}

/// Time spent in all programs of the hooks since they were loaded, in nanoseconds.
///
/// # Errors
/// When a program cannot be asked.
pub fn run_time_ns(hooks: &Hooks) -> Result<u64> {
    hooks.program_ids().into_iter().try_fold(0, |sum, id| Ok(sum + run_time_of(id)?))
}

fn run_time_of(id: u32) -> Result<u64> {
    let about = || format!("ask BPF program {id} for its run time");
    // SAFETY: the call takes no pointer.
    let fd = owned(unsafe { libbpf_sys::bpf_prog_get_fd_by_id(id) }).with_context(about)?;
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut length = size_of::<libbpf_sys::bpf_prog_info>() as u32;
    // SAFETY: the kernel writes at most `length` bytes into `info`; its array pointers are null
    // with length 0, so nothing else is written.
    let ret = unsafe { libbpf_sys::bpf_prog_get_info_by_fd(fd.as_raw_fd(), &raw mut info, &raw mut length) };
    if ret < 0 {
        return Err(io::Error::from_raw_os_error(-ret)).with_context(about);
    }
    Ok(info.run_time_ns)
}

/// A descriptor that libbpf returned, or its negative errno.
fn owned(fd: i32) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(-fd));
    }
    // SAFETY: a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
