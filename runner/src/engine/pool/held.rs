//! Sockets whose owner holds their lock: what waits for them, and what comes of it late.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Mutex, MutexGuard};
use skreap_bpf::Victim;
use skreap_core::{HeldStatus, SocketEnd, errno_name};

use super::job::{Fate, Job};
use crate::engine::{Ledger, tuple};

/// What all destroyers and events share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// Something came late.
    changed: Sender<()>,
    late: Receiver<()>,
    ledger: Ledger,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Destroyers that are not given up.
    pub(super) available: usize,
    /// Destroyers that wait for a lock.
    pub(super) given_up: usize,
    held: HashMap<u64, Held>,
    results: HashMap<u64, Late>,
    /// Held sockets that the event of this moment has met, by cookie.
    met: BTreeSet<u64>,
    status: HeldStatus,
    ledger: Ledger,
}

/// A socket whose lock is waited for.
#[derive(Debug)]
struct Held {
    victim: Victim,
    /// Those that have it in hand. If the destroyer that looks for the held socket of a batch is stuck as well, several
    /// have the rest of the batch, and whichever comes first destroys it.
    by: Vec<Arc<Job>>,
    /// What those have said that are done with it.
    known: Option<Fate>,
    since: Instant,
    /// Events that wait for what comes of it.
    awaited: u32,
    /// Events that have reported it as failed.
    reported: u64,
}

/// What came of one, for the events that wait for it.
#[derive(Debug)]
struct Late {
    fate: Fate,
    /// The socket, and since when it was waited for.
    seen: (Victim, Instant),
    awaited: u32,
    /// Some event, or the count of late ones, has it.
    counted: bool,
}

/// A held socket that an event waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Awaited {
    pub(crate) victim: Victim,
    /// Since when its destroy waits.
    pub(crate) since: Instant,
}

/// The result of a held socket, as its event gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Destroyed,
    /// Its owner closed it, or it was counted elsewhere.
    Gone,
    Failed(i32),
    /// Its owner holds its lock still.
    TimedOut,
}

impl Shared {
    pub(super) fn new(ledger: Ledger) -> Arc<Self> {
        let (changed, late) = bounded(1);
        let state = State { ledger: ledger.clone(), ..State::default() };
        Arc::new(Self { state: Mutex::new(state), changed, late, ledger })
    }

    /// Where what comes of each victim is written down.
    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Locked before the progress of any job.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Something is to be read here when a result has come late.
    pub(super) fn late(&self) -> &Receiver<()> {
        &self.late
    }

    /// What came of the batch of a job that its event has given up.
    pub(super) fn came_late(&self, job: &Arc<Job>, fates: &[Fate]) {
        let mut state = self.state.lock();
        let mut progress = job.progress();
        let batch = progress.batch.clone();
        progress.note(fates);
        drop(progress);
        for (victim, fate) in job.victims.get(batch).unwrap_or_default().iter().zip(fates) {
            state.resolve(job, victim, *fate);
        }
        drop(state);
        // Full: the reader has not read yet.
        let _ = self.changed.try_send(());
    }

    pub(crate) fn status(&self) -> HeldStatus {
        let state = self.state.lock();
        let waiting = state.held.values().filter(|held| held.reported > 0).count() as u64;
        let mut status = state.status;
        status.waiting = waiting;
        status.given_up = state.given_up as u64;
        status
    }

    /// Sockets whose lock is waited for.
    pub(super) fn len(&self) -> usize {
        self.state.lock().held.len()
    }
}

impl State {
    /// Notes that these jobs have this socket in hand and wait for locks; an event has met it.
    pub(super) fn hold(&mut self, victim: &Victim, by: Vec<Arc<Job>>, since: Instant) {
        let new = Held { victim: *victim, by, known: None, since, awaited: 0, reported: 0 };
        self.held.entry(victim.cookie()).or_insert(new);
        self.meet(victim.cookie());
    }

    /// True if the lock of this socket is waited for already; the event that asks has met it then.
    pub(super) fn meet(&mut self, cookie: u64) -> bool {
        let Some(held) = self.held.get_mut(&cookie) else {
            return false;
        };
        if self.met.insert(cookie) {
            held.awaited += 1;
        }
        true
    }

    /// The held sockets that were met since this was asked last.
    pub(super) fn take_met(&mut self) -> Vec<Awaited> {
        let met = std::mem::take(&mut self.met);
        let held = |cookie| self.held.get(cookie).map(|held| (held.victim, held.since));
        met.iter()
            .filter_map(|cookie| held(cookie).or_else(|| self.results.get(cookie).map(|late| late.seen)))
            .map(|(victim, since)| Awaited { victim, since })
            .collect()
    }

    fn resolve(&mut self, by: &Arc<Job>, victim: &Victim, fate: Fate) {
        let cookie = victim.cookie();
        let Some(held) = self.held.get_mut(&cookie) else {
            return;
        };
        let Some(i) = held.by.iter().position(|job| Arc::ptr_eq(job, by)) else {
            return;
        };
        held.by.swap_remove(i);
        let fate = held.known.map_or(fate, |known| known.or(fate));
        held.known = Some(fate);
        // One that does not find it may come after another that has destroyed it and has not said so yet.
        if fate != Fate::Destroyed && !held.by.is_empty() {
            return;
        }
        let Some(held) = self.held.remove(&cookie) else {
            return;
        };
        if held.reported > 0 {
            self.count(&held, fate);
        }
        if held.awaited > 0 {
            let late = Late {
                fate,
                seen: (held.victim, held.since),
                awaited: held.awaited,
                counted: held.reported > 0,
            };
            self.results.insert(cookie, late);
        }
    }

    /// Takes back the failures that were reported.
    fn count(&mut self, held: &Held, fate: Fate) {
        let socket = tuple(&held.victim);
        let waited = held.since.elapsed();
        let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        let end = match fate {
            Fate::Destroyed => Some(SocketEnd::Destroyed),
            Fate::Failed(libc::ENOENT) => None,
            Fate::Failed(errno) => Some(SocketEnd::Failed(errno)),
            Fate::Unknown | Fate::Unreached(_) | Fate::Held => Some(SocketEnd::Failed(libc::ENOBUFS)),
        };
        self.ledger.late(&held.victim, end, waited);
        match fate {
            Fate::Destroyed => {
                self.status.late_destroyed += 1;
                self.status.taken_back += held.reported;
                tracing::info!(waited_ms, "destroyed late, as its owner held its lock: {socket}");
            }
            Fate::Failed(libc::ENOENT) => {
                self.status.late_gone += 1;
                self.status.taken_back += held.reported;
                tracing::info!(waited_ms, "closed by its owner, which held its lock: {socket}");
            }
            Fate::Failed(errno) => {
                let error = errno_name(errno);
                tracing::warn!(
                    waited_ms,
                    "not destroyed when its owner let go of its lock: {error}: {socket}"
                );
            }
            Fate::Unknown | Fate::Unreached(_) | Fate::Held => {
                tracing::warn!(
                    waited_ms,
                    "its owner let go of its lock, and what came of it is not known: {socket}"
                );
            }
        }
    }

    /// What came of a socket that an event waits for; `None` if nothing has yet.
    pub(super) fn take_result(&mut self, cookie: u64) -> Option<End> {
        let late = self.results.get_mut(&cookie)?;
        let end = match late.fate {
            Fate::Destroyed if !late.counted => End::Destroyed,
            Fate::Destroyed | Fate::Failed(libc::ENOENT) => End::Gone,
            Fate::Failed(errno) => End::Failed(errno),
            // The kernel's word was lost: the next event looks again.
            Fate::Unknown | Fate::Unreached(_) | Fate::Held => End::Failed(libc::ENOBUFS),
        };
        late.counted = true;
        late.awaited -= 1;
        if late.awaited == 0 {
            self.results.remove(&cookie);
        }
        Some(end)
    }

    /// An event does not wait for this socket any longer, and reports it as failed.
    pub(super) fn report(&mut self, cookie: u64) {
        if let Some(held) = self.held.get_mut(&cookie) {
            held.awaited = held.awaited.saturating_sub(1);
            held.reported += 1;
        }
    }
}

/// Waits until something may have come late.
pub(super) fn wait(late: &Receiver<()>, most: Duration) {
    // A timeout and a word are the same to who looks again.
    let _ = late.recv_timeout(most);
}
