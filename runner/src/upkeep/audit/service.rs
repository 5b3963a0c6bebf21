//! Audits beside a running service: on a thread of their own, so that no event and no other
//! question waits for one.

use std::fmt;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::{Audit, Auditor};
use crate::observe::monitor::Monitor;
use crate::observe::status::AuditStatus;
use crate::upkeep::heal::Healer;

/// Audits that may be asked for and not begun.
const QUEUE: usize = 8;
/// The longest wait between two healings.
const HEAL_LAST: Duration = Duration::from_secs(3600);
/// Longer than any service runs, and short enough to be added to a time.
const FOREVER: Duration = Duration::from_secs(1 << 32);
/// Differences that one audit writes to the log.
const LOGGED_MAX: usize = 10;

/// Called with the result of a requested audit.
pub type Answer = Box<dyn FnOnce(Result<Audit, String>) + Send>;

enum Ask {
    Audit(Answer),
    End,
}

/// Asks the thread of the audits.
#[derive(Clone)]
pub struct Asker(Sender<Ask>);

impl Asker {
    /// Requests an audit; `answer` is called with the result, on the thread of the audits. Never
    /// waits: returns false, without a call, if too many audits are requested already.
    #[must_use]
    pub fn ask(&self, answer: Answer) -> bool {
        self.0.try_send(Ask::Audit(answer)).is_ok()
    }
}

impl fmt::Debug for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asker").field("waiting", &self.0.len()).finish()
    }
}

/// A thread that audits on request and periodically, and that heals the index.
#[derive(Debug)]
pub struct Service {
    asker: Asker,
    thread: Option<thread::JoinHandle<()>>,
}

impl Service {
    /// Starts the thread. Its results are written to the log and to `monitor`. `interval`: the time
    /// from the end of one audit to the next periodic one. `heal_after`: delay before an index with
    /// incomplete bits is healed. `forgive_preexisting`: begin with [`Auditor::forgive_preexisting`].
    ///
    /// # Errors
    /// The errno of making the thread.
    pub fn start(
        auditor: Auditor,
        healer: Healer,
        heal_after: Duration,
        monitor: Monitor,
        interval: Option<Duration>,
        forgive_preexisting: bool,
    ) -> io::Result<Self> {
        let (interval, heal_after) =
            (interval.map(|interval| interval.min(FOREVER)), heal_after.min(FOREVER));
        let (ask, asked) = bounded(QUEUE);
        let worker = Worker { auditor, healer, heal_first: heal_after, heal_after, monitor };
        let thread = thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || worker.run(&asked, interval, forgive_preexisting))?;
        Ok(Self { asker: Asker(ask), thread: Some(thread) })
    }

    /// The handle that sends requests to this thread.
    #[must_use]
    pub fn asker(&self) -> Asker {
        self.asker.clone()
    }
}

impl Drop for Service {
    /// Waits for the audits that were asked for.
    fn drop(&mut self) {
        // An error means that the thread has ended already.
        let _ = self.asker.0.send(Ask::End);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the audit thread panicked");
        }
    }
}

struct Worker {
    auditor: Auditor,
    healer: Healer,
    /// How long incomplete backends wait for the first healing.
    heal_first: Duration,
    /// Delay before the next healing: doubled after each that did not help.
    heal_after: Duration,
    monitor: Monitor,
}

impl Worker {
    fn run(mut self, asked: &Receiver<Ask>, interval: Option<Duration>, forgive_preexisting: bool) {
        if forgive_preexisting {
            match self.auditor.forgive_preexisting() {
                Ok(preexisting) => {
                    tracing::info!(preexisting, "connected pre-existing sockets; they are not indexed")
                }
                Err(e) => {
                    tracing::error!("cannot search for pre-existing sockets, an audit will miss them: {e}")
                }
            }
        }
        let mut next = interval.map(|interval| Instant::now() + interval);
        let mut heal = Instant::now() + self.heal_after;
        loop {
            match asked.recv_deadline(next.map_or(heal, |next| next.min(heal))) {
                Ok(Ask::Audit(answer)) => answer(self.audit()),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Ask::End) | Err(RecvTimeoutError::Disconnected) => return,
            }
            // Also if clients request audits again and again.
            let now = Instant::now();
            if next.is_some_and(|next| next <= now) {
                // Its result is in the log and in the counters.
                let _ = self.audit();
                next = interval.map(|interval| Instant::now() + interval);
            }
            if heal <= now {
                self.heal();
                heal = Instant::now() + self.heal_after;
            }
        }
    }

    /// Heals the index, if it is incomplete.
    fn heal(&mut self) {
        let healed = match self.healer.incomplete() {
            Ok(bits) if !bits.any() => {
                self.heal_after = self.heal_first;
                return;
            }
            Ok(_) => self.healer.run(),
            Err(e) => Err(e.into()),
        };
        let whole = match healed {
            Ok(healed) => {
                let (before, after) = (healed.before, healed.after);
                let (tcp, udp) = (healed.found.tcp, healed.found.udp);
                let (indexed, no_room) = (tcp.indexed + udp.indexed, tcp.dropped + udp.dropped);
                if after.any() {
                    tracing::warn!(
                        backends = after.backends,
                        everything = after.everything,
                        indexed,
                        no_room,
                        "the index still lacks sockets: give it more --max-sockets"
                    );
                } else {
                    tracing::info!(backends = before.backends, indexed, "the index is complete again");
                }
                !after.any()
            }
            Err(e) => {
                tracing::error!("cannot heal the index: {e}");
                false
            }
        };
        self.heal_after =
            if whole { self.heal_first } else { (self.heal_after * 2).min(HEAL_LAST.max(self.heal_first)) };
    }

    fn audit(&mut self) -> Result<Audit, String> {
        let audit = self.auditor.run().map_err(|e| {
            tracing::error!("the audit failed: {e}");
            e.to_string()
        })?;
        log(&audit);
        let Audit { missed, stale, wrong_key, incomplete, preexisting, kernel, undecided, .. } = audit;
        self.monitor.audited(AuditStatus {
            missed,
            stale,
            wrong_key,
            incomplete,
            preexisting,
            kernel,
            undecided,
            ..AuditStatus::default()
        });
        Ok(audit)
    }
}

fn log(audit: &Audit) {
    let Audit { sockets, nodes, missed, wrong_key, stale, incomplete, ns, .. } = *audit;
    if audit.agrees {
        tracing::info!(sockets, nodes, incomplete, ns, "audit: the index agrees with the sockets");
        return;
    }
    tracing::warn!(sockets, nodes, missed, wrong_key, stale, incomplete, ns, "audit: the index is not right");
    for difference in audit.differences.iter().take(LOGGED_MAX) {
        tracing::warn!(kind = %difference.kind, socket = %difference.socket,
            recorded = %difference.recorded_list(), "audit: difference");
    }
}
