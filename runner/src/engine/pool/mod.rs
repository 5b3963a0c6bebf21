//! Destroyers: threads that may wait for the lock of a socket, so that no other thread ever has to.
//!
//! The kernel takes the lock of a socket to destroy it, and its owner can hold that without limit. A thread that
//! waits for it cannot be woken, not by a signal and not by the end of its process. So whatever is destroyed is destroyed
//! by a thread of this pool: it opens the netns, sends the requests, closes everything, and reports the results. If it
//! does not come back from a batch, the event goes on without it: another destroyer looks which socket of the batch
//! is the one, and does the others. See docs/decisions/0008-destroyers.md.

mod event;
mod held;
mod job;
mod queue;
pub(super) mod table;
mod worker;

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use skreap_bpf::Victim;
use skreap_core::{counted, plural};

pub(crate) use event::Naming;
pub(crate) use held::{Awaited, End};
use held::{Shared, State};
pub(crate) use job::Fate;
use job::Job;
use queue::Queue;

use super::Ledger;

/// How long an event waits for a socket whose owner holds its lock, if nothing is said.
pub const VICTIM_TIMEOUT: Duration = Duration::from_secs(1);

/// Threads of one pool, if nothing is said: those that wait for locks, and those that are free.
pub const DESTROYERS_MAX: usize = 128;
/// More destroyers do not make a machine faster: they share tables of the kernel.
const WORKERS_MAX: usize = 16;

/// Bounds of a [`Pool`].
#[derive(Clone, Copy, Debug)]
pub struct PoolOptions {
    /// How long an event waits for a socket whose owner holds its lock.
    pub victim_timeout: Duration,
    /// Most destroyers at one time, with those that wait for a lock. If all of these wait, further victims fail at once, with
    /// `EAGAIN`.
    pub destroyers_max: usize,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self { victim_timeout: VICTIM_TIMEOUT, destroyers_max: DESTROYERS_MAX }
    }
}

/// Destroyers, shared by all engines of one reaper. Clones are the same pool.
#[derive(Clone, Debug)]
pub struct Pool(Arc<Inner>);

impl Default for Pool {
    fn default() -> Self {
        Self::new(PoolOptions::default())
    }
}

#[derive(Debug)]
struct Inner {
    queue: Arc<Queue>,
    shared: Arc<Shared>,
    /// Of the machine, as far as this process may use them.
    cpus: usize,
    wanted: usize,
    options: PoolOptions,
}

impl Pool {
    /// A pool without threads: the first event starts them.
    #[must_use]
    pub fn new(options: PoolOptions) -> Self {
        Self::with_ledger(options, Ledger::default())
    }

    /// As [`new`](Self::new), and what comes of each victim is written down.
    #[must_use]
    pub fn with_ledger(options: PoolOptions, ledger: Ledger) -> Self {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        let wanted = cpus.min(WORKERS_MAX);
        let queue = Arc::new(Queue::new(cpus));
        Self(Arc::new(Inner { queue, shared: Shared::new(ledger), cpus, wanted, options }))
    }

    /// Where what comes of each victim is written down.
    pub(crate) fn ledger(&self) -> &Ledger {
        self.0.shared.ledger()
    }

    /// How long an event waits for a socket whose owner holds its lock.
    #[must_use]
    pub fn victim_timeout(&self) -> Duration {
        self.0.options.victim_timeout
    }

    /// Starts the destroyers, unless they were, or as many as there may be wait for locks.
    ///
    /// # Errors
    /// The errno of starting the first; fewer than there should be are enough.
    pub(super) fn start(&self) -> io::Result<()> {
        while self.lacks_one(&self.0.shared.state()) {
            if let Err(e) = self.add() {
                if self.0.shared.state().available == 0 {
                    return Err(e);
                }
                tracing::warn!("cannot start another thread that destroys: {e}");
                break;
            }
        }
        Ok(())
    }

    fn lacks_one(&self, state: &State) -> bool {
        state.available < self.0.wanted && state.available + state.given_up < self.0.options.destroyers_max
    }

    fn add(&self) -> io::Result<()> {
        worker::start(&self.0.shared, &self.0.queue, self.0.wanted)
    }

    /// There may be victims in a moment: a destroyer wakes up while they are looked for.
    pub(super) fn call(&self) {
        self.0.queue.call();
    }

    /// Does without this destroyer from now on, if it is still stuck, and has another in its place.
    fn give_up(&self, job: &Job) -> bool {
        let mut state = self.0.shared.state();
        let mut progress = job.progress();
        if progress.ended || progress.batch.is_empty() {
            return false;
        }
        progress.given_up = true;
        state.given_up += 1;
        state.available -= 1;
        let replace = self.lacks_one(&state);
        drop(progress);
        drop(state);
        if replace && let Err(e) = self.add() {
            tracing::warn!("cannot replace a thread that waits for the lock of a socket: {e}");
        }
        true
    }

    fn has_workers(&self) -> bool {
        self.0.shared.state().available > 0
    }

    /// True if no destroyer is left for this job; none gets it any more then.
    fn nobody_takes(&self, job: &Job) -> bool {
        let state = self.0.shared.state();
        let mut progress = job.progress();
        progress.withdrawn = state.available == 0 && !progress.is_taken_on();
        progress.withdrawn
    }

    /// The held sockets that were met since this was asked last, each once: the caller waits for them.
    pub(crate) fn take_met(&self) -> Vec<Awaited> {
        self.0.shared.state().take_met()
    }

    /// What has come of these by now, or is not waited for any longer; the others stay in the list.
    pub(crate) fn ends(
        &self,
        awaited: &mut Vec<Awaited>,
        is_over: impl Fn(&Awaited) -> bool,
    ) -> Vec<(Victim, End)> {
        let mut state = self.0.shared.state();
        let mut ends = Vec::new();
        awaited.retain(|one| {
            let cookie = one.victim.cookie();
            if let Some(end) = state.take_result(cookie) {
                ends.push((one.victim, end));
            } else if is_over(one) {
                state.report(cookie);
                ends.push((one.victim, End::TimedOut));
            } else {
                return true;
            }
            false
        });
        ends
    }

    /// Waits until something may have come of a held socket, or until then.
    pub(crate) fn wait_until(&self, until: Instant) {
        held::wait(self.0.shared.late(), until.saturating_duration_since(Instant::now()));
    }

    /// Something is to be read here when a result has come late.
    pub(crate) fn late(&self) -> Receiver<()> {
        self.0.shared.late().clone()
    }

    /// The sockets that were given up, from any thread.
    pub(crate) fn watch(&self) -> Watch {
        Watch(Arc::clone(&self.0.shared))
    }
}

/// What is seen of a pool, whether it is still there or not.
#[derive(Clone, Debug)]
pub(crate) struct Watch(Arc<Shared>);

impl Watch {
    pub(crate) fn status(&self) -> skreap_core::HeldStatus {
        self.0.status()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue.close();
        // Those that wait are not waited for.
        let held = self.shared.len() as u64;
        if held > 0 {
            let why = plural(held, "its owner holds its lock", "their owners hold their locks");
            let then = plural(held, "it when the owner", "each when its owner");
            tracing::warn!(
                "the end comes before {} {} destroyed: {why}; the kernel destroys {then} lets go, and nobody logs that",
                counted(held, "socket"),
                plural(held, "was", "were"),
            );
        }
    }
}
