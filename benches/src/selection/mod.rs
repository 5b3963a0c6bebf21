//! `skreap-bench selection`: one pass over the index with a filter, against what else could answer it.
//!
//! One world. In each round every way of finding the same sockets has its turn, and nothing is destroyed:
//! the backend's network as one prefix, the same among 1,024 prefixes, a prefix that nothing is connected to, a pass of
//! user space over the whole index, and `sock_diag` with a filter in the kernel, in every netns.

mod table;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use skreap::bpf::{Filter, Rule, Select};
use skreap::core::{EngineName, Prefix, Protocol, Target};
use skreap::engine::{Chosen, Engine};

use crate::grid::{Tables, WorldSpec};
use crate::machine::Machine;
use crate::measure;
use crate::progress::Progress;
use crate::rounds::in_rounds;
use crate::stats::Quartiles;
use crate::stop::Stop;
use crate::world::{self, World};

/// Prefixes of one event, at most.
const PREFIXES: u16 = 1024;

/// Options of the command.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Measured rounds.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Client sockets in all.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    sockets: u32,
    /// Network namespaces that they are spread over.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=4096))]
    netns: u32,
    /// Sockets that are selected.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=15_000))]
    victims: u32,
}

/// One way of finding the sockets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Sockets that it has found.
    pub found: u64,
    /// From the call to its return, nanoseconds.
    pub ns: Quartiles,
    /// `ns` / that of the first in the same round.
    pub ratio: Quartiles,
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

/// A way of finding.
enum Way {
    Pass(Select, Box<Filter>),
    Engine(Box<dyn Engine>),
}

struct Case {
    name: &'static str,
    way: Way,
    expected: u64,
    samples: Vec<f64>,
}

impl Case {
    fn measure(&mut self, target: &Target) -> Result<f64> {
        let start = Instant::now();
        let found = match &mut self.way {
            Way::Pass(select, filter) => {
                let mut victims = Vec::new();
                select.pass(filter, false, &mut victims)?;
                victims.len() as u64
            }
            Way::Engine(engine) => engine.run(target, &mut Chosen::default())?.victims,
        };
        let ns = start.elapsed().as_nanos() as f64;
        ensure!(found == self.expected, "{} has found {found} sockets, not {}", self.name, self.expected);
        Ok(ns)
    }
}

/// Measures and prints.
///
/// # Errors
/// When the kernel lacks something, memory is short, something else than the victims is found, or the user stops.
pub fn run(options: &Options, stop: &Stop) -> Result<()> {
    let spec = WorldSpec {
        proto: Protocol::Udp,
        netns: options.netns,
        sockets: options.sockets,
        tables: Tables::Shared,
        victims: vec![options.victims],
    };
    world::require_sockets(spec.proto, u64::from(options.sockets) + u64::from(options.victims))?;
    let progress = Progress::new(u64::from(options.rounds) + 1);
    progress.case("opening sockets");
    let mut world = World::build(&spec, world::index_size(std::slice::from_ref(&spec)))?;
    world.fill(options.sockets.saturating_sub(options.victims), stop)?;
    world.raise_victims(options.victims)?;
    let target = Target { dry_run: true, ..world.target()? };
    let mut cases = cases(&world, &target, options.victims.into())?;

    progress.case("measuring");
    let samples = in_rounds(options.rounds, &mut cases, &progress, stop, |case| case.measure(&target))?;
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
        print!("{}", table::text(&report));
    }
    Ok(())
}

fn cases(world: &World, target: &Target, victims: u64) -> Result<Vec<Case>> {
    let IpAddr::V4(gone) = target.backend.addr() else {
        anyhow::bail!("the backend is not IPv4");
    };
    let [a, b, c, _] = gone.octets();
    let network = Prefix::new(Ipv4Addr::new(a, b, c, 0).into(), 24).context("the network of the backend")?;
    // 100.64.0.0/10: nothing of a world is connected to it.
    let other = |i: u16| {
        let [high, low] = (i << 4).to_be_bytes();
        Prefix::new(Ipv4Addr::new(100, 64, high, low).into(), 28).context("a network of others")
    };
    let others = (0..PREFIXES - 1).map(other).collect::<Result<Vec<_>>>()?;
    let pass = |to: Vec<Prefix>| -> Result<Way> {
        let rule = Rule { to, ..Rule::default() };
        let filter = Filter::new(&rule, None, &[], 0).map_err(|what| anyhow::anyhow!("too many {what}"))?;
        Ok(Way::Pass(Select::load(world.index())?, Box::new(filter)))
    };
    let engine = |name| -> Result<Way> { Ok(Way::Engine(measure::start(name, world, &world.all_netns())?)) };
    let case = |name, way, expected| Case { name, way, expected, samples: Vec::new() };
    Ok(vec![
        case("one /24", pass(vec![network])?, victims),
        case("1,024 prefixes", pass(others.iter().copied().chain([network]).collect())?, victims),
        case("a /28 of nobody", pass(others.first().copied().into_iter().collect())?, 0),
        case("index-scan", engine(EngineName::IndexScan)?, victims),
        case("sock_diag with a filter", engine(EngineName::DiagFilter)?, victims),
    ])
}

fn rows(cases: &[Case]) -> Vec<Row> {
    let Some(first) = cases.first() else { return Vec::new() };
    let row = |case: &Case| {
        let ratios: Vec<f64> =
            case.samples.iter().zip(&first.samples).map(|(ns, first)| ns / first).collect();
        Row {
            name: case.name.to_owned(),
            found: case.expected,
            ns: Quartiles::of(&case.samples),
            ratio: Quartiles::of(&ratios),
        }
    };
    cases.iter().map(row).collect()
}
