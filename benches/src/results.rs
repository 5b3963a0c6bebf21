//! `results.json`: everything a report is drawn from.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use skreap::core::Protocol;

use crate::grid::Tables;
use crate::machine::Machine;
use crate::stats::Percentiles;

/// Name of the file in the output directory.
pub const FILE: &str = "results.json";

/// The namespaces that an engine visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Every netns of the world.
    All,
    /// Only those known to hold victims. Only the index can know that.
    Known,
}

impl Scope {
    /// As in the JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Known => "known",
        }
    }
}

/// The samples of one case, nanoseconds, in the order in which they were taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raw {
    /// From the call of the engine to its return.
    pub total_ns: Vec<u64>,
    /// Finding.
    pub walk_ns: Vec<u64>,
    /// Destroying; 0 where finding and destroying are one step.
    pub destroy_ns: Vec<u64>,
}

/// One engine in one world with one number of victims.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    /// Own name of the engine, or of the measure, such as `floor`.
    pub engine: String,
    /// Protocol of all sockets.
    pub proto: Protocol,
    /// How many network namespaces the sockets are spread over.
    pub netns: u32,
    /// Client sockets in all, victims included.
    pub sockets: u32,
    /// How many of them are connected to the backend that is gone.
    pub victims: u32,
    /// Shared or per-netns socket tables.
    pub tables: Tables,
    /// The namespaces that the engine visited.
    pub scope: Scope,
    /// How many samples count.
    pub samples: usize,
    /// Runs that were thrown away because not exactly the victims had died.
    pub rejected: usize,
    /// Size of a netns's own socket table; `None` with shared tables.
    pub table_entries: Option<u32>,
    /// From the call of the engine to its return.
    pub total_ns: Percentiles,
    /// Finding.
    pub walk_ns: Percentiles,
    /// Destroying.
    pub destroy_ns: Percentiles,
    /// Every sample.
    #[serde(default)]
    pub raw: Raw,
}

impl Case {
    /// Engine and, if it did not visit every netns, its scope: `iter (known netns)`.
    pub fn label(&self) -> String {
        match self.scope {
            Scope::All => self.engine.clone(),
            Scope::Known => format!("{} (known netns)", self.engine),
        }
    }
}

/// An engine that could not take part, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The engine.
    pub engine: String,
    /// The reason.
    pub why: String,
}

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Results {
    /// Where it was run.
    pub machine: Machine,
    /// One for each engine, world and number of victims.
    pub cases: Vec<Case>,
    /// Engines that were asked for and could not run.
    #[serde(default)]
    pub refused: Vec<Refused>,
}

impl Results {
    /// Reads `results.json` of a directory.
    ///
    /// # Errors
    /// When the file is missing or has another format.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(FILE);
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is not a result of run", path.display()))
    }

    /// Writes `results.json` such that a reader, or a crash, sees the old or the new file and never
    /// half of it.
    ///
    /// # Errors
    /// When the directory cannot be written to.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let json = serde_json::to_vec(self).context("write results as JSON")?;
        write_whole(&directory.join(FILE), &json)
    }

    /// Notes an engine that cannot run, once.
    pub fn refuse(&mut self, engine: &str, why: String) {
        if !self.refused.iter().any(|r| r.engine == engine) {
            tracing::warn!("without {engine}: {why}");
            self.refused.push(Refused { engine: engine.to_owned(), why });
        }
    }
}

/// Replaces a file at once.
///
/// # Errors
/// When the directory cannot be written to.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let draft = path.with_extension("draft");
    let write = || {
        let mut file = File::create(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    write().with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A case whose every phase is a fixed share of `total_ns`.
    pub fn case(engine: &str, sockets: u32, victims: u32, total_ns: u64) -> Case {
        let of = |ns: u64| vec![ns, ns + 1, ns + 2];
        let raw = Raw { total_ns: of(total_ns), walk_ns: of(total_ns / 4), destroy_ns: of(total_ns / 2) };
        Case {
            engine: engine.to_owned(),
            proto: Protocol::Udp,
            netns: 100,
            sockets,
            victims,
            tables: Tables::Shared,
            scope: Scope::All,
            samples: raw.total_ns.len(),
            rejected: 0,
            table_entries: None,
            total_ns: Percentiles::of(&raw.total_ns),
            walk_ns: Percentiles::of(&raw.walk_ns),
            destroy_ns: Percentiles::of(&raw.destroy_ns),
            raw,
        }
    }

    #[test]
    fn shape_of_the_file() {
        let mut results = Results { cases: vec![case("netlink", 1000, 10, 4000)], ..Results::default() };
        results.machine.commit = "abc".to_owned();
        let json = concat!(
            r#"{"machine":{"kernel":"","cpu":"","memory":"","sysctls":{},"commit":"abc","command":""},"#,
            r#""cases":[{"engine":"netlink","proto":"udp","netns":100,"sockets":1000,"victims":10,"#,
            r#""tables":"shared","scope":"all","samples":3,"rejected":0,"table_entries":null,"#,
            r#""total_ns":{"p50":4001,"p90":4002,"p99":4002,"max":4002},"#,
            r#""walk_ns":{"p50":1001,"p90":1002,"p99":1002,"max":1002},"#,
            r#""destroy_ns":{"p50":2001,"p90":2002,"p99":2002,"max":2002},"#,
            r#""raw":{"total_ns":[4000,4001,4002],"walk_ns":[1000,1001,1002],"destroy_ns":[2000,2001,2002]}}],"#,
            r#""refused":[]}"#,
        );
        assert_eq!(serde_json::to_string(&results).unwrap(), json);
        assert_eq!(serde_json::from_str::<Results>(json).unwrap(), results);
    }

    #[test]
    fn written_and_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let results = Results { cases: vec![case("iter", 10, 1, 9)], ..Results::default() };
        results.write(directory.path()).unwrap();
        results.write(directory.path()).unwrap();
        assert_eq!(Results::read(directory.path()).unwrap(), results);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
