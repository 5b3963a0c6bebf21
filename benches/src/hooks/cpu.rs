//! Pinning threads.

use std::io;

/// Pins the calling thread to the `number`th of its allowed CPUs, modulo their number.
///
/// # Errors
/// The errno of the scheduler calls.
pub fn pin(number: usize) -> io::Result<()> {
    // SAFETY: an all-zero cpu_set_t is the empty set.
    let mut allowed: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: the kernel writes at most `size` bytes into `allowed`; 0 is the calling thread.
    check(unsafe { libc::sched_getaffinity(0, size, &raw mut allowed) })?;
    let cpus: Vec<usize> = (0..libc::CPU_SETSIZE as usize)
        // SAFETY: the number is below CPU_SETSIZE.
        .filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &allowed) })
        .collect();
    let Some(&cpu) = cpus.get(number % cpus.len().max(1)) else {
        return Err(io::ErrorKind::NotFound.into());
    };
    // SAFETY: as above.
    let mut one: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the number is below CPU_SETSIZE.
    unsafe { libc::CPU_SET(cpu, &mut one) };
    // SAFETY: the kernel reads `size` bytes of `one`; 0 is the calling thread.
    check(unsafe { libc::sched_setaffinity(0, size, &raw const one) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
