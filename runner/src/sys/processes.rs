//! Which processes have sockets open.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Instant;

use super::privileges;

/// Number and name of a process.
pub(crate) type Process = (u32, Option<String>);

/// A process for each of these sockets, from one pass over all descriptors that ends in time.
pub(crate) fn with_sockets(mut wanted: HashSet<u32>, deadline: Instant) -> HashMap<u32, Process> {
    let _raised = privileges::raise();
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

/// A socket that processes have open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenSocket {
    /// The user of its inode: who made it, or to whom fchown(2) gave it.
    pub(crate) uid: u32,
    /// What these processes are called.
    pub(crate) names: Vec<String>,
}

/// Those of these sockets that some visible process has open, from one pass over all descriptors.
pub(crate) fn with_names(wanted: HashSet<u32>) -> HashMap<u32, OpenSocket> {
    let _raised = privileges::raise();
    let mut found: HashMap<u32, OpenSocket> = HashMap::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if !process.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        let mut name = None;
        for descriptor in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let inode = fs::read_link(descriptor.path()).ok().and_then(|target| socket_inode(&target));
            let Some(inode) = inode.filter(|inode| wanted.contains(inode)) else { continue };
            let Ok(file) = fs::metadata(descriptor.path()) else { continue };
            // Closed since, and the number used again.
            if file.ino() != u64::from(inode) {
                continue;
            }
            let open =
                found.entry(inode).or_insert_with(|| OpenSocket { uid: file.uid(), names: Vec::new() });
            open.names.extend(name.get_or_insert_with(|| command(&process.path())).clone());
        }
    }
    found
}

/// `socket:[123]`, as a descriptor in `/proc` is shown.
fn socket_inode(target: &Path) -> Option<u32> {
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// What a process calls itself; `None` if it has ended, or is hidden from us.
pub(crate) fn command_of(process: u32) -> Option<String> {
    command(&Path::new("/proc").join(process.to_string()))
}

/// The names of these processes, those that still are and may be seen.
pub(crate) fn commands_of(processes: impl IntoIterator<Item = u32>) -> HashMap<u32, String> {
    // `/proc` may be mounted so that it hides the processes of others.
    let _raised = privileges::raise();
    let processes: HashSet<u32> = processes.into_iter().collect();
    processes.into_iter().filter_map(|process| Some((process, command_of(process)?))).collect()
}

fn command(process: &Path) -> Option<String> {
    let comm = fs::read(process.join("comm")).ok()?;
    let comm = String::from_utf8_lossy(&comm);
    // A process may call itself anything.
    Some(comm.trim_end_matches('\n').chars().map(|c| if c.is_control() { '?' } else { c }).collect())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn every_process_that_has_a_socket_open_is_named() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let again = socket.try_clone().unwrap();
        let file = fs::metadata(format!("/proc/self/fd/{}", again.as_raw_fd())).unwrap();
        let inode = u32::try_from(file.ino()).unwrap();
        let found = with_names([inode, 0].into());
        let own = command_of(std::process::id()).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), [&inode]);
        let OpenSocket { uid, names } = &found[&inode];
        // Once for each descriptor.
        assert_eq!((*uid, names.iter().filter(|name| **name == own).count()), (file.uid(), 2));
    }

    #[test]
    fn reads_what_a_descriptor_of_a_socket_looks_like() {
        assert_eq!(socket_inode(Path::new("socket:[4026532]")), Some(4_026_532));
        for other in ["socket:[]", "socket:[1", "pipe:[1]", "/socket:[1]", "socket:[4294967296]"] {
            assert_eq!(socket_inode(Path::new(other)), None, "{other}");
        }
    }
}
