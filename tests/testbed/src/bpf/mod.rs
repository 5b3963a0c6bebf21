//! Programs that tests and benchmarks attach beside the hooks.

mod baseline;
mod pause;
mod skel;
pub mod verifier;
mod witness;

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;

use libbpf_rs::{Link, MapCore as _, MapFlags, Object};
use skreap_core::Backend;

use skel::{TEST_LB_OBJECT, test_lb_types};
use skreap_bpf::Error;
use skreap_bpf::plumbing::{attach_program, io_error, load_error, map, open, program, words};

pub use baseline::Baseline;
pub use pause::Pause;
pub use witness::{Witness, WitnessCounts, Witnessed};

const PROGRAMS: [&str; 4] = ["lb_connect4", "lb_connect6", "lb_sendmsg4", "lb_sendmsg6"];
const ENTRIES: &str = "lb_entries";
/// `ENTRIES` of `test_lb.bpf.c`.
const ENTRIES_MAX: usize = 2;

/// How the load balancer is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placing {
    /// Behind the existing programs, by a plain attachment.
    Last,
    /// With `BPF_F_PREORDER`: before all that are attached without it.
    Preorder,
    /// Before those, too.
    First,
}

/// A socket load balancer of at most two entries: it translates a virtual address to a backend when
/// a client connects or sends. Dropping it detaches it.
#[derive(Debug)]
pub struct LoadBalancer {
    links: Vec<Link>,
    object: Object,
}

impl LoadBalancer {
    /// Loads it with `entries` and attaches it to the cgroup. Each entry is a virtual address and
    /// the backend behind it, of the same protocol and family.
    ///
    /// # Errors
    /// [`Error::Config`] for more than two entries, [`Error::Object`] for a pair that does not fit
    /// together; otherwise as [`Index::load`](skreap_bpf::Index::load) and
    /// [`Hooks::attach`](skreap_bpf::hooks::Hooks::attach).
    pub fn attach(entries: &[(Backend, Backend)], cgroup: BorrowedFd<'_>) -> Result<Self, Error> {
        Self::attach_placed(entries, cgroup, Placing::Last)
    }

    /// As [`attach`](Self::attach), at this place.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub fn attach_placed(
        entries: &[(Backend, Backend)],
        cgroup: BorrowedFd<'_>,
        placing: Placing,
    ) -> Result<Self, Error> {
        let object = Self::load(entries)?;
        let mut balancer = Self { links: Vec::new(), object };
        balancer.attach_again(cgroup, placing)?;
        Ok(balancer)
    }

    /// Attaches it once more and then drops the first link, so that it is attached at every moment.
    ///
    /// # Errors
    /// As [`attach`](Self::attach); it is where it was then.
    pub fn attach_again(&mut self, cgroup: BorrowedFd<'_>, placing: Placing) -> Result<(), Error> {
        let flags = match placing {
            Placing::Last => 0,
            Placing::Preorder => libbpf_sys::BPF_F_PREORDER,
            Placing::First => libbpf_sys::BPF_F_PREORDER | libbpf_sys::BPF_F_BEFORE,
        };
        self.links = PROGRAMS
            .iter()
            .map(|name| attach_program(&self.object, name, flags, cgroup))
            .collect::<Result<_, _>>()?;
        Ok(())
    }

    /// From now on it also translates what IPv6 sockets connect to in the mapped form, behind the existing
    /// programs.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub fn translate_mapped(&mut self, cgroup: BorrowedFd<'_>) -> Result<(), Error> {
        self.links.push(attach_program(&self.object, "lb_mapped", 0, cgroup)?);
        Ok(())
    }

    /// Attaches its program for `connect()` over IPv4 without a link, exclusively, or (if
    /// `overridable`) such that one in a child cgroup replaces it. It is detached with the removal
    /// of the cgroup.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub fn attach_alone(cgroup: BorrowedFd<'_>, overridable: bool) -> Result<(), Error> {
        let object = Self::load(&[])?;
        let program = program(&object, PROGRAMS[0]).map_err(object_error)?;
        let flags = if overridable { libbpf_sys::BPF_F_ALLOW_OVERRIDE } else { 0 };
        // SAFETY: takes two open descriptors and no pointers.
        let ret = unsafe {
            libbpf_sys::bpf_prog_attach(
                program.as_fd().as_raw_fd(),
                cgroup.as_raw_fd(),
                libbpf_sys::BPF_CGROUP_INET4_CONNECT,
                flags,
            )
        };
        if ret == 0 { Ok(()) } else { Err(object_error(io::Error::from_raw_os_error(-ret))) }
    }

    fn load(entries: &[(Backend, Backend)]) -> Result<Object, Error> {
        if entries.len() > ENTRIES_MAX {
            let value = u32::try_from(entries.len()).unwrap_or(u32::MAX);
            return Err(Error::Config { what: "entries of the test load balancer", value, range: "0 to 2" });
        }
        let object = open(TEST_LB_OBJECT)?.load().map_err(load_error)?;
        for (i, (vip, backend)) in (0_u32..).zip(entries) {
            write(&object, i, &entry(*vip, *backend)?)?;
        }
        Ok(object)
    }

    /// Overwrites the first entries with these, one after the other.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub fn exchange(&self, entries: &[(Backend, Backend)]) -> Result<(), Error> {
        (0_u32..)
            .zip(entries)
            .try_for_each(|(i, (vip, backend))| write(&self.object, i, &entry(*vip, *backend)?))
    }
}

/// Delays every `connect()` over IPv4 by 0.7 s, after all hooks that were attached before. Dropping
/// it detaches it; a connect that is being delayed then is delayed to the end.
#[derive(Debug)]
pub struct Delay {
    _link: Link,
}

impl Delay {
    /// Attaches it to the cgroup.
    ///
    /// # Errors
    /// As [`LoadBalancer::attach`].
    pub fn attach(cgroup: BorrowedFd<'_>) -> Result<Self, Error> {
        let object = LoadBalancer::load(&[])?;
        Ok(Self { _link: attach_program(&object, "lb_delay4", 0, cgroup)? })
    }
}

/// Detaches every program that a link attaches to `connect()` over IPv4 on this cgroup, as `bpftool
/// link detach` does: the owners keep links without effect. Returns how many there were.
///
/// # Errors
/// The errno of looking at the cgroup or of a detach.
pub fn detach_connect4(cgroup: BorrowedFd<'_>) -> io::Result<u32> {
    detach_links(cgroup, libbpf_sys::BPF_CGROUP_INET4_CONNECT, None)
}

/// As [`detach_connect4`], but only programs of this name: the kernel keeps 15 characters of it.
///
/// # Errors
/// As [`detach_connect4`].
pub fn detach_named_connect4(cgroup: BorrowedFd<'_>, name: &str) -> io::Result<u32> {
    detach_links(cgroup, libbpf_sys::BPF_CGROUP_INET4_CONNECT, Some(name))
}

/// As [`detach_connect4`], from the release of sockets.
///
/// # Errors
/// As [`detach_connect4`].
pub fn detach_sock_release(cgroup: BorrowedFd<'_>) -> io::Result<u32> {
    detach_links(cgroup, libbpf_sys::BPF_CGROUP_INET_SOCK_RELEASE, None)
}

/// Whether the program has this name.
fn is_named(program: u32, name: &str) -> io::Result<bool> {
    // SAFETY: takes no pointers.
    let fd = unsafe { libbpf_sys::bpf_prog_get_fd_by_id(program) };
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(-fd));
    }
    // SAFETY: a fresh descriptor that nothing else owns.
    let program = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut length = size_of::<libbpf_sys::bpf_prog_info>() as u32;
    // SAFETY: the struct has the length that is said, and outlives the call.
    match unsafe { libbpf_sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), &mut info, &mut length) } {
        0 => Ok(info.name.iter().map(|c| *c as u8).take_while(|c| *c != 0).eq(name.bytes())),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

fn detach_links(
    cgroup: BorrowedFd<'_>,
    hook: libbpf_sys::bpf_attach_type,
    name: Option<&str>,
) -> io::Result<u32> {
    let cgroup_id = std::fs::metadata(format!("/proc/self/fd/{}", cgroup.as_raw_fd()))?.ino();
    let (mut id, mut detached) = (0, 0);
    // SAFETY: the id is written to and outlives the call.
    while unsafe { libbpf_sys::bpf_link_get_next_id(id, &mut id) } == 0 {
        // SAFETY: takes no pointers.
        let fd = unsafe { libbpf_sys::bpf_link_get_fd_by_id(id) };
        if fd < 0 {
            // Gone meanwhile.
            continue;
        }
        // SAFETY: a fresh descriptor that nothing else owns.
        let link = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut info = libbpf_sys::bpf_link_info::default();
        let mut length = size_of::<libbpf_sys::bpf_link_info>() as u32;
        // SAFETY: the struct has the length that is said, and outlives the call.
        let ret = unsafe { libbpf_sys::bpf_link_get_info_by_fd(link.as_raw_fd(), &mut info, &mut length) };
        if ret != 0 || info.type_ != libbpf_sys::BPF_LINK_TYPE_CGROUP {
            continue;
        }
        // SAFETY: of links of this type the kernel fills in this member.
        let at = unsafe { info.__bindgen_anon_1.cgroup };
        if at.cgroup_id != cgroup_id || at.attach_type != hook {
            continue;
        }
        if let Some(name) = name
            && !is_named(info.prog_id, name)?
        {
            continue;
        }
        // SAFETY: takes an open descriptor and no pointers.
        match unsafe { libbpf_sys::bpf_link_detach(link.as_raw_fd()) } {
            0 => detached += 1,
            error => return Err(io::Error::from_raw_os_error(-error)),
        }
    }
    Ok(detached)
}

fn entry(vip: Backend, backend: Backend) -> Result<test_lb_types::lb_entry, Error> {
    if vip.protocol() != backend.protocol() || vip.addr().is_ipv4() != backend.addr().is_ipv4() {
        return Err(object_error(io::ErrorKind::InvalidInput.into()));
    }
    Ok(test_lb_types::lb_entry {
        vip: words(vip.addr()).1,
        backend: words(backend.addr()).1,
        vip_port: vip.port().to_be(),
        backend_port: backend.port().to_be(),
        family: if vip.addr().is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u16,
        protocol: vip.protocol().number().into(),
    })
}

fn write(object: &Object, index: u32, entry: &test_lb_types::lb_entry) -> Result<(), Error> {
    let map = map(object, ENTRIES).map_err(object_error)?;
    // SAFETY: lb_entry is made of integers, without padding (its members fill its size).
    let bytes = unsafe {
        std::slice::from_raw_parts(
            std::ptr::from_ref(entry).cast::<u8>(),
            size_of::<test_lb_types::lb_entry>(),
        )
    };
    map.update(&index.to_ne_bytes(), bytes, MapFlags::ANY).map_err(|e| object_error(io_error(e)))
}

fn object_error(source: io::Error) -> Error {
    Error::Object { what: format!("map {ENTRIES}"), source }
}
