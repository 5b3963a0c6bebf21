//! A bpf filesystem of one's own.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::sys;

/// `FSCONFIG_CMD_CREATE` (linux/mount.h).
const CREATE: libc::c_uint = 6;

/// A bpf filesystem that is mounted nowhere: it is reached through this process's descriptor, and is gone, with
/// all that was pinned in it, when this process is.
#[derive(Debug)]
pub struct Bpffs {
    root: OwnedFd,
}

impl Bpffs {
    /// Makes an empty one.
    ///
    /// # Errors
    /// Without CAP_SYS_ADMIN.
    pub fn create() -> Result<Self> {
        make(c"bpf").map(|root| Self { root }).context("make a bpf filesystem")
    }

    /// A path inside, valid for this process and all others while this value lives.
    pub fn path(&self, name: &str) -> PathBuf {
        format!("/proc/{}/fd/{}/{name}", std::process::id(), self.root.as_raw_fd()).into()
    }
}

fn make(kind: &CStr) -> io::Result<OwnedFd> {
    let call = |result: libc::c_long| sys::owned(result as libc::c_int);
    // SAFETY: the name ends with a nul and outlives the call.
    let context = call(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 1) })?;
    let nothing = std::ptr::null::<libc::c_char>();
    // SAFETY: this command takes no strings.
    let created =
        unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), CREATE, nothing, nothing, 0) };
    sys::check(created as libc::c_int)?;
    // SAFETY: fsmount takes no pointer. The first 1 is FSMOUNT_CLOEXEC.
    call(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1, 0) })
}
