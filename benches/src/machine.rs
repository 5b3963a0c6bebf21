//! The context of a result: the machine, the kernel, the commit.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

/// Sysctls that influence the cost of a scan or a walk.
const SYSCTLS: [&str; 9] = [
    "net.core.bpf_jit_enable",
    "net.core.somaxconn",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_child_ehash_entries",
    "net.ipv4.tcp_ehash_entries",
    "net.ipv4.udp_child_hash_entries",
    "net.ipv4.udp_hash_entries",
    "kernel.bpf_stats_enabled",
    "kernel.unprivileged_bpf_disabled",
];

/// Machine and source of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Release and build of the kernel.
    pub kernel: String,
    /// Model of the CPUs and how many of them this process may use.
    pub cpu: String,
    /// Physical memory, in KiB as /proc/meminfo has it.
    pub memory: String,
    /// Sysctls in force where the run was started.
    pub sysctls: BTreeMap<String, String>,
    /// Commit of the source, with `-dirty` if it was changed; `unknown` outside of a work tree.
    pub commit: String,
    /// The command line.
    pub command: String,
}

impl Machine {
    /// This one, now.
    pub fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let line = |text: &str, key: &str| {
            text.lines()
                .find_map(|l| l.strip_prefix(key)?.trim_start().strip_prefix(':'))
                .map_or_else(|| "unknown".to_owned(), |value| value.trim().to_owned())
        };
        let cpus = std::thread::available_parallelism().map_or(0, usize::from);
        Self {
            kernel: format!(
                "{} {}",
                read("/proc/sys/kernel/osrelease").trim(),
                read("/proc/sys/kernel/version").trim()
            ),
            cpu: format!("{} x {cpus}", line(&read("/proc/cpuinfo"), "model name")),
            memory: line(&read("/proc/meminfo"), "MemTotal"),
            sysctls: SYSCTLS
                .iter()
                .filter_map(|key| {
                    let path = Path::new("/proc/sys").join(key.replace('.', "/"));
                    let value = fs::read_to_string(path).ok()?;
                    Some(((*key).to_owned(), value.trim().replace('\t', " ")))
                })
                .collect(),
            commit: commit(),
            command: std::env::args().collect::<Vec<_>>().join(" "),
        }
    }
}

/// The commit that is checked out where the sources of this program are.
fn commit() -> String {
    Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty", "--abbrev=12"])
        .stderr(Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map_or_else(|| "unknown".to_owned(), |text| text.trim().to_owned())
}
