//! Healing: the index gets to know again what it had to leave out.
//!
//! ```text
//!   turn ─► grace period ─► connects take effect ─► every socket there is into the index ─► clear
//!     marks set from here on are another generation, and stay                marks before the turn
//! ```
//!
//! A mark may go when every socket that it stands for is in the index, or is not there any more. What was marked before
//! the turn was recorded (or lost) by a hook that has ended by the end of the grace period; its socket has its peer some
//! microseconds later, for which [`SETTLE`] waits; so the search sees it. If it finds no room either, the search marks
//! its backend again, in the younger generation. If a netns is out of reach nothing is cleared.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use skreap_bpf::{Index, Marker, Marks};

use crate::engine::EngineError;
use crate::sys::rcu;
use crate::upkeep::bootstrap::{self, Bootstrapped};

/// How long a `connect()` may be on its way from the hook to its effect. It is a few microseconds of one system call;
/// a UDP connect may have to wait for the lock of its socket besides.
pub const SETTLE: Duration = Duration::from_secs(2);

/// Heals an index, from any thread.
#[derive(Debug)]
pub struct Healer {
    index: Arc<Index>,
    marker: Marker,
    cgroup: PathBuf,
    settle: Duration,
    /// Of all healers of the index: two at once would clear marks that only one of them has healed.
    one_at_a_time: Arc<Mutex<()>>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Healed {
    /// The marks before.
    pub before: Marks,
    /// The marks after: of what has found no room again, or was lost meanwhile.
    pub after: Marks,
    /// What the search has put into the index.
    pub found: Bootstrapped,
}

impl Healer {
    /// `cgroup` is the directory whose sockets the index is to know.
    pub(crate) fn new(
        index: Arc<Index>,
        cgroup: &Path,
        one_at_a_time: Arc<Mutex<()>>,
    ) -> Result<Self, skreap_bpf::Error> {
        Ok(Self { marker: index.marker()?, index, cgroup: cgroup.to_owned(), settle: SETTLE, one_at_a_time })
    }

    /// Another time in place of [`SETTLE`].
    #[must_use]
    pub fn settle(self, settle: Duration) -> Self {
        Self { settle, ..self }
    }

    /// The marks there are.
    ///
    /// # Errors
    /// [`skreap_bpf::Error`] if they cannot be read.
    pub fn marks(&self) -> Result<Marks, skreap_bpf::Error> {
        self.index.marks()
    }

    /// Puts every connected socket of the cgroup into the index, and takes back the marks of what was missing. Takes
    /// two seconds and as long as a look at every socket; events and hooks go on meanwhile. Waits for another healer of
    /// this index.
    ///
    /// # Errors
    /// [`EngineError`] if the search could not begin; no mark is taken back then.
    pub fn run(&mut self) -> Result<Healed, EngineError> {
        let turn = Arc::clone(&self.one_at_a_time);
        let _turn = turn.lock();
        let before = self.index.marks()?;
        self.marker.turn()?;
        // A hook that has begun before the turn is through after it.
        rcu::grace_period_or_pause();
        thread::sleep(self.settle);
        let found = bootstrap::run(&self.index, &self.cgroup)?;
        if found.whole() {
            self.marker.clear()?;
            // It is the same search.
            if !self.index.is_bootstrapped()? {
                self.index.set_bootstrapped()?;
            }
        }
        Ok(Healed { before, after: self.index.marks()?, found })
    }
}
