//! What the kernel knows of the other end of a unix socket.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;

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
