//! Unix sockets: whose their files are, and who is at the other end.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::privileges;

/// User and process at the other end when it connected, in the namespaces of this process (`SO_PEERCRED`).
///
/// # Errors
/// The errno of getsockopt(2).
pub(crate) fn peer(stream: &UnixStream) -> io::Result<(u32, u32)> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of `peer`.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok((peer.uid, peer.pid.cast_unsigned())) } else { Err(io::Error::last_os_error()) }
}

/// Sets owner, group and mode of a file. The mode comes last: a change of owner may clear bits of it.
///
/// # Errors
/// The errno of lchown(2) or chmod(2).
pub(crate) fn give(path: &Path, owner: Option<u32>, group: Option<u32>, mode: u32) -> io::Result<()> {
    let _raised = privileges::raise();
    if owner.is_some() || group.is_some() {
        std::os::unix::fs::lchown(path, owner, group)?;
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
}
