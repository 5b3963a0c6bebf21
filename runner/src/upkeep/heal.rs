//! Healing: puts the sockets that were left out back into the index.
//!
//! ```text
//!   flip ─► grace period ─► connects take effect ─► every socket there is into the index ─► clear
//!     bits set from here on are another generation, and stay                 bits before the flip
//! ```
//!
//! A bit may be cleared when every socket that it stands for is in the index, or no longer exists.
//! A bit from before the flip was set by a hook that has ended by the end of the grace period. The
//! socket of that hook gets its peer some microseconds later, for which [`CONNECT_DELAY`] waits, so the
//! search finds it. If there is still no room for it, the search sets the bit again, in the
//! current generation. If a netns is out of reach, nothing is cleared.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use skreap_bpf::{IncompleteBits, IncompleteWriter, Index};

use crate::engine::EngineError;
use crate::sys::rcu;
use crate::upkeep::bootstrap::{self, Bootstrapped};

/// Bound for the time of a `connect()` between its hook and its effect. It is a few microseconds of
/// one system call; a UDP connect may also have to wait for the lock of its socket.
pub const CONNECT_DELAY: Duration = Duration::from_secs(2);

/// Heals an index, from any thread.
#[derive(Debug)]
pub struct Healer {
    index: Arc<Index>,
    writer: IncompleteWriter,
    cgroup: PathBuf,
    connect_delay: Duration,
    /// Shared by all healers of the index: two at once would clear bits that only one of them has
    /// healed.
    one_at_a_time: Arc<Mutex<()>>,
}

/// The result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Healed {
    /// The bits before.
    pub before: IncompleteBits,
    /// The bits afterwards: of sockets that found no room again, or were lost meanwhile.
    pub after: IncompleteBits,
    /// Sockets that the search has put into the index.
    pub found: Bootstrapped,
}

impl Healer {
    /// `cgroup` is the directory whose sockets belong in the index.
    pub(crate) fn new(
        index: Arc<Index>,
        cgroup: &Path,
        one_at_a_time: Arc<Mutex<()>>,
    ) -> Result<Self, skreap_bpf::Error> {
        Ok(Self {
            writer: index.incomplete_writer()?,
            index,
            cgroup: cgroup.to_owned(),
            connect_delay: CONNECT_DELAY,
            one_at_a_time,
        })
    }

    /// Replaces [`CONNECT_DELAY`].
    #[must_use]
    pub fn connect_delay(self, connect_delay: Duration) -> Self {
        Self { connect_delay, ..self }
    }

    /// The bits that are set.
    ///
    /// # Errors
    /// [`skreap_bpf::Error`] if they cannot be read.
    pub fn incomplete(&self) -> Result<IncompleteBits, skreap_bpf::Error> {
        self.index.incomplete()
    }

    /// Puts every connected socket of the cgroup into the index, and clears the bits of those that
    /// were missing. Takes two seconds and as long as a visit of every socket; events and hooks
    /// continue meanwhile. Waits for another healer of this index.
    ///
    /// # Errors
    /// [`EngineError`] if the search could not begin; no bit is cleared then.
    pub fn run(&mut self) -> Result<Healed, EngineError> {
        let turn = Arc::clone(&self.one_at_a_time);
        let _turn = turn.lock();
        let before = self.index.incomplete()?;
        self.writer.flip()?;
        // A hook that has begun before the flip is through after it.
        rcu::grace_period_or_pause();
        thread::sleep(self.connect_delay);
        let found = bootstrap::run(&self.index, &self.cgroup)?;
        if found.whole() {
            self.writer.clear()?;
            // It is the same search.
            if !self.index.is_bootstrapped()? {
                self.index.set_bootstrapped()?;
            }
        }
        Ok(Healed { before, after: self.index.incomplete()?, found })
    }
}
