//! The loop between a source and the service.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;

use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::metrics::Snapshot;
use crate::outbox::{Answered, Outbox};
use crate::service::Service;
use crate::source::Heard;
use crate::state::{Decision, State};

/// Changes that are taken in before the service is looked at again.
const AT_ONCE: usize = 1024;

/// Everything between a source and the service.
pub struct Watcher {
    /// What is known.
    pub state: State,
    /// What is on its way.
    pub outbox: Outbox,
    /// Time of the changes.
    pub clock: Clock,
    /// Where the source reports them.
    pub changes: mpsc::Receiver<Heard>,
    /// Socket of the service.
    pub socket: PathBuf,
    /// Notified after each turn.
    pub snapshot: watch::Sender<Snapshot>,
    /// From the change to the report, in seconds.
    pub lag: Histogram,
}

/// What woke the loop.
enum Wake {
    Stop,
    Answer(io::Result<String>),
    Change(Option<Heard>),
    Due,
    Connect,
}

impl Watcher {
    /// Runs until `stop` resolves or the source ends.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let mut service: Option<Service> = None;
        let mut backoff = Backoff::default();
        let mut connect_at = Instant::now();
        loop {
            match self.wake(stop.as_mut(), service.as_mut(), connect_at).await {
                Wake::Stop | Wake::Change(None) => return,
                Wake::Change(Some(heard)) => self.hear(heard),
                Wake::Due => {
                    let decisions = self.state.advance(self.clock.now());
                    self.take(decisions);
                }
                Wake::Answer(Ok(line)) => self.answered(&line),
                Wake::Answer(Err(e)) => {
                    service = None;
                    connect_at = self.broken(&e, &mut backoff);
                }
                Wake::Connect => match Service::connect(&self.socket).await {
                    Ok(new) => {
                        tracing::info!(socket = %self.socket.display(), abilities = ?new.abilities, "connected");
                        self.outbox.connected(new.abilities);
                        backoff.reset();
                        service = Some(new);
                    }
                    Err(e) => connect_at = self.broken(&e, &mut backoff),
                },
            }
            if let Some(connected) = &mut service
                && let Err(e) = send(&mut self.outbox, &self.state, connected).await
            {
                service = None;
                connect_at = self.broken(&e, &mut backoff);
            }
            self.snapshot.send_replace(self.snapshot(service.is_some()));
        }
    }

    fn snapshot(&self, connected: bool) -> Snapshot {
        Snapshot {
            counts: self.state.counts(),
            sent: self.outbox.sent(),
            backends: self.state.backends(),
            slices: self.state.slices(),
            waiting: self.outbox.waiting(),
            live: self.state.live(),
            connected,
        }
    }

    /// Waits. Changes come before the settle time: what was received before a decision is due takes part in it.
    async fn wake(
        &mut self,
        stop: std::pin::Pin<&mut impl Future<Output = ()>>,
        service: Option<&mut Service>,
        connect_at: Instant,
    ) -> Wake {
        let far = Instant::now() + Duration::from_secs(3600);
        let due = self.state.next_due().map_or(far, |at| self.clock.instant(at));
        let connected = service.is_some();
        let answer = async {
            match service {
                Some(service) => service.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = stop => Wake::Stop,
            line = answer => Wake::Answer(line),
            heard = self.changes.recv() => Wake::Change(heard),
            () = sleep_until(due.into()) => Wake::Due,
            () = sleep_until(connect_at.into()), if !connected => Wake::Connect,
        }
    }

    /// Takes in a change, and those that wait behind it.
    fn hear(&mut self, first: Heard) {
        let mut next = Some(first);
        for _ in 0..AT_ONCE {
            let Some(Heard { at, change }) = next else { return };
            let decisions = self.state.advance(at);
            self.take(decisions);
            self.state.apply(change);
            next = self.changes.try_recv().ok();
        }
        if let Some(Heard { at, change }) = next {
            let decisions = self.state.advance(at);
            self.take(decisions);
            self.state.apply(change);
        }
    }

    fn take(&mut self, decisions: Vec<Decision>) {
        for decision in decisions {
            let service = decision.service.as_deref().unwrap_or("-");
            tracing::info!(service, clients = ?decision.clients, action = %decision.action, "{} is gone", decision.backend);
            self.outbox.push(decision);
        }
    }

    fn answered(&mut self, line: &str) {
        match self.outbox.answered(line) {
            Answered::Report(Some(since)) => {
                let lag = self.clock.now().saturating_sub(since).as_secs_f64();
                self.lag.observe(lag);
                tracing::debug!(lag, "report: {line}");
            }
            Answered::Report(None) => tracing::info!("first reconcile: {line}"),
            Answered::Refused(why) => tracing::error!("the service refuses an event: {why}"),
            Answered::Unknown => tracing::warn!("the service answers nothing that was asked: {line}"),
        }
    }

    /// When to connect again.
    fn broken(&mut self, error: &io::Error, backoff: &mut Backoff) -> Instant {
        self.outbox.broken();
        let pause = backoff.pause();
        let (socket, waiting) = (self.socket.display(), self.outbox.waiting());
        tracing::warn!(waiting, "{socket}: {error}; connecting again in {} ms", pause.as_millis());
        Instant::now() + pause
    }
}

async fn send(outbox: &mut Outbox, state: &State, service: &mut Service) -> io::Result<()> {
    while let Some(line) = outbox.next(state) {
        service.send(&line).await?;
    }
    Ok(())
}
