//! What is attached to a cgroup, asked of the kernel.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::Result;
use skreap_testbed::Cgroup;

/// `BPF_PROG_QUERY` and the attach types of the five hooks (linux/bpf.h).
const PROG_QUERY: libc::c_long = 16;
const INET4_CONNECT: u32 = 10;
const INET6_CONNECT: u32 = 11;
const UDP4_SENDMSG: u32 = 14;
const UDP6_SENDMSG: u32 = 15;
const INET_SOCK_RELEASE: u32 = 34;

/// The `query` member of `union bpf_attr`, as far as the kernel of 4.15 knew it.
#[repr(C)]
#[derive(Default)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

/// How many programs are attached to the cgroup itself, on the hooks that skreap uses.
pub fn attached(cgroup: &Cgroup) -> Result<u32> {
    let directory = cgroup.open()?;
    [INET_SOCK_RELEASE, INET4_CONNECT, INET6_CONNECT, UDP4_SENDMSG, UDP6_SENDMSG]
        .into_iter()
        .map(|hook| Ok(count(&directory, hook)?))
        .sum()
}

fn count(directory: &OwnedFd, hook: u32) -> io::Result<u32> {
    let target_fd = directory.as_raw_fd().cast_unsigned();
    let mut query = Query { target_fd, attach_type: hook, ..Query::default() };
    // SAFETY: `query` is as long as is said, and writable; no list of programs is asked for, only their number.
    let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, &raw mut query, size_of::<Query>()) };
    if result == 0 { Ok(query.prog_cnt) } else { Err(io::Error::last_os_error()) }
}
