//! `skreap-bench hooks`: the cost of the hooks for applications.
//!
//! The same work is timed without any program, with programs that do nothing, with a baseline that
//! records as Cilium does, and with the hooks of skreap. All of them run in each round, and each
//! round begins with another one.

mod case;
mod cpu;
mod load;
mod member;
pub mod programs;
mod table;
mod variant;

use std::os::fd::{AsFd as _, OwnedFd};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use skreap_testbed::{Cgroup, Netns};

use crate::machine::Machine;
use crate::progress::Progress;
use crate::rounds::in_rounds;
use crate::stats::Quartiles;
use crate::stop::Stop;

use case::Case;
use load::Site;
use member::Member;
use variant::{Indexes, Variant};

/// After a detach: lets the kernel free programs and maps before the next one is timed.
const QUIET_DELAY: Duration = Duration::from_millis(5);
/// The part of a batch that runs untimed before each timed one.
const WARM_UP: u32 = 10;

/// Options of the command.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Measured rounds.
    #[arg(long, default_value_t = 31, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Numbers of threads, all on one backend.
    #[arg(long, value_delimiter = ',', default_value = "1,2", value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: Vec<u32>,
    /// Only these cases.
    #[arg(long, value_delimiter = ',', value_enum)]
    cases: Vec<Case>,
}

/// One kind of work with one variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The work.
    pub case: Case,
    /// How many threads did it at the same time.
    pub threads: u32,
    /// Which programs were attached.
    pub variant: Variant,
    /// Time for the work / time without programs, of the same round. Above 1 is slower.
    pub ratio_to_off: Quartiles,
    /// The same / time with the hooks of skreap, for those that also record frontends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio_to_ours: Option<Quartiles>,
    /// Time in our programs for one operation, nanoseconds, measured in a separate pass.
    pub program_ns: f64,
    /// Time for one operation, nanoseconds; of all threads together.
    pub operation_ns: Quartiles,
    /// Throughput / throughput without programs: the inverse of `ratio_to_off.p50`.
    pub throughput_to_off: f64,
}

/// The JSON output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Where it was run.
    pub machine: Machine,
    /// Rounds that count.
    pub rounds: u32,
    /// Case by case.
    pub cases: Vec<Row>,
}

/// Measures and prints.
///
/// # Errors
/// When the kernel lacks something, or the user stops.
pub fn run(options: &Options, stop: &Stop) -> Result<()> {
    let cases = if options.cases.is_empty() { Case::ALL.to_vec() } else { options.cases.clone() };
    let netns = Netns::create("hooks")?;
    let cgroup = Cgroup::create("hooks")?;
    let directory = cgroup.open()?;
    let indexes = Indexes::load(directory.as_fd())?;
    // Dropped before the cgroup, which cannot be removed while this process is a member.
    let _member = Member::of(&cgroup)?;
    let bench = Bench { cgroup: directory, indexes, rounds: options.rounds };
    let steps = cases.len() * options.threads.len() * (options.rounds as usize + 2);
    let progress = Progress::new(steps as u64);
    // A thread inside the netns: every socket belongs to it, and its lo has no filter rules.
    let rows = netns.run(|| -> Result<Vec<Row>> {
        let site = Site::open().context("open the backends of the hook benchmark")?;
        let mut rows = Vec::new();
        for &case in &cases {
            for &threads in &options.threads {
                progress.case(&format!("{}, {threads} threads", case.name()));
                rows.extend(bench.measure(case, threads, &site, &progress, stop)?);
            }
        }
        Ok(rows)
    })??;
    drop(progress);
    let report = Report { machine: Machine::here(), rounds: options.rounds, cases: rows };
    if options.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", table::text(&report));
    }
    Ok(())
}

struct Bench {
    cgroup: OwnedFd,
    indexes: Indexes,
    rounds: u32,
}

impl Bench {
    fn measure(
        &self,
        case: Case,
        threads: u32,
        site: &Site,
        progress: &Progress,
        stop: &Stop,
    ) -> Result<Vec<Row>> {
        let mut variants = self.indexes.variants();
        let time = |variant: &mut Variant| self.time(*variant, case, threads, site);
        let times = in_rounds(self.rounds, &mut variants, progress, stop, time)?;
        let programs = self.program_times(case, threads, site)?;
        progress.step();
        Ok(rows(case, threads, &variants, &times, &programs))
    }

    /// Nanoseconds of one operation with this variant attached.
    fn time(&self, variant: Variant, case: Case, threads: u32, site: &Site) -> Result<f64> {
        let hooks = self.indexes.attach(variant, self.cgroup.as_fd())?;
        let elapsed = load::batch(case, site, threads, case.operations() / WARM_UP, case.operations())?;
        drop(hooks);
        thread::sleep(QUIET_DELAY);
        Ok(elapsed.as_nanos() as f64 / f64::from(case.operations() * threads))
    }

    /// For each variant the nanoseconds in its programs for one operation, from the kernel's own
    /// statistics.
    fn program_times(&self, case: Case, threads: u32, site: &Site) -> Result<Vec<f64>> {
        // Statistics are on while the descriptor is open. They cost time, so no other time is
        // measured here.
        let _statistics = programs::enable_statistics()?;
        let variants = self.indexes.variants().into_iter();
        variants
            .map(|variant| {
                let Some(hooks) = self.indexes.attach(variant, self.cgroup.as_fd())? else { return Ok(0.0) };
                load::batch(case, site, threads, 0, case.operations() / WARM_UP)?;
                let before = programs::run_time_ns(&hooks)?;
                load::batch(case, site, threads, 0, case.operations())?;
                let after = programs::run_time_ns(&hooks)?;
                Ok(after.saturating_sub(before) as f64 / f64::from(case.operations() * threads))
            })
            .collect()
    }
}

/// `times`: for each variant the nanoseconds of each round.
fn rows(case: Case, threads: u32, variants: &[Variant], times: &[Vec<f64>], programs: &[f64]) -> Vec<Row> {
    let Some(off) = times.first() else { return Vec::new() };
    let ratios = |times: &[f64], to: &[f64]| {
        Quartiles::of(&times.iter().zip(to).map(|(time, to)| time / to).collect::<Vec<_>>())
    };
    let ours = variants.iter().zip(times).find(|(variant, _)| **variant == Variant::Ours);
    let ours = ours.map(|(_, times)| times.as_slice());
    variants
        .iter()
        .zip(times)
        .zip(programs)
        .map(|((&variant, times), &program_ns)| {
            let ratio_to_off = ratios(times, off);
            let ours = ours.filter(|_| variant == Variant::OursFrontends);
            Row {
                case,
                threads,
                variant,
                ratio_to_off,
                ratio_to_ours: ours.map(|ours| ratios(times, ours)),
                program_ns,
                operation_ns: Quartiles::of(times),
                throughput_to_off: 1.0 / ratio_to_off.p50,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_round_by_round() {
        // The machine was twice as slow in the second round.
        let times = [
            vec![100.0, 200.0],
            vec![110.0, 220.0],
            vec![150.0, 300.0],
            vec![125.0, 250.0],
            vec![150.0, 300.0],
        ];
        let rows = rows(Case::UdpConnectClose, 1, &Variant::ALL, &times, &[0.0, 10.0, 50.0, 20.0, 30.0]);
        let medians: Vec<f64> = rows.iter().map(|row| row.ratio_to_off.p50).collect();
        assert_eq!(medians, [1.0, 1.1, 1.5, 1.25, 1.5]);
        let to_ours: Vec<Option<f64>> = rows.iter().map(|row| row.ratio_to_ours.map(|r| r.p50)).collect();
        assert_eq!(to_ours, [None, None, None, None, Some(1.2)]);
        assert_eq!(rows[2].program_ns, 50.0);
    }

    #[test]
    fn shape_of_the_json() {
        let times = [vec![100.0], vec![125.0], vec![200.0], vec![100.0]];
        let rows = rows(Case::UdpSendto, 2, &Variant::ALL, &times, &[0.0, 1.5, 2.0, 3.0]);
        assert_eq!(
            serde_json::to_string(&rows[1]).unwrap(),
            concat!(
                r#"{"case":"udp-sendto","threads":2,"variant":"empty","#,
                r#""ratio_to_off":{"p25":1.25,"p50":1.25,"p75":1.25},"program_ns":1.5,"#,
                r#""operation_ns":{"p25":125.0,"p50":125.0,"p75":125.0},"throughput_to_off":0.8}"#,
            )
        );
    }
}
