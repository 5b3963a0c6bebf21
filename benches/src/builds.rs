//! `skreap-bench builds`: what today's build and another one need for very many nodes of the index.
//!
//! Each build is a `skreap serve` of its own on the same cgroup, with an index of its own of the same sockets. All events are dry
//! runs, so every round finds what the one before it has found. They take turns, and each round begins with another one.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use skreap::core::{Action, Backend, Event, Protocol};
use skreap_testbed::{self as testbed, Cgroup};

use crate::crowd::{self, Crowd};
use crate::machine::Machine;
use crate::measure::event;
use crate::measure::service::{self, Service};
use crate::progress::Progress;
use crate::ratio::{duration, grouped, show};
use crate::rounds::in_rounds;
use crate::stats::Quartiles;
use crate::stop::Stop;
use crate::world;

/// Room in the index beyond the sockets.
const SPARE: u32 = 4_096;

/// Options of the command.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Another build of the skreap command.
    #[arg(long, value_name = "COMMAND")]
    base: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Measured rounds.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Sockets of one backend, for the walk.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    sockets: u32,
    /// Backends with a socket each, for the reconcile.
    #[arg(long, default_value_t = 65_000, value_parser = clap::value_parser!(u32).range(1..=500_000))]
    backends: u32,
    /// Of these, those that live.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    living: u32,
}

/// One kind of event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Sockets that it finds.
    pub victims: u64,
    /// Of today's build: in the walk, nanoseconds.
    pub ours_ns: Quartiles,
    /// Of the other build.
    pub base_ns: Quartiles,
    /// The other build / today's, round by round.
    pub base_to_ours: Quartiles,
}

/// The JSON output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Where it was run.
    pub machine: Machine,
    /// What the other build says of itself.
    pub base: String,
    /// Rounds that count.
    pub rounds: u32,
    /// Event by event.
    pub rows: Vec<Row>,
}

/// One build, and the event that it is asked with.
struct Case<'a> {
    service: &'a mut Service,
    event: Event,
    victims: u64,
}

impl Case<'_> {
    /// Nanoseconds of its walk, as its report has them.
    fn measure(&mut self) -> Result<f64> {
        let (answer, _) = self.service.ask(&self.event)?;
        let report = service::report(&answer)?;
        ensure!(report.victims == self.victims, "{} victims, not {}", report.victims, self.victims);
        Ok(report.ns.walk_ns as f64)
    }
}

/// Measures and prints.
///
/// # Errors
/// When a build does not start or finds other sockets than there are, memory is short, or the user stops.
pub fn run(options: &Options, stop: &Stop) -> Result<()> {
    world::require_sockets(Protocol::Udp, u64::from(options.sockets) + u64::from(options.backends))?;
    ensure!(options.living < options.backends, "--living must be less than --backends");
    let nofile = testbed::raise_nofile_limit().context("raise the limit of open files")?;
    let progress = Progress::new(2 * (u64::from(options.rounds) + 1));
    let sizes = (options.sockets, options.backends);
    let site = Site { cgroup: Cgroup::create("builds")?, room: sizes.0 + sizes.1 + SPARE };
    let mut ours = site.start("builds-ours", &service::ours()?)?;
    let mut base = site.start("builds-base", &options.base)?;
    progress.case("opening sockets");
    let mut crowd = Crowd::new("builds", nofile);
    crowd.join(crowd::of_chain(0), options.sockets, &site.cgroup, stop)?;
    crowd.join_each(options.backends, &site.cgroup, stop)?;

    let mut rows = Vec::new();
    for (name, event, victims) in events(options)? {
        progress.case(name);
        let mut cases = [&mut ours, &mut base].map(|service| Case { service, event: event.clone(), victims });
        let samples = in_rounds(options.rounds, &mut cases, &progress, stop, Case::measure)?;
        rows.push(row(name, victims, &samples)?);
    }
    drop(progress);
    let report =
        Report { machine: Machine::here(), base: version(&options.base)?, rounds: options.rounds, rows };
    if options.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", text(&report));
    }
    Ok(())
}

/// Where the services are.
struct Site {
    cgroup: Cgroup,
    room: u32,
}

impl Site {
    fn start(&self, label: &str, command: &Path) -> Result<Service> {
        Service::start(self.cgroup.path(), self.room, label, command)
    }
}

/// The walk over the sockets of one backend, and the pass over all backends.
fn events(options: &Options) -> Result<[(&'static str, Event, u64); 2]> {
    let walked = event::deleted(1, backend(crowd::of_chain(0))?).with_dry_run(true);
    let living: Vec<Backend> =
        (0..options.living).map(|number| backend(crowd::backend(number))).collect::<Result<_>>()?;
    // The backend of the walk is none of those.
    let dead = options.backends - options.living + options.sockets;
    let action = Action::Reconcile { backends: living, within: Vec::new(), max_victims: Some(dead.into()) };
    let reconcile = Event::new("bench-2", action).with_dry_run(true);
    Ok([("walk", walked, options.sockets.into()), ("reconcile", reconcile, dead.into())])
}

fn backend(addr: std::net::SocketAddr) -> Result<Backend> {
    Backend::new(Protocol::Udp, addr.ip(), addr.port()).context("a backend of the crowd")
}

fn row(name: &str, victims: u64, samples: &[Vec<f64>]) -> Result<Row> {
    let [ours, base] = samples else { anyhow::bail!("there are {} builds", samples.len()) };
    let ratios: Vec<f64> = base.iter().zip(ours).map(|(base, ours)| base / ours).collect();
    Ok(Row {
        name: name.to_owned(),
        victims,
        ours_ns: Quartiles::of(ours),
        base_ns: Quartiles::of(base),
        base_to_ours: Quartiles::of(&ratios),
    })
}

fn version(command: &Path) -> Result<String> {
    let output =
        std::process::Command::new(command).arg("--version").output().context("ask for the version")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn text(report: &Report) -> String {
    let mut text = format!(
        "{}\nbase: {}\n{} rounds; time in the walk; ratios round by round\n\n{:<10} {:>9} {:>9} {:>9} {:>11}\n",
        report.machine.kernel, report.base, report.rounds, "event", "victims", "ours", "base", "base / ours"
    );
    for row in &report.rows {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:<10} {:>9} {:>9} {:>9} {:>11}",
            row.name,
            grouped(row.victims),
            duration(row.ours_ns.p50 as u64),
            duration(row.base_ns.p50 as u64),
            show(row.base_to_ours.p50)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_that_of_the_round() {
        let row = row("walk", 5, &[vec![10.0, 20.0, 40.0], vec![20.0, 60.0, 40.0]]).unwrap();
        assert_eq!((row.ours_ns.p50, row.base_ns.p50, row.base_to_ours.p50), (20.0, 40.0, 2.0));
        assert!(super::row("walk", 5, &[vec![1.0]]).is_err());
    }

    #[test]
    fn a_reconcile_finds_all_that_are_not_named() {
        let options =
            Options { base: PathBuf::new(), json: false, rounds: 1, sockets: 100, backends: 65, living: 10 };
        let [walk, reconcile] = events(&options).unwrap();
        assert_eq!((walk.2, reconcile.2), (100, 155));
        let Action::Reconcile { backends, .. } = reconcile.1.action else { panic!("{:?}", reconcile.1) };
        assert_eq!((backends.len(), backends[9].to_string().as_str()), (10, "udp://127.16.0.9:53"));
    }
}
