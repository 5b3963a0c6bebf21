//! Events whose last victims wait for their owners.

use std::collections::HashMap;
use std::time::Instant;

use crossbeam_channel::Receiver;
use skreap_bpf::Victim;
use skreap_core::{Connected, Event, Radius, Report, Results, SocketEnd, SocketResult, SocketTuple};

use super::done::Done;
use super::{Reaper, attribution};
use crate::engine::pool::{Awaited, End};
use crate::engine::{Entry, LateResult, nanos, tuple};
use crate::upkeep::revive::Revival;

/// An event about which everything is done but for sockets whose owners hold their locks. What is done with it is
/// [`Reaper::poll`] and [`Reaper::finish`]; one that is dropped has no report.
#[derive(Debug)]
#[must_use = "an event that is dropped has no report"]
pub struct Underway {
    event: Event,
    done: Done,
    /// In the outcome they are failed by now.
    held: Vec<Awaited>,
    received: Instant,
    queue_ns: u64,
    begun: Instant,
    /// What came of each victim, by cookie, if the reaper names them.
    ledger: HashMap<u64, Entry>,
}

impl Underway {
    pub(super) fn new(
        event: Event,
        done: Done,
        held: Vec<Awaited>,
        received: Instant,
        queue_ns: u64,
        ledger: HashMap<u64, Entry>,
    ) -> Self {
        Self { event, done, held, received, queue_ns, begun: Instant::now(), ledger }
    }

    fn note(&mut self, one: &Victim, end: End) {
        let (total, cookie) = (&mut self.done.total, one.cookie());
        if let Some(entry) = self.ledger.get_mut(&cookie) {
            entry.end = match end {
                End::Destroyed => Some(SocketEnd::Destroyed),
                End::Gone => None,
                End::Failed(errno) => Some(SocketEnd::Failed(errno)),
                End::TimedOut => Some(SocketEnd::Failed(libc::ETIMEDOUT)),
            };
            entry.at = Instant::now();
        }
        let backend = one.backend();
        let by_backend = self.done.by_backend.iter_mut().find(|by| Some(by.backend) == backend);
        match end {
            End::TimedOut => {
                let socket = tuple(one);
                tracing::warn!(id = ?self.event.id, "not destroyed, as its owner holds its lock; still waited for: {socket}");
                return;
            }
            End::Failed(errno) => {
                total.take_back(cookie, libc::ETIMEDOUT);
                total.add_failure(tuple(one), errno);
                return;
            }
            End::Destroyed => {
                total.take_back(cookie, libc::ETIMEDOUT);
                total.destroyed += 1;
            }
            End::Gone => {
                total.take_back(cookie, libc::ETIMEDOUT);
                total.skipped.gone += 1;
            }
        }
        if let Some(by_backend) = by_backend {
            by_backend.take_back(end == End::Destroyed);
        }
    }
}

impl Reaper {
    /// When to [`poll`](Self::poll) this at the latest: a socket is not waited for any longer then.
    #[must_use]
    pub fn due(&self, underway: &Underway) -> Instant {
        let bound = self.pool.victim_timeout();
        underway.held.iter().map(|one| one.since + bound).min().unwrap_or_else(Instant::now)
    }

    /// Something is to be read here when it may be that an event can be [over](Self::poll) earlier.
    #[must_use]
    pub fn late(&self) -> Receiver<()> {
        self.pool.late()
    }

    /// What has come of sockets that were reported as failed because their owners held their locks, since this was
    /// called last. Only with [`Builder::results`](super::Builder::results).
    #[must_use]
    pub fn take_late_results(&self) -> Vec<LateResult> {
        self.pool.ledger().take_late()
    }

    /// Takes note of what has come of the sockets that the event waits for; true if it waits for none any more, as all
    /// have come to something or were waited for long enough.
    pub fn poll(&self, underway: &mut Underway) -> bool {
        if underway.held.is_empty() {
            return true;
        }
        let over = |one: &Awaited| one.since.elapsed() >= self.pool.victim_timeout();
        for (victim, end) in self.pool.ends(&mut underway.held, over) {
            underway.note(&victim, end);
        }
        if underway.held.is_empty() {
            underway.done.total.destroy_ns += nanos(underway.begun.elapsed());
        }
        underway.held.is_empty()
    }

    /// The report of an event. What it still waits for is reported as failed with `ETIMEDOUT`: the kernel
    /// destroys it when its owner lets go.
    pub fn finish(&mut self, underway: Underway) -> Report {
        let (report, revival) = self.conclude(underway);
        if let Some(revival) = revival {
            self.revive(revival, None);
        }
        report
    }

    /// As [`finish`](Self::finish), for a caller that sends the report before the sockets are looked at again.
    pub(crate) fn conclude(&mut self, mut underway: Underway) -> (Report, Option<Revival>) {
        if !underway.held.is_empty() {
            for (victim, end) in self.pool.ends(&mut underway.held, |_| true) {
                underway.note(&victim, end);
            }
            underway.done.total.destroy_ns += nanos(underway.begun.elapsed());
        }
        let Underway { event, mut done, received, queue_ns, ledger, .. } = underway;
        let phases = done.phases(queue_ns);
        let mut report = done.report(&event, phases);
        let Done { revival, moved_sockets, unconfirmed_ns, attributed, refused, .. } = done;
        let sockets = self
            .pool
            .ledger()
            .is_on()
            .then(|| results(ledger, attributed.as_deref(), refused, moved_sockets, received));
        if attributed.is_some() && self.attribute {
            report.sockets = attributed;
        } else if let Some(sockets) = &mut report.sockets {
            attribution::attribute(&mut sockets.iter_mut().collect::<Vec<_>>());
        }
        let selects = event.selector.is_some() || event.except.is_some();
        if let Some(sockets) = report.sockets.as_ref().filter(|_| event.dry_run && selects) {
            report.radius = Some(Box::new(Radius::new(&event, sockets)));
        }
        report.results = sockets.map(|sockets| {
            let mut results = Results::new(event, sockets);
            results.unconfirmed_ns = unconfirmed_ns;
            Box::new(results)
        });
        attribution::attribute(&mut report.failed.sockets_mut().collect::<Vec<_>>());
        report.ns = phases.closed(nanos(received.elapsed()));
        self.monitor.report(&report);
        (report, revival)
    }
}

/// What came of each victim, in the order in which it was found out; with whose it is, where that was looked for before.
fn results(
    ledger: HashMap<u64, Entry>,
    attributed: Option<&[SocketTuple]>,
    refused: Vec<SocketTuple>,
    moved: Vec<(Victim, Connected)>,
    received: Instant,
) -> Vec<SocketResult> {
    let owned: HashMap<u64, &SocketTuple> =
        attributed.into_iter().flatten().map(|socket| (socket.cookie, socket)).collect();
    let whose =
        |victim: &Victim| owned.get(&victim.cookie()).map_or_else(|| tuple(victim), |known| (*known).clone());
    // A socket that could not be moved and was destroyed is reported as destroyed.
    let moved: Vec<SocketResult> = moved
        .into_iter()
        .filter(|(victim, _)| !ledger.contains_key(&victim.cookie()))
        .map(|(victim, end)| {
            SocketResult::new(whose(&victim), SocketEnd::Moved(end), nanos(received.elapsed()))
        })
        .collect();
    let mut entries: Vec<Entry> = ledger.into_values().collect();
    entries.sort_unstable_by_key(|entry| (entry.at, entry.victim.cookie()));
    let tried = entries.iter().filter_map(|entry| {
        let socket = whose(&entry.victim);
        Some(SocketResult::new(socket, entry.end?, nanos(entry.at.saturating_duration_since(received))))
    });
    let not_tried = |socket| SocketResult::new(socket, SocketEnd::Refused, nanos(received.elapsed()));
    moved.into_iter().chain(tried).chain(refused.into_iter().map(not_tried)).collect()
}
