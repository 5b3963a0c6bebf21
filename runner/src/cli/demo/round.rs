//! One server hangs, its backends are deleted, and the owners of its sockets say what happened.

use std::collections::HashMap;
use std::time::Instant;

use anyhow::{Context as _, bail};
use crossbeam_channel::{Receiver, Sender, unbounded};

use super::plan::{self, DELETED, SERVERS, SERVICES};
use super::step::{Step, go_on};
use super::tally::Tally;
use super::world::World;
use skreap::core::{Action, Event, Report, Request, Timings};
use skreap::source::{Job, Reply, Requester, Stop};
use skreap_testbed::{self as testbed, Mode};

/// What the reports say, over all rounds.
pub(super) struct Totals {
    pub events: u64,
    pub destroyed: u64,
    pub incomplete: u64,
    pub timings: Timings,
}

/// Plays the rounds.
pub(super) struct Conductor<'a> {
    world: &'a mut World,
    queue: Sender<Job>,
    reply: Sender<Reply>,
    replies: Receiver<Reply>,
    stop: &'a Stop,
    tally: Tally,
    totals: Totals,
}

impl<'a> Conductor<'a> {
    pub(super) fn new(world: &'a mut World, queue: Sender<Job>, stop: &'a Stop) -> anyhow::Result<Self> {
        let (reply, replies) = unbounded();
        let totals = Totals { events: 0, destroyed: 0, incomplete: 0, timings: Timings::new()? };
        Ok(Self { world, queue, reply, replies, stop, tally: Tally::default(), totals })
    }

    /// Plays all rounds.
    pub(super) fn play(mut self, rounds: u32, tell: &mut dyn FnMut(Step)) -> anyhow::Result<(Tally, Totals)> {
        tell(Step::Sockets);
        for server in 0..SERVERS.len() {
            go_on(self.stop)?;
            self.world.connect(server)?;
        }
        self.all_answer(None)?;
        for number in 1..=rounds {
            tell(Step::Round { number, of: rounds });
            if number > 1 {
                // The sockets of before went to other servers: B gets new ones.
                self.world.set_mode(DELETED, Mode::Echo)?;
                self.world.close(DELETED)?;
                self.world.connect(DELETED)?;
                self.all_answer(Some(DELETED))?;
            }
            go_on(self.stop)?;
            self.round(number).with_context(|| format!("round {number}"))?;
            go_on(self.stop)?;
        }
        Ok((self.tally, self.totals))
    }

    /// Every socket has a server that answers: what follows starts from there.
    fn all_answer(&mut self, server: Option<usize>) -> anyhow::Result<()> {
        let echoed = self.world.echo(server)?;
        match echoed.iter().flat_map(|e| &e.lost).next() {
            None => Ok(()),
            Some(lost) => bail!(
                "a socket got no response before anything was deleted: {}",
                std::io::Error::from_raw_os_error(lost.errno)
            ),
        }
    }

    fn round(&mut self, number: u32) -> anyhow::Result<()> {
        let mut expect = vec![0; self.world.clients()];
        for group in self.world.groups_of(DELETED) {
            expect[group.client] += group.count;
        }
        self.world.watch(DELETED, &expect)?;
        self.world.set_mode(DELETED, Mode::Frozen)?;

        let mut sent_ns = [0; SERVICES.len()];
        for (service, sent_ns) in SERVICES.iter().zip(&mut sent_ns) {
            let backend = plan::backend(DELETED, *service)?;
            let event = Event::new(format!("round-{number}-{backend}"), Action::BackendDeleted { backend });
            *sent_ns = testbed::monotonic_ns();
            let report = self.send(event)?;
            if let Some(error) = report.error {
                bail!("{backend}: {error}");
            }
            for failure in report.failed.sockets() {
                tracing::warn!("{backend}: not destroyed: {failure}");
            }
            self.totals.events += 1;
            self.totals.destroyed += report.destroyed;
            self.totals.incomplete += u64::from(!report.complete);
            self.totals.timings.record(&report.ns);
        }

        let watched = self.world.watched()?;
        // After all reports, and on all sockets: also one that was hit late shows.
        let echoed = self.world.echo(None)?;
        let expected: HashMap<u64, u64> = self
            .world
            .groups_of(DELETED)
            .flat_map(|g| g.cookies.iter().map(|cookie| (*cookie, sent_ns[g.service])))
            .collect();
        let sockets = self.world.groups().iter().map(|g| g.cookies.len() as u64).sum();
        self.tally.add(sockets, expected, &watched, &echoed);
        Ok(())
    }

    /// Sends an event as a source does, and waits for its report.
    fn send(&self, event: Event) -> anyhow::Result<Report> {
        let request = Request::Event(event);
        let job = Job {
            request,
            requester: Requester::Program,
            line: 0,
            received: Instant::now(),
            reply: self.reply.clone(),
        };
        self.queue.send(job).ok().context("the service has ended")?;
        match self.replies.recv()? {
            Reply::Report(report) => Ok(*report),
            Reply::Refused(refusal) => bail!("{refusal}"),
            _ => bail!("the service sent an unexpected answer"),
        }
    }
}
