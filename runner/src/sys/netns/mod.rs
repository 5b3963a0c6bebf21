//! Network namespaces: listing them, and reaching one known only by cookie and inode number.

mod all;
mod dying;
pub(crate) mod file;
pub(crate) mod visitor;

use std::collections::{HashMap, HashSet};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::mem::size_of;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{FileStat, fstat};
use skreap_bpf::fault::{self, Point};
use skreap_bpf::socket_option;

use crate::sys::pidfd::{Pidfd, owned};
use crate::sys::privileges;

pub use all::{AllNetns, everywhere};
pub(crate) use dying::wait_for_dying;

/// Identity of a netns, as the walk reads it from a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetnsId {
    /// Netns cookie (`SO_NETNS_COOKIE`), never used twice while the kernel runs.
    pub cookie: u64,
    /// Inode number in nsfs (as in `/proc/PID/ns/net`), used again after the netns is gone.
    pub inum: u32,
}

/// `FD_NSFS_ROOT` (linux/fcntl.h, since 6.18): stands for the root of nsfs in open_by_handle_at(2).
const FD_NSFS_ROOT: libc::c_int = -10_003;
/// The netns that the calling thread is in.
const OF_THIS_THREAD: &str = "/proc/thread-self/ns/net";
/// `FILEID_NSFS` (linux/exportfs.h).
const FILEID_NSFS: libc::c_int = 0xf1;

/// `struct file_handle` with the payload of nsfs, `struct nsfs_file_handle` (linux/nsfs.h).
#[repr(C)]
struct NsfsHandle {
    handle_bytes: u32,
    handle_type: libc::c_int,
    ns_id: u64,
    ns_type: u32,
    ns_inum: u32,
}

/// A way to open a netns of which only cookie and inode number are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// By handle (Linux 6.18): every living netns; since 6.19 not one that only sockets keep alive.
    Handle,
    /// Through a process that is in it, or a name under `/run/netns`.
    Shown,
    /// Through an open socket in it, or an open descriptor of it, in any process: checks every
    /// descriptor of every process, a few microseconds each.
    Descriptor,
}

impl Method {
    /// Opens the netns this way. The descriptor keeps the netns alive: close it soon.
    ///
    /// # Errors
    /// `ESTALE` if the netns is gone, and `EBADF`, `EINVAL`, `EOPNOTSUPP` or `ENOSYS` if the kernel has no such
    /// handles ([`Handle`](Self::Handle)); `ESRCH` if nothing leads to it (the others).
    pub fn open(self, id: NetnsId) -> io::Result<OwnedFd> {
        let _raised = privileges::raise();
        match self {
            Self::Handle => open_by_handle(id),
            Self::Shown => open_by_inum(id.inum),
            Self::Descriptor => open_by_descriptor(id.inum),
        }
    }
}

/// Opens the netns: by handle where and when the kernel can (6.18), else through a process or a name that shows it, else
/// through a socket in it or a descriptor of it.
///
/// The descriptor keeps the netns alive: close it soon.
///
/// # Errors
/// `ESTALE` if the netns is gone; `ESRCH` if no handle and nothing in `/proc` or `/run/netns` leads to it, and it is still
/// there when it has lost nothing that keeps it for 200 ms and an RCU grace period, or after 5 s; otherwise the errno of
/// the open.
pub fn open(id: NetnsId) -> io::Result<OwnedFd> {
    or_dies(id, open_at_once(id))
}

/// As [`open`], but without waiting: `ESRCH` also for a netns that is being torn down. A caller
/// that opens many calls [`wait_for_dying`] for all of those together.
///
/// # Errors
/// As [`open`].
pub(crate) fn open_at_once(id: NetnsId) -> io::Result<OwnedFd> {
    let opened = match open_by(id, Way::Handle) {
        Err(e) if e.raw_os_error() == Some(libc::ESTALE) && !is_gone(id) => open_by(id, Way::Anything),
        opened => opened,
    };
    opened.map(|opened| opened.netns)
}

/// An open netns.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) netns: OwnedFd,
    /// The kernel has compared the cookie. Otherwise it may be a successor with the same inode number.
    pub(crate) certain: bool,
}

/// What a thread is to try that has a descriptor table of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The handle; where the kernel has none, whatever else leads there.
    Handle,
    /// Whatever else leads there: the handle was refused, and [`is_gone`] says that the netns lives.
    Anything,
}

/// One half of [`open_at_once`]. `ESTALE` by [`Way::Handle`] may mean a netns that lives: ask [`is_gone`], which this
/// does not, as the descriptors of the kernel's list are not in every thread's table.
///
/// # Errors
/// As [`open`].
pub(crate) fn open_by(id: NetnsId, way: Way) -> io::Result<Opened> {
    fault::at(Point::NetnsOpen)?;
    let by_inum = |netns| Opened { netns, certain: false };
    if way == Way::Anything {
        return if privileges::may_enter_netns() {
            through_anything(id).map(by_inum)
        } else {
            // So the kernel says to who may not enter it; and, since 6.19, of one that only sockets keep alive.
            Err(io::Error::from_raw_os_error(libc::EPERM))
        };
    }
    match Method::Handle.open(id) {
        // An older kernel takes FD_NSFS_ROOT for a bad descriptor, or knows no such handle.
        Err(e)
            if matches!(
                e.raw_os_error(),
                Some(libc::EBADF | libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS)
            ) =>
        {
            through_anything(id).map(by_inum)
        }
        // The own one needs no privilege.
        Err(e)
            if e.raw_os_error() == Some(libc::EPERM)
                && inum_here().is_ok_and(|here| here == u64::from(id.inum)) =>
        {
            current().map(by_inum)
        }
        // `nsfs_fh_to_dentry()` looks for both numbers of the handle.
        opened => opened.map(|netns| Opened { netns, certain: true }),
    }
}

/// As [`open`], where no handle opens it.
///
/// # Errors
/// As [`open`].
pub fn open_without_handle(id: NetnsId) -> io::Result<OwnedFd> {
    or_dies(id, through_anything(id))
}

/// ESRCH usually means the netns is gone, and its sockets with it, or is being torn down. Rarely,
/// it exists but is unreachable.
fn or_dies(id: NetnsId, opened: io::Result<OwnedFd>) -> io::Result<OwnedFd> {
    match opened {
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) && wait_for_dying(vec![id]).is_empty() => {
            Err(io::Error::from_raw_os_error(libc::ESTALE))
        }
        opened => opened,
    }
}

/// False if that cannot be said.
pub(crate) fn is_gone(id: NetnsId) -> bool {
    all::kernel_list().is_some_and(|list| list.iter().all(|netns| netns.cookie != id.cookie))
}

fn through_anything(id: NetnsId) -> io::Result<OwnedFd> {
    for method in [Method::Shown, Method::Descriptor] {
        match method.open(id) {
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
            opened => return opened,
        }
    }
    Err(io::Error::from_raw_os_error(libc::ESRCH))
}

fn open_by_handle(id: NetnsId) -> io::Result<OwnedFd> {
    let mut handle = NsfsHandle {
        handle_bytes: 16,
        handle_type: FILEID_NSFS,
        ns_id: id.cookie,
        ns_type: libc::CLONE_NEWNET.cast_unsigned(),
        ns_inum: id.inum,
    };
    const { assert!(size_of::<NsfsHandle>() == 24) };
    // SAFETY: the handle is a complete file_handle of the size it states, and outlives the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            FD_NSFS_ROOT,
            std::ptr::from_mut(&mut handle),
            libc::O_RDONLY | libc::O_CLOEXEC,
        )
    };
    owned(fd)
}

/// Checks every process and every name for a netns with this inode number.
fn open_by_inum(inum: u32) -> io::Result<OwnedFd> {
    let shows = |path: &Path| -> Option<File> {
        let file = File::open(path).ok()?;
        (file.metadata().ok()?.ino() == u64::from(inum)).then_some(file)
    };
    let processes = std::fs::read_dir("/proc")?
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit))
        .map(|entry| entry.path().join("ns/net"));
    let names = std::fs::read_dir("/run/netns").into_iter().flatten().flatten().map(|entry| entry.path());
    for path in processes.chain(names) {
        // Asked without opening: most are another netns.
        if std::fs::metadata(&path).is_ok_and(|m| m.ino() == u64::from(inum))
            && let Some(file) = shows(&path)
        {
            return Ok(file.into());
        }
    }
    Err(io::Error::from_raw_os_error(libc::ESRCH))
}

/// Checks every descriptor of every process for a netns with this inode number, or a socket in it.
fn open_by_descriptor(inum: u32) -> io::Result<OwnedFd> {
    let nsfs = std::fs::metadata("/proc/self/ns/net")?.dev();
    for process in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<libc::pid_t>().ok()) else {
            continue;
        };
        // Processes that end, descriptors that close, and those that we may not read are skipped.
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let mut pidfd = None;
        for descriptor in descriptors.flatten() {
            let Ok(to) = std::fs::read_link(descriptor.path()) else {
                continue;
            };
            let (to, name) = (to.as_os_str().as_bytes(), descriptor.file_name());
            let netns = if to.starts_with(b"socket:") {
                netns_of(pid, &mut pidfd, &name)
            } else if (to.starts_with(b"net:") || to.starts_with(b"/"))
                && inode_of(&process.path(), &name) == Some(inum.into())
            {
                // Not by its path: the path may lead elsewhere by now, and an open may wait for
                // ever.
                descriptor_of(pid, &mut pidfd, &name)
            } else {
                continue;
            };
            if let Ok(netns) = netns
                && is_inode(&netns, nsfs, inum)
            {
                return Ok(netns);
            }
        }
    }
    Err(io::Error::from_raw_os_error(libc::ESRCH))
}

/// The inode number of an open file (`fdinfo`, since 5.14), without touching the file system that it is on. A
/// descriptor of a netns that was opened by name shows the path of that name, and no number.
fn inode_of(process: &Path, descriptor: &OsStr) -> Option<u64> {
    let info = std::fs::read_to_string(process.join("fdinfo").join(descriptor)).ok()?;
    info.lines().find_map(|line| line.strip_prefix("ino:"))?.trim().parse().ok()
}

/// Whether this is that inode, without any request to its file system.
fn is_inode(file: &OwnedFd, dev: u64, ino: u32) -> bool {
    // SAFETY: a struct of integers.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    // SAFETY: the path is a C string, and `found` is written to during the call only.
    let done = unsafe { libc::statx(file.as_raw_fd(), c"".as_ptr(), flags, libc::STATX_INO, &mut found) };
    done == 0
        && libc::makedev(found.stx_dev_major, found.stx_dev_minor) == dev
        && found.stx_ino == u64::from(ino)
}

/// The netns of a socket that another process has open. `pidfd`: of that process, once it was needed.
fn netns_of(pid: libc::pid_t, pidfd: &mut Option<Pidfd>, descriptor: &OsStr) -> io::Result<OwnedFd> {
    of_socket(&descriptor_of(pid, pidfd, descriptor)?)
}

/// The netns of a socket.
///
/// # Errors
/// The errno of ioctl(2): `EPERM` without CAP_NET_ADMIN there.
pub(crate) fn of_socket(socket: &impl std::os::fd::AsRawFd) -> io::Result<OwnedFd> {
    /// `SIOCGSKNS` (linux/sockios.h).
    const SIOCGSKNS: libc::Ioctl = 0x894c;
    // SAFETY: SIOCGSKNS takes no argument and returns a new descriptor.
    let netns = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) };
    owned(netns.into())
}

/// What another process has open. `pidfd`: of that process, once it was needed.
fn descriptor_of(pid: libc::pid_t, pidfd: &mut Option<Pidfd>, descriptor: &OsStr) -> io::Result<OwnedFd> {
    let descriptor: libc::c_int =
        descriptor.to_str().and_then(|name| name.parse().ok()).ok_or(io::ErrorKind::InvalidInput)?;
    let process = match pidfd {
        Some(process) => process,
        None => pidfd.insert(Pidfd::of_process(pid)?),
    };
    process.descriptor(descriptor)
}

/// Every netns that a process is in (its first thread, that is) or that has a name in `/run/netns`.
///
/// Not shown are those that live by an open descriptor or a socket alone: [`everywhere`] has them too.
///
/// # Errors
/// The errno of reading `/proc`. What disappears meanwhile is left out.
pub fn shown() -> io::Result<Vec<NetnsId>> {
    let _raised = privileges::raise();
    let nsfs = std::fs::metadata("/proc/self/ns/net")?.dev();
    let processes = std::fs::read_dir("/proc")?
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit))
        .map(|entry| entry.path().join("ns/net"));
    let names = std::fs::read_dir("/run/netns").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut seen = HashSet::new();
    let mut shown = Vec::new();
    for path in processes.chain(names) {
        // Asked without opening: most are a netns that was seen before. A name may be a file without a netns.
        let Ok(metadata) = std::fs::metadata(&path) else {
            continue;
        };
        if metadata.dev() != nsfs || !seen.insert(metadata.ino()) {
            continue;
        }
        match identify(&path) {
            Ok(id) => shown.push(id),
            // Gone meanwhile. Another path to the same netns may still work.
            Err(e) => {
                tracing::debug!(path = %path.display(), "cannot identify netns: {e}");
                seen.remove(&metadata.ino());
            }
        }
    }
    Ok(shown)
}

/// The names under `/run/netns`, by inode number.
pub(crate) fn names() -> HashMap<u64, String> {
    // A name whose netns is gone is an ordinary file, with an inode number of another file system.
    let _raised = privileges::raise();
    let Ok(device) = std::fs::metadata("/proc/self/ns/net").map(|own| own.dev()) else {
        return HashMap::new();
    };
    let named = |entry: std::fs::DirEntry| {
        let file = std::fs::metadata(entry.path()).ok().filter(|file| file.dev() == device)?;
        Some((file.ino(), entry.file_name().into_string().ok()?))
    };
    std::fs::read_dir("/run/netns").into_iter().flatten().flatten().filter_map(named).collect()
}

/// The identity of the netns at a path: by handle where the kernel can (6.18), else by a visit.
///
/// # Errors
/// The errno of the look at the path; `EINVAL` if it is no netns.
pub fn identify(path: &Path) -> io::Result<NetnsId> {
    let _raised = privileges::raise();
    match identify_by_handle(path) {
        // An older kernel has no handles, or none with a cookie.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EOVERFLOW | libc::EINVAL)) => {
            identify_by_visit(path)
        }
        result => result,
    }
}

fn identify_by_handle(path: &Path) -> io::Result<NetnsId> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut handle = NsfsHandle { handle_bytes: 16, handle_type: 0, ns_id: 0, ns_type: 0, ns_inum: 0 };
    let mut mount = 0;
    // SAFETY: the path ends with a nul; the handle has room for as many bytes as it says; both outlive the
    // call.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            path.as_ptr(),
            std::ptr::from_mut(&mut handle),
            std::ptr::from_mut::<libc::c_int>(&mut mount),
            libc::AT_SYMLINK_FOLLOW,
        )
    };
    if ret != 0 {
        return Err(io::Error::last_os_error());
    }
    if handle.handle_type != FILEID_NSFS || handle.ns_type != libc::CLONE_NEWNET.cast_unsigned() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(NetnsId { cookie: handle.ns_id, inum: handle.ns_inum })
}

fn identify_by_visit(path: &Path) -> io::Result<NetnsId> {
    let file = File::open(path)?;
    let inum =
        u32::try_from(file.metadata()?.ino()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let netns = OwnedFd::from(file);
    let cookie = on_own_thread("skreap-netns", || {
        enter(&netns)?;
        cookie_of_socket(&UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?)
    })??;
    Ok(NetnsId { cookie, inum })
}

/// Does work that enters netns. The thread is its own: setns(2) must never move a thread that others run on.
///
/// # Errors
/// The errno of making the thread, or that it has panicked.
pub(crate) fn on_own_thread<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let own = thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, work)?;
        own.join().map_err(|_| io::Error::other(format!("the thread {name} panicked")))
    })
}

/// Opens the netns and moves the calling thread into it; does not wait for one that is being torn down.
///
/// # Errors
/// As [`open`], or the errno of setns(2).
pub(crate) fn open_and_enter(id: NetnsId) -> io::Result<()> {
    enter(&open_at_once(id)?)
}

/// Inode number of the netns that the calling thread is in.
fn inum_here() -> io::Result<u64> {
    std::fs::metadata(OF_THIS_THREAD).map(|metadata| metadata.ino())
}

/// Moves the calling thread into the netns, if it is not there already.
///
/// # Errors
/// The errno of setns(2).
pub fn enter(netns: &OwnedFd) -> io::Result<()> {
    fault::at(Point::NetnsEnter)?;
    let _raised = privileges::raise();
    let is_here = |netns: FileStat| inum_here().is_ok_and(|here| here == netns.st_ino);
    match setns(netns, CloneFlags::CLONE_NEWNET) {
        // To be where it is needs no privilege.
        Err(Errno::EPERM) if fstat(netns).is_ok_and(is_here) => Ok(()),
        entered => Ok(entered?),
    }
}

/// As [`enter`], for a thread with a table of descriptors of its own: `/proc` does not show those.
///
/// # Errors
/// The errno of setns(2).
pub(crate) fn enter_alone(netns: &OwnedFd) -> io::Result<()> {
    fault::at(Point::NetnsEnter)?;
    let _raised = privileges::raise();
    Ok(setns(netns, CloneFlags::CLONE_NEWNET)?)
}

/// The netns the calling thread is in.
///
/// # Errors
/// The errno of the open.
pub fn current() -> io::Result<OwnedFd> {
    File::open(OF_THIS_THREAD).map(OwnedFd::from)
}

/// Netns cookie of a socket.
///
/// # Errors
/// The errno of getsockopt(2); `ENOPROTOOPT` before 5.14.
pub fn cookie_of_socket(socket: &impl std::os::fd::AsRawFd) -> io::Result<u64> {
    socket_option(socket, libc::SO_NETNS_COOKIE)
}
