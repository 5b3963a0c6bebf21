//! Descriptors of other processes.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// `PIDFD_THREAD` (linux/pidfd.h, since 6.9): of this thread, also if it is not the first of its process.
const PIDFD_THREAD: libc::c_int = libc::O_EXCL;

/// A process, or one thread with a table of descriptors of its own.
#[derive(Debug)]
pub(crate) struct Pidfd(OwnedFd);

impl Pidfd {
    /// # Errors
    /// `ESRCH` if there is no such process.
    pub(crate) fn of_process(process: libc::pid_t) -> io::Result<Self> {
        Self::open(process, 0)
    }

    /// # Errors
    /// `ESRCH` if there is no such thread.
    pub(crate) fn of_thread(thread: libc::pid_t) -> io::Result<Self> {
        Self::open(thread, PIDFD_THREAD)
    }

    fn open(number: libc::pid_t, flags: libc::c_int) -> io::Result<Self> {
        // SAFETY: pidfd_open takes no pointers.
        owned(unsafe { libc::syscall(libc::SYS_pidfd_open, number, flags) }).map(Self)
    }

    /// A copy of what it has open under this number.
    ///
    /// # Errors
    /// `EBADF` if that is nothing, `ESRCH` if it has ended, `EPERM` without CAP_SYS_PTRACE.
    pub(crate) fn descriptor(&self, number: libc::c_int) -> io::Result<OwnedFd> {
        // SAFETY: pidfd_getfd takes no pointers.
        owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, self.0.as_raw_fd(), number, 0) })
    }
}

/// A descriptor that a system call has just returned.
pub(crate) fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    match libc::c_int::try_from(fd) {
        // SAFETY: the callers pass what a call that makes a descriptor has returned; nobody else owns it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_descriptor_is_copied_and_a_free_number_is_none() {
        let file = File::open("/dev/null").unwrap();
        // SAFETY: takes nothing, and cannot fail.
        let (process, thread) = unsafe { (libc::getpid(), libc::gettid()) };
        for pidfd in [Pidfd::of_process(process).unwrap(), Pidfd::of_thread(thread).unwrap()] {
            assert!(pidfd.descriptor(file.as_raw_fd()).is_ok());
            assert_eq!(pidfd.descriptor(1 << 20).unwrap_err().raw_os_error(), Some(libc::EBADF));
        }
    }
}
