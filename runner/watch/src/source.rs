//! Common to all sources: the channel on which they report changes, and their counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::state::Change;

/// A change, and when it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Time of the [`Clock`].
    pub at: Duration,
    /// What it was.
    pub change: Change,
}

/// Nobody listens any more: the process is about to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody takes the changes any more")]
pub struct Closed;

/// What sources count.
#[derive(Debug, Default)]
pub struct Counters {
    /// Watches that were begun.
    pub streams: AtomicU64,
    /// Watches that broke, lists that failed.
    pub breaks: AtomicU64,
    /// Keys, objects and endpoints that stand for no backend: counted, logged, and left out.
    pub left_out: AtomicU64,
}

/// Adds one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The end of the channel that a source holds.
#[derive(Clone, Debug)]
pub struct Tell {
    sender: mpsc::Sender<Heard>,
    clock: Clock,
    /// What it counts.
    pub counters: Arc<Counters>,
}

impl Tell {
    /// A source that sends here.
    pub fn new(sender: mpsc::Sender<Heard>, clock: Clock, counters: Arc<Counters>) -> Self {
        Self { sender, clock, counters }
    }

    /// Now, for a change that is about to be taken apart.
    pub fn now(&self) -> Duration {
        self.clock.now()
    }

    /// Reports a change that was received at `at`.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn tell(&self, at: Duration, change: Change) -> Result<(), Closed> {
        self.sender.send(Heard { at, change }).await.map_err(|_| Closed)
    }
}
