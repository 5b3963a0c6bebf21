//! Pinning threads.

use std::io;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Pins the calling thread to the `number`th of its allowed CPUs, modulo their number.
///
/// # Errors
/// The errno of the scheduler calls.
pub fn pin(number: usize) -> io::Result<()> {
    let this_thread = Pid::from_raw(0);
    let allowed = sched_getaffinity(this_thread)?;
    let cpus: Vec<usize> = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false)).collect();
    let Some(&cpu) = cpus.get(number % cpus.len().max(1)) else {
        return Err(io::ErrorKind::NotFound.into());
    };
    let mut one = CpuSet::new();
    one.set(cpu)?;
    Ok(sched_setaffinity(this_thread, &one)?)
}
