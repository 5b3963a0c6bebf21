//! The totals of all events of a service.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use skreap_core::{
    ActionName, EngineName, Incomplete, Moved, Protocol, Report, Revived, Skipped, errno_name,
};

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
    /// Sockets by the rule of the service that held for them (`-`: none did) and the action that it gave them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rules: BTreeMap<String, BTreeMap<ActionName, u64>>,
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
        for count in &report.rules {
            let rule = count.rule.clone().unwrap_or_else(|| NO_RULE.to_owned());
            *self.rules.entry(rule).or_default().entry(count.action).or_default() += count.sockets;
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

/// In place of the name of a rule.
const NO_RULE: &str = "-";
/// In place of a protocol, where a report does not say.
const MIXED: &str = "mixed";

#[cfg(test)]
mod tests {
    use skreap_core::{BackendReport, Event, FallbackReason, FallbackRun, Outcome, Phases, RuleCount};

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
    fn sockets_are_counted_by_their_rule() {
        let count =
            |rule: Option<&str>, action, sockets| RuleCount::new(rule.map(str::to_owned), action, sockets);
        let mut report = report(false, |_| {});
        report.rules = vec![
            count(Some("batch"), ActionName::None, 4),
            count(Some("batch"), ActionName::Destroy, 1),
            count(None, ActionName::Destroy, 2),
        ];
        let mut totals = Totals::default();
        totals.add(&report);
        totals.add(&report);
        let rules = serde_json::to_string(&totals.rules).unwrap();
        assert_eq!(rules, r#"{"-":{"destroy":4},"batch":{"destroy":2,"none":8}}"#);
    }

    #[test]
    fn who_destroyed_what() {
        let engines = |report: &Report| destroyed(report).into_iter().collect::<Vec<_>>();
        let (netlink, iter) = (EngineName::Netlink, EngineName::Iter);
        let mut one = report(false, |o| o.destroyed = 5);
        assert_eq!(engines(&one), [((netlink, "udp"), 5)]);
        one.fallbacks = vec![FallbackRun::new(iter, FallbackReason::IndexFull, 2, 2, 1)];
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
        let mut guarded = skreap_core::Guarded::default();
        guarded.refused = true;
        let refused = Some(guarded);
        bad.guard = refused;
        assert_eq!(EventResult::of(&bad), EventResult::Refused);
        // One that would be refused is still a dry run.
        let mut would = report(true, |_| ());
        would.guard = refused;
        assert_eq!(EventResult::of(&would), EventResult::DryRun);
    }
}
