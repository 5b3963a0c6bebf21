//! The service as a library: an index, its hooks, and an engine that reaps what an event names.

mod attribution;
pub(crate) mod batch;
mod done;
pub(crate) mod fallback;
mod handle;
mod limits;
mod link;
pub(crate) mod recheck;
pub(crate) mod reconcile;
mod underway;

use std::fs::File;
use std::io;
use std::num::{NonZeroU64, NonZeroUsize};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use skreap_bpf::hooks::Hooks;
use skreap_bpf::module::ModuleError;
use skreap_bpf::pin::{Origin, Pins};
use skreap_bpf::{Config, Counters, Index, Walker};
use skreap_core::{EngineName, ReconcileMax, Unconnected};

use crate::engine::select::{self, Choice};
use crate::engine::{
    Engine, EngineError, EngineOptions, KernelSockets, Pace, Pool, PoolOptions, Scope, StateMask,
};
use crate::observe::listing::Listing;
use crate::observe::monitor::{Identity, Monitor};
use crate::observe::observer::Observer;
use crate::observe::status::OrderStatus;
use crate::reaper::fallback::Fallback;
use crate::sys::cgroup::{self, PartOnly};
use crate::sys::privileges;
use crate::upkeep::audit::{self, Audit, Auditor};
use crate::upkeep::bootstrap::{self, Bootstrapped};
use crate::upkeep::heal::Healer;
use crate::upkeep::hook_order::OrderKeeper;

use limits::Limits;

/// How long an event waits for connects under way, if nothing is said.
pub const RECHECK: Duration = Duration::from_millis(20);

/// Default delay between the first mark and the healing of the index.
pub const HEAL_AFTER: Duration = Duration::from_secs(60);

/// Reasons why a [`Reaper`] could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no cgroup to attach to.
    #[error("cgroup {path}: {source}; mount cgroup2, or name a cgroup2 directory with --cgroup")]
    Cgroup {
        /// The path, or the object that was searched for.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// No cgroup was named, and the root of the machine's cgroup2 is not mounted here.
    #[error(transparent)]
    PartOfCgroup2(#[from] PartOnly),
    /// The kernel side refused.
    #[error(transparent)]
    Bpf(#[from] skreap_bpf::Error),
    /// No engine, or not the one that was asked for, works here.
    #[error(transparent)]
    Choice(#[from] select::Refused),
    /// The engine could not start or work.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl From<select::Error> for Error {
    fn from(e: select::Error) -> Self {
        match e {
            select::Error::Refused(e) => e.into(),
            select::Error::Engine(e) => e.into(),
        }
    }
}

impl Error {
    /// True if this kernel or these privileges do not allow it, so that a retry is useless.
    #[must_use]
    pub fn cannot(&self) -> bool {
        match self {
            Self::Cgroup { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::Bpf(e) | Self::Engine(EngineError::Walk(e)) => e.cannot(),
            Self::Choice(_) | Self::PartOfCgroup2(_) => true,
            Self::Engine(_) => false,
        }
    }
}

/// Longer is no use, and must be short enough to be added to a time.
const RECHECK_MAX: Duration = Duration::from_secs(3600);

/// How long an event waits for connects under way.
#[derive(Clone, Copy, Debug)]
struct RecheckBound(Duration);

impl Default for RecheckBound {
    fn default() -> Self {
        Self(RECHECK)
    }
}

/// How long marks wait for the first healing.
#[derive(Clone, Copy, Debug)]
struct HealAfter(Duration);

impl Default for HealAfter {
    fn default() -> Self {
        Self(HEAL_AFTER)
    }
}

/// Settings of a [`Reaper`].
#[derive(Clone, Debug, Default)]
pub struct Builder {
    cgroup: Option<PathBuf>,
    config: Config,
    engine: Choice,
    unconnected: Unconnected,
    states: StateMask,
    scope: Scope,
    pin: Option<PathBuf>,
    scan_known: bool,
    max_victims: Option<u64>,
    max_rate: Option<NonZeroU64>,
    reconcile_max: ReconcileMax,
    attribute: bool,
    no_bootstrap: bool,
    recheck: RecheckBound,
    pool: PoolOptions,
    heal_after: HealAfter,
    leave_order: bool,
    grace: bool,
}

impl Builder {
    /// The cgroup2 directory whose sockets (and those of the cgroups below it) are indexed. Default: the root
    /// of the hierarchy, wherever it is mounted.
    #[must_use]
    pub fn cgroup(mut self, path: impl Into<PathBuf>) -> Self {
        self.cgroup = Some(path.into());
        self
    }

    /// Sizes of the index.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// The engine; `auto` by default.
    #[must_use]
    pub fn engine(mut self, engine: Choice) -> Self {
        self.engine = engine;
        self
    }

    /// Policy for UDP sockets that only ever sent to the backend; they are preserved by default.
    #[must_use]
    pub fn unconnected(mut self, policy: Unconnected) -> Self {
        self.unconnected = policy;
        self
    }

    /// TCP states whose sockets are destroyed; by default all in which there is something to destroy.
    #[must_use]
    pub fn states(mut self, states: StateMask) -> Self {
        self.states = states;
        self
    }

    /// Which netns an engine that scans visits; all by default.
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// A directory on a bpf filesystem in which index and hooks are pinned: they stay when the reaper is dropped
    /// or its process killed, and the next one with the same settings takes them over. Default: none.
    #[must_use]
    pub fn pin(mut self, directory: impl Into<PathBuf>) -> Self {
        self.pin = Some(directory.into());
        self
    }

    /// A scanning engine visits only the netns in which the index has sockets of the target, and
    /// queries the index before each scan. Off by default.
    #[must_use]
    pub fn scan_known(mut self, known: bool) -> Self {
        self.scan_known = known;
        self
    }

    /// Maximum number of victims of one event; one with more is refused and destroys nothing. The
    /// victims are counted before any is destroyed, so each event costs two walks. No limit by
    /// default.
    #[must_use]
    pub fn max_victims(mut self, most: Option<u64>) -> Self {
        self.max_victims = most;
        self
    }

    /// Most sockets one reconcile may destroy; by default a tenth of the connected ones, and 100 at least. One with more is
    /// refused, and the report says what it would have done.
    #[must_use]
    pub fn reconcile_max(mut self, most: ReconcileMax) -> Self {
        self.reconcile_max = most;
        self
    }

    /// Whether every report lists its victims and whose they are, as reports of dry runs and of failures always do. The
    /// victims are found once before any is destroyed. Off by default.
    #[must_use]
    pub fn attribute(mut self, attribute: bool) -> Self {
        self.attribute = attribute;
        self
    }

    /// Most sockets destroyed per second, spread over the second. No limit by default.
    #[must_use]
    pub fn max_rate(mut self, per_second: Option<NonZeroU64>) -> Self {
        self.max_rate = per_second;
        self
    }

    /// Whether to search every netns once for sockets older than the hooks; on by default.
    #[must_use]
    pub fn bootstrap(mut self, bootstrap: bool) -> Self {
        self.no_bootstrap = !bootstrap;
        self
    }

    /// Longest time that an event waits for sockets whose `connect()` to the backend is under way;
    /// zero: not at all. 20 ms by default, an hour at most. It waits only while there are such
    /// sockets.
    #[must_use]
    pub fn recheck(mut self, bound: Duration) -> Self {
        self.recheck = RecheckBound(bound.min(RECHECK_MAX));
        self
    }

    /// How long an event waits for a socket whose owner holds its lock, so that the kernel cannot destroy it; one second by
    /// default, an hour at most. Then the socket is reported as failed with `ETIMEDOUT`, and still destroyed as soon as
    /// its owner lets go, which is logged and counted ([`HeldStatus`](skreap_core::HeldStatus)). All others are destroyed
    /// without waiting for it.
    #[must_use]
    pub fn victim_timeout(mut self, bound: Duration) -> Self {
        self.pool.victim_timeout = bound.min(RECHECK_MAX);
        self
    }

    /// Most threads that destroy, with those that wait for a socket whose owner holds its lock; 128 by default, one at
    /// least. While all of them wait, other sockets are not destroyed: they are reported as failed with `ETIMEDOUT` at
    /// once.
    #[must_use]
    pub fn destroyers_max(mut self, most: NonZeroUsize) -> Self {
        self.pool.destroyers_max = most.get();
        self
    }

    /// Interval at which the thread of [`Reaper::start_audits`] checks whether the index lacks
    /// sockets, and then heals it; a minute by default. After a healing that did not help it waits
    /// twice as long.
    #[must_use]
    pub fn heal_after(mut self, wait: Duration) -> Self {
        self.heal_after = HealAfter(wait);
        self
    }

    /// Leaves the hooks where they were attached, also when another program is attached after them:
    /// for programs that arrange the order otherwise. Off by default: the hooks become last again.
    #[must_use]
    pub fn leave_order(mut self, leave: bool) -> Self {
        self.leave_order = leave;
        self
    }

    /// Waits for an RCU grace period before waiting events are handled, so that every hook that has
    /// read the load balancer's old map has recorded its socket. For dataplanes that do not wait
    /// for one themselves between the change of their map and the event. Costs some milliseconds
    /// each time. Off by default.
    #[must_use]
    pub fn grace(mut self, grace: bool) -> Self {
        self.grace = grace;
        self
    }

    /// Loads the programs, attaches the hooks, starts the engine, and indexes the older sockets.
    ///
    /// # Errors
    /// [`Error`]; nothing stays attached but what was pinned before.
    pub fn build(self) -> Result<Reaper, Error> {
        let (path, file, not_seen) = open_cgroup(self.cgroup)?;
        // What only one engine needs costs nothing with the others.
        let hold = self.config.hold || self.engine.may_destroy_in_walk();
        let config = Config { hold, ..self.config };
        let pins = {
            // The directory may be reached through /proc/PID/fd of another process.
            let _raised = privileges::raise();
            self.pin.as_deref().map(Pins::hold).transpose()?
        };
        let (index, origin) = {
            // The types of modules are asked for by their ids.
            let _raised = privileges::raise();
            match &pins {
                Some(pins) => pins.load(&config, file.as_fd())?,
                None => (Index::load(&config)?, Origin::New),
            }
        };
        let index = Arc::new(index);
        let pace = self.max_rate.map(Pace::per_second).unwrap_or_default();
        let options = EngineOptions {
            cgroup: Some(path.clone()),
            states: self.states,
            scope: self.scope,
            pace: pace.clone(),
            pool: Pool::new(self.pool),
            single_dump: false,
        };
        let (engine, engine_why) = select::start_and_say(self.engine, &index, &options)?;
        let fallback = start_fallback(engine.name(), &index, &options);
        let kernel_sockets = KernelSockets::new(&index, &options)?;
        let walker = index.walker()?;
        if self.grace {
            // Better now than with the first event.
            recheck::grace_period()?;
        }
        let late_module = late_module(self.engine, &index, pins.is_some());
        let identity = Identity {
            late_module,
            engine: engine.name(),
            engine_why,
            cgroup: path.clone(),
            not_seen: not_seen.clone(),
            unconnected: self.unconnected,
        };
        let destroyers = options.pool.watch();
        let held = Box::new(move || destroyers.status());
        let monitor = Monitor::new(identity, Observer::new(&index)?, held);
        let unpublished = Unpublished(pins.as_ref());
        let mut hooks = {
            let _raised = privileges::raise();
            match &pins {
                Some(pins) => Hooks::attach_pinned(&index, file.as_fd(), pins, &origin)?,
                None => Hooks::attach(&index, file.as_fd())?,
            }
        };
        tracing::info!(cgroup = %path.display(), engine = %engine.name(), max_sockets = index.max_sockets(), "attached");
        if let Some(not_seen) = &not_seen {
            tracing::info!(cgroup = %path.display(), "not seen: {not_seen}");
        }
        if !self.no_bootstrap && !index.is_bootstrapped()? {
            let found = bootstrap::run(&index, &path)?;
            tell_older(&found);
            if found.whole() {
                index.set_bootstrapped()?;
            } else {
                index.marker()?.everything()?;
            }
        }
        if let Some(pins) = &pins {
            let _raised = privileges::raise();
            pins.publish(&mut hooks)?;
            tell_origin(pins, &origin);
        }
        unpublished.done();
        let mut order = OrderKeeper::new(&index, file)?;
        // A walker of its own: a listing must not delay an event.
        let overseer = Observer::new(&index)?;
        order.tidy(&mut hooks, &overseer);
        monitor.ordered(order.status());
        Ok(Reaper {
            hooks,
            engine,
            order,
            overseer,
            healing: Arc::default(),
            fallback,
            kernel_sockets,
            audits: None,
            walker,
            monitor,
            index,
            cgroup: path,
            unconnected: self.unconnected,
            scan_known: self.scan_known,
            limits: Limits {
                max_victims: self.max_victims,
                reconcile_max: self.reconcile_max,
                whole_machine: not_seen.is_none(),
            },
            attribute: self.attribute,
            recheck: self.recheck.0,
            pool: options.pool,
            heal_after: self.heal_after.0,
            leave_order: self.leave_order,
            order_unknown: false,
            grace: self.grace,
            pace,
            _pins: pins,
        })
    }
}

/// Removes pins that were created and not published.
struct Unpublished<'a>(Option<&'a Pins>);

impl Unpublished<'_> {
    fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Unpublished<'_> {
    fn drop(&mut self) {
        let Some(pins) = self.0 else {
            return;
        };
        let _raised = privileges::raise();
        if let Err(e) = pins.abandon() {
            tracing::error!("hooks stay attached until the next start, or `skreap unload`: {e}");
        }
    }
}

/// Loaded programs do not get the functions of a module that is loaded later.
fn late_module(engine: Choice, index: &Index, pinned: bool) -> Option<&'static str> {
    match index.can_destroy() {
        Ok(()) | Err(ModuleError::Refused(_)) => None,
        Err(_) if !engine.may_destroy_in_walk() => None,
        Err(_) if pinned => Some("stop the service, `skreap unload` and start it again to use it"),
        Err(_) => Some("restart the service to use it"),
    }
}

/// The engine for events that the first one cannot finish: a scan needs none.
fn start_fallback(engine: EngineName, index: &Index, options: &EngineOptions) -> Option<Fallback> {
    if engine.scans() {
        return None;
    }
    match select::fallback(index, options) {
        Ok(scan) => {
            tracing::info!(engine = %scan.name(), "this engine finishes events on which the index is incomplete");
            Some(Fallback::new(scan))
        }
        Err(why) => {
            tracing::warn!("no full scan works here, so a full index makes events incomplete: {why}");
            None
        }
    }
}

fn tell_older(found: &Bootstrapped) {
    let Bootstrapped { tcp, udp, netns, unreachable, held_up, missing, took, .. } = found;
    tracing::info!(
        tcp = tcp.indexed,
        udp = udp.indexed,
        netns,
        took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        "indexed the sockets that are older than the hooks"
    );
    tracing::debug!(?tcp, ?udp, "older sockets");
    if !found.whole() {
        tracing::warn!(
            missing,
            unreachable,
            held_up,
            "sockets older than the hooks could not all be indexed: events are finished by a full scan until they are"
        );
    }
    let dropped = tcp.dropped + udp.dropped;
    if dropped > 0 {
        tracing::warn!(dropped, "the index is full: raise --max-sockets");
    }
}

fn tell_origin(pins: &Pins, origin: &Origin) {
    let pins = pins.directory().display();
    match origin {
        Origin::New => tracing::info!(%pins, "pinned"),
        Origin::TakenOver => tracing::info!(%pins, "taken over, with all sockets"),
        Origin::Replaces(why) => {
            tracing::warn!(%pins, "the pinned index could not be taken over and was replaced: {why}");
        }
    }
}

/// The cgroup to attach to, and what is not seen from there.
fn open_cgroup(path: Option<PathBuf>) -> Result<(PathBuf, File, Option<String>), Error> {
    let path = match path {
        Some(path) => path,
        None => {
            let mount =
                cgroup::mount().map_err(|source| Error::Cgroup { path: "root".to_owned(), source })?;
            if !mount.whole {
                return Err(PartOnly(mount.path).into());
            }
            mount.path
        }
    };
    let error = |source| Error::Cgroup { path: path.display().to_string(), source };
    let file = cgroup::open(&path).map_err(error)?;
    let not_seen = cgroup::not_seen(&path).map_err(error)?;
    Ok((path, file, not_seen))
}

/// Terminates exactly the sockets that talk to a backend that is gone.
///
/// From the moment it is built, every TCP and UDP socket in the cgroup that connects (or sends without
/// connecting) is indexed. Dropping it detaches the hooks and frees the index, unless they are pinned.
///
/// ```no_run
/// use skreap::Reaper;
/// use skreap::core::{Action, Event};
///
/// let mut reaper = Reaper::builder().build()?;
/// // … the control plane deletes a backend, and the load balancer knows it no more …
/// let backend = "udp://10.0.0.1:53".parse()?;
/// let report = reaper.handle(&Event::new("42", Action::BackendDeleted { backend }));
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
    recheck: Duration,
    pool: Pool,
    heal_after: Duration,
    leave_order: bool,
    /// Sockets may be recorded under a virtual address.
    order_unknown: bool,
    grace: bool,
    pace: Pace,
    _pins: Option<Pins>,
}

pub use underway::Underway;

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
    /// [`skreap_bpf::Error::Object`] if the program that clears marks is missing.
    pub fn healer(&self) -> Result<Healer, skreap_bpf::Error> {
        Healer::new(Arc::clone(&self.index), &self.cgroup, Arc::clone(&self.healing))
    }

    /// Starts a thread that audits when it is asked to ([`audits`](Self::audits)), and by itself `interval`
    /// after the last audit. Connected sockets that are not in the index now are taken to be older than the hooks:
    /// they are forgiven, if `forgive_older`. What audits find is in the status. The same thread heals the index
    /// when it has marks ([`Healer`], [`Builder::heal_after`]).
    ///
    /// # Errors
    /// As [`auditor`](Self::auditor), and the errno of making the thread.
    pub fn start_audits(
        &mut self,
        interval: Option<Duration>,
        forgive_older: bool,
    ) -> Result<(), EngineError> {
        let service = audit::Service::start(
            self.auditor()?,
            self.healer()?,
            self.heal_after,
            self.monitor.clone(),
            interval,
            forgive_older,
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
