//! From the name of a link to what its sockets have of it: the netns and the number of the
//! interface.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::thread;
use std::time::Duration;

use crossbeam_channel::bounded;
use skreap_core::{Zone, excerpt};

use crate::engine::Link;
use crate::sys::netns;
use crate::sys::privileges;

/// How long the look may take. A path can lead to a file system that never returns.
const PATIENCE: Duration = Duration::from_secs(1);
/// `NSFS_MAGIC` (linux/magic.h): the file system of namespaces.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// The links of these names or numbers in the netns of this file; an error names what is at fault,
/// and the next step.
pub(super) fn find(path: &str, zones: Vec<Zone>) -> Result<Vec<Link>, String> {
    let (reply, answer) = bounded(1);
    let shown = excerpt(path);
    let owned = path.to_owned();
    // A thread of its own: setns() must never move a thread that others run on. It is left behind
    // if it hangs.
    thread::Builder::new()
        .name("skreap-link".to_owned())
        .spawn(move || {
            let _ = reply.send(look(&owned, &zones));
        })
        .map_err(|e| {
            format!("cannot start the thread that looks into netns {shown}: {e}; send the event again")
        })?;
    answer.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        Err(format!("netns {shown}: not opened within {} s; name a file of nsfs", PATIENCE.as_secs()))
    })
}

fn look(path: &str, zones: &[Zone]) -> Result<Vec<Link>, String> {
    let shown = excerpt(path);
    let failed = |e: io::Error| format!("netns {shown}: {e}; name the file of a living network namespace");
    let _raised = privileges::raise();
    netns::enter(&open(path).map_err(failed)?).map_err(failed)?;
    let socket = std::net::UdpSocket::bind((std::net::Ipv6Addr::UNSPECIFIED, 0))
        .or_else(|_| std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)))
        .map_err(failed)?;
    let netns = netns::cookie_of_socket(&socket.as_raw_fd()).map_err(failed)?;
    let link = |zone: &Zone| {
        let ifindex = index_of(zone).ok_or_else(|| {
            format!("netns {shown} has no interface {zone}; name one by its name or number there (ip link)")
        })?;
        Ok(Link { netns, ifindex })
    };
    zones.iter().map(link).collect()
}

/// Opens the file if it is a namespace. What else it is must not be opened: it may be a device, or
/// wait for a writer.
fn open(path: &str) -> io::Result<OwnedFd> {
    let place = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path)?;
    // SAFETY: statfs is made of integers, for which zero is a value.
    let mut fs: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: an open descriptor, and a struct of the size the kernel writes.
    if unsafe { libc::fstatfs(place.as_raw_fd(), &raw mut fs) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if fs.f_type != NSFS_MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "this is no namespace"));
    }
    Ok(File::open(format!("/proc/self/fd/{}", place.as_raw_fd()))?.into())
}

/// By name first, as getaddrinfo(3) does.
fn index_of(zone: &Zone) -> Option<u32> {
    let name = CString::new(zone.as_str()).ok()?;
    // SAFETY: a string that ends with a zero and outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        // As ip link prints it: no sign, no zero in front.
        0 => zone
            .as_str()
            .parse()
            .ok()
            .filter(|index: &u32| index.to_string() == zone.as_str() && exists(*index)),
        index => Some(index),
    }
}

fn exists(index: u32) -> bool {
    let mut name = [0; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the IF_NAMESIZE bytes that the call may write.
    !unsafe { libc::if_indextoname(index, name.as_mut_ptr()) }.is_null()
}
