//! What a destroyer is to the rest of the process: a descriptor table of its own, and how to see whether it waits.

use std::fs;
use std::io;

use skreap_bpf::fault::{self, Point};

/// Gives the calling thread a descriptor table of its own, which has of the old one nothing but standard error.
///
/// A thread that waits for the lock of a socket cannot be ended, and keeps its table until it returns. In this one are
/// no lock of a directory of pins, no listening socket, no connection of a client, no link of a hook.
///
/// # Errors
/// The errno of close_range(2) (`ENOSYS` before 5.9); the thread then shares the table as before.
pub(super) fn leave() -> io::Result<()> {
    fault::at(Point::DestroyerTable)?;
    // SAFETY: close_range takes no pointers. The descriptors are closed in the copy that this thread gets of the table,
    // and the thread has none of its own yet.
    let left =
        unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_UNSHARE) };
    if left != 0 {
        return Err(io::Error::last_os_error());
    }
    // Clients may be at standard input and output. Errors stay: what a destroyer has to say is said there.
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

/// The calling thread, as the kernel names it.
pub(in crate::engine) fn this_thread() -> libc::pid_t {
    // SAFETY: takes nothing, and cannot fail.
    unsafe { libc::gettid() }
}

/// False if this thread of the process waits for a CPU only, or runs: a machine may have more to do than it can. True
/// if it sleeps in the kernel where no signal wakes it, and if that cannot be seen.
pub(in crate::engine) fn waits_in_kernel(thread: libc::pid_t) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/self/task/{thread}/stat")) else {
        return true;
    };
    state(&stat) != Some('R')
}

/// The state behind the name, which stands in parentheses and may have any characters in it.
fn state(stat: &str) -> Option<char> {
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_found_behind_any_name() {
        assert_eq!(state("12 (skreap) D 1 2 3"), Some('D'));
        assert_eq!(state("12 (a) R b) S 1"), Some('S'));
        assert_eq!(state("12"), None);
        assert_eq!(state("12 (x)"), None);
    }

    #[test]
    fn a_thread_that_runs_does_not_wait() {
        assert!(!waits_in_kernel(this_thread()));
        assert!(waits_in_kernel(0));
    }
}
