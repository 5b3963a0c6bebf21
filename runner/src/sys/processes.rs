//! Which processes have sockets open.

use std::collections::{HashMap, HashSet};
use std::fs;
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

/// `socket:[123]`, as a descriptor in `/proc` is shown.
fn socket_inode(target: &Path) -> Option<u32> {
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// What a process calls itself; `None` if it has ended, or is hidden from us.
pub(crate) fn command_of(process: u32) -> Option<String> {
    command(&Path::new("/proc").join(process.to_string()))
}

fn command(process: &Path) -> Option<String> {
    let comm = fs::read(process.join("comm")).ok()?;
    let comm = String::from_utf8_lossy(&comm);
    // A process may call itself anything.
    Some(comm.trim_end_matches('\n').chars().map(|c| if c.is_control() { '?' } else { c }).collect())
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
