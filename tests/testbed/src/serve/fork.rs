//! Processes that hold the client's sockets and do nothing.

use std::os::fd::RawFd;
use std::sync::Arc;

use parking_lot::Mutex;

use super::exit_now;
use super::trouble::{Answer, Context, refused};
use crate::sys::check;

/// The forks of this process, shared with the thread that ends it.
#[derive(Clone, Default)]
pub(super) struct Forks(Arc<Mutex<Vec<libc::pid_t>>>);

impl Forks {
    /// Forks a process that has all descriptors but `control`. Call it from the main
    /// thread: the fork dies with the thread that made it.
    pub(super) fn fork(&self, control: RawFd) -> Answer<u32> {
        let mut forks = self.0.lock();
        let parent = std::process::id();
        // SAFETY: the child only makes system calls (other threads may have held locks).
        let pid = check(unsafe { libc::fork() }).at(|| "fork".to_owned())?;
        if pid == 0 {
            hold(control, parent);
        }
        forks.push(pid);
        Ok(pid.unsigned_abs())
    }

    /// Kills one fork and waits for it.
    pub(super) fn reap(&self, pid: u32) -> Answer<()> {
        let mut forks = self.0.lock();
        let position = forks
            .iter()
            .position(|fork| fork.unsigned_abs() == pid)
            .ok_or_else(|| refused(format!("find fork {pid}"), libc::ESRCH))?;
        kill(forks.swap_remove(position));
        Ok(())
    }

    /// Kills all of them.
    pub(super) fn reap_all(&self) {
        self.0.lock().drain(..).for_each(kill);
    }
}

/// The code of a fork: it waits until its parent ends.
fn hold(control: RawFd, parent: u32) -> ! {
    // SAFETY: none of these take pointers. The control socket is the parent's to use: a
    // copy here would hide the parent's end from the lab.
    unsafe {
        libc::close(control);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        // The parent may have ended before the line above.
        while libc::getppid().unsigned_abs() == parent {
            libc::pause();
        }
    }
    exit_now(0)
}

fn kill(pid: libc::pid_t) {
    // SAFETY: `pid` is a child not waited for yet, so it names no other process; waitpid
    // may be given no status.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
}
