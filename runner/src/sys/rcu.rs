//! RCU grace periods: every read-side section that was running when one began has ended when it
//! ends.

use std::io;
use std::thread;
use std::time::Duration;

use skreap_bpf::fault::{self, Point};

/// `MEMBARRIER_CMD_GLOBAL` (linux/membarrier.h), which waits for a grace period: some milliseconds.
const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
/// Longer than a usual grace period, and longer than a hook can run.
const LONG: Duration = Duration::from_millis(50);

/// Returns after a grace period that has begun since the call.
///
/// # Errors
/// `EINVAL` on a kernel that runs with nohz_full.
pub(crate) fn grace_period() -> io::Result<()> {
    fault::at(Point::Membarrier)?;
    // SAFETY: membarrier takes no pointers.
    match unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The same, or 50 ms where the kernel does not offer it.
pub(crate) fn grace_period_or_pause() {
    if grace_period().is_err() {
        thread::sleep(LONG);
    }
}
