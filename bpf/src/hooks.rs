//! Attaching the hooks to a cgroup.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;

use libbpf_rs::{AsRawLibbpf as _, Link, Object};

use crate::{Error, Index};

/// The programs that keep the index up to date. `skreap_sock_release` comes first: no socket may be
/// recorded whose release would not be seen.
pub const NAMES: [&str; 5] =
    ["skreap_sock_release", "skreap_connect4", "skreap_connect6", "skreap_sendmsg4", "skreap_sendmsg6"];

/// The attached hooks; dropping them detaches, in the reverse order.
#[derive(Debug)]
pub struct Hooks {
    links: Vec<Link>,
}

impl Hooks {
    /// Attaches all hooks, with links, behind the programs that are on this cgroup already (they run in the
    /// order of attachment, so the hooks see what a load balancer has made of the address).
    ///
    /// # Errors
    /// [`Error::Attach`] with the hook's name; [`Error::Denied`] without the privileges. Nothing stays
    /// attached.
    pub fn attach(index: &Index, cgroup: BorrowedFd<'_>) -> Result<Self, Error> {
        Self::attach_programs(index.object(), &NAMES, cgroup)
    }

    /// Kernel ids of the attached programs, in the order of attachment; for `bpftool prog show id` and the run
    /// time statistics. A program whose link cannot be asked is left out.
    #[must_use]
    pub fn program_ids(&self) -> Vec<u32> {
        self.links.iter().filter_map(|link| link.info().ok()).map(|info| info.prog_id).collect()
    }

    /// Attaches one hook only, to try whether the kernel takes it.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub fn attach_one(index: &Index, name: &str, cgroup: BorrowedFd<'_>) -> Result<Self, Error> {
        Self::attach_programs(index.object(), &[name], cgroup)
    }

    pub(crate) fn attach_programs(
        object: &Object,
        names: &[&str],
        cgroup: BorrowedFd<'_>,
    ) -> Result<Self, Error> {
        let mut hooks = Self { links: Vec::new() };
        for &name in names {
            let program = object
                .progs_mut()
                .find(|p| p.name() == name)
                .ok_or_else(|| attach_error(name, io::ErrorKind::NotFound.into()))?;
            // libbpf directly: libbpf-rs keeps the errno to itself.
            // SAFETY: the program belongs to the loaded object that is borrowed.
            let link = unsafe {
                libbpf_sys::bpf_program__attach_cgroup(
                    program.as_libbpf_object().as_ptr(),
                    cgroup.as_raw_fd(),
                )
            };
            let link = NonNull::new(link).ok_or_else(|| attach_error(name, io::Error::last_os_error()))?;
            // SAFETY: a fresh link of libbpf's, owned by nobody else.
            hooks.links.push(unsafe { Link::from_ptr(link) });
        }
        Ok(hooks)
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        // Release goes last, see NAMES.
        while self.links.pop().is_some() {}
    }
}

fn attach_error(hook: &str, source: io::Error) -> Error {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => Error::Denied {
            what: format!("attach {hook} to the cgroup"),
            remedy: "run with CAP_NET_ADMIN, and see whether another program holds the cgroup exclusively \
                     (`bpftool cgroup tree`)"
                .to_owned(),
        },
        Some(libc::E2BIG) => Error::Denied {
            what: format!("attach {hook} to the cgroup"),
            remedy: "there are 64 programs on this hook already; detach one (`bpftool cgroup tree`)"
                .to_owned(),
        },
        _ => Error::Attach { hook: hook.to_owned(), source },
    }
}
