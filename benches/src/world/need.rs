//! Compares the memory that a world needs with the available memory, before anything is created.

use std::fs;

use anyhow::{Context as _, Result, bail};
use skreap::core::Protocol;

use crate::grid::WorldSpec;
use crate::ratio::grouped;

/// Kernel memory of a connected UDP socket with its file, inode and dentry, and the client's own
/// record of it, in bytes; measured, rounded up.
const UDP_BYTES: u64 = 3_072;
/// The same for a TCP client socket and the connection in its backend's accept queue.
const TCP_BYTES: u64 = 8_192;
/// The index takes 44 bytes a socket; the list of cookies in this process as much again.
const INDEX_BYTES: u64 = 96;
/// A netns with its sysctl tables, `lo` and routes.
const NETNS_BYTES: u64 = 512 << 10;
/// From this size on the estimate is always printed.
const WORTH_SAYING: u64 = 1 << 30;
/// What must stay free for everything else.
const RESERVE: u64 = 512 << 20;

/// Bytes that a world takes at its largest.
pub fn bytes(spec: &WorldSpec) -> u64 {
    socket_bytes(spec.proto) * u64::from(spec.sockets) + NETNS_BYTES * u64::from(spec.netns)
}

fn socket_bytes(proto: Protocol) -> u64 {
    INDEX_BYTES
        + match proto {
            Protocol::Udp => UDP_BYTES,
            Protocol::Tcp => TCP_BYTES,
        }
}

/// Prints the memory that the largest of the worlds needs, and refuses if it is not available.
///
/// # Errors
/// When memory would run short, with both numbers; when /proc/meminfo cannot be read.
pub fn check_memory(worlds: &[WorldSpec]) -> Result<()> {
    let Some(largest) = worlds.iter().max_by_key(|spec| bytes(spec)) else { return Ok(()) };
    require(&largest.to_string(), bytes(largest))
}

/// The same for a number of sockets without a world.
///
/// # Errors
/// As for [`check_memory`].
pub fn require_sockets(proto: Protocol, count: u64) -> Result<()> {
    require(&format!("{} {proto} sockets", grouped(count)), socket_bytes(proto) * count)
}

/// `what` needs so many bytes.
fn require(what: &str, need: u64) -> Result<()> {
    let meminfo = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let available = available_bytes(&meminfo).context("/proc/meminfo has no MemAvailable")?;
    let mib = |bytes: u64| grouped(bytes >> 20);
    if need >= WORTH_SAYING {
        eprintln!("{what}: needs about {} MiB, {} MiB are available", mib(need), mib(available));
    }
    if available < need + RESERVE {
        bail!(
            "{what}: needs about {} MiB and {} MiB to spare, but only {} MiB are available; \
             use fewer --sockets",
            mib(need),
            mib(RESERVE),
            mib(available)
        );
    }
    Ok(())
}

fn available_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grid::{Axes, Preset};

    #[test]
    fn a_million_needs_three_gigabytes() {
        let worlds = Preset::Million.worlds(&Axes::default());
        let need = worlds.iter().map(bytes).max().unwrap();
        assert_eq!(need, 1_000_000 * (3_072 + 96) + 100 * (512 << 10));
    }

    #[test]
    fn reads_meminfo() {
        assert_eq!(available_bytes("MemTotal: 9 kB\nMemAvailable:   2048 kB\n"), Some(2 << 20));
        assert_eq!(available_bytes("MemTotal: 9 kB\n"), None);
    }
}
