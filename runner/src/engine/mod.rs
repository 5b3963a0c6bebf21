//! Engines: ways to find and destroy the sockets of a target. An engine knows nothing of events or sources.

mod netlink;

use std::time::Duration;

use skreap_core::{EngineName, Outcome, Target};

pub use netlink::Netlink;

/// Finds the sockets of a target and destroys them.
pub trait Engine: Send {
    /// The engine's own name, also where `auto` chose it.
    fn name(&self) -> EngineName;

    /// Does one target. A victim that could not be destroyed is in the outcome, not an error.
    ///
    /// # Errors
    /// [`EngineError`] if the engine could not do its work at all; nothing, or not all, was destroyed then.
    fn run(&mut self, target: &Target) -> Result<Outcome, EngineError>;

    /// Called about once a second: lets go of what is only kept for speed.
    fn tidy(&mut self) {}
}

/// Why an engine could not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The walk itself failed.
    #[error(transparent)]
    Walk(#[from] skreap_bpf::Error),
    /// A socket or thread the engine needs could not be had.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// A duration in the unit of reports.
pub(crate) fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}
