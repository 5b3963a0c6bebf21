//! Whose sockets these are, as far as it can be found cheaply: for dry runs, failures, and
//! `--attribute`.
//!
//! sock_diag knows the inode number, user and cgroup of a socket; the inode number is what
//! `/proc/PID/fd` shows. All of it is done on a thread that is given a bounded time, and whatever
//! it has not found by then is left out.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use skreap_core::{Attribution, SocketTuple, counted};

use crate::sys::cgroup;
use crate::sys::netns::{self, NetnsId};
use crate::sys::privileges;
use crate::sys::sock_diag::{DiagSocket, Made};

/// Sockets that are looked for, at most; the rest of a longer list has no owner.
const SOCKETS_MAX: usize = 4096;
/// How long the search may take in all.
const PATIENCE: Duration = Duration::from_millis(500);
/// Where names of netns are.
const NAMES: &str = "/run/netns";

/// Adds to each socket whose it is.
pub(super) fn attribute(sockets: &mut [&mut SocketTuple]) {
    let asked: Vec<SocketTuple> = sockets.iter().take(SOCKETS_MAX).map(|socket| (**socket).clone()).collect();
    if asked.is_empty() {
        return;
    }
    let (reply, answer) = bounded(1);
    // A thread of its own: it enters netns, and is left behind if it hangs.
    let started = thread::Builder::new().name("skreap-whose".to_owned()).spawn(move || {
        let _ = reply.send(search(&asked, Instant::now() + PATIENCE));
    });
    if let Err(e) = started {
        tracing::warn!("cannot start the thread that looks for owners: {e}");
        return;
    }
    let Ok(found) = answer.recv_timeout(PATIENCE * 2) else {
        let sockets = counted(sockets.len() as u64, "socket");
        tracing::warn!("the owners of {sockets} were not found in time");
        return;
    };
    for (socket, found) in sockets.iter_mut().zip(found) {
        socket.attribution = (found != Attribution::default()).then(|| Box::new(found));
    }
}

fn search(sockets: &[SocketTuple], deadline: Instant) -> Vec<Attribution> {
    let _raised = privileges::raise();
    let names = netns_names();
    let made = made(sockets, deadline);
    let mut cgroups = Cgroups::new();
    let processes = processes(made.iter().flatten().map(|made| made.inode).collect(), deadline);
    let attribution = |(socket, made): (&SocketTuple, &Option<Made>)| {
        let process = made.and_then(|made| processes.get(&made.inode));
        Attribution {
            netns_name: names.get(&u64::from(socket.netns_inum)).cloned(),
            cgroup: made.and_then(|made| cgroups.path(made.cgroup?)),
            uid: made.map(|made| made.uid),
            pid: process.map(|(pid, _)| *pid),
            command: process.and_then(|(_, command)| command.clone()),
        }
    };
    sockets.iter().zip(&made).map(attribution).collect()
}

/// What sock_diag says of each socket, netns by netns.
fn made(sockets: &[SocketTuple], deadline: Instant) -> Vec<Option<Made>> {
    let mut by_netns: BTreeMap<NetnsId, Vec<usize>> = BTreeMap::new();
    for (i, socket) in sockets.iter().enumerate() {
        by_netns.entry(NetnsId { cookie: socket.netns, inum: socket.netns_inum }).or_default().push(i);
    }
    let mut made = vec![None; sockets.len()];
    for (id, places) in by_netns {
        if Instant::now() >= deadline {
            break;
        }
        let wanted: Vec<&SocketTuple> = places.iter().filter_map(|i| sockets.get(*i)).collect();
        let looked = netns::open_at_once(id)
            .and_then(|fd| netns::enter(&fd))
            .and_then(|()| DiagSocket::open())
            .and_then(|mut diag| diag.made(&wanted));
        match looked {
            Ok(found) => {
                for (i, found) in places.into_iter().zip(found) {
                    if let Some(place) = made.get_mut(i) {
                        *place = found;
                    }
                }
            }
            Err(e) => tracing::debug!(netns = id.cookie, "owners are not known there: {e}"),
        }
    }
    made
}

/// The names under `/run/netns`, by inode number.
fn netns_names() -> HashMap<u64, String> {
    // A name whose netns is gone is an ordinary file, with an inode number of another file system.
    let Ok(device) = fs::metadata("/proc/self/ns/net").map(|own| own.dev()) else {
        return HashMap::new();
    };
    let named = |entry: fs::DirEntry| {
        let file = fs::metadata(entry.path()).ok().filter(|file| file.dev() == device)?;
        Some((file.ino(), entry.file_name().into_string().ok()?))
    };
    fs::read_dir(NAMES).into_iter().flatten().flatten().filter_map(named).collect()
}

/// A process for each of these sockets, from one pass over all descriptors.
fn processes(mut wanted: HashSet<u32>, deadline: Instant) -> HashMap<u32, (u32, Option<String>)> {
    let mut found = HashMap::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if wanted.is_empty() || Instant::now() >= deadline {
            break;
        }
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // It may have ended, or be hidden from us.
        for descriptor in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let inode = fs::read_link(descriptor.path()).ok().and_then(|target| socket_inode(&target));
            if let Some(inode) = inode.filter(|inode| wanted.remove(inode)) {
                found.insert(inode, (pid, command(&process.path())));
            }
        }
    }
    found
}

/// `socket:[123]`, as a descriptor in `/proc` is shown.
fn socket_inode(target: &Path) -> Option<u32> {
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn command(process: &Path) -> Option<String> {
    let comm = fs::read(process.join("comm")).ok()?;
    let comm = String::from_utf8_lossy(&comm);
    // A process may call itself anything.
    Some(comm.trim_end_matches('\n').chars().map(|c| if c.is_control() { '?' } else { c }).collect())
}

/// Paths of cgroups, each asked for once.
struct Cgroups {
    mount: Option<(cgroup::Mount, File)>,
    known: HashMap<u64, Option<String>>,
}

impl Cgroups {
    fn new() -> Self {
        let mount = cgroup::mount().and_then(|mount| {
            let directory = cgroup::open(&mount.path)?;
            Ok((mount, directory))
        });
        Self { mount: mount.ok(), known: HashMap::new() }
    }

    fn path(&mut self, id: u64) -> Option<String> {
        let mount = self.mount.as_ref();
        let path = self.known.entry(id).or_insert_with(|| {
            let (mount, directory) = mount?;
            let cgroup = cgroup::open_by_id(directory, id).ok()?;
            let path = fs::read_link(format!("/proc/self/fd/{}", cgroup.as_raw_fd())).ok()?;
            let below = path.strip_prefix(&mount.path).unwrap_or(&path);
            Some(Path::new("/").join(below).display().to_string())
        });
        path.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_descriptor_of_a_socket_looks_like() {
        assert_eq!(socket_inode(Path::new("socket:[4026532]")), Some(4_026_532));
        for other in ["socket:[]", "socket:[1", "pipe:[1]", "/socket:[1]", "socket:[4294967296]"] {
            assert_eq!(socket_inode(Path::new(other)), None, "{other}");
        }
    }
}
