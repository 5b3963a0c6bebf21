//! Events that waited together: one walk for each backend, however many events name it.

use std::collections::{BTreeMap, HashMap};

use skreap_core::Backend;

/// Results for events that were all received before the first of them was handled.
///
/// If an earlier event in the batch cleanly reaped the same backend, that result is reused: when
/// the walk began, the load balancer had removed the backend for both events.
#[derive(Debug, Default)]
pub struct Batch {
    done: HashMap<Backend, String>,
    /// An RCU grace period has passed since the last of the events was received.
    pub(crate) grace: bool,
}

impl Batch {
    /// Splits the backends, each named once, into those to be reaped now and those already reaped,
    /// with the id of the event that did.
    pub(crate) fn split(&self, backends: Vec<Backend>) -> (Vec<Backend>, BTreeMap<Backend, String>) {
        let mut merged = BTreeMap::new();
        let mut rest = backends;
        rest.retain(|backend| match self.done.get(backend) {
            Some(id) => {
                merged.insert(*backend, id.clone());
                false
            }
            None => true,
        });
        (rest, merged)
    }

    /// Records that this event has reaped the backend, with nothing missed and nothing failed.
    pub(crate) fn add(&mut self, backend: Backend, id: &str) {
        self.done.insert(backend, id.to_owned());
    }
}

/// The same backends in the same order, each once.
pub(crate) fn distinct(backends: &[Backend]) -> Vec<Backend> {
    let mut seen = std::collections::HashSet::with_capacity(backends.len());
    backends.iter().copied().filter(|backend| seen.insert(*backend)).collect()
}
