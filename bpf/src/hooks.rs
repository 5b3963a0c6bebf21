//! Attaching the hooks to a cgroup.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use libbpf_rs::query::LinkTypeInfo;
use libbpf_rs::{AsRawLibbpf as _, Link, Object, Program};

use crate::attach_order::{Conflict, Hook};
use crate::bpffs;
use crate::error::io_error;
use crate::fault::{self, Point};
use crate::incompatible::{Incompatible, Obstacle};
use crate::{Error, Index, object};

/// The programs that keep the index up to date. `skreap_sock_release` comes first: no socket may be
/// recorded if its release would not be seen.
pub const NAMES: [&str; 5] =
    [RELEASE, "skreap_connect4", "skreap_connect6", "skreap_sendmsg4", "skreap_sendmsg6"];

/// The program that removes sockets from the index. Its place in the order does not matter.
pub const RELEASE: &str = "skreap_sock_release";

/// The names of the programs that an index has.
fn names(first: bool) -> Vec<&'static str> {
    let first = Hook::ALL.iter().filter(|_| first).map(|hook| hook.first_program());
    NAMES.into_iter().chain(first).collect()
}

/// Before all programs of the cgroup, and of those below it (Linux 6.15); before those, too, that are
/// attached in the same way (Linux 6.17).
const FIRST_FLAGS: [u32; 2] =
    [libbpf_sys::BPF_F_PREORDER | libbpf_sys::BPF_F_BEFORE, libbpf_sys::BPF_F_PREORDER];

/// Attaches a program before all others, as far as this kernel can.
fn attach_first(index: &Index, name: &str, cgroup: BorrowedFd<'_>) -> Result<Link, Error> {
    for flags in FIRST_FLAGS {
        match attach_program(index.object(), name, flags, cgroup) {
            Err(Error::Attach { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => {}
            attached => return attached,
        }
    }
    Err(Error::Unsupported {
        missing: "a way to run a program before a load balancer's (BPF_F_PREORDER, Linux 6.15)".to_owned(),
        remedy:
            "run without --frontends; an event then terminates all clients of its backend, however they came"
                .to_owned(),
    })
}

/// The attached hooks. Dropping them detaches them in reverse order, unless they are pinned.
#[derive(Debug)]
pub struct Hooks {
    links: Vec<Link>,
    /// The names of the programs, in the order of the links.
    names: Vec<String>,
    /// The directory of their pins, each named after its program.
    pins: Option<PathBuf>,
}

impl Hooks {
    /// Attaches all hooks, with links, behind the programs that are on this cgroup already.
    /// Programs run in the order of attachment, so the hooks see the address as a load balancer has
    /// translated it.
    ///
    /// # Errors
    /// [`Error::Attach`] with the hook's name; [`Error::Denied`] without the privileges. Nothing
    /// stays attached.
    pub fn attach(index: &Index, cgroup: BorrowedFd<'_>) -> Result<Self, Error> {
        let mut hooks = Self::attach_programs(index.object(), &NAMES, cgroup)?;
        if index.frontends().is_some() {
            for hook in Hook::ALL {
                hooks.links.push(attach_first(index, hook.first_program(), cgroup)?);
                hooks.names.push(hook.first_program().to_owned());
            }
        }
        Ok(hooks)
    }

    /// Attaches the first program of one hook only, to try whether the kernel takes it.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub fn attach_first(index: &Index, hook: Hook, cgroup: BorrowedFd<'_>) -> Result<Self, Error> {
        let name = hook.first_program();
        let link = attach_first(index, name, cgroup)?;
        Ok(Self { links: vec![link], names: vec![name.to_owned()], pins: None })
    }

    /// Pins the hooks, each under its name.
    pub(crate) fn pin(&mut self, links: &Path) -> Result<(), Error> {
        for (link, name) in self.links.iter().zip(&self.names) {
            bpffs::pin(link.as_fd(), &links.join(name))?;
        }
        self.pins = Some(links.to_owned());
        Ok(())
    }

    /// Moves a hook behind all programs of its cgroup. It is attached a second time before the
    /// first link is dropped, so it runs at every moment. A pin follows. Does nothing if the hook
    /// is not attached here.
    ///
    /// # Errors
    /// As [`attach`](Self::attach); [`Error::Pin`] with the errno. The hook is attached at least
    /// once.
    pub fn become_last(&mut self, index: &Index, hook: Hook, cgroup: BorrowedFd<'_>) -> Result<(), Error> {
        let name = hook.program();
        if self.place(name).is_some() {
            self.replace(name, attach_program(index.object(), name, 0, cgroup)?)?;
        }
        Ok(())
    }

    /// Moves the first program of a hook before all programs of its cgroup, as
    /// [`become_last`](Self::become_last) moves the last.
    ///
    /// # Errors
    /// As [`become_last`](Self::become_last).
    pub fn become_first(&mut self, index: &Index, hook: Hook, cgroup: BorrowedFd<'_>) -> Result<(), Error> {
        let name = hook.first_program();
        if self.place(name).is_some() {
            self.replace(name, attach_first(index, name, cgroup)?)?;
        }
        Ok(())
    }

    /// Drops the link of a program for another one of it; a pin follows.
    fn replace(&mut self, name: &str, next: Link) -> Result<(), Error> {
        if let Some(links) = &self.pins {
            let pin = links.join(format!("{name}{NEXT}"));
            bpffs::remove_file(&pin)?;
            bpffs::pin(next.as_fd(), &pin)?;
            bpffs::rename(&pin, &links.join(name))?;
        }
        if let Some(link) = self.place(name).and_then(|i| self.links.get_mut(i)) {
            *link = next;
        }
        Ok(())
    }

    /// The id of the first program of a hook.
    ///
    /// # Errors
    /// As [`program_id`](Self::program_id).
    pub fn first_program_id(&self, hook: Hook) -> io::Result<u32> {
        self.id_of(hook.first_program())
    }

    /// The id of the program on a hook.
    ///
    /// # Errors
    /// `NotFound` if that hook is not attached here; otherwise the errno of querying its link.
    pub fn program_id(&self, hook: Hook) -> io::Result<u32> {
        self.id_of(hook.program())
    }

    fn id_of(&self, name: &str) -> io::Result<u32> {
        let link = self.place(name).and_then(|i| self.links.get(i)).ok_or(io::ErrorKind::NotFound)?;
        fault::at(Point::LinkInfo)?;
        link.info().map(|info| info.prog_id).map_err(io_error)
    }

    /// The programs that were attached here and run nowhere now: another process has detached them,
    /// or the cgroup was removed. A program whose link cannot be queried is left out.
    pub fn detached(&self) -> impl Iterator<Item = &str> {
        let on_none = |link: &Link| {
            fault::at(Point::LinkInfo).is_ok()
                && link
                    .info()
                    .is_ok_and(|link| matches!(link.info, LinkTypeInfo::Cgroup(on) if on.cgroup_id == 0))
        };
        self.links
            .iter()
            .zip(&self.names)
            .filter(move |(link, _)| on_none(link))
            .map(|(_, name)| name.as_str())
    }

    fn place(&self, program: &str) -> Option<usize> {
        self.names.iter().position(|name| name == program)
    }

    /// Opens the pinned links and gives them the programs of this index.
    pub(crate) fn take_over(index: &Index, links: &Path) -> Result<Self, Error> {
        let names = names(index.frontends().is_some());
        let owned = names.iter().map(|&name| name.to_owned()).collect();
        let mut hooks = Self { links: Vec::new(), names: owned, pins: Some(links.to_owned()) };
        for &name in &names {
            let error = |e| bpffs::pin_error(&links.join(name), io_error(e));
            fault::at(Point::LinkOpen).map_err(|e| bpffs::pin_error(&links.join(name), e))?;
            let mut link = Link::open(links.join(name)).map_err(error)?;
            fault::at(Point::LinkUpdate).map_err(|e| bpffs::pin_error(&links.join(name), e))?;
            link.update_prog(&find(index.object(), name)?).map_err(error)?;
            hooks.links.push(link);
        }
        // Second links of a process that was killed in become_last().
        for name in bpffs::names(links)? {
            if !names.contains(&name.as_str()) {
                bpffs::remove_file(&links.join(name))?;
            }
        }
        Ok(hooks)
    }

    /// The pins were moved there.
    pub(crate) fn set_pins(&mut self, links: PathBuf) {
        self.pins = Some(links);
    }

    /// Kernel ids of the attached programs, in the order of attachment; for `bpftool prog show id`
    /// and the run time statistics. A program whose link cannot be queried is left out.
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

    /// Attaches programs of another object in this order.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    #[doc(hidden)]
    pub fn attach_programs(object: &Object, names: &[&str], cgroup: BorrowedFd<'_>) -> Result<Self, Error> {
        let mut hooks = Self { links: Vec::new(), names: Vec::new(), pins: None };
        for &name in names {
            hooks.links.push(attach_program(object, name, 0, cgroup)?);
            hooks.names.push(name.to_owned());
        }
        Ok(hooks)
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        // The release hook is detached last, see NAMES.
        while self.links.pop().is_some() {}
    }
}

/// Suffix of the pin of a hook's second link.
const NEXT: &str = "_next";

/// Refuses unless the links that are pinned here are all hooks, on this cgroup. `first`: with the first
/// programs.
pub(crate) fn compatible(links: &Path, cgroup: BorrowedFd<'_>, first: bool) -> Result<(), Obstacle> {
    let cgroup = cgroup_id(cgroup)?;
    for name in names(first) {
        let wrong = |why: String| Incompatible::Hook { name: name.to_owned(), why };
        let path = links.join(name);
        if !path.exists() {
            return Err(wrong("is missing".to_owned()).into());
        }
        fault::at(Point::LinkCheck).map_err(|e| wrong(format!("cannot be opened: {e}")))?;
        let link = Link::open(&path).map_err(|e| wrong(format!("cannot be opened: {e}")))?;
        match link.info().map_err(|e| wrong(format!("cannot be queried: {e}")))?.info {
            // Of a cgroup that was removed the kernel says 0.
            LinkTypeInfo::Cgroup(on) if on.cgroup_id == cgroup => {}
            _ => return Err(wrong("is on another cgroup, or on a removed one".to_owned()).into()),
        }
    }
    Ok(())
}

/// Detaches the links that are pinned here, also if other processes have them open.
pub(crate) fn detach(links: &Path) -> Result<(), Error> {
    for name in bpffs::names(links)? {
        let detached = Link::open(links.join(&name)).and_then(|link| link.detach());
        // To remove the pin will do, unless another process has it open.
        if let Err(e) = detached {
            tracing::debug!(name, "cannot detach: {e}");
        }
    }
    Ok(())
}

/// The id of a cgroup is the inode number of its directory.
fn cgroup_id(cgroup: BorrowedFd<'_>) -> Result<u64, Error> {
    let error = |source| Error::Object { what: "cgroup".to_owned(), source };
    let directory = cgroup.try_clone_to_owned().map(File::from).map_err(error)?;
    Ok(directory.metadata().map_err(error)?.ino())
}

fn find<'a>(object: &'a Object, name: &str) -> Result<Program<'a>, Error> {
    object::program(object, name).map_err(|source| Error::Attach { hook: name.to_owned(), source })
}

/// Attaches one program of the object, behind those that are there. `flags` are those of
/// `BPF_LINK_CREATE`.
///
/// # Errors
/// As [`Hooks::attach`].
#[doc(hidden)]
pub fn attach_program(
    object: &Object,
    name: &str,
    flags: u32,
    cgroup: BorrowedFd<'_>,
) -> Result<Link, Error> {
    let program = find(object, name)?;
    if let Some(conflict @ Conflict::WouldStop(_)) = conflict(name, cgroup) {
        return Err(denied(name, conflict.to_string()));
    }
    fault::at(Point::LinkCreate).map_err(|e| attach_error(name, e, cgroup))?;
    let opts = libbpf_sys::bpf_cgroup_opts {
        sz: size_of::<libbpf_sys::bpf_cgroup_opts>() as _,
        flags,
        ..libbpf_sys::bpf_cgroup_opts::default()
    };
    // Calls libbpf directly, because libbpf-rs hides the errno.
    // SAFETY: the program belongs to the loaded object that is borrowed; opts states its size.
    let link = unsafe {
        libbpf_sys::bpf_program__attach_cgroup_opts(
            program.as_libbpf_object().as_ptr(),
            cgroup.as_raw_fd(),
            &opts,
        )
    };
    let link = NonNull::new(link).ok_or_else(|| attach_error(name, io::Error::last_os_error(), cgroup))?;
    // SAFETY: a fresh link from libbpf, which nothing else owns.
    Ok(unsafe { Link::from_ptr(link) })
}

/// The foreign program that blocks one of ours.
fn conflict(name: &str, cgroup: BorrowedFd<'_>) -> Option<Conflict> {
    let hook = Hook::ALL.into_iter().find(|hook| hook.program() == name)?;
    Conflict::find(cgroup, hook)
}

fn denied(hook: &str, remedy: String) -> Error {
    Error::Denied { what: format!("attach {hook} to the cgroup"), remedy }
}

fn attach_error(hook: &str, source: io::Error, cgroup: BorrowedFd<'_>) -> Error {
    const UNKNOWN: &str = "run with CAP_NET_ADMIN, and see whether another program holds the cgroup exclusively \
                           (`bpftool cgroup tree`)";
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            let conflict = conflict(hook, cgroup);
            denied(hook, conflict.map_or_else(|| UNKNOWN.to_owned(), |conflict| conflict.to_string()))
        }
        Some(libc::E2BIG) => denied(
            hook,
            "there are 64 programs on this hook already; detach one (`bpftool cgroup tree`)".to_owned(),
        ),
        _ => Error::Attach { hook: hook.to_owned(), source },
    }
}
