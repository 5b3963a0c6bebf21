//! The state of a running service: the data of `skreap status` and `skreap top`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use skreap_bpf::{Counters, FrontendCounters, HookCost};
use skreap_core::{
    ActionName, Backend, EngineName, HeldStatus, Incomplete, Moved, Protocol, Report, Revived, Skipped,
    Summary, Unconnected, errno_name,
};

use crate::observe::clients::ClientCounts;
use crate::observe::listing::{BackendEntry, Census};

/// State of a service at one moment. Counters count since it started, those of the index since the
/// index was loaded.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Status {
    /// Version of the service.
    pub version: String,
    /// Process that serves.
    pub pid: u32,
    /// Time since it started, in nanoseconds.
    pub uptime_ns: u64,
    /// The engine in use.
    pub engine: EngineName,
    /// Why this one.
    pub engine_why: String,
    /// The cgroup whose sockets are indexed.
    pub cgroup: String,
    /// Which sockets are not, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_seen: Option<String>,
    /// Policy for UDP sockets that only ever sent to the backend.
    pub unconnected: Unconnected,
    /// The index.
    pub index: IndexStatus,
    /// What it holds, from a look that all who ask share for half a second or more; `None` if nobody has asked for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sockets: Option<Census>,
    /// Totals of the events.
    pub totals: Totals,
    /// Sockets whose owners hold their locks.
    #[serde(default)]
    pub held: HeldStatus,
    /// Destroyed sockets that will be looked at again.
    #[serde(default)]
    pub reviving: u64,
    /// The audit log, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit_log: Option<AuditLogStatus>,
    /// What events may have done with their victims; those that connect sockets only if that is allowed.
    #[serde(default)]
    pub actions: Vec<ActionName>,
    /// Phases of the last events, at most 1,024 of them
    /// ([`LATENCY_EVENTS`](crate::observe::monitor::LATENCY_EVENTS)).
    pub latency: Summary,
    /// Events that wait for the reaper.
    pub waiting: u64,
    /// Clients of the unix sockets.
    pub clients: ClientCounts,
    /// Cost of the hooks, where the kernel collects that statistic.
    pub hooks: Vec<HookCost>,
    /// Position of our hooks among those of others; `None` if it is not checked.
    pub order: Option<OrderStatus>,
    /// The last audit, if there was one.
    pub audit: Option<AuditStatus>,
    /// The last events, the newest first, at most 32
    /// ([`RECENT_EVENTS`](crate::observe::monitor::RECENT_EVENTS)).
    pub recent: Vec<Recent>,
}

/// Lines of the audit log since the service started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AuditLogStatus {
    /// Written.
    pub written: u64,
    /// Dropped, as there was no room for them: whoever reads them is too slow.
    pub dropped: u64,
    /// Waiting to be written.
    pub waiting: u64,
}

/// The index of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct IndexStatus {
    /// Memberships that always find room.
    pub max_sockets: u32,
    /// Memberships now: one for each socket and backend.
    pub nodes: u64,
    /// Kernel memory of the maps, in bytes.
    pub map_bytes: u64,
    /// Bits of backends some membership of which could not be recorded.
    pub incomplete_backends: u64,
    /// Sockets of any backend may be missing: every event has a fallback scan.
    #[serde(default)]
    pub incomplete_everything: bool,
    /// Everything that was counted.
    pub counters: Counters,
    /// Numbers of the frontends. Left out where they are not recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontends: Option<FrontendCounters>,
}

/// Result of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum EventResult {
    /// Every socket of the backend was visited, and every victim is gone.
    Complete,
    /// Sockets of the backend may have been missed.
    Incomplete,
    /// Some victim could not be destroyed.
    Failed,
    /// A limit did not allow it, and nothing was destroyed.
    Refused,
    /// The engine could not do its work.
    Error,
    /// Nothing was to be destroyed.
    DryRun,
}

impl EventResult {
    /// Every result, the good one first.
    pub const ALL: [Self; 6] =
        [Self::Complete, Self::Incomplete, Self::Failed, Self::Refused, Self::Error, Self::DryRun];

    /// Result of the event with this report; of several, the worst.
    #[must_use]
    pub fn of(report: &Report) -> Self {
        if report.dry_run && report.error.is_none() {
            // Also one that would be refused: that it would is in its report.
            Self::DryRun
        } else if report.guard.is_some_and(|guard| guard.refused) {
            Self::Refused
        } else if report.error.is_some() {
            Self::Error
        } else if report.failed.total() > 0 {
            Self::Failed
        } else if report.complete {
            Self::Complete
        } else {
            Self::Incomplete
        }
    }

    /// Name in kebab case, such as `dry-run`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Error => "error",
            Self::DryRun => "dry-run",
        }
    }
}

/// Totals of all events since the start. A dry run counts as an event and nowhere else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Totals {
    /// Events by type and result.
    pub events: BTreeMap<String, BTreeMap<EventResult, u64>>,
    /// Sockets destroyed, by engine and protocol (`tcp`, `udp`, or `mixed` where a report does not
    /// say).
    pub destroyed: BTreeMap<EngineName, BTreeMap<String, u64>>,
    /// Sockets visited and not destroyed, by reason.
    pub skipped: Skipped,
    /// Sockets that could not be destroyed, by the name of the error; without those that came to something after all.
    pub failed: BTreeMap<String, u64>,
    /// Events that may have missed sockets, by reason; an event may have several.
    pub incomplete: BTreeMap<Incomplete, u64>,
    /// What came of destroyed sockets that were looked at again.
    #[serde(default)]
    pub revived: Revived,
    /// What came of sockets that were to be moved.
    #[serde(default)]
    pub moved: Moved,
}

impl Totals {
    /// Adds one report.
    pub fn add(&mut self, report: &Report) {
        let by_result = self.events.entry(report.action.name().to_owned()).or_default();
        *by_result.entry(EventResult::of(report)).or_default() += 1;
        if report.dry_run {
            return;
        }
        for ((engine, protocol), n) in destroyed(report) {
            *self.destroyed.entry(engine).or_default().entry(protocol.to_owned()).or_default() += n;
        }
        let (all, new) = (&mut self.skipped, &report.skipped);
        all.unconnected += new.unconnected;
        all.moved_on += new.moved_on;
        all.no_peer += new.no_peer;
        all.state += new.state;
        all.stale += new.stale;
        all.gone += new.gone;
        all.other_link += new.other_link;
        all.spared += new.spared;
        all.frontend += new.frontend;
        all.frontend_unknown += new.frontend_unknown;
        all.not_selected += new.not_selected;
        all.kernel += new.kernel;
        all.accepted += new.accepted;
        for (errno, n) in report.failed.by_errno() {
            *self.failed.entry(errno.clone()).or_default() += n;
        }
        for why in &report.incomplete_because {
            *self.incomplete.entry(*why).or_default() += 1;
        }
    }

    /// Takes failures back that came to something after all.
    pub fn take_back(&mut self, errno: i32, failures: u64) {
        let name = errno_name(errno);
        if let Some(n) = self.failed.get_mut(name.as_ref()) {
            *n = n.saturating_sub(failures);
            if *n == 0 {
                self.failed.remove(name.as_ref());
            }
        }
    }

    /// Events with this result, of all types.
    #[must_use]
    pub fn results(&self, result: EventResult) -> u64 {
        self.events.values().filter_map(|by_result| by_result.get(&result)).sum()
    }

    /// All events.
    #[must_use]
    pub fn all_events(&self) -> u64 {
        self.events.values().flat_map(BTreeMap::values).sum()
    }

    /// All sockets destroyed.
    #[must_use]
    pub fn all_destroyed(&self) -> u64 {
        self.destroyed.values().flat_map(BTreeMap::values).sum()
    }

    /// All sockets that could not be destroyed.
    #[must_use]
    pub fn all_failed(&self) -> u64 {
        self.failed.values().sum()
    }
}

/// The destroyed sockets of one report by engine and protocol.
fn destroyed(report: &Report) -> BTreeMap<(EngineName, &'static str), u64> {
    let mut by_protocol: BTreeMap<Protocol, u64> = BTreeMap::new();
    for backend in &report.by_backend {
        *by_protocol.entry(backend.backend.protocol()).or_default() += backend.destroyed;
    }
    by_protocol.retain(|_, n| *n > 0);
    if by_protocol.is_empty()
        && let [backend, ..] = report.action.gone()
    {
        by_protocol.insert(backend.protocol(), report.destroyed);
    }
    let others: u64 = report.fallbacks.iter().map(|fallback| fallback.destroyed).sum();
    let mut all = BTreeMap::new();
    let mut add = |engine, protocol, n: u64| {
        if n > 0 {
            *all.entry((engine, protocol)).or_default() += n;
        }
    };
    if by_protocol.is_empty() && report.action.needs_selector() {
        let protocol = report.selector.as_ref().and_then(|selector| selector.protocol);
        let protocol = protocol.map_or(MIXED, Protocol::name);
        add(report.engine, protocol, report.destroyed.saturating_sub(others));
        report.fallbacks.iter().for_each(|finished| add(finished.engine, protocol, finished.destroyed));
    } else if others == 0 {
        by_protocol.iter().for_each(|(protocol, n)| add(report.engine, protocol.name(), *n));
    } else {
        // By engine or by protocol: a report with several of both does not say which destroyed
        // which.
        let protocol = match by_protocol.keys().next() {
            Some(protocol) if by_protocol.len() == 1 => protocol.name(),
            _ => MIXED,
        };
        add(report.engine, protocol, report.destroyed.saturating_sub(others));
        report.fallbacks.iter().for_each(|fallback| add(fallback.engine, protocol, fallback.destroyed));
    }
    all
}

/// In place of a protocol, where a report does not say.
const MIXED: &str = "mixed";

/// One event of late.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Recent {
    /// Time since it was answered, in nanoseconds.
    pub age_ns: u64,
    /// Id of the event.
    pub id: String,
    /// Type of the event.
    #[serde(rename = "type")]
    pub kind: String,
    /// The first backend it names, if any.
    pub backend: Option<Backend>,
    /// How many backends it names.
    pub backends: u64,
    /// Its result.
    pub result: EventResult,
    /// Sockets chosen for destruction.
    pub victims: u64,
    /// Victims that were destroyed.
    pub destroyed: u64,
    /// From the arrival of the event to its report, in nanoseconds.
    pub total_ns: u64,
}

/// Where our hooks stand among those of others on the same cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OrderStatus {
    /// True if no program runs after ours, so that ours see the final addresses of connects.
    pub last: bool,
    /// How often another program came behind ours and ours were moved.
    pub moves: u64,
    /// Number of times ours were not moved, because they had been moved too often in the last
    /// minute.
    pub held_back: u64,
    /// Hooks after which a foreign program runs now. If not 0, a pass over the whole index precedes
    /// each event.
    pub behind: u64,
    /// Sockets that were recorded under another address meanwhile, and were recorded anew.
    pub rekeyed: u64,
    /// Hooks of ours, including that of releases, that another process has detached. If not 0,
    /// restart the service.
    #[serde(default)]
    pub detached: u64,
    /// The place of our first programs. Left out where no frontends are recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<FirstStatus>,
}

/// Where our first programs stand, which see the address as the client has named it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FirstStatus {
    /// True if no other program runs before ours. If not, no frontends are recorded.
    pub first: bool,
    /// How often another program came before ours, and ours was attached before it.
    pub moves: u64,
}

/// Result of an audit, which compares the index with an independent scan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct AuditStatus {
    /// Audits since the start.
    pub runs: u64,
    /// Time since the last one, in nanoseconds.
    pub age_ns: u64,
    /// Sockets that are connected and not in the index.
    pub missed: u64,
    /// Nodes without their socket.
    pub stale: u64,
    /// Sockets recorded under another peer than theirs.
    pub wrong_key: u64,
    /// Sockets that the index had no room for, and says so: no difference.
    #[serde(default)]
    pub incomplete: u64,
    /// Pre-existing sockets that are, rightly, not in the index: not compared.
    #[serde(default)]
    pub preexisting: u64,
    /// The kernel's own sockets: not compared.
    #[serde(default)]
    pub kernel: u64,
    /// Sockets for which it is undecided whether they should be in the index: not compared.
    #[serde(default)]
    pub undecided: u64,
}

impl AuditStatus {
    /// All differences.
    #[must_use]
    pub fn differences(&self) -> u64 {
        self.missed + self.stale + self.wrong_key
    }
}

/// The status, and the largest backends.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Top {
    /// As `status` has it.
    pub status: Status,
    /// Sockets in the index.
    pub sockets: u64,
    /// Backends with at least one socket, without the clients of servers on this machine
    /// ([`BackendEntry::is_client`]).
    pub backends: u64,
    /// The backends with the most sockets, most first, at most 100
    /// ([`TOP_BACKENDS`](crate::observe::monitor::TOP_BACKENDS)).
    pub largest: Vec<TopBackend>,
    /// Memberships of sockets that have left that backend.
    pub moved_on: u64,
    /// Memberships of sockets that have no peer now.
    pub no_peer: u64,
    /// Age of the listing, in nanoseconds: clients share one for a while.
    pub age_ns: u64,
    /// How long that took, in nanoseconds.
    pub took_ns: u64,
}

/// One backend and its sockets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct TopBackend {
    /// The backend.
    pub backend: Backend,
    /// Its sockets.
    #[serde(flatten)]
    pub sockets: BackendEntry,
}

#[cfg(test)]
mod tests {
    use skreap_core::{BackendReport, Event, FallbackReason, FallbackRun, Outcome, Phases};

    use super::*;

    fn report(dry_run: bool, change: impl FnOnce(&mut Outcome)) -> Report {
        let backend = "udp://10.0.0.1:53".parse().unwrap();
        let event = Event::deleted(backend).with_dry_run(dry_run);
        let mut outcome = Outcome::new(EngineName::Netlink);
        change(&mut outcome);
        Report::new(&event, outcome, Phases::default())
    }

    #[test]
    fn totals_add_up_and_dry_runs_do_not_count() {
        let mut totals = Totals::default();
        totals.add(&report(false, |o| {
            o.destroyed = 5;
            o.skipped.gone = 2;
        }));
        totals.add(&report(false, |o| {
            o.destroyed = 1;
            o.incomplete.insert(Incomplete::IndexFull);
        }));
        totals.add(&report(true, |o| {
            o.victims = 7;
            o.skipped.gone = 7;
        }));
        assert_eq!((totals.all_events(), totals.all_destroyed(), totals.all_failed()), (3, 6, 0));
        assert_eq!(totals.skipped.total(), 2);
        let json = serde_json::to_value(&totals).unwrap();
        assert_eq!(
            json["events"],
            serde_json::json!({"backend-deleted": {"complete": 1, "incomplete": 1, "dry-run": 1}})
        );
        assert_eq!(json["destroyed"], serde_json::json!({"netlink": {"udp": 6}}));
        assert_eq!(json["incomplete"], serde_json::json!({"index-full": 1}));
        assert_eq!(serde_json::from_value::<Totals>(json).unwrap(), totals);
    }

    #[test]
    fn who_destroyed_what() {
        let engines = |report: &Report| destroyed(report).into_iter().collect::<Vec<_>>();
        let (netlink, iter) = (EngineName::Netlink, EngineName::Iter);
        let mut one = report(false, |o| o.destroyed = 5);
        assert_eq!(engines(&one), [((netlink, "udp"), 5)]);
        one.fallbacks = vec![FallbackRun {
            engine: iter,
            because: FallbackReason::IndexFull,
            victims: 2,
            destroyed: 2,
            ns: 1,
        }];
        assert_eq!(engines(&one), [((netlink, "udp"), 3), ((iter, "udp"), 2)]);
        let part = |backend: &str, destroyed| {
            let mut outcome = Outcome::new(netlink);
            outcome.destroyed = destroyed;
            BackendReport::new(backend.parse().unwrap(), &outcome)
        };
        one.by_backend = vec![part("udp://10.0.0.1:53", 1), part("tcp://10.0.0.1:53", 4)];
        assert_eq!(engines(&one), [((netlink, "mixed"), 3), ((iter, "mixed"), 2)]);
        one.fallbacks.clear();
        assert_eq!(engines(&one), [((netlink, "tcp"), 4), ((netlink, "udp"), 1)]);
    }

    #[test]
    fn the_worst_result_is_the_result() {
        assert_eq!(EventResult::of(&report(false, |_| ())), EventResult::Complete);
        let mut bad = report(false, |o| {
            o.incomplete.insert(Incomplete::IndexFull);
        });
        assert_eq!(EventResult::of(&bad), EventResult::Incomplete);
        bad.error = Some("no".to_owned());
        assert_eq!(EventResult::of(&bad), EventResult::Error);
        let refused = Some(skreap_core::Guarded { refused: true, ..skreap_core::Guarded::default() });
        bad.guard = refused;
        assert_eq!(EventResult::of(&bad), EventResult::Refused);
        // One that would be refused is still a dry run.
        let mut would = report(true, |_| ());
        would.guard = refused;
        assert_eq!(EventResult::of(&would), EventResult::DryRun);
    }
}
