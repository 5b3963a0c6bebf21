//! The observable state of a service: status, top, metrics.
//!
//! The reaper passes each report to the monitor and waits for nothing; all others read. Every lock
//! here is held for a copy or two, never while the index is walked or a line is written.

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
#[cfg(feature = "metrics")]
use std::time::SystemTime;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use skreap_bpf::module;
use skreap_core::{
    ActionName, EngineName, HeldStatus, Moved, Phases, Report, Revived, Summary, Timings, Unconnected, nanos,
};

use crate::observe::clients::Clients;
use crate::observe::listing::Listing;
use crate::observe::observer::Observer;
use crate::observe::status::{
    AuditLogStatus, AuditStatus, EventResult, IndexStatus, OrderStatus, Recent, Status, Top, TopBackend,
    Totals,
};

/// Events whose phases the latency of a status is made of.
pub const LATENCY_EVENTS: usize = 1024;
/// Events that a status lists.
pub const RECENT_EVENTS: usize = 32;
/// Backends that `top` lists.
pub const TOP_BACKENDS: usize = 100;

/// A listing of the index is shared for at least this long, and for [`LOOK_SHARE`] times as long as
/// it took: however often clients ask, walking takes a small part of one CPU.
const LOOK_MIN: Duration = Duration::from_millis(500);
const LOOK_SHARE: u32 = 20;

/// The constants of a running service.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The engine in use.
    pub engine: EngineName,
    /// Why this one.
    pub engine_why: String,
    /// The cgroup whose sockets are indexed.
    pub cgroup: PathBuf,
    /// Which sockets are not, if any.
    pub not_seen: Option<String>,
    /// Policy for UDP sockets that only ever sent to the backend.
    pub unconnected: Unconnected,
    /// What events may have done with their victims.
    pub actions: Vec<ActionName>,
    /// The step that would make use of the kernel module if it is loaded from now on; `None` if it
    /// is used, or not wanted.
    pub late_module: Option<&'static str>,
}

impl Identity {
    /// The reason for this engine, and a change since then that would select another.
    fn engine_why(&self) -> String {
        match self.late_module {
            Some(step) if module::look().is_ok() => {
                format!("{}; but the module skreap is loaded by now: {step}", self.engine_why)
            }
            _ => self.engine_why.clone(),
        }
    }
}

/// The observable state of a service. Clones are the same monitor.
#[derive(Clone, Debug)]
pub struct Monitor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    identity: Identity,
    started: Instant,
    observer: Observer,
    clients: Arc<Clients>,
    seen: Mutex<Seen>,
    look: Mutex<Option<Look>>,
    /// Deletions that wait to be confirmed.
    unconfirmed: AtomicU64,
    callbacks: Mutex<Callbacks>,
}

/// Returns what is known of the sockets whose owners hold their locks.
pub type Held = Box<dyn Fn() -> HeldStatus + Send>;
/// Returns the number of events that wait.
pub type QueueLength = Box<dyn Fn() -> usize + Send>;
/// Returns how many lines of the audit log were written and dropped.
pub type AuditLogLines = Box<dyn Fn() -> AuditLogStatus + Send>;
/// Called with the phases of an event.
pub type Timed = Box<dyn Fn(&Phases) + Send>;

/// What the service has the monitor call.
#[derive(Default)]
struct Callbacks {
    held: Option<Held>,
    reviving: Option<Arc<AtomicU64>>,
    waiting: Option<QueueLength>,
    audit_log: Option<AuditLogLines>,
    timed: Vec<Timed>,
}

impl fmt::Debug for Callbacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callbacks").finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Seen {
    totals: Totals,
    phases: VecDeque<Phases>,
    recent: VecDeque<(Instant, Recent)>,
    order: Option<OrderStatus>,
    audit: Option<(Instant, AuditStatus)>,
}

/// The index as it was seen at some moment.
#[derive(Clone, Debug)]
struct Look {
    at: Instant,
    took: Duration,
    listing: Arc<Listing>,
}

impl Monitor {
    /// A monitor that has seen nothing yet.
    #[must_use]
    pub(crate) fn new(identity: Identity, observer: Observer, held: Held) -> Self {
        Self(Arc::new(Inner {
            identity,
            started: Instant::now(),
            observer,
            clients: Arc::default(),
            seen: Mutex::default(),
            look: Mutex::default(),
            unconfirmed: AtomicU64::default(),
            callbacks: Mutex::new(Callbacks { held: Some(held), ..Callbacks::default() }),
        }))
    }

    /// An event was answered with this report.
    pub fn report(&self, report: &Report) {
        let backends = report.action.gone();
        let recent = Recent {
            age_ns: 0,
            id: report.id.clone(),
            kind: report.action.name().to_owned(),
            backend: backends.first().copied(),
            backends: backends.len() as u64,
            result: EventResult::of(report),
            victims: report.victims,
            destroyed: report.destroyed,
            total_ns: report.ns.total_ns,
        };
        let mut seen = self.0.seen.lock();
        seen.totals.add(report);
        push(&mut seen.recent, RECENT_EVENTS, (Instant::now(), recent));
        if !report.dry_run && report.error.is_none() {
            push(&mut seen.phases, LATENCY_EVENTS, report.ns);
            drop(seen);
            self.0.callbacks.lock().timed.iter().for_each(|timed| timed(&report.ns));
        }
    }

    /// Destroyed sockets were looked at again.
    pub(crate) fn revived(&self, revived: &Revived) {
        self.0.seen.lock().totals.revived.add_all(revived);
    }

    /// Sockets were to be moved.
    pub(crate) fn moved(&self, moved: &Moved) {
        self.0.seen.lock().totals.moved.add_all(moved);
    }

    /// So many deletions wait to be confirmed.
    pub(crate) fn unconfirmed(&self, waiting: u64) {
        self.0.unconfirmed.store(waiting, Ordering::Relaxed);
    }

    /// Where the number of destroyed sockets is that will be looked at again.
    pub(crate) fn watch_revivals(&self, waiting: Arc<AtomicU64>) {
        self.0.callbacks.lock().reviving = Some(waiting);
    }

    /// An audit was made; `runs` and `age_ns` are filled in here.
    pub fn audited(&self, found: AuditStatus) {
        let mut seen = self.0.seen.lock();
        let runs = seen.audit.map_or(0, |(_, last)| last.runs) + 1;
        seen.audit = Some((Instant::now(), AuditStatus { runs, age_ns: 0, ..found }));
    }

    /// The position of our hooks was checked.
    pub fn ordered(&self, order: OrderStatus) {
        self.0.seen.lock().order = Some(order);
    }

    /// The counts of clients, to be given to sources.
    #[must_use]
    pub fn clients(&self) -> &Arc<Clients> {
        &self.0.clients
    }

    /// What sees the index.
    #[must_use]
    pub fn observer(&self) -> &Observer {
        &self.0.observer
    }

    /// The function that gives the number of events that wait, from now on; `None` at the end of their queue.
    pub fn watch_queue(&self, length: Option<QueueLength>) {
        self.0.callbacks.lock().waiting = length;
    }

    /// The function that gives the state of the audit log, from now on.
    pub fn watch_audit_log(&self, lines: AuditLogLines) {
        self.0.callbacks.lock().audit_log = Some(lines);
    }

    /// Has `timed` called with the phases of each event from now on, except dry runs and failures. It runs on the thread
    /// of the reaper, so it must not wait.
    pub fn time_events(&self, timed: Timed) {
        self.0.callbacks.lock().timed.push(timed);
    }

    /// How the service is doing.
    ///
    /// # Errors
    /// [`skreap_bpf::Error`] if the index cannot be asked.
    pub fn status(&self) -> Result<Status, skreap_bpf::Error> {
        let Inner { identity, observer, .. } = &*self.0;
        let counters = observer.counters()?;
        let bits = observer.index().incomplete()?;
        let index = IndexStatus {
            max_sockets: observer.index().max_sockets(),
            nodes: counters.live(),
            map_bytes: observer.index().map_bytes()?,
            incomplete_backends: bits.backends,
            incomplete_everything: bits.everything,
            counters,
            frontends: observer.index().frontends().map(|frontends| frontends.counters()).transpose()?,
        };
        let hooks = observer.hook_costs()?;
        let waiting = self.0.callbacks.lock().waiting.as_ref().map_or(0, |waiting| waiting()) as u64;
        let held = self.0.callbacks.lock().held.as_ref().map(|held| held()).unwrap_or_default();
        let reviving = self.0.callbacks.lock().reviving.as_ref().map_or(0, |n| n.load(Ordering::Acquire));
        let audit_log = self.0.callbacks.lock().audit_log.as_ref().map(|lines| lines());
        let seen = self.0.seen.lock();
        let phases: Vec<Phases> = seen.phases.iter().copied().collect();
        let mut status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_ns: nanos(self.0.started.elapsed()),
            engine: identity.engine,
            engine_why: identity.engine_why(),
            cgroup: identity.cgroup.display().to_string(),
            not_seen: identity.not_seen.clone(),
            unconnected: identity.unconnected,
            index,
            sockets: None,
            totals: seen.totals.clone(),
            latency: Summary::default(),
            waiting,
            unconfirmed: self.0.unconfirmed.load(Ordering::Relaxed),
            held,
            reviving,
            audit_log,
            actions: identity.actions.clone(),
            clients: self.0.clients.counts(),
            hooks,
            order: seen.order,
            audit: seen.audit.map(|(at, audit)| AuditStatus { age_ns: nanos(at.elapsed()), ..audit }),
            recent: seen
                .recent
                .iter()
                .rev()
                .map(|(at, recent)| Recent { age_ns: nanos(at.elapsed()), ..recent.clone() })
                .collect(),
        };
        // The reaper may be waiting to pass the next report.
        drop(seen);
        status.totals.take_back(libc::ETIMEDOUT, held.taken_back);
        status.latency = summary(&phases);
        Ok(status)
    }

    /// As [`status`](Self::status), with what the index holds.
    ///
    /// # Errors
    /// [`skreap_bpf::Error`] if the index cannot be walked.
    pub fn full_status(&self) -> Result<Status, skreap_bpf::Error> {
        let sockets = Some(self.look()?.listing.census());
        Ok(Status { sockets, ..self.status()? })
    }

    /// The status and the largest backends.
    ///
    /// # Errors
    /// [`skreap_bpf::Error`] if the index cannot be walked.
    pub fn top(&self) -> Result<Top, skreap_bpf::Error> {
        let look = self.look()?;
        let mut by_size: Vec<TopBackend> = look
            .listing
            .backends
            .iter()
            .filter(|(_, sockets)| !sockets.is_client())
            .map(|(backend, sockets)| TopBackend { backend: *backend, sockets: sockets.clone() })
            .collect();
        by_size.sort_by_key(|b| std::cmp::Reverse(b.sockets.connected + b.sockets.unconnected));
        let backends = by_size.len() as u64;
        by_size.truncate(TOP_BACKENDS);
        Ok(Top {
            status: Status { sockets: Some(look.listing.census()), ..self.status()? },
            sockets: look.listing.sockets,
            backends,
            largest: by_size,
            moved_on: look.listing.moved_on,
            no_peer: look.listing.no_peer,
            age_ns: nanos(look.at.elapsed()),
            took_ns: nanos(look.took),
        })
    }

    /// The index as it is now, or was a short while ago.
    ///
    /// # Errors
    /// [`skreap_bpf::Error`] if the index cannot be walked.
    #[cfg(feature = "metrics")]
    pub(crate) fn listing(&self) -> Result<Arc<Listing>, skreap_bpf::Error> {
        Ok(self.look()?.listing)
    }

    /// When the service started, in seconds since 1970.
    #[cfg(feature = "metrics")]
    #[expect(
        clippy::disallowed_methods,
        reason = "a point in time for people, from which nothing is computed"
    )]
    pub(crate) fn started_unix(&self) -> f64 {
        let started = SystemTime::now().checked_sub(self.0.started.elapsed());
        let since = started.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        since.unwrap_or_default().as_secs_f64().round()
    }

    fn look(&self) -> Result<Look, skreap_bpf::Error> {
        // Held during the walk: clients that ask meanwhile get the same listing. The reaper never
        // takes this lock.
        let mut last = self.0.look.lock();
        if let Some(look) = &*last
            && look.at.elapsed() < LOOK_MIN.max(look.took * LOOK_SHARE)
        {
            return Ok(look.clone());
        }
        let start = Instant::now();
        let listing = Arc::new(self.0.observer.listing()?);
        let look = Look { at: Instant::now(), took: start.elapsed(), listing };
        *last = Some(look.clone());
        Ok(look)
    }
}

fn push<T>(ring: &mut VecDeque<T>, most: usize, item: T) {
    if ring.len() == most {
        ring.pop_front();
    }
    ring.push_back(item);
}

fn summary(phases: &[Phases]) -> Summary {
    let Ok(mut timings) = Timings::new() else {
        // Its bounds are constants that its own tests try.
        return Summary::default();
    };
    phases.iter().for_each(|phases| timings.record(phases));
    timings.summary()
}
