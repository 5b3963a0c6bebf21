//! The service as a library: an index, its hooks, and an engine that reaps what an event names.

mod attribution;
pub(crate) mod batch;
mod build;
mod builder;
mod by_rules;
mod done;
mod error;
pub(crate) mod fallback;
mod frontends;
mod handle;
mod limits;
mod link;
mod moving;
mod one;
pub(crate) mod pending;
mod place;
pub(crate) mod reconcile;
mod revive;
mod select_program;
mod terminate;
mod underway;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use skreap_bpf::hooks::Hooks;
use skreap_bpf::pin::Pins;
use skreap_bpf::{Counters, Index, Walker};
use skreap_core::{ActionRules, EngineName, Unconnected, VictimAction};

use crate::engine::connect::{Commands, Connector};
use crate::engine::{Engine, EngineError, KernelSockets, Pace, Pool};
use crate::observe::listing::Listing;
use crate::observe::monitor::Monitor;
use crate::observe::observer::Observer;
use crate::observe::status::OrderStatus;
use crate::sys::objects;
use crate::upkeep::audit::{self, Audit, Auditor};
use crate::upkeep::heal::Healer;
use crate::upkeep::hook_order::OrderKeeper;
use crate::upkeep::revive::{Deleted, RevivedEvents, Reviver};

use fallback::Fallback;
use limits::Limits;
use select_program::SelectProgram;

pub use builder::{Builder, HEAL_AFTER, PENDING_WAIT};
pub use error::Error;
pub use underway::Underway;

/// Terminates exactly the sockets that talk to a backend that is gone.
///
/// From the moment it is built, every TCP and UDP socket in the cgroup that connects (or sends without
/// connecting) is indexed. Dropping it detaches the hooks and frees the index, unless they are pinned.
///
/// ```no_run
/// use skreap::Reaper;
/// use skreap::core::Event;
///
/// let mut reaper = Reaper::builder().build()?;
/// // … the control plane deletes a backend, and the load balancer knows it no more …
/// let backend = "udp://10.0.0.1:53".parse()?;
/// let report = reaper.handle(&Event::deleted(backend));
/// assert!(report.error.is_none() && report.complete);
/// println!("{} sockets told that their backend is gone", report.destroyed);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Reaper {
    // Fields are dropped in this order: first no more records, then no more walks, then the maps (unless a clone of
    // the monitor still looks at them).
    hooks: Hooks,
    engine: Box<dyn Engine>,
    fallback: Option<Fallback>,
    kernel_sockets: KernelSockets,
    select: SelectProgram,
    walker: Walker,
    order: OrderKeeper,
    overseer: Observer,
    /// One at a time, for all callers.
    healing: Arc<Mutex<()>>,
    audits: Option<audit::Service>,
    monitor: Monitor,
    index: Arc<Index>,
    cgroup: PathBuf,
    unconnected: Unconnected,
    scan_known: bool,
    limits: Limits,
    attribute: bool,
    pending_wait: Duration,
    pool: Pool,
    heal_after: Duration,
    leave_order: bool,
    /// Sockets may be recorded under a virtual address.
    order_unknown: bool,
    grace: bool,
    pace: Pace,
    /// What is done with the victims of events that do not say.
    victim_action: VictimAction,
    no_revive: bool,
    /// Sockets that may wait for a second look.
    reviving_max: u64,
    /// Give the victims of events that do not say their actions.
    action_rules: Option<Arc<ActionRules>>,
    /// What looks at sockets for these rules, beside `select`.
    commands: Commands,
    revived_events: RevivedEvents,
    /// Of which second looks have to know.
    deleted: Deleted,
    /// Started when there is something to revive.
    reviver: Option<Reviver>,
    /// Made when there is something to move.
    connector: Option<Connector>,
    pins: Option<Pins>,
    /// There were none before.
    pins_are_new: bool,
}

impl Reaper {
    /// Settings to start from.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The engine in use.
    #[must_use]
    pub fn engine(&self) -> EngineName {
        self.engine.name()
    }

    /// The cgroup whose sockets are indexed.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The index, for counters and walkers of one's own.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The observable state of this reaper, for any thread.
    #[must_use]
    pub fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    /// The current contents of the index, per backend.
    ///
    /// # Errors
    /// [`skreap_bpf::Error`] if the index cannot be walked.
    pub fn listing(&mut self) -> Result<Listing, skreap_bpf::Error> {
        self.monitor.observer().listing()
    }

    /// The counters of the index since it was loaded.
    ///
    /// # Errors
    /// [`skreap_bpf::Error`] if the counters cannot be read.
    pub fn counters(&self) -> Result<Counters, skreap_bpf::Error> {
        self.index.counters()
    }

    /// The work done to see addresses after their translation by a load balancer.
    #[must_use]
    pub fn order(&self) -> OrderStatus {
        self.order.status()
    }

    /// Compares the index with an independent scan of the sockets, now; see
    /// [`audit`](crate::upkeep::audit).
    ///
    /// # Errors
    /// [`EngineError`] if the index or the netns cannot be read.
    pub fn audit(&self) -> Result<Audit, EngineError> {
        self.auditor()?.run()
    }

    /// An auditor of this index, to be used from any thread.
    ///
    /// # Errors
    /// [`EngineError`] if no walk slot is free or the cgroup is gone.
    pub fn auditor(&self) -> Result<Auditor, EngineError> {
        Auditor::new(self.index.walker()?, &self.cgroup)
    }

    /// Puts sockets that the index had to leave out back into it; usable from any thread.
    ///
    /// # Errors
    /// [`skreap_bpf::Error::Object`] if the program that clears incomplete bits is missing.
    pub fn healer(&self) -> Result<Healer, skreap_bpf::Error> {
        Healer::new(Arc::clone(&self.index), &self.cgroup, Arc::clone(&self.healing))
    }

    /// Starts a thread that audits when it is asked to ([`audits`](Self::audits)), and by itself `interval`
    /// after the last audit. Connected sockets that are not in the index now are taken to be pre-existing ones:
    /// they are forgiven, if `forgive_preexisting`. What audits find is in the status. The same thread heals the index
    /// when it is incomplete ([`Healer`], [`Builder::heal_after`]).
    ///
    /// # Errors
    /// As [`auditor`](Self::auditor), and the errno of making the thread.
    pub fn start_audits(
        &mut self,
        interval: Option<Duration>,
        forgive_preexisting: bool,
    ) -> Result<(), EngineError> {
        let service = audit::Service::start(
            self.auditor()?,
            self.healer()?,
            self.heal_after,
            self.monitor.clone(),
            interval,
            forgive_preexisting,
        )
        .map_err(|source| EngineError::Io { what: "cannot start the audit thread".to_owned(), source })?;
        self.audits = Some(service);
        Ok(())
    }

    /// What asks the thread of the audits, once [`start_audits`](Self::start_audits) has made it.
    #[must_use]
    pub fn audits(&self) -> Option<audit::Asker> {
        self.audits.as_ref().map(audit::Service::asker)
    }

    /// To be called about once a second: sees to it that the hooks are the last programs.
    pub fn tidy(&mut self) {
        if !self.leave_order {
            self.order.tidy(&mut self.hooks, &self.overseer);
            self.monitor.ordered(self.order.status());
        }
    }

    /// How fast sockets are destroyed.
    #[must_use]
    pub fn pace(&self) -> &Pace {
        &self.pace
    }

    /// Undoes the start of a reaper that is of no use, as something else that it needs has failed: pins that were not there
    /// before are removed, and their hooks detached. Those that it has taken over, or that replace others, stay.
    pub fn abandon(self) {
        let Some(pins) = self.pins.filter(|_| self.pins_are_new) else {
            return;
        };
        drop(self.hooks);
        if let Err(e) = objects::remove(pins) {
            tracing::error!("hooks stay attached until the next start, or `skreap unload`: {e}");
        }
    }

    /// Detaches the hooks, unless they are pinned; sockets are no longer recorded.
    pub fn detach(self) {
        drop(self.hooks);
    }
}

impl std::fmt::Debug for Reaper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reaper").field("engine", &self.engine.name()).finish_non_exhaustive()
    }
}
