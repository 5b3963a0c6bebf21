//! `skreap-bench start`: how long a reaper takes to start beside very many older sockets.
//!
//! One world of connected UDP sockets. In each round every start has its turn: with an empty index, with the search for the
//! sockets that exist, and with an index of the same sockets that was pinned before; beside one `sock_diag` dump of every
//! netns. What a start has made is removed again off the clock.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use skreap::Reaper;
use skreap::bpf::Config;
use skreap::choice::EngineChoice;
use skreap::core::{EngineName, Protocol, Target};
use skreap::engine::{Chosen, Engine};
use skreap_testbed::{Bpffs, Cgroup};

use crate::grid::{Tables, WorldSpec};
use crate::machine::Machine;
use crate::measure;
use crate::progress::Progress;
use crate::ratio::{duration, grouped, show};
use crate::rounds::in_rounds;
use crate::stats::Quartiles;
use crate::stop::Stop;
use crate::world::{self, World};

/// Options of the command.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Measured rounds.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Client sockets in all.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    sockets: u32,
    /// Network namespaces that they are spread over.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=4096))]
    netns: u32,
}

/// One way to start, or the dump.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Sockets that the index has after it. The dump, which visits all, looks for those of one backend.
    pub found: u64,
    /// From the call to its return, nanoseconds.
    pub ns: Quartiles,
    /// `ns` / that of the dump in the same round.
    pub to_dump: Quartiles,
    /// `ns` / that of the start with an empty index in the same round.
    pub to_empty: Quartiles,
}

/// The JSON output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Where it was run.
    pub machine: Machine,
    /// Rounds that count.
    pub rounds: u32,
    /// Client sockets in all.
    pub sockets: u32,
    /// Network namespaces.
    pub netns: u32,
    /// Way by way.
    pub rows: Vec<Row>,
}

/// What is timed.
enum Way<'a> {
    /// One pass over the kernel's tables of every netns.
    Dump(Box<dyn Engine>, Target),
    /// Of a reaper.
    Start { cgroup: &'a Path, search: bool, pins: Option<&'a Path> },
}

struct Case<'a> {
    name: &'static str,
    way: Way<'a>,
    expected: u64,
    samples: Vec<f64>,
}

impl Case<'_> {
    fn measure(&mut self, max_sockets: u32) -> Result<f64> {
        let start = Instant::now();
        let (ns, found) = match &mut self.way {
            Way::Dump(engine, target) => {
                let found = engine.run(target, &mut Chosen::default())?.victims;
                (start.elapsed(), found)
            }
            Way::Start { cgroup, search, pins } => {
                let mut reaper = reaper(cgroup, max_sockets, *search, *pins)?;
                let ns = start.elapsed();
                (ns, reaper.listing()?.sockets)
            }
        };
        ensure!(found == self.expected, "{}: {found} sockets, not {}", self.name, self.expected);
        Ok(ns.as_nanos() as f64)
    }
}

fn reaper(cgroup: &Path, max_sockets: u32, search: bool, pins: Option<&Path>) -> Result<Reaper> {
    let config = Config::default().max_sockets(max_sockets);
    let mut builder = Reaper::builder()
        .cgroup(cgroup)
        .config(config)
        .engine(EngineChoice::Named(EngineName::Netlink))
        .bootstrap(search);
    if let Some(pins) = pins {
        builder = builder.pin(pins);
    }
    builder.build().context("start a reaper")
}

/// Measures and prints.
///
/// # Errors
/// When the kernel lacks something, memory is short, a start does not find exactly the sockets, or the user stops.
pub fn run(options: &Options, stop: &Stop) -> Result<()> {
    let spec = WorldSpec {
        proto: Protocol::Udp,
        netns: options.netns,
        sockets: options.sockets,
        tables: Tables::Shared,
        victims: Vec::new(),
    };
    world::require_sockets(spec.proto, options.sockets.into())?;
    let progress = Progress::new(u64::from(options.rounds) + 1);
    progress.case("opening sockets");
    let mut world = World::build(&spec, world::index_size(std::slice::from_ref(&spec)))?;
    world.fill(options.sockets, stop)?;
    let bpffs = Bpffs::create()?;
    let pins = bpffs.path("pins");
    let nobody = Cgroup::create("nobody")?;
    drop(reaper(world.cgroup(), world.max_sockets(), true, Some(&pins))?);
    let mut cases = cases(&world, options.sockets.into(), nobody.path(), &pins)?;

    progress.case("measuring");
    let samples =
        in_rounds(options.rounds, &mut cases, &progress, stop, |case| case.measure(world.max_sockets()))?;
    for (case, samples) in cases.iter_mut().zip(samples) {
        case.samples = samples;
    }
    drop(progress);
    let report = Report {
        machine: Machine::here(),
        rounds: options.rounds,
        sockets: options.sockets,
        netns: options.netns,
        rows: rows(&cases),
    };
    if options.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", text(&report));
    }
    Ok(())
}

/// First the dump, then the empty start: the ratios are to them.
fn cases<'a>(world: &'a World, sockets: u64, nobody: &'a Path, pins: &'a Path) -> Result<Vec<Case<'a>>> {
    let dump = measure::start(EngineName::Diag, world, &world.all_netns())?;
    let target = Target { dry_run: true, ..world.living()? };
    let mut of_one = Vec::new();
    world.index().walker()?.walk(&target, &mut of_one)?;
    let case = |name, way, expected| Case { name, way, expected, samples: Vec::new() };
    let start = |cgroup, search, pins| Way::Start { cgroup, search, pins };
    Ok(vec![
        case("sock_diag dump", Way::Dump(dump, target), of_one.len() as u64),
        case("empty index", start(nobody, false, None), 0),
        case("search", start(world.cgroup(), true, None), sockets),
        case("pinned index", start(world.cgroup(), true, Some(pins)), sockets),
    ])
}

fn rows(cases: &[Case<'_>]) -> Vec<Row> {
    let [dump, empty, ..] = cases else { return Vec::new() };
    let ratios = |case: &Case<'_>, to: &Case<'_>| {
        Quartiles::of(&case.samples.iter().zip(&to.samples).map(|(ns, to)| ns / to).collect::<Vec<_>>())
    };
    let row = |case: &Case<'_>| Row {
        name: case.name.to_owned(),
        found: case.expected,
        ns: Quartiles::of(&case.samples),
        to_dump: ratios(case, dump),
        to_empty: ratios(case, empty),
    };
    cases.iter().map(row).collect()
}

fn text(report: &Report) -> String {
    let mut text = format!(
        "{}\n{} UDP sockets in {} netns, {} rounds; ratios round by round\n\n{:<16} {:>9} {:>9} {:>9} {:>9}\n",
        report.machine.kernel,
        grouped(report.sockets.into()),
        grouped(report.netns.into()),
        report.rounds,
        "start with",
        "found",
        "time",
        "/ dump",
        "/ empty"
    );
    for row in &report.rows {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:<16} {:>9} {:>9} {:>9} {:>9}",
            row.name,
            grouped(row.found),
            duration(row.ns.p50 as u64),
            show(row.to_dump.p50),
            show(row.to_empty.p50)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_to_the_dump_and_to_the_empty_start_of_the_same_round() {
        let case = |samples: &[f64]| Case {
            name: "start",
            way: Way::Start { cgroup: Path::new("/"), search: false, pins: None },
            expected: 0,
            samples: samples.to_vec(),
        };
        let rows = rows(&[case(&[10.0, 20.0]), case(&[2.0, 4.0]), case(&[15.0, 30.0])]);
        let found: Vec<(f64, f64)> = rows.iter().map(|row| (row.to_dump.p50, row.to_empty.p50)).collect();
        assert_eq!(found, [(1.0, 5.0), (0.2, 1.0), (1.5, 7.5)]);
    }
}
