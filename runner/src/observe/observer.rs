//! Looking at the index while the reaper works.

use std::sync::Arc;

use parking_lot::Mutex;
use skreap_bpf::{Counters, Error, HookCost, Index, Victim, WalkCounts, Walker};

use crate::observe::listing::Listing;

/// Reads the index from any thread, beside the reaper. A walk sleeps and locks for one node at a
/// time, so a walk over a large index delays neither an event nor a hook. Clones share one walker,
/// and use it one after the other.
#[derive(Clone, Debug)]
pub struct Observer {
    index: Arc<Index>,
    walker: Arc<Mutex<Walker>>,
}

impl Observer {
    /// An observer of this index; it takes one of its walkers.
    ///
    /// # Errors
    /// [`Error::NoSlot`] if all walkers are taken.
    pub fn new(index: &Arc<Index>) -> Result<Self, Error> {
        Ok(Self { index: Arc::clone(index), walker: Arc::new(Mutex::new(index.walker()?)) })
    }

    /// The current contents of the index, per backend: a walk over all of it.
    ///
    /// # Errors
    /// [`Error`] if the index cannot be walked.
    pub fn listing(&self) -> Result<Listing, Error> {
        Listing::take(&mut self.walker.lock(), &self.index)
    }

    /// Visits every node of the index, see [`Walker::walk_all`].
    ///
    /// # Errors
    /// [`Error`] if the index cannot be walked.
    pub(crate) fn walk_all(&self, each: impl FnMut(&[Victim])) -> Result<WalkCounts, Error> {
        self.walker.lock().walk_all(each)
    }

    /// The same, and forgets the frontends that were recorded since this epoch, if there is one.
    pub(crate) fn walk_all_forgetting(
        &self,
        epoch: Option<u32>,
        each: impl FnMut(&[Victim]),
    ) -> Result<WalkCounts, Error> {
        match epoch {
            Some(epoch) => self.walker.lock().walk_forgetting(epoch, each),
            None => self.walk_all(each),
        }
    }

    /// The counters of the index since it was loaded.
    ///
    /// # Errors
    /// [`Error`] if the counters cannot be read.
    pub fn counters(&self) -> Result<Counters, Error> {
        self.index.counters()
    }

    /// Number and duration of the runs of each hook, where the kernel collects that statistic.
    ///
    /// # Errors
    /// [`Error`] if a program cannot be asked.
    pub fn hook_costs(&self) -> Result<Vec<HookCost>, Error> {
        self.index.hook_costs()
    }

    /// The index itself, for its constant properties.
    pub(crate) fn index(&self) -> &Index {
        &self.index
    }
}
