//! Socket options that are one number of 64 bits: the cookies.

use std::io;
use std::os::fd::AsRawFd;

/// Reads a 64-bit option of level `SOL_SOCKET`: `SO_COOKIE`, `SO_NETNS_COOKIE` (5.14).
///
/// # Errors
/// The errno of getsockopt(2); `ENOPROTOOPT` if the kernel does not know the option.
pub fn socket_option(socket: &impl AsRawFd, option: libc::c_int) -> io::Result<u64> {
    let mut value = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `value`.
    let ret = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            std::ptr::from_mut(&mut value).cast(),
            &mut length,
        )
    };
    if ret == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}
