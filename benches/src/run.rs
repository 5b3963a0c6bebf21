//! `skreap-bench run`: builds the worlds, measures every engine in each, stores the samples.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::grid::{Pauses, WorldSpec};
use crate::histogram;
use crate::machine::Machine;
use crate::measure::{self, Kind, Lull, Measure, Sample};
use crate::progress::Progress;
use crate::ratio::duration;
use crate::results::{Case, Raw, Results};
use crate::schedule::{self, Pace};
use crate::stats::Percentiles;
use crate::stop::{Stop, Stopped};
use crate::world::{Verdict, World, check_memory, index_size};

/// How often a fast measure runs in each round.
const REPEATS: usize = 5;
/// Between opening the victims and the run: lets the kernel free sockets that were closed before.
const QUIET_DELAY: Duration = Duration::from_millis(2);
/// A case is given up after so many runs that did not destroy exactly the victims.
const MAX_REJECTED: usize = 3;

/// The plan of a run.
#[derive(Debug)]
pub struct Plan {
    /// Worlds, in this order.
    pub worlds: Vec<WorldSpec>,
    /// Engines.
    pub kinds: Vec<Kind>,
    /// Measured rounds; one more runs before them and does not count.
    pub rounds: usize,
    /// How long nothing happens before an event that is the first after a pause.
    pub quiet: Duration,
    /// Where measures run that wait for it.
    pub pauses: Pauses,
    /// The other build.
    pub base: Option<PathBuf>,
}

impl Plan {
    fn kinds_in(&self, spec: &WorldSpec, victims: u32) -> Vec<Kind> {
        let pauses = self.pauses.are_in(spec, victims);
        self.kinds.iter().copied().filter(|kind| pauses || kind.lull() == Lull::None).collect()
    }
}

/// Runs the plan and writes `results.json` and the histograms into `out` after every case.
///
/// # Errors
/// When a world cannot be built, an engine destroys a socket that is not a victim, or the user
/// stops. Finished cases are in `out` in every case.
pub fn run(plan: &Plan, out: &Path, stop: &Stop) -> Result<Results> {
    fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    check_memory(&plan.worlds)?;
    let mut results = Results { machine: Machine::here(), ..Results::default() };
    results.write(out)?;
    let max_sockets = index_size(&plan.worlds);
    let progress = Progress::new(0);
    let mut cases: usize = plan.worlds.iter().map(|spec| spec.victims.len()).sum();
    for spec in &plan.worlds {
        progress.case(&format!("{spec}: opening sockets"));
        let built = Instant::now();
        let mut world =
            World::build(spec, max_sockets).with_context(|| format!("build the world of {spec}"))?;
        for &victims in &spec.victims {
            let alive = spec.sockets - victims;
            world.fill(alive, stop).with_context(|| format!("open the sockets of {spec}"))?;
            tracing::info!("{spec}: {alive} sockets and {victims} victims after {:.1?}", built.elapsed());
            let kinds = plan.kinds_in(spec, victims);
            let (mut measures, refused) = measure::all(&world, &kinds, victims, plan.base.as_deref());
            if plan.pauses == Pauses::Rare {
                let paused = measures.iter_mut().filter(|measure| measure.lull() == Lull::Quiet);
                paused.for_each(|measure| measure.set_pace(Pace::Rare));
            }
            for (kind, why) in refused {
                results.refuse(&kind.to_string(), format!("{why:#}"));
            }
            let mut bench =
                Bench { world: &mut world, spec, victims, quiet: plan.quiet, columns: columns(measures) };
            // Estimates the cases to come as if they were like this one: their engines are not
            // known before.
            progress.expect((cases * bench.samples(plan.rounds)) as u64);
            cases -= 1;
            progress.case(&format!("{spec}, {victims} victims"));
            bench.measure(plan.rounds, &progress, stop).with_context(|| format!("measure {spec}"))?;
            results.cases.extend(bench.finish());
            results.write(out)?;
            histogram::write(&results.cases, out)?;
        }
    }
    Ok(results)
}

/// The sockets of a world at the time of an event.
#[derive(Clone, Copy, Debug)]
pub struct Crowd {
    /// All of them.
    pub sockets: u32,
    /// Those of the backend that is gone.
    pub victims: u32,
}

/// Opens the victims, lets one measure destroy them after the pause that it needs, and checks whether
/// exactly they have died.
///
/// # Errors
/// When sockets cannot be opened or checked, the measure could not do its work, or the user stops.
pub fn once(
    world: &mut World,
    measure: &mut Measure,
    crowd: Crowd,
    quiet: Duration,
    stop: &Stop,
) -> Result<(Sample, Verdict)> {
    let name = measure.name().to_owned();
    let start = Instant::now();
    world.raise_victims(crowd.victims)?;
    let raised = Instant::now();
    measure.prepare(world).with_context(|| format!("prepare {name}"))?;
    match measure.lull() {
        Lull::None => thread::sleep(QUIET_DELAY),
        Lull::Quiet => stop.sleep(quiet)?,
    }
    let ready = Instant::now();
    let sample = measure.run(world).with_context(|| format!("run {name}"))?;
    let ran = Instant::now();
    let mut verdict = world.verify(crowd.sockets - crowd.victims)?;
    world.bury_victims()?;
    tracing::debug!(
        "{name}: victims {:.1?}, prepare {:.1?}, run {:.1?}, verify {:.1?}",
        raised - start,
        ready - raised,
        ran - ready,
        ran.elapsed()
    );
    if verdict.is_ok() && sample.destroyed != u64::from(crowd.victims) {
        verdict = Err(format!("it says that it destroyed {}", sample.destroyed));
    }
    Ok((sample, verdict))
}

/// One measure and its samples.
struct Column {
    measure: Measure,
    raw: Raw,
    rejected: usize,
}

fn columns(measures: Vec<Measure>) -> Vec<Column> {
    measures.into_iter().map(|measure| Column { measure, raw: Raw::default(), rejected: 0 }).collect()
}

/// One world with one number of victims.
struct Bench<'a> {
    world: &'a mut World,
    spec: &'a WorldSpec,
    victims: u32,
    quiet: Duration,
    columns: Vec<Column>,
}

/// Round 0 warms up; every measure runs once in it.
fn repeats(round: usize) -> usize {
    if round == 0 { 1 } else { REPEATS }
}

impl Bench<'_> {
    fn paces(&self) -> Vec<Pace> {
        self.columns.iter().map(|column| column.measure.pace()).collect()
    }

    /// How many samples [`measure`](Self::measure) takes.
    fn samples(&self, rounds: usize) -> usize {
        let paces = self.paces();
        (0..=rounds).map(|round| schedule::of_round(&paces, round, repeats(round)).len()).sum()
    }

    fn measure(&mut self, rounds: usize, progress: &Progress, stop: &Stop) -> Result<()> {
        let paces = self.paces();
        for round in 0..=rounds {
            for index in schedule::of_round(&paces, round, repeats(round)) {
                stop.check()?;
                self.sample(index, round > 0, progress, stop)?;
                progress.step();
            }
        }
        Ok(())
    }

    /// Lets one measure destroy victims, and counts the sample if exactly they have died.
    fn sample(&mut self, index: usize, counts: bool, progress: &Progress, stop: &Stop) -> Result<()> {
        let Some(column) = self.columns.get_mut(index) else { bail!("there is no measure {index}") };
        let name = column.measure.name().to_owned();
        let crowd = Crowd { sockets: self.spec.sockets, victims: self.victims };
        let (sample, verdict) = once(self.world, &mut column.measure, crowd, self.quiet, stop)?;
        match verdict {
            Ok(()) if counts => column.raw.push(sample),
            Ok(()) => {}
            Err(why) => {
                column.rejected += 1;
                tracing::warn!("{}, {} victims, {name}: does not count: {why}", self.spec, self.victims);
                if column.rejected > MAX_REJECTED {
                    bail!("{name} does not destroy exactly the victims: {why}");
                }
            }
        }
        progress.note(format!("{name} {}", duration(Percentiles::of(&column.raw.total_ns).p50)));
        Ok(())
    }

    fn finish(self) -> Vec<Case> {
        let table_entries = self.world.table_entries();
        self.columns
            .into_iter()
            .map(|Column { measure, raw, rejected }| Case {
                engine: measure.name().to_owned(),
                proto: self.spec.proto,
                netns: self.spec.netns,
                sockets: self.spec.sockets,
                victims: self.victims,
                tables: self.spec.tables,
                scope: measure.scope(),
                samples: raw.total_ns.len(),
                rejected,
                table_entries,
                total_ns: Percentiles::of(&raw.total_ns),
                walk_ns: Percentiles::of(&raw.walk_ns),
                destroy_ns: Percentiles::of(&raw.destroy_ns),
                raw,
            })
            .collect()
    }
}

impl Raw {
    fn push(&mut self, sample: Sample) {
        self.total_ns.push(sample.total_ns);
        self.walk_ns.push(sample.walk_ns);
        self.destroy_ns.push(sample.destroy_ns);
    }
}

/// True if the error is only that the user has stopped.
pub fn was_stopped(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<Stopped>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_is_told_from_a_failure() {
        assert!(was_stopped(&anyhow::Error::from(Stopped).context("measure")));
        assert!(!was_stopped(&anyhow::anyhow!("no memory")));
    }
}
