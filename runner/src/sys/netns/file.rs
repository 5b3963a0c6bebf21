//! A netns that is named by a file, and the numbers of its interfaces.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use crate::sys::privileges;

/// Opens the file if it is a namespace. What else it is must not be opened: it may be a device, or
/// wait for a writer.
pub(crate) fn open(path: &str) -> io::Result<OwnedFd> {
    let _raised = privileges::raise();
    let place = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path)?;
    if fstatfs(&place)?.filesystem_type() != NSFS_MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "this is no namespace"));
    }
    Ok(File::open(format!("/proc/self/fd/{}", place.as_raw_fd()))?.into())
}

/// The number of an interface in the netns of the calling thread: by its name first, as getaddrinfo(3) does, else by the
/// number as ip link prints it, without a sign or a zero in front.
pub(crate) fn index_of(interface: &str) -> Option<u32> {
    let name = CString::new(interface).ok()?;
    // SAFETY: a string that ends with a zero and outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => interface.parse().ok().filter(|index: &u32| index.to_string() == interface && exists(*index)),
        index => Some(index),
    }
}

fn exists(index: u32) -> bool {
    let mut name = [0; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the IF_NAMESIZE bytes that the call may write.
    !unsafe { libc::if_indextoname(index, name.as_mut_ptr()) }.is_null()
}
