//! Descriptor tables of single threads: a thread that cannot be ended keeps what is in its table, such as a lock of a
//! directory of pins, a listening socket, the connection of a client, or the link of a hook.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::RawFd;

use nix::sched::{CloneFlags, unshare};

/// The first descriptor that is neither input nor output.
pub(super) const FIRST: RawFd = 3;

/// Gives the calling thread a table of its own, which has of the old one nothing but standard error.
///
/// # Errors
/// The errno of close_range(2) (`ENOSYS` before 5.9); the thread then shares the table as before.
pub(crate) fn leave() -> io::Result<()> {
    // In the copy that this thread gets of the table, in which it has none of its own yet.
    close(FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_UNSHARE)?;
    // Clients may be at standard input and output. Errors stay: what the thread has to say is said there.
    // SAFETY: a C string, and no other pointers.
    let null = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    for standard in [libc::STDIN_FILENO, libc::STDOUT_FILENO] {
        // SAFETY: dup2 and close take no pointers; nothing in this thread uses these two.
        unsafe {
            if null < 0 {
                libc::close(standard);
            } else {
                libc::dup2(null, standard);
            }
        }
    }
    if null > libc::STDERR_FILENO {
        // SAFETY: opened above, and nobody else knows of it.
        unsafe { libc::close(null) };
    }
    Ok(())
}

/// Gives the calling thread a table of its own, and closes in it all but the first three and the kept.
pub(super) fn keep(kept: &[RawFd]) -> io::Result<()> {
    // Descriptors that other threads own stay open in their table.
    unshare(CloneFlags::CLONE_FILES)?;
    let mut first = FIRST;
    for fd in kept.iter().copied().filter(|&fd| fd >= FIRST).collect::<BTreeSet<RawFd>>() {
        if fd > first {
            close(first, (fd - 1).unsigned_abs(), 0)?;
        }
        first = fd + 1;
    }
    close(first, RawFd::MAX.unsigned_abs(), 0)
}

fn close(first: RawFd, last: libc::c_uint, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: close_range takes no pointers; what it closes is in the table of this thread only, where nothing owns it.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
