//! What all sources have in common.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use skreap_core::Network;
use skreap_watch::clock::Clock;
use skreap_watch::metrics::{self, Numbers, Snapshot};
use skreap_watch::outbox::Outbox;
use skreap_watch::run::Watcher;
use skreap_watch::source::{Counters, Tell};
use skreap_watch::state::{Action, Policy, State, UdpTerminating, When};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

/// Changes on their way to the state.
const CHANGES: usize = 1024;

/// What is an event, and where it is sent.
#[derive(Args)]
pub(super) struct Common {
    /// Unix socket of `skreap serve`
    #[arg(long, value_name = "PATH", env = "SKREAP_SOCKET", default_value = "/run/skreap/skreap.sock")]
    socket: PathBuf,
    /// When a Service has lost a backend
    #[arg(long, value_enum, default_value_t)]
    when: When,
    /// What the beginning of its end means for a UDP backend
    #[arg(long, value_enum, default_value_t)]
    udp_terminating: UdpTerminating,
    /// What is done with the sockets, if the Service does not say
    #[arg(long, value_enum, default_value_t)]
    action: Action,
    /// How long a backend has to stay away, in milliseconds: lists of living backends have gaps while they are rewritten
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    settle_ms: u64,
    /// After the first list, destroy what is connected to any other address in the networks of --within
    #[arg(long, requires = "within")]
    initial_reconcile: bool,
    /// Networks that hold nothing but backends, such as 10.244.0.0/16
    #[arg(long, value_name = "NETWORK,…", value_delimiter = ',')]
    within: Vec<Network>,
    /// Destroy nothing: the reports say what would be
    #[arg(long)]
    dry_run: bool,
    /// Serve metrics for Prometheus over HTTP, at /metrics
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "127.0.0.1:9746")]
    metrics: Option<SocketAddr>,
}

impl Common {
    /// Watches until a signal comes, with this source.
    pub(super) async fn watch<F>(self, source: impl FnOnce(Tell) -> F) -> anyhow::Result<()>
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        let policy = Policy {
            when: self.when,
            udp_terminating: self.udp_terminating,
            action: self.action,
            settle: Duration::from_millis(self.settle_ms),
        };
        let (sender, changes) = mpsc::channel(CHANGES);
        let (clock, counters) = (Clock::start(), Arc::new(Counters::default()));
        let source = source(Tell::new(sender, clock, Arc::clone(&counters)));
        let (snapshot, numbers) = watch::channel(Snapshot::default());
        let lag = metrics::lag();
        let numbers = Numbers::new(numbers, counters, lag.clone());
        let scrapes = match self.metrics {
            Some(at) => {
                let listener = TcpListener::bind(at).await.with_context(|| format!("--metrics {at}"))?;
                Some(metrics::serve(listener, numbers))
            }
            None => None,
        };
        let scrapes = async {
            match scrapes {
                Some(scrapes) => scrapes.await,
                None => std::future::pending().await,
            }
        };
        let watcher = Watcher {
            state: State::new(policy),
            outbox: Outbox::new(self.dry_run, self.initial_reconcile.then_some(self.within)),
            clock,
            changes,
            socket: self.socket,
            snapshot,
            lag,
        };
        let stop = stopped()?;
        tokio::select! {
            ended = source => ended,
            () = watcher.run(stop) => Ok(()),
            () = scrapes => Ok(()),
        }
    }
}

/// Runs on one thread: there is nothing to compute.
pub(super) fn block_on(run: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start")?.block_on(run)
}

/// Resolves when the process is to end.
pub(super) fn stopped() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle signals")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
