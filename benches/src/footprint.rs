//! `skreap-bench footprint`: the memory of `skreap serve` while it answers an event with very many victims.
//!
//! For each number of victims a service of its own and as many connected UDP sockets. The peak is that of the process
//! (`VmHWM`), set back right before the event; memory of BPF maps is not in it.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use skreap::core::{Backend, Protocol};
use skreap_testbed::{self as testbed, Cgroup};

use crate::crowd::{self, Crowd};
use crate::machine::Machine;
use crate::measure::event;
use crate::measure::service::{self, Service};
use crate::progress::Progress;
use crate::ratio::grouped;
use crate::stop::Stop;
use crate::world;

/// Room in the index beyond the victims.
const SPARE: u32 = 4_096;

/// Options of the command.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Numbers of victims.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1000,10000,100000",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    victims: Vec<u32>,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Sockets that it destroyed.
    pub victims: u32,
    /// Resident memory of the service before it, KiB.
    pub before_kib: u64,
    /// The most resident memory until the answer was there, KiB.
    pub peak_kib: u64,
    /// Length of the answer, bytes.
    pub answer_bytes: usize,
    /// From the client's write to the end of the answer, nanoseconds.
    pub total_ns: u64,
}

/// The JSON output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Where it was run.
    pub machine: Machine,
    /// By number of victims.
    pub cases: Vec<Row>,
}

/// Measures and prints.
///
/// # Errors
/// When the kernel lacks something, memory is short, an event does not destroy exactly the victims, or the user stops.
pub fn run(options: &Options, stop: &Stop) -> Result<()> {
    let most = options.victims.iter().copied().max().unwrap_or(0);
    world::require_sockets(Protocol::Udp, most.into())?;
    let nofile = testbed::raise_nofile_limit().context("raise the limit of open files")?;
    let progress = Progress::new(options.victims.len() as u64);
    let mut cases = Vec::new();
    for (number, &victims) in (0..).zip(&options.victims) {
        progress.case(&format!("{victims} victims"));
        cases.push(measure(number, victims, nofile, stop)?);
        progress.step();
    }
    drop(progress);
    let report = Report { machine: Machine::here(), cases };
    if options.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", text(&report));
    }
    Ok(())
}

fn measure(number: u32, victims: u32, nofile: u64, stop: &Stop) -> Result<Row> {
    let cgroup = Cgroup::create("footprint")?;
    let label = format!("footprint-{number}");
    let mut service =
        Service::start(cgroup.path(), victims.saturating_add(SPARE), &label, &service::ours()?)?;
    let gone = crowd::of_chain(0);
    let mut crowd = Crowd::new("footprint", nofile);
    crowd.join(gone, victims, &cgroup, stop)?;

    let pid = service.pid();
    let clear = format!("/proc/{pid}/clear_refs");
    // 5: the peak becomes what is resident now.
    fs::write(&clear, "5").with_context(|| clear)?;
    let before_kib = memory(pid, "VmRSS")?;
    let backend = Backend::new(Protocol::Udp, gone.ip(), gone.port()).context("the backend of the crowd")?;
    let (answer, total_ns) = service.ask(&event::deleted(u64::from(number), backend))?;
    let peak_kib = memory(pid, "VmHWM")?;
    let report = service::report(&answer)?;
    ensure!(
        report.error.is_none() && report.complete && report.destroyed == u64::from(victims),
        "the event has not destroyed {victims} sockets: {answer}"
    );
    Ok(Row { victims, before_kib, peak_kib, answer_bytes: answer.len(), total_ns })
}

/// A field of `/proc/PID/status`, in KiB.
fn memory(pid: u32, field: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| path.clone())?;
    kib(&status, field).with_context(|| format!("{path} has no {field}"))
}

fn kib(status: &str, field: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    value.trim().strip_suffix(" kB")?.parse().ok()
}

fn text(report: &Report) -> String {
    let mut text = format!(
        "{}\n\n{:>9} {:>12} {:>12} {:>12}\n",
        report.machine.kernel, "victims", "before, KiB", "peak, KiB", "answer, B"
    );
    for row in &report.cases {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:>9} {:>12} {:>12} {:>12}",
            grouped(row.victims.into()),
            grouped(row.before_kib),
            grouped(row.peak_kib),
            grouped(row.answer_bytes as u64)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_status_of_a_process() {
        let status = "Name:\tskreap\nVmHWM:\t   12345 kB\nVmRSS:\t     999 kB\nThreads:\t7\n";
        assert_eq!(kib(status, "VmHWM"), Some(12_345));
        assert_eq!(kib(status, "VmRSS"), Some(999));
        assert_eq!(kib(status, "Vm"), None);
        assert_eq!(kib(status, "Threads"), None);
    }
}
