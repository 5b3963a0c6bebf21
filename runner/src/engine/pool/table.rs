//! The state of a destroyer's thread: whether it waits in the kernel.

use std::fs;

/// The calling thread, as the kernel names it.
pub(in crate::engine) fn this_thread() -> libc::pid_t {
    nix::unistd::gettid().as_raw()
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
