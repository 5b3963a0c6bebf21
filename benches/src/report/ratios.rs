//! The runs of the other commands, each as one chart of bars.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::ratio::grouped;
use crate::results;
use crate::stats::Quartiles;
use crate::{hooks, memory, selection};

/// One chart of bars.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// What was measured.
    pub title: String,
    /// What the length of a bar is.
    pub axis: &'static str,
    /// From the top to the bottom.
    pub bars: Vec<(String, Quartiles)>,
}

/// What another command has printed.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Other {
    Hooks(hooks::Report),
    Selection(selection::Report),
    Memory(memory::Report),
}

/// The chart of the run in this directory; `None` if it is one of `skreap-bench run`.
///
/// # Errors
/// When its results cannot be read.
pub fn read(directory: &Path) -> Result<Option<Chart>> {
    let path = directory.join(results::FILE);
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let chart = serde_json::from_str(&text).ok().map(|other| match other {
        Other::Hooks(report) => of_hooks(&report),
        Other::Selection(report) => of_selection(&report),
        Other::Memory(report) => of_memory(&report),
    });
    // An empty list is one of anything.
    Ok(chart.filter(|chart| !chart.bars.is_empty()))
}

fn of_hooks(report: &hooks::Report) -> Chart {
    let one = report.cases.iter().filter(|row| row.threads == 1);
    let bars = one.map(|row| (format!("{} {}", row.case.name(), row.variant.name()), row.ratio_to_off));
    Chart {
        title: format!("Cost of the hooks for applications, one thread, {} rounds", report.rounds),
        axis: "time / time without programs, of the same round (quartiles)",
        bars: bars.collect(),
    }
}

fn of_selection(report: &selection::Report) -> Chart {
    let (sockets, netns) = (grouped(report.sockets.into()), grouped(report.netns.into()));
    Chart {
        title: format!("Finding sockets by a selector among {sockets} UDP sockets in {netns} netns"),
        axis: "time / that of one pass by a /24, of the same round (quartiles)",
        bars: report.rows.iter().map(|row| (row.name.clone(), row.ratio)).collect(),
    }
}

fn of_memory(report: &memory::Report) -> Chart {
    let each = |bytes: u64, sockets: u32| {
        let bytes = bytes as f64 / f64::from(sockets);
        Quartiles { p25: bytes, p50: bytes, p75: bytes }
    };
    let bars = report.cases.iter().flat_map(|row| {
        let sockets = grouped(row.sockets.into());
        let plain = (sockets.clone(), each(row.kernel_bytes, row.sockets));
        let more = row.frontends_kernel_bytes.map(|bytes| each(bytes, row.sockets));
        [Some(plain), more.map(|more| (format!("{sockets}, frontends"), more))]
    });
    Chart {
        title: "Kernel memory of an index, for each socket that it can track".to_owned(),
        axis: "bytes for each socket",
        bars: bars.flatten().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;

    #[test]
    fn the_kind_of_a_run_is_seen_in_its_results() {
        let directory = tempfile::tempdir().unwrap();
        let write = |text: String| std::fs::write(directory.path().join(results::FILE), text).unwrap();
        let row = memory::Row {
            sockets: 1000,
            bytes: 5,
            kernel_bytes: 66_000,
            held_bytes: None,
            frontends_kernel_bytes: Some(76_000),
        };
        let report = memory::Report { machine: Machine::default(), cases: vec![row] };
        write(serde_json::to_string(&report).unwrap());
        let chart = read(directory.path()).unwrap().unwrap();
        let medians: Vec<(&str, f64)> =
            chart.bars.iter().map(|(label, bar)| (label.as_str(), bar.p50)).collect();
        assert_eq!(medians, [("1,000", 66.0), ("1,000, frontends", 76.0)]);
        let (machine, ratio) = (Machine::default(), Quartiles { p25: 9.0, p50: 10.0, p75: 12.0 });
        let row = selection::Row { name: "index-scan".to_owned(), found: 7, ns: ratio, ratio };
        let report = selection::Report { machine, rounds: 1, sockets: 1000, netns: 2, rows: vec![row] };
        write(serde_json::to_string(&report).unwrap());
        let chart = read(directory.path()).unwrap().unwrap();
        assert_eq!(chart.bars, [("index-scan".to_owned(), ratio)]);
        write(serde_json::to_string(&results::Results::default()).unwrap());
        assert_eq!(read(directory.path()).unwrap(), None);
    }
}
