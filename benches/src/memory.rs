//! `skreap-bench memory`: the memory of the index for each socket it can track.
//!
//! All of it is allocated when the index is loaded, so no socket needs to be opened: a socket has
//! no BPF storage, map entry or allocation of its own.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use skreap::bpf::{Config, FRONTENDS_MAX, Index, module};

use crate::machine::Machine;
use crate::ratio::grouped;

/// Numbers of sockets that are measured.
const SOCKETS: [u32; 4] = [10_000, 100_000, 262_144, 1_000_000];

/// The memory of one index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Sockets that always find room.
    pub sockets: u32,
    /// Bytes of all maps: nodes, records, buckets, counters, emit buffers, constants.
    pub bytes: u64,
    /// Size of the same maps as the kernel reports it (`memlock` in fdinfo), rounded up to pages.
    pub kernel_bytes: u64,
    /// `bytes` of an index that holds a reference to each socket; none without the kernel module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_bytes: Option<u64>,
    /// `kernel_bytes` of an index that records frontends, as many as it can; none where the kernel cannot load it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontends_kernel_bytes: Option<u64>,
}

impl Row {
    /// Bytes that frontends take more for each socket, by the kernel's count.
    fn more_with_frontends(&self) -> Option<f64> {
        let more = self.frontends_kernel_bytes?.saturating_sub(self.kernel_bytes);
        Some(more as f64 / f64::from(self.sockets))
    }
}

/// The JSON output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Where it was run.
    pub machine: Machine,
    /// By number of sockets.
    pub cases: Vec<Row>,
}

/// Measures and prints.
///
/// # Errors
/// When an index of that size cannot be loaded.
pub fn run(json: bool) -> Result<()> {
    let cases = SOCKETS.into_iter().map(measure).collect::<Result<_>>()?;
    let report = Report { machine: Machine::here(), cases };
    if json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", text(&report));
    }
    Ok(())
}

fn measure(sockets: u32) -> Result<Row> {
    let load = |config: Config| -> Result<(u64, u64)> {
        let index = Index::load(&config.max_sockets(sockets))
            .with_context(|| format!("load an index for {sockets} sockets"))?;
        Ok((index.map_bytes()?, charged()?))
    };
    let (bytes, kernel_bytes) = load(Config::default())?;
    let held = module::look().ok().map(|_| load(Config::default().refs(true)));
    let held_bytes = held.transpose()?.map(|(bytes, _)| bytes);
    let frontends = load(Config::default().frontends(FRONTENDS_MAX));
    let frontends_kernel_bytes = frontends
        .inspect_err(|e| tracing::warn!("without frontends: {e:#}"))
        .ok()
        .map(|(_, kernel_bytes)| kernel_bytes);
    Ok(Row { sockets, bytes, kernel_bytes, held_bytes, frontends_kernel_bytes })
}

/// Bytes of all maps that this process has a descriptor of, as the kernel counts them.
fn charged() -> Result<u64> {
    let mut maps = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fdinfo").context("list /proc/self/fdinfo")? {
        // The descriptor of the listing itself is gone by now.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        if let Some((id, bytes)) = map_and_memlock(&text) {
            maps.insert(id, bytes);
        }
    }
    Ok(maps.values().sum())
}

/// `map_id` and `memlock` of the fdinfo of a map; `None` for other descriptors.
fn map_and_memlock(fdinfo: &str) -> Option<(u32, u64)> {
    let field = |name: &str| {
        fdinfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    };
    Some((field("map_id")?.parse().ok()?, field("memlock")?.parse().ok()?))
}

fn text(report: &Report) -> String {
    let mut text = format!(
        "{:>10} {:>14} {:>9} {:>16} {:>13} {:>14} {:>15} {:>12}\n",
        "sockets",
        "bytes",
        "MiB",
        "kernel's count",
        "bytes/socket",
        "bytes if held",
        "with frontends",
        "more/socket"
    );
    for row in &report.cases {
        let each = row.bytes as f64 / f64::from(row.sockets);
        let mib = row.bytes as f64 / f64::from(1 << 20);
        text.push_str(&format!(
            "{:>10} {:>14} {mib:>9.1} {:>16} {each:>13.1} {:>14} {:>15} {:>12}\n",
            grouped(row.sockets.into()),
            grouped(row.bytes),
            grouped(row.kernel_bytes),
            row.held_bytes.map_or_else(|| "-".to_owned(), grouped),
            row.frontends_kernel_bytes.map_or_else(|| "-".to_owned(), grouped),
            row.more_with_frontends().map_or_else(|| "-".to_owned(), |more| format!("{more:.1}")),
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_fdinfo_of_maps_only() {
        let map = "pos:\t0\nmap_type:\t2\nmap_id:\t17\nmemlock:\t4096\nfrozen:\t0\n";
        assert_eq!(map_and_memlock(map), Some((17, 4096)));
        assert_eq!(map_and_memlock("pos:\t0\nprog_id:\t3\nmemlock:\t4096\n"), None);
    }

    #[test]
    fn shape_of_the_json() {
        let row = Row {
            sockets: 10_000,
            bytes: 5,
            kernel_bytes: 4096,
            held_bytes: None,
            frontends_kernel_bytes: None,
        };
        assert_eq!(
            serde_json::to_string(&row).unwrap(),
            r#"{"sockets":10000,"bytes":5,"kernel_bytes":4096}"#
        );
        let row = Row { frontends_kernel_bytes: Some(164_096), ..row };
        assert_eq!(row.more_with_frontends(), Some(16.0));
    }
}
