//! `skreap-bench chains`: the cost of long chains of the index for a connect, a close and a walk.
//!
//! Chains of several lengths (sockets of one backend), very many backends with one socket each, and
//! as many backends that are all in one bucket. In each round every case has its oldest sockets
//! closed, one by one, and replaced by new ones: a new socket is at the head of its chain, an old
//! one at the end.

mod case;
mod table;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use skreap::bpf::Config;
use skreap::core::Protocol;
use skreap_testbed as testbed;

use crate::hooks::programs;
use crate::machine::Machine;
use crate::progress::Progress;
use crate::rounds::in_rounds;
use crate::stats::Quartiles;
use crate::stop::Stop;
use crate::world;

use case::{Case, RENEWALS, Sample, Site};

/// Options of the command.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Measured rounds.
    #[arg(long, default_value_t = 31, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Sockets on one backend; ratios are to the first.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,1000,10000,100000",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    sockets: Vec<u32>,
    /// Backends with one socket each: spread over the buckets, and all in one bucket.
    #[arg(long, default_value_t = 65_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    backends: u32,
}

/// One case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Backends of the case.
    pub backends: u32,
    /// Sockets connected to them.
    pub sockets: u32,
    /// Buckets of the index.
    pub buckets: u32,
    /// Nodes of the backend that is walked.
    pub visited: u64,
    /// Nodes of other backends in its bucket.
    pub passed_over: u64,
    /// In the hook of `connect()`, nanoseconds for one.
    pub connect_ns: Quartiles,
    /// In the hook of the release, nanoseconds for one.
    pub close_ns: Quartiles,
    /// A dry walk of one backend with all its calls, nanoseconds of processor time.
    pub walk_ns: Quartiles,
    /// `connect_ns` / that of the first case in the same round.
    pub connect_ratio: Quartiles,
    /// `close_ns` / that of the first case in the same round.
    pub close_ratio: Quartiles,
    /// `walk_ns` / that of the first case in the same round.
    pub walk_ratio: Quartiles,
}

/// The JSON output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Where it was run.
    pub machine: Machine,
    /// Rounds that count.
    pub rounds: u32,
    /// Closes and connects of one case in one round.
    pub renewals: u32,
    /// Case by case.
    pub cases: Vec<Row>,
}

/// Measures and prints.
///
/// # Errors
/// When the kernel lacks something, memory is short, a walk does not find exactly the existing
/// sockets, or the user stops.
pub fn run(options: &Options, stop: &Stop) -> Result<()> {
    let chains: u64 = options.sockets.iter().copied().map(u64::from).sum();
    world::require_sockets(Protocol::Udp, chains + 2 * u64::from(options.backends))?;
    let chains = u32::try_from(chains).context("too many sockets for one index")?;
    let nofile = testbed::raise_nofile_limit().context("raise the limit of open files")?;
    let progress = Progress::new(u64::from(options.rounds) + 1);
    let fitting = |sockets: u32| {
        let defaults = Config::default();
        defaults.max_sockets(defaults.max_sockets.max(sockets))
    };

    progress.case("opening sockets");
    let mut sites = [
        Site::build("chains", &fitting(chains + options.backends), nofile)?,
        Site::build("bucket", &fitting(options.backends).buckets(1), nofile)?,
    ];
    let mut cases = Vec::new();
    let [spread, one_bucket] = &mut sites;
    for (number, &sockets) in (0..).zip(&options.sockets) {
        cases.push(spread.one_backend(0, number, sockets, stop)?);
    }
    cases.push(spread.many_backends(0, options.backends, stop)?);
    cases.push(one_bucket.many_backends(1, options.backends, stop)?);

    progress.case("measuring");
    // Statistics are on while the descriptor is open.
    let _statistics = programs::enable_statistics()?;
    let samples = in_rounds(options.rounds, &mut cases, &progress, stop, |case| {
        let site = sites.get_mut(case.site).context("there is no such site")?;
        case.measure(site)
    })?;
    for (case, samples) in cases.iter_mut().zip(samples) {
        case.samples = samples;
    }
    drop(progress);
    let report =
        Report { machine: Machine::here(), rounds: options.rounds, renewals: RENEWALS, cases: rows(&cases) };
    if options.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", table::text(&report));
    }
    Ok(())
}

fn rows(cases: &[Case]) -> Vec<Row> {
    let Some(first) = cases.first() else { return Vec::new() };
    cases.iter().map(|case| row(case, &first.samples)).collect()
}

fn row(case: &Case, first: &[Sample]) -> Row {
    let of = |what: fn(&Sample) -> f64| {
        let values: Vec<f64> = case.samples.iter().map(what).collect();
        (Quartiles::of(&values), Quartiles::of(&ratios(&case.samples, first, what)))
    };
    let (connect_ns, connect_ratio) = of(|sample| sample.connect_ns);
    let (close_ns, close_ratio) = of(|sample| sample.close_ns);
    let (walk_ns, walk_ratio) = of(|sample| sample.walk_ns);
    let last = case.samples.last().copied().unwrap_or_default();
    Row {
        backends: case.backends,
        sockets: case.sockets,
        buckets: case.buckets,
        visited: last.visited,
        passed_over: last.passed_over,
        connect_ns,
        close_ns,
        walk_ns,
        connect_ratio,
        close_ratio,
        walk_ratio,
    }
}

/// Round by round.
fn ratios(samples: &[Sample], first: &[Sample], what: fn(&Sample) -> f64) -> Vec<f64> {
    samples.iter().zip(first).map(|(sample, first)| what(sample) / what(first)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_round_by_round() {
        let close = |close_ns| Sample { close_ns, ..Sample::default() };
        // The machine was twice as slow in the second round.
        let (first, other) = ([close(100.0), close(200.0)], [close(110.0), close(220.0)]);
        assert_eq!(ratios(&other, &first, |sample| sample.close_ns), [1.1, 1.1]);
    }
}
