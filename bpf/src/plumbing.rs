//! How objects are loaded and their programs attached and asked, for crates of this repository that bring programs of
//! their own (`tests/testbed`). No part of the public interface.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};

use libbpf_rs::ProgramImpl;

pub use crate::error::{io_error, load_error};
pub use crate::hooks::attach_program;
pub use crate::skel::{NETNS_OBJECT, OWNER_OBJECT, SCAN_OBJECT, TABLES_OBJECT};

/// The messages of libbpf.
pub mod log {
    pub use crate::log::{install, take_warnings};
}

/// The kernel's information about a loaded program.
///
/// # Errors
/// The errno of the kernel.
pub fn info<T>(program: &ProgramImpl<'_, T>) -> io::Result<libbpf_sys::bpf_prog_info> {
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut length = size_of::<libbpf_sys::bpf_prog_info>() as u32;
    let fd = program.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `length` bytes into `info`; its array pointers are null with length 0, so
    // nothing else is written.
    let ret = unsafe { libbpf_sys::bpf_prog_get_info_by_fd(fd, &raw mut info, &raw mut length) };
    if ret < 0 { Err(io::Error::from_raw_os_error(-ret)) } else { Ok(info) }
}
