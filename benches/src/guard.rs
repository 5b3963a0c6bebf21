//! `skreap-bench guard`: ratios that a change must not make worse, on any machine with two CPUs.
//!
//! Each bar is the ratio of two measures, taken in pairs right after each other on the same sockets.
//! Pairs are added until the interval of the median ratio lies on one side of the bar, or the time is
//! over. The bars are what docs/benchmarking.md says of each.

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use skreap::core::{EngineName, Protocol};

use crate::grid::{Tables, WorldSpec};
use crate::measure::{self, Kind, Lull, Measure};
use crate::ratio::show;
use crate::run::{Crowd, once};
use crate::stats::Interval;
use crate::stop::Stop;
use crate::world::{World, index_size};

/// Pairs before anything is decided.
const FEWEST: usize = 8;
/// Pairs that decide nothing because a socket was in the wrong state: a machine with more to do.
const MAX_REJECTED: usize = 5;

/// Settings of the guard.
#[derive(Debug, Args)]
pub struct Options {
    /// Most seconds in all.
    #[arg(long, value_name = "S", default_value_t = 600)]
    seconds: u64,
    /// How long nothing happens before each sample of a quiet measure, milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 3_000)]
    quiet_ms: u64,
}

/// On which side of the bar the ratio has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// What is known of a bar after some pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Met,
    Missed,
    Open,
}

/// One bar.
struct Bar {
    over: Kind,
    under: Kind,
    bound: Bound,
    /// Too few CPUs say nothing.
    cpus: usize,
}

/// Some bars in one world.
struct Group {
    world: WorldSpec,
    bars: Vec<Bar>,
}

fn groups() -> Vec<Group> {
    let world = |netns, sockets, victims| WorldSpec {
        proto: Protocol::Udp,
        netns,
        sockets,
        tables: Tables::Shared,
        victims: vec![victims],
    };
    let bar = |over, under, bound, cpus| Bar { over, under, bound, cpus };
    let iter = Kind::Engine(EngineName::Iter);
    let few = vec![
        bar(Kind::Event(Lull::None), Kind::FloorClosed(Lull::None), Bound::AtMost(1.6), 2),
        bar(Kind::Event(Lull::Quiet), Kind::FloorClosed(Lull::Quiet), Bound::AtMost(1.6), 2),
        bar(iter, Kind::Event(Lull::None), Bound::AtLeast(50.0), 1),
    ];
    let many = vec![bar(Kind::Event(Lull::None), Kind::FloorClosed(Lull::None), Bound::AtMost(1.0), 2)];
    vec![
        Group { world: world(10, 20_000, 10), bars: few },
        Group { world: world(100, 12_000, 10_000), bars: many },
    ]
}

/// Measures every bar and prints what came of it.
///
/// # Errors
/// When something cannot be measured, or the user stops.
pub fn run(options: &Options, stop: &Stop) -> Result<ExitCode> {
    let end = Instant::now() + Duration::from_secs(options.seconds);
    let quiet = Duration::from_millis(options.quiet_ms);
    let cpus = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let groups = groups();
    let mut left: u32 = groups.iter().map(|group| group.bars.len() as u32).sum();
    let mut all_met = true;
    for Group { world: spec, bars } in groups {
        let mut world = World::build(&spec, index_size(std::slice::from_ref(&spec)))
            .with_context(|| format!("build the world of {spec}"))?;
        let crowd = Crowd { sockets: spec.sockets, victims: spec.max_victims() };
        world.fill(crowd.sockets - crowd.victims, stop)?;
        println!("{spec}, {} victims", crowd.victims);
        for bar in bars {
            let share = end.saturating_duration_since(Instant::now()) / left.max(1);
            left = left.saturating_sub(1);
            if bar.cpus > cpus {
                println!("  {}: needs {} CPUs", bar.name(), bar.cpus);
                continue;
            }
            let mut pair = Pair::new(&world, &bar, crowd)?;
            let verdict = pair.decide(&mut world, &bar, quiet, Instant::now() + share, stop)?;
            all_met &= verdict == Verdict::Met;
        }
    }
    Ok(if all_met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The two measures of a bar, and the ratios so far.
struct Pair {
    measures: [Measure; 2],
    crowd: Crowd,
    ratios: Vec<f64>,
}

impl Pair {
    fn new(world: &World, bar: &Bar, crowd: Crowd) -> Result<Self> {
        let one = |kind| {
            let (measures, refused) = measure::all(world, &[kind], crowd.victims, None);
            let why = || refused.iter().map(|(kind, e)| format!("{kind}: {e:#}")).collect::<String>();
            measures.into_iter().next().with_context(why)
        };
        Ok(Self { measures: [one(bar.over)?, one(bar.under)?], crowd, ratios: Vec::new() })
    }

    fn decide(
        &mut self,
        world: &mut World,
        bar: &Bar,
        quiet: Duration,
        end: Instant,
        stop: &Stop,
    ) -> Result<Verdict> {
        let mut rejected = 0;
        let mut warm = false;
        loop {
            stop.check()?;
            let mut ns = [0_u64; 2];
            let mut sound = true;
            // Each is the first of a pair as often as the other.
            let first = self.ratios.len() % 2;
            for index in [first, 1 - first] {
                let Some(measure) = self.measures.get_mut(index) else { continue };
                let (sample, verdict) = once(world, measure, self.crowd, quiet, stop)?;
                sound &= verdict.is_ok();
                if let Some(ns) = ns.get_mut(index) {
                    *ns = sample.total_ns;
                }
            }
            rejected += usize::from(!sound);
            anyhow::ensure!(rejected <= MAX_REJECTED, "{}: not exactly the victims have died", bar.name());
            if sound && std::mem::replace(&mut warm, true) {
                self.ratios.push(ns[0] as f64 / ns[1].max(1) as f64);
            }
            let interval = Interval::of_median(&self.ratios);
            let verdict = bar.bound.judge(&interval, self.ratios.len());
            if verdict != Verdict::Open || Instant::now() >= end {
                println!("  {}", bar.line(&interval, self.ratios.len(), verdict));
                return Ok(verdict);
            }
        }
    }
}

impl Bound {
    fn judge(self, interval: &Interval, pairs: usize) -> Verdict {
        let (below, above) = match self {
            Self::AtMost(bar) => (interval.high <= bar, interval.low > bar),
            Self::AtLeast(bar) => (interval.low >= bar, interval.high < bar),
        };
        match (pairs >= FEWEST, below, above) {
            (true, true, _) => Verdict::Met,
            (true, _, true) => Verdict::Missed,
            _ => Verdict::Open,
        }
    }
}

impl Bar {
    fn name(&self) -> String {
        format!("{} / {}", self.over, self.under)
    }

    fn line(&self, interval: &Interval, pairs: usize, verdict: Verdict) -> String {
        let bound = match self.bound {
            Bound::AtMost(bar) => format!("at most {}", show(bar)),
            Bound::AtLeast(bar) => format!("at least {}", show(bar)),
        };
        let verdict = match verdict {
            Verdict::Met => "met",
            Verdict::Missed => "MISSED",
            Verdict::Open => "UNDECIDED: repeat it on an idle machine",
        };
        let Interval { low, median, high } = *interval;
        let (low, median, high) = (show(low), show(median), show(high));
        format!("{}: {median} ({low} to {high}, {pairs} pairs), {bound}: {verdict}", self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_on_one_side_decides() {
        let interval = |low, high| Interval { low, median: (low + high) / 2.0, high };
        for (bound, low, high, pairs, verdict) in [
            (Bound::AtMost(1.5), 1.2, 1.5, FEWEST, Verdict::Met),
            (Bound::AtMost(1.5), 1.2, 1.6, FEWEST, Verdict::Open),
            (Bound::AtMost(1.5), 1.6, 1.8, FEWEST, Verdict::Missed),
            (Bound::AtMost(1.5), 1.2, 1.3, FEWEST - 1, Verdict::Open),
            (Bound::AtLeast(50.0), 50.0, 90.0, FEWEST, Verdict::Met),
            (Bound::AtLeast(50.0), 40.0, 49.0, FEWEST, Verdict::Missed),
        ] {
            assert_eq!(bound.judge(&interval(low, high), pairs), verdict, "{bound:?} {low} {high}");
        }
    }

    #[test]
    fn a_line_says_it_all() {
        let bar = Bar {
            over: Kind::Event(Lull::None),
            under: Kind::FloorClosed(Lull::None),
            bound: Bound::AtMost(1.5),
            cpus: 2,
        };
        let line = bar.line(&Interval { low: 1.2, median: 1.25, high: 1.3 }, 9, Verdict::Met);
        assert_eq!(line, "event / floor-closed: 1.25 (1.20 to 1.30, 9 pairs), at most 1.50: met");
    }
}
