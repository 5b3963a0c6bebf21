//! Engines: ways to find and destroy the sockets of a target. An engine knows nothing of events or sources.
//!
//! | engine | finds | destroys |
//! |---|---|---|
//! | [`Kfunc`] | walk of one bucket of the index | in the same step, with the kernel module |
//! | [`Netlink`] | walk of one bucket of the index | by exact id, in batches |
//! | [`Iter`] | BPF iterator over every socket, netns by netns | in the same step |
//! | [`Diag`] | sock_diag dump of every socket, netns by netns; with or without a filter in the kernel | as netlink |
//! | [`IndexScan`] | walk of every bucket of the index | as netlink |
//!
//! All of them choose the same sockets: those of the indexed cgroup, connected to the backend, in a
//! state of the [`StateMask`]. Only the index knows unconnected sockets: a scan that should destroy
//! them reports in its outcome that it is incomplete.

mod assign;
mod chosen;
pub(crate) mod connect;
mod counts;
pub(crate) mod destroy;
mod diag;
mod in_index;
mod in_tables;
mod index_scan;
mod iter;
mod kernel_sockets;
mod kfunc;
mod ledger;
mod link;
pub(crate) mod membership;
mod named;
mod netlink;
mod owners;
mod pace;
pub mod pool;
pub mod probe;
mod scope;
pub mod select;
mod selection;
mod states;
mod subflows;
mod trial;

use std::path::PathBuf;

use skreap_bpf::Select;
pub(crate) use skreap_core::nanos;
use skreap_core::{EngineName, Outcome, Target};

pub(crate) use assign::{Assigner, Tools};
pub use chosen::Chosen;
pub use diag::Diag;
pub use index_scan::IndexScan;
pub use iter::Iter;
pub(crate) use kernel_sockets::KernelSockets;
pub use kfunc::Kfunc;
pub(crate) use ledger::Entry;
pub use ledger::{LateResult, Ledger};
pub use link::Link;
pub(crate) use membership::{CgroupRelation, Membership};
pub(crate) use named::{netns_id, tuple};
pub use netlink::Netlink;
pub use owners::OwnerFinder;
pub use pace::Pace;
pub use pool::{DESTROYERS_MAX, Pool, PoolOptions, VICTIM_TIMEOUT};
pub use scope::Scope;
pub use selection::{Rules, Selection};
pub use states::{StateMask, UnknownState};

/// Settings of engines at their start.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// The cgroup2 directory that is indexed: scans leave the sockets of all others alone. `None` means the
    /// root, in which every socket is.
    pub cgroup: Option<PathBuf>,
    /// TCP states whose sockets are victims.
    pub states: StateMask,
    /// Which netns a scan visits.
    pub scope: Scope,
    /// How fast sockets are destroyed. Engines that destroy in the step in which they find keep it from one
    /// target to the next only.
    pub pace: Pace,
    /// The threads that destroy.
    pub pool: Pool,
    /// Engines `diag` and `diag-filter` make one dump and believe it, as `ss -K` does: for measurements. A dump may miss
    /// sockets while others come and go, and does not recognise accepted sockets and the kernel's own.
    pub single_dump: bool,
}

/// Finds the sockets of a target and destroys them.
pub trait Engine: Send {
    /// The engine's own name, also where `auto` chose it.
    fn name(&self) -> EngineName;

    /// Does one target. A victim that could not be destroyed is in the outcome, not an error.
    ///
    /// `chosen` is the same for all targets of one event, and for every pass over one of them;
    /// empty at its start.
    ///
    /// # Errors
    /// [`EngineError`] if the engine could not do its work at all; nothing, or not all, was destroyed then.
    fn run(&mut self, target: &Target, chosen: &mut Chosen) -> Result<Outcome, EngineError>;

    /// True if the walk of [`run`](Self::run) also watches the connects that are under way, if it is asked to.
    fn watches(&self) -> bool {
        false
    }

    /// Does several targets, none of them a dry run; what came of each, in order. Nothing of one is
    /// destroyed before the others were looked for, in engines for which that is faster.
    fn run_all(&mut self, targets: &[Target], chosen: &mut Chosen) -> Vec<Result<Outcome, EngineError>> {
        targets.iter().map(|target| self.run(target, chosen)).collect()
    }

    /// Does the sockets of a selection. `select` finds them in the index. The selections of an event share `chosen`: a sender
    /// is a victim of one of them. Engines that know no senders ignore it.
    ///
    /// # Errors
    /// As [`run`](Self::run); [`EngineError::NoSelection`] if the engine cannot.
    fn select(
        &mut self,
        _selection: &Selection,
        _select: &mut Select,
        _chosen: &mut Chosen,
    ) -> Result<Outcome, EngineError> {
        Err(EngineError::NoSelection(self.name()))
    }

    /// [`run`](Self::run) may come in a moment: what takes time to be ready gets ready meanwhile.
    fn get_ready(&self) {}

    /// Changes which netns are visited from now on; engines that walk the index visit no netns and ignore it.
    fn set_scope(&mut self, _scope: Scope) {}
}

/// Why an engine could not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The walk itself failed.
    #[error(transparent)]
    Walk(#[from] skreap_bpf::Error),
    /// The engine finds sockets by their backends only.
    #[error("engine {0} does not know selectors; use engine auto, or name backends and nothing else")]
    NoSelection(EngineName),
    /// A socket or thread the engine needs could not be had.
    #[error("{what}: {source}")]
    Io {
        /// The operation that was tried.
        what: String,
        /// The kernel's error.
        source: std::io::Error,
    },
}
