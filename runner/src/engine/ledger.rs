//! The ledger: the result of each victim, where every socket is to be named and not only counted.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use skreap_bpf::Victim;
use skreap_core::{SocketEnd, SocketTuple};

use super::tuple;

/// The victims of the event of this moment. Engines and destroyers write into it, the reaper takes it when the event's
/// work is done. Off by default, and then it costs nothing. Clones are the same ledger.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Option<Arc<Mutex<Entries>>>);

#[derive(Debug, Default)]
struct Entries {
    /// By cookie: what came of a socket last counts, as a later pass may destroy what an earlier one could not.
    by_cookie: HashMap<u64, Entry>,
    late: Vec<LateResult>,
}

/// What is known of one victim.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) victim: Victim,
    /// `None`: its owner has closed it.
    pub(crate) end: Option<SocketEnd>,
    pub(crate) at: Instant,
}

/// What came of a socket after its event had reported it as failed, because its owner held its lock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LateResult {
    /// The socket.
    pub socket: SocketTuple,
    /// What came of it; `None`: its owner has closed it.
    pub end: Option<SocketEnd>,
    /// How long the owner held the lock.
    pub waited: Duration,
}

impl Ledger {
    /// One that is written into.
    pub(crate) fn on() -> Self {
        Self(Some(Arc::default()))
    }

    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn destroyed(&self, victim: &Victim) {
        self.note(victim, Some(SocketEnd::Destroyed));
    }

    pub(crate) fn gone(&self, victim: &Victim) {
        self.note(victim, None);
    }

    /// The sign of `errno` is ignored.
    pub(crate) fn failed(&self, victim: &Victim, errno: i32) {
        self.note(victim, Some(SocketEnd::Failed(errno.saturating_abs())));
    }

    fn note(&self, victim: &Victim, end: Option<SocketEnd>) {
        if let Some(entries) = &self.0 {
            let entry = Entry { victim: *victim, end, at: Instant::now() };
            entries.lock().by_cookie.insert(victim.cookie(), entry);
        }
    }

    /// What was noted since this was called last.
    pub(crate) fn take(&self) -> HashMap<u64, Entry> {
        self.0.as_ref().map(|entries| std::mem::take(&mut entries.lock().by_cookie)).unwrap_or_default()
    }

    pub(crate) fn late(&self, victim: &Victim, end: Option<SocketEnd>, waited: Duration) {
        if let Some(entries) = &self.0 {
            entries.lock().late.push(LateResult { socket: tuple(victim), end, waited });
        }
    }

    /// What came late since this was called last.
    pub(crate) fn take_late(&self) -> Vec<LateResult> {
        self.0.as_ref().map(|entries| std::mem::take(&mut entries.lock().late)).unwrap_or_default()
    }
}
