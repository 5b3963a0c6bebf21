//! Whose sockets these are, as far as it can be found cheaply: for dry runs, failures, and
//! `--attribute`.
//!
//! sock_diag knows the inode number, user and cgroup of a socket; the inode number is what
//! `/proc/PID/fd` shows. All of it is done on a thread that is given a bounded time, and whatever
//! it has not found by then is left out.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

use skreap_core::{Attribution, SocketTuple, counted};

use crate::sys::alone::Alone;
use crate::sys::netns::{self, NetnsId};
use crate::sys::sock_diag::{DiagSocket, Made};
use crate::sys::{cgroup, processes};

/// Sockets that are looked for, at most; of the rest of a longer list only the name of the netns is known.
const SOCKETS_MAX: usize = 4096;
/// How long the search may take in all.
const PATIENCE: Duration = Duration::from_millis(500);
/// The part of it in which sockets are looked for that no id leads to: the others must not wait for those.
const OF_GROUPS: Duration = Duration::from_millis(250);

/// What was found: the names of netns by their inode numbers, and whose the first sockets are, in order.
type Found = (HashMap<u64, String>, Vec<Attribution>);

/// Adds to each socket whose it is.
pub(super) fn attribute(sockets: &mut [&mut SocketTuple]) {
    let asked: Vec<SocketTuple> = sockets.iter().take(SOCKETS_MAX).map(|socket| (**socket).clone()).collect();
    if asked.is_empty() {
        return;
    }
    // It enters netns, and is left behind if it hangs.
    let looking = match Alone::beside("skreap-whose", move || search(&asked, Instant::now())) {
        Ok(looking) => looking,
        Err(e) => {
            tracing::warn!("cannot start the thread that looks for owners: {e}");
            return;
        }
    };
    let Some((names, found)) = looking.wait(PATIENCE * 2, || ()) else {
        let sockets = counted(sockets.len() as u64, "socket");
        tracing::warn!("the owners of {sockets} were not found in time");
        return;
    };
    let mut found = found.into_iter();
    for socket in sockets.iter_mut() {
        let netns_name = names.get(&u64::from(socket.netns_inum)).cloned();
        let mut whose = found.next().unwrap_or_default();
        whose.netns_name = netns_name;
        socket.attribution = (whose != Attribution::default()).then(|| Box::new(whose));
    }
}

fn search(sockets: &[SocketTuple], start: Instant) -> Found {
    let names = netns::names();
    let made = made(sockets, start);
    let mut cgroups = Cgroups::new();
    let inodes = made.iter().flatten().map(|made| made.inode).collect();
    let processes = processes::with_sockets(inodes, start + PATIENCE);
    let attribution = |made: &Option<Made>| {
        let process = made.and_then(|made| processes.get(&made.inode));
        let mut whose = Attribution::default();
        whose.cgroup = made.and_then(|made| cgroups.path(made.cgroup?));
        whose.uid = made.map(|made| made.uid);
        whose.pid = process.map(|(pid, _)| *pid);
        whose.command = process.and_then(|(_, command)| command.clone());
        whose
    };
    let whose = made.iter().map(attribution).collect();
    (names, whose)
}

/// What sock_diag says of each socket, netns by netns.
fn made(sockets: &[SocketTuple], start: Instant) -> Vec<Option<Made>> {
    let mut by_netns: BTreeMap<NetnsId, Vec<usize>> = BTreeMap::new();
    for (i, socket) in sockets.iter().enumerate() {
        by_netns.entry(NetnsId { cookie: socket.netns, inum: socket.netns_inum }).or_default().push(i);
    }
    let mut made = vec![None; sockets.len()];
    for (id, places) in by_netns {
        if start.elapsed() >= PATIENCE {
            break;
        }
        let wanted: Vec<&SocketTuple> = places.iter().filter_map(|i| sockets.get(*i)).collect();
        let looked = netns::open_and_enter(id)
            .and_then(|()| DiagSocket::open())
            .and_then(|mut diag| diag.made(&wanted, start + OF_GROUPS));
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
