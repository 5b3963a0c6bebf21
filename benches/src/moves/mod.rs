//! `skreap-bench moves`: sockets that are connected to a living backend, against the destroy of as many.
//!
//! One crowd of processes. In each round the sockets of one backend are moved to another one, those of a third are destroyed
//! and connected again by their owners, those of a fourth destroyed and revived, and the processes that have one socket open,
//! and those that have all victims open, are looked for.

mod crowd;
mod table;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};
use skreap::Reaper;
use skreap::bpf::{Config, Opener, Openers};
use skreap::choice::EngineChoice;
use skreap::core::{
    Action, Backend, Destinations, Event, Instead, Move, Protocol, Report as EventReport, Revive, Spread,
    VictimAction, VictimAction::Destroy,
};

use crate::machine::Machine;
use crate::progress::Progress;
use crate::rounds::in_rounds;
use crate::stats::Quartiles;
use crate::stop::Stop;
use crate::world::require_sockets;

use crowd::{Crowd, DESTROYED, MOVED, REVIVED};

/// Options of the command.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Measured rounds.
    #[arg(long, default_value_t = 31, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Processes.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=4096))]
    processes: u32,
    /// Descriptors of each process.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(64..=10_000))]
    descriptors: u32,
    /// Network namespaces that the processes are spread over.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=4096))]
    netns: u32,
    /// Sockets that are moved, that are destroyed, and that are revived: so many of each in each process.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10))]
    each: u32,
}

/// One thing that is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What.
    pub name: String,
    /// With how many sockets.
    pub sockets: u64,
    /// From the call to its return, nanoseconds.
    pub ns: Quartiles,
    /// What it is compared with.
    pub against: String,
    /// `ns` / that of the other in the same round.
    pub ratio: Quartiles,
}

/// The JSON output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Where it was run.
    pub machine: Machine,
    /// Rounds that count.
    pub rounds: u32,
    /// Processes.
    pub processes: u32,
    /// Descriptors of each.
    pub descriptors: u32,
    /// Network namespaces.
    pub netns: u32,
    /// Thing by thing.
    pub rows: Vec<Row>,
}

/// The cases, in the order of the table.
const CASES: [Case; 5] = [Case::Destroy, Case::Move, Case::Revive, Case::FindOne, Case::FindAll];
/// Milliseconds to the second look.
const AFTER_MS: u32 = 100;
/// Longer than a second look takes.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Case {
    Destroy,
    Move,
    Revive,
    FindOne,
    FindAll,
}

impl Case {
    const fn name(self) -> &'static str {
        match self {
            Self::Destroy => "destroy",
            Self::Move => "move",
            Self::Revive => "revive after 100 ms",
            Self::FindOne => "find the owner of one",
            Self::FindAll => "find the owners",
        }
    }

    const fn against(self) -> Self {
        match self {
            Self::Destroy | Self::Move => Self::Destroy,
            Self::Revive => Self::Revive,
            Self::FindOne | Self::FindAll => Self::FindOne,
        }
    }
}

/// Measures and prints.
///
/// # Errors
/// When the kernel lacks something, memory is short, something else than the victims is met, or the user stops.
pub fn run(options: &Options, stop: &Stop) -> Result<()> {
    require_sockets(Protocol::Udp, u64::from(options.processes) * u64::from(options.descriptors))?;
    let progress = Progress::new(u64::from(options.rounds) + 1);
    progress.case("opening sockets");
    let mut bench = Bench::new(options, stop)?;
    progress.case("measuring");
    let samples =
        in_rounds(options.rounds, &mut CASES.clone(), &progress, stop, |case| bench.measure(*case))?;
    let samples: HashMap<Case, Vec<f64>> = CASES.into_iter().zip(samples).collect();
    drop(progress);
    let report = Report {
        machine: Machine::here(),
        rounds: options.rounds,
        processes: options.processes,
        descriptors: options.descriptors,
        netns: options.netns,
        rows: CASES.iter().map(|case| row(*case, bench.victims, &samples)).collect(),
    };
    if options.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", table::text(&report));
    }
    Ok(())
}

fn row(case: Case, victims: u64, samples: &HashMap<Case, Vec<f64>>) -> Row {
    let of = |case: Case| samples.get(&case).map(Vec::as_slice).unwrap_or_default();
    let ratios: Vec<f64> = of(case).iter().zip(of(case.against())).map(|(ns, other)| ns / other).collect();
    Row {
        name: case.name().to_owned(),
        sockets: if case == Case::FindOne { 1 } else { victims },
        ns: Quartiles::of(of(case)),
        against: case.against().name().to_owned(),
        ratio: Quartiles::of(&ratios),
    }
}

/// The crowd, and what acts on it.
struct Bench {
    // Dropped before the cgroup of its hooks.
    reaper: Reaper,
    openers: Openers,
    crowd: Crowd,
    /// Where the sockets are that are moved, and where they go next.
    moved: [SocketAddr; 2],
    /// The same of those that are revived.
    revived: [SocketAddr; 2],
    /// Of each kind.
    victims: u64,
    events: u64,
}

impl Bench {
    fn new(options: &Options, stop: &Stop) -> Result<Self> {
        let mut crowd = Crowd::new(options.processes, options.netns)?;
        let max_sockets = options.processes.saturating_mul(options.descriptors).max(16_384);
        let reaper = Reaper::builder()
            .cgroup(crowd.cgroup())
            .config(Config::default().max_sockets(max_sockets))
            .engine(EngineChoice::Named(skreap::core::EngineName::Netlink))
            .bootstrap(false)
            .build()?;
        crowd.open(options.descriptors, options.each, stop)?;
        let victims = u64::from(options.processes) * u64::from(options.each);
        Ok(Self {
            reaper,
            openers: Openers::load()?,
            crowd,
            moved: MOVED,
            revived: REVIVED,
            victims,
            events: 0,
        })
    }

    fn measure(&mut self, case: Case) -> Result<f64> {
        match case {
            Case::Destroy => {
                let (ns, report) = self.event(DESTROYED, Destroy)?;
                ensure!(report.destroyed == self.victims && report.complete, "{report:?}");
                self.crowd.connect_destroyed()?;
                Ok(ns)
            }
            Case::Move => {
                let [from, to] = self.moved;
                let to = Destinations::new(vec![backend(to)?], Spread::Even)?;
                let how = Move { to, tcp: Instead::Spare, otherwise: Instead::Spare };
                let (ns, report) = self.event(from, VictimAction::Move(how))?;
                let moved = report.moved.as_ref().map_or(0, |moved| moved.moved);
                ensure!(moved == self.victims && report.complete, "{report:?}");
                self.moved.reverse();
                Ok(ns)
            }
            Case::Revive => self.revive(),
            Case::FindOne => self.find(1),
            Case::FindAll => self.find(self.crowd.cookies().len()),
        }
    }

    /// From the event to the end of the second look. A client that never connects again loses what it sends meanwhile.
    fn revive(&mut self) -> Result<f64> {
        let [from, to] = self.revived;
        let how = Revive { to: Destinations::new(vec![backend(to)?], Spread::Even)?, after_ms: AFTER_MS };
        let before = self.reaper.monitor().status()?.totals.revived.revived;
        let start = Instant::now();
        let (_, report) = self.event(from, VictimAction::Revive(how))?;
        ensure!(report.destroyed == self.victims && report.complete, "{report:?}");
        let totals = loop {
            let status = self.reaper.monitor().status()?;
            if status.reviving == 0 {
                break status.totals;
            }
            ensure!(start.elapsed() < PATIENCE, "{} sockets were never looked at again", status.reviving);
            thread::sleep(Duration::from_millis(1));
        };
        let ns = start.elapsed().as_nanos() as f64;
        ensure!(totals.revived.revived - before == self.victims, "{:?}", totals.revived);
        self.revived.reverse();
        Ok(ns)
    }

    fn event(&mut self, gone: SocketAddr, what: VictimAction) -> Result<(f64, EventReport)> {
        self.events += 1;
        let action = Action::BackendDeleted { backend: backend(gone)? };
        let mut event = Event::new(format!("bench-{}", self.events), action);
        event.victim_action = Some(what);
        let start = Instant::now();
        let report = self.reaper.handle(&event);
        let ns = start.elapsed().as_nanos() as f64;
        if let Some(error) = &report.error {
            bail!("the event failed: {error}");
        }
        Ok((ns, report))
    }

    fn find(&mut self, count: usize) -> Result<f64> {
        let Some(cookies) = self.crowd.cookies().get(..count) else { bail!("there are no {count} sockets") };
        let start = Instant::now();
        let found: Vec<(u64, Opener)> = self.openers.find(cookies)?;
        let ns = start.elapsed().as_nanos() as f64;
        ensure!(found.len() == count, "{} of {count} sockets have an owner", found.len());
        Ok(ns)
    }
}

fn backend(addr: SocketAddr) -> Result<Backend> {
    Ok(Backend::new(Protocol::Udp, addr.ip(), addr.port())?)
}
