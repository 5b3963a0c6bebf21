//! The program that finds the sockets of selectors: loaded when the first selector comes, or before that.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use skreap_bpf::{Error, Index, Select};

/// The program, while no event uses it.
#[derive(Debug, Default)]
pub(super) struct SelectProgram {
    loaded: Option<Select>,
    loading: Option<JoinHandle<Option<Select>>>,
}

impl SelectProgram {
    /// Loads it on a thread of its own. If that fails, the first event that needs it tries again, and its report says why it failed.
    pub(super) fn load_ahead(index: &Arc<Index>) -> Self {
        let index = Arc::clone(index);
        let load = move || {
            Select::load(&index).inspect_err(|e| tracing::debug!("selectors are not ready: {e}")).ok()
        };
        let loading = thread::Builder::new()
            .name("skreap-select".to_owned())
            .spawn(load)
            .inspect_err(|e| tracing::debug!("selectors are not ready: no thread: {e}"))
            .ok();
        Self { loaded: None, loading }
    }

    /// The program, which belongs to the caller until it is [put back](Self::put_back).
    pub(super) fn take(&mut self, index: &Index) -> Result<Select, Error> {
        match self.loaded.take().or_else(|| self.wait()) {
            Some(select) => Ok(select),
            None => Select::load(index),
        }
    }

    /// For the next event.
    pub(super) fn put_back(&mut self, select: Select) {
        self.loaded = Some(select);
    }

    fn wait(&mut self) -> Option<Select> {
        // A panic there was logged there.
        self.loading.take().and_then(|loading| loading.join().ok()).flatten()
    }
}

impl Drop for SelectProgram {
    /// Nothing of the index is in use once its reaper is gone.
    fn drop(&mut self) {
        drop(self.wait());
    }
}
