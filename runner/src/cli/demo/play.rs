//! The main job, shown on this machine's own kernel.
//!
//! The testbed builds network namespaces, three servers and client processes; a [`Reaper`]
//! indexes the clients' sockets. Then, in every round, server B stops answering and the four backends it
//! offered (UDP and TCP, IPv4 and IPv6) are deleted, by events through the same queue that `serve` uses.
//! Whether that hit the right sockets is for their owners to say, not for the report.

use std::thread;

use anyhow::{Context as _, bail};
use crossbeam_channel::bounded;
use serde::Serialize;

use skreap::bpf::{Config, Index};
use skreap::core::{EngineName, PhaseSummary, Summary};
use skreap::source::Stop;
use skreap::{Error, Reaper, cgroup, daemon, probe};
use skreap_testbed as testbed;

use super::plan::{SERVERS, SERVICES};
use super::round::Conductor;
use super::step::{Options, Step};
use super::world::World;

/// The fewest sockets a demo takes: one for each service of each server.
pub const MIN_SOCKETS: u32 = (SERVERS.len() * SERVICES.len()) as u32;

/// What was seen. Counts are over all rounds, times in nanoseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Findings {
    /// Kernel release.
    pub kernel: String,
    /// The engine in use.
    pub engine: EngineName,
    /// Network namespaces.
    pub netns: u32,
    /// Client processes.
    pub clients: u32,
    /// Servers.
    pub servers: u32,
    /// Client sockets.
    pub sockets: u32,
    /// How often server B was deleted.
    pub rounds: u32,
    /// Events sent: one for each service of server B in each round.
    pub events: u64,
    /// Sockets that were connected to server B.
    pub victims: u64,
    /// Sockets that the reports say were destroyed.
    pub destroyed: u64,
    /// Victims whose owner did not get ECONNABORTED.
    pub missed: u64,
    /// Sockets of other servers whose owner got an error.
    pub wrongly_destroyed: u64,
    /// Victims whose owner went to a living server and got an answer.
    pub reconnected: u64,
    /// Sockets of other servers.
    pub bystanders: u64,
    /// Sockets without an error that got no answer in time.
    pub unanswered: u64,
    /// Reports that say they are incomplete.
    pub incomplete: u64,
    /// Phases of an event, as the reports have them.
    pub ns: Summary,
    /// The same from the owners' side.
    pub owner_ns: OwnerTimes,
    /// What nobody expected, and how often it was seen.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub oddities: Vec<String>,
}

/// How long the owners of victims waited, from the sending of the event.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct OwnerTimes {
    /// Until the error.
    pub error: PhaseSummary,
    /// Until the answer of another server.
    pub answer: PhaseSummary,
}

impl Findings {
    /// True if exactly the victims were destroyed, and nobody was left without an answer.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.victims > 0
            && [self.destroyed, self.reconnected] == [self.victims; 2]
            && [self.missed, self.wrongly_destroyed, self.unanswered, self.incomplete] == [0; 4]
    }
}

/// Runs the demo. `tell` is called before every step.
///
/// Nothing of it stays behind, however it ends; what a killed one has left is removed first.
///
/// # Errors
/// [`Error`] if this kernel or these privileges cannot; any other error if something that should work did
/// not, or if `stop` was given.
pub fn run(options: &Options, stop: &Stop, tell: &mut dyn FnMut(Step)) -> anyhow::Result<Findings> {
    check(options)?;
    for (path, why) in testbed::sweep()?.kept {
        tracing::warn!(path = %path.display(), "left over from a killed run and cannot be removed: {why}");
    }
    let mut world = World::build(options, stop, tell)?;
    let mut reaper = Reaper::builder()
        .bootstrap(false)
        .cgroup(world.cgroup().path())
        .engine(options.engine)
        .config(Config::default().max_sockets(options.sockets.saturating_mul(2)))
        .build()?;
    let engine = reaper.engine();
    let (queue, jobs) = bounded(daemon::QUEUE);
    let conductor = Conductor::new(&mut world, queue, stop)?;
    thread::scope(|scope| {
        let service = thread::Builder::new()
            .name("reaper".to_owned())
            .spawn_scoped(scope, || daemon::work(&mut reaper, &jobs))
            .context("start a thread")?;
        // The queue ends with the conductor, and the service with the queue.
        let played = conductor.play(options.rounds, tell);
        if service.join().is_err() {
            bail!("the service panicked");
        }
        played
    })
    .map(|(mut tally, totals)| Findings {
        kernel: probe::kernel_release(),
        engine,
        netns: options.netns,
        clients: options.clients,
        servers: SERVERS.len() as u32,
        sockets: options.sockets,
        rounds: options.rounds,
        events: totals.events,
        victims: tally.victims,
        destroyed: totals.destroyed,
        missed: tally.missed,
        wrongly_destroyed: tally.wrongly_destroyed,
        reconnected: tally.reconnected,
        bystanders: tally.bystanders,
        unanswered: tally.unanswered,
        incomplete: totals.incomplete,
        ns: totals.timings.summary(),
        owner_ns: OwnerTimes { error: tally.until_error(), answer: tally.until_answer() },
        oddities: tally.oddities.iter().map(|(what, n)| format!("{n} times: {what}")).collect(),
    })
}

/// What can be known before anything is built.
fn check(options: &Options) -> anyhow::Result<()> {
    cgroup::root().map_err(|source| Error::Cgroup { path: "root".to_owned(), source })?;
    // Kernel and privileges, before the testbed says it in the words of a system call.
    Index::load(&Config::default().max_sockets(16).buckets(1)).map_err(Error::from)?;
    let limit = testbed::raise_nofile_limit()?;
    // A server has half of its sockets (TCP) as connections, and may take over half of another's; it listens
    // four times in each netns, and a few descriptors are for itself. A client has its share of the sockets.
    let per_server = u64::from(options.sockets) / 6 * 2 + u64::from(options.netns) * 4 + 64;
    let per_client = u64::from(options.sockets.div_ceil(options.clients.min(options.netns))) + 256;
    let needed = per_server.max(per_client).max(u64::from(options.netns) + 64);
    if needed > limit {
        bail!(
            "{} sockets need {needed} descriptors in one process and the limit is {limit}: \
             use fewer --sockets, more --clients, or raise `ulimit -n`",
            options.sockets
        );
    }
    Ok(())
}
