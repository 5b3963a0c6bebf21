//! Running loaded programs, and asking the kernel about them.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use bytemuck::Pod;
use libbpf_sys::{bpf_attach_type, bpf_prog_info, bpf_test_run_opts};

/// `BPF_PROG_TEST_RUN` of a SYSCALL program, with `()` for one without a context: the context is written back in place. A negative
/// return of the program is the errno.
pub(crate) fn run<T: Pod>(program: BorrowedFd<'_>, ctx: &mut T) -> io::Result<()> {
    match test_run(program, &[], bytemuck::bytes_of_mut(ctx))?.cast_signed() {
        errno @ ..0 => Err(io::Error::from_raw_os_error(-errno)),
        _ => Ok(()),
    }
}

/// `BPF_PROG_TEST_RUN` with a packet, a context, or both; what the program has returned. The kernel writes the context of
/// a SYSCALL program back in place.
pub(crate) fn test_run(program: BorrowedFd<'_>, packet: &[u8], ctx: &mut [u8]) -> io::Result<u32> {
    let mut opts =
        bpf_test_run_opts { sz: size_of::<bpf_test_run_opts>() as u64, ..bpf_test_run_opts::default() };
    if !packet.is_empty() {
        opts.data_in = packet.as_ptr().cast();
        opts.data_size_in = packet.len() as u32;
    }
    if !ctx.is_empty() {
        opts.ctx_in = ctx.as_mut_ptr().cast();
        opts.ctx_size_in = ctx.len() as u32;
    }
    // SAFETY: packet and context have the lengths in opts and are borrowed for the call. The context is borrowed
    // exclusively, because the kernel may write to it. opts names no other output.
    let ret = unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &mut opts) };
    if ret < 0 { Err(io::Error::from_raw_os_error(-ret)) } else { Ok(opts.retval) }
}

/// The kernel's information about a loaded program.
///
/// # Errors
/// The errno of the kernel.
pub fn info(program: &impl AsFd) -> io::Result<bpf_prog_info> {
    let mut info = bpf_prog_info::default();
    let mut length = size_of::<bpf_prog_info>() as u32;
    let fd = program.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `length` bytes into `info`; its array pointers are null with length 0, so
    // nothing else is written.
    let ret = unsafe { libbpf_sys::bpf_prog_get_info_by_fd(fd, &raw mut info, &raw mut length) };
    if ret < 0 { Err(io::Error::from_raw_os_error(-ret)) } else { Ok(info) }
}

/// The program with this id.
///
/// # Errors
/// The errno of the kernel.
pub fn by_id(id: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let fd = unsafe { libbpf_sys::bpf_prog_get_fd_by_id(id) };
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(-fd));
    }
    // SAFETY: a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The programs on a hook of a cgroup.
pub(crate) struct Attached {
    pub count: usize,
    pub flags: u32,
    pub revision: u64,
}

/// `BPF_PROG_QUERY`; without room for ids it only counts.
pub(crate) fn query(
    cgroup: BorrowedFd<'_>,
    hook: bpf_attach_type,
    query_flags: u32,
    ids: &mut [u32],
) -> io::Result<Attached> {
    let mut opts = libbpf_sys::bpf_prog_query_opts {
        sz: size_of::<libbpf_sys::bpf_prog_query_opts>() as _,
        query_flags,
        ..libbpf_sys::bpf_prog_query_opts::default()
    };
    if !ids.is_empty() {
        opts.prog_ids = ids.as_mut_ptr();
        opts.__bindgen_anon_1.count = u32::try_from(ids.len()).unwrap_or(u32::MAX);
    }
    // SAFETY: opts states its size, and points to as many writable ids as it states, borrowed for
    // the call.
    let ret = unsafe { libbpf_sys::bpf_prog_query_opts(cgroup.as_raw_fd(), hook, &mut opts) };
    if ret < 0 {
        return Err(io::Error::from_raw_os_error(-ret));
    }
    // SAFETY: both members of the union are the same integer.
    let count = unsafe { opts.__bindgen_anon_1.count } as usize;
    Ok(Attached { count, flags: opts.attach_flags, revision: opts.revision })
}
