//! What a soak comes to.

use std::fmt;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;

use anyhow::{Context as _, Result};
use serde::Serialize;
use skreap::core::grouped;

/// The totals; the last ten must be 0.
#[derive(Debug, Default, Serialize)]
pub struct Totals {
    pub kernel: String,
    pub engine: String,
    pub cpus: u64,
    pub seconds: f64,
    pub workers: u64,
    pub seed: u64,
    pub socket_operations: u64,
    /// Made, and the server's sides of TCP connections, as a witness beside the hooks has counted them.
    pub sockets: u64,
    /// What the index has counted.
    pub inserts: u64,
    pub namespaces: u64,
    pub looks: u64,
    pub events: u64,
    /// Those of them that had a selector, and events that meant the clients of some frontends.
    pub selected: u64,
    pub by_frontend: u64,
    /// Those that moved their sockets to a backend that lives, or revived them there.
    pub healing: u64,
    /// The sockets that were found there.
    pub healed: u64,
    pub destroyed: u64,
    pub overtaken: u64,
    /// Sockets whose lock their owner has held for a while.
    pub held: u64,
    /// Those of them that a report has listed as failed (`ETIMEDOUT`).
    pub reported_held: u64,
    /// Those of these that were destroyed once their owner had let go.
    pub late: u64,
    /// The others of these: their owner was killed.
    pub orphaned: u64,
    /// Namespaces that died right after an event.
    pub ended_namespaces: u64,
    /// SIGKILLs.
    pub services_killed: u64,
    pub workers_killed: u64,
    pub missed: u64,
    pub wrongly_destroyed: u64,
    /// Connected to another backend though no event meant them.
    pub wrongly_connected: u64,
    /// Reported as failed because of a held lock, and neither destroyed later nor orphaned.
    pub held_without_end: u64,
    /// Namespaces that `skreap serve` has kept when they were to die.
    pub kept_namespaces: u64,
    pub leaked_nodes: u64,
    pub stale_nodes: u64,
    /// Sockets that the witness has seen made, and not released.
    pub missed_releases: u64,
    /// Releases that the witness has seen, and the index has not.
    pub uncounted_releases: u64,
    pub kernel_complaints: u64,
}

impl Totals {
    /// What is to be 0.
    pub fn faults(&self) -> [(&'static str, u64); 10] {
        [
            ("missed", self.missed),
            ("wrongly destroyed", self.wrongly_destroyed),
            ("wrongly connected", self.wrongly_connected),
            ("held without end", self.held_without_end),
            ("kept namespaces", self.kept_namespaces),
            ("leaked nodes", self.leaked_nodes),
            ("stale nodes met", self.stale_nodes),
            ("missed releases", self.missed_releases),
            ("uncounted releases", self.uncounted_releases),
            ("kernel log complaints", self.kernel_complaints),
        ]
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, engine, cpus, seconds, workers, seed, .. } = self;
        writeln!(
            f,
            "Linux {kernel}, {cpus} CPUs, engine {engine}, {seconds:.0} s, {workers} workers, seed {seed}"
        )?;
        let done = [
            ("socket operations", self.socket_operations),
            ("sockets", self.sockets),
            ("inserts", self.inserts),
            ("namespaces", self.namespaces),
            ("looks at a socket", self.looks),
            ("events", self.events),
            ("by a selector", self.selected),
            ("by a frontend", self.by_frontend),
            ("moves and revives", self.healing),
            ("moved or revived", self.healed),
            ("destroyed", self.destroyed),
            ("overtaken", self.overtaken),
            ("locks held", self.held),
            ("held when reported", self.reported_held),
            ("destroyed late", self.late),
            ("orphaned", self.orphaned),
            ("ended namespaces", self.ended_namespaces),
            ("serve killed", self.services_killed),
            ("workers killed", self.workers_killed),
        ];
        done.iter()
            .chain(&self.faults())
            .try_for_each(|(what, n)| writeln!(f, "{what:<22}{:>16}", grouped(*n)))
    }
}

/// Complaints in the kernel's log from now on.
pub struct KernelLog(Option<File>);

/// As in tests/vm/run.sh.
const COMPLAINTS: [&str; 8] = [
    "WARNING:",
    "BUG:",
    "Oops",
    "Kernel panic",
    "Call Trace",
    "general protection",
    "refcount_t:",
    "self-detected stall",
];

impl KernelLog {
    pub fn open() -> Self {
        let log = File::options().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg");
        let mut log = match log {
            Ok(log) => log,
            Err(error) => {
                eprintln!("soak: the kernel's log cannot be read, and is not looked at: {error}");
                return Self(None);
            }
        };
        let at_end = log.seek(SeekFrom::End(0)).is_ok();
        Self(at_end.then_some(log))
    }

    /// Those that came since.
    pub fn complaints(&mut self) -> Vec<String> {
        let mut found = Vec::new();
        let Some(log) = &mut self.0 else { return found };
        let mut record = [0; 8192];
        // One record a read; EPIPE: some were overwritten, and the next read goes on.
        loop {
            match log.read(&mut record) {
                Ok(n) if n > 0 => {
                    let line = String::from_utf8_lossy(&record[..n]).into_owned();
                    if COMPLAINTS.iter().any(|complaint| line.contains(complaint)) {
                        found.push(line);
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                _ => return found,
            }
        }
    }
}

/// The kernel's release.
pub fn kernel() -> Result<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's release")?;
    Ok(release.trim().to_owned())
}
