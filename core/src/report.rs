//! Event, outcome and timings together: the line that answers an event.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::action::ActionName;
use crate::backend::Backend;
use crate::engine::EngineName;
use crate::event::{Action, Event};
use crate::failures::Failures;
use crate::fallback::FallbackRun;
use crate::guard::Guarded;
use crate::incomplete::Incomplete;
use crate::outcome::Outcome;
use crate::radius::Radius;
use crate::result::Results;
use crate::revived::{Moved, Reviving};
use crate::rules::RuleCount;
use crate::selector::Selector;
use crate::skipped::Skipped;
use crate::socket::SocketTuple;
use crate::timing::Phases;

/// The answer to one event: one JSON object a line, with the fields as they are named here.
///
/// A reader ignores fields it does not know, so that later versions may add some.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
#[must_use = "it says whether every socket was destroyed: `error`, `complete`, `failed`"]
pub struct Report {
    /// Id of the event.
    pub id: String,
    /// What happened: `type` and its own fields, such as `backend`.
    #[serde(flatten)]
    pub action: Action,
    /// The event's own: only these sockets were meant.
    #[serde(rename = "where", default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Box<Selector>>,
    /// The event's own: these sockets were not meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub except: Option<Box<Selector>>,
    /// What was done with the victims, unless they were destroyed.
    #[serde(rename = "action", default, skip_serializing_if = "Option::is_none")]
    pub victim_action: Option<ActionName>,
    /// The engine that did it.
    pub engine: EngineName,
    /// Victims were chosen and listed, nothing was destroyed.
    pub dry_run: bool,
    /// Every socket of the backend was visited; exactly when `incomplete_because` is empty.
    /// Sockets that were visited but not destroyed are in `skipped` and `failed`.
    pub complete: bool,
    /// Why sockets of the backend may have been missed.
    pub incomplete_because: BTreeSet<Incomplete>,
    /// Candidates for the target.
    pub visited: u64,
    /// Sockets chosen for destruction.
    pub victims: u64,
    /// Victims that were destroyed.
    pub destroyed: u64,
    /// Sockets that were not destroyed, by reason.
    pub skipped: Skipped,
    /// Victims that could not be destroyed.
    pub failed: Failures,
    /// What other engines had to do for completeness, as part of the above. Left out when nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallbacks: Vec<FallbackRun>,
    /// Walks that were made again because a `connect()` was pending. Left out when 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub pending_walks: u64,
    /// Sockets recorded under the backend by a `connect()` that has had no effect when the time to wait for it
    /// was over: it failed, or hangs. Left out when 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub pending: u64,
    /// Those of `pending` that are connected to another peer: they have moved there, or their `connect()` to this backend
    /// has failed. Left out when 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub pending_elsewhere: u64,
    /// Victims whose frontend is not known, and that are victims as the event wants those destroyed too. Left out when 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub frontend_unknown: u64,
    /// What the limits did. Left out when there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guarded>,
    /// Backends for which another event, received before the walk began, had the same work done: its id. Their
    /// numbers are in its report. Left out when there are none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub merged: BTreeMap<Backend, String>,
    /// Backends that were added again before their deletion was confirmed: the id of the event that said so. Nothing was done
    /// about them. Left out when there are none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cancelled: BTreeMap<Backend, String>,
    /// For events on several backends, each of them that is not in `merged`; the counters of the report are their sums.
    /// A reconcile has those that are gone. Left out when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_backend: Vec<BackendReport>,
    /// What a dry run with a selector would hit. Left out of others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub radius: Option<Box<Radius>>,
    /// Sockets that were to be moved. Those that were not and were destroyed are among the victims. Left out when the
    /// event moves none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<Moved>,
    /// Destroyed sockets that will be looked at again. Left out when there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reviving: Option<Reviving>,
    /// How many sockets each rule of the service has given its action. Left out when no rule could, or the event says itself
    /// what is done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RuleCount>,
    /// Backends whose sockets were destroyed although they are usually connected to living ones: their port, or that of the
    /// living one, is of a protocol whose two ends share state. Left out when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stateful: Vec<Backend>,
    /// Nanoseconds of each phase.
    pub ns: Phases,
    /// Why the engine could not do the work at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The victims of a dry run; of any event if they are to be attributed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sockets: Option<Vec<SocketTuple>>,
    /// What came of each victim, if the reaper was built to say so. Not on the wire.
    #[serde(skip)]
    pub results: Option<Box<Results>>,
}

/// One backend of an event on several. A socket that has sent to more than one of them without connecting is a
/// victim of the first, in the order of the event, and visited and skipped at the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct BackendReport {
    /// The backend.
    pub backend: Backend,
    /// Candidates.
    pub visited: u64,
    /// Sockets chosen for destruction.
    pub victims: u64,
    /// Victims that were destroyed.
    pub destroyed: u64,
    /// Victims that could not be destroyed.
    pub failed: u64,
    /// Every socket of this backend was visited.
    pub complete: bool,
}

impl BackendReport {
    /// A victim that had failed has come to something else.
    pub fn take_back(&mut self, destroyed: bool) {
        self.failed = self.failed.saturating_sub(1);
        self.destroyed += u64::from(destroyed);
    }

    /// What an engine did about this backend.
    pub fn new(backend: Backend, outcome: &Outcome) -> Self {
        Self {
            backend,
            visited: outcome.visited,
            victims: outcome.victims,
            destroyed: outcome.destroyed,
            failed: outcome.failed.total(),
            complete: outcome.is_complete(),
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Report {
    /// The report of what an engine did about an event.
    pub fn new(event: &Event, outcome: Outcome, phases: Phases) -> Self {
        Self {
            id: event.id.clone(),
            action: event.action.clone(),
            selector: event.selector.clone(),
            except: event.except.clone(),
            victim_action: None,
            engine: outcome.engine,
            dry_run: event.dry_run,
            complete: outcome.is_complete(),
            incomplete_because: outcome.incomplete,
            visited: outcome.visited,
            victims: outcome.victims,
            destroyed: outcome.destroyed,
            skipped: outcome.skipped,
            failed: outcome.failed,
            fallbacks: outcome.fallbacks,
            pending_walks: outcome.pending_walks,
            pending: outcome.pending,
            pending_elsewhere: outcome.pending_elsewhere,
            frontend_unknown: 0,
            guard: None,
            merged: BTreeMap::new(),
            cancelled: BTreeMap::new(),
            by_backend: Vec::new(),
            radius: None,
            moved: None,
            reviving: None,
            rules: Vec::new(),
            stateful: Vec::new(),
            ns: phases,
            error: None,
            sockets: outcome.victims_listed.map(sorted),
            results: None,
        }
    }
}

/// In an order that does not change from run to run: the index and the kernel's tables have none.
fn sorted(mut sockets: Vec<SocketTuple>) -> Vec<SocketTuple> {
    sockets.sort_by_key(|socket| {
        (socket.netns, socket.protocol, socket.daddr, socket.dport, socket.saddr, socket.sport, socket.cookie)
    });
    sockets
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::FallbackReason;
    use crate::strategies::{self, a_socket};

    const PHASES: Phases = Phases {
        queue_ns: 1,
        order_ns: 4,
        pending_ns: 5,
        walk_ns: 2,
        destroy_ns: 3,
        other_ns: 6,
        total_ns: 21,
    };

    fn event(dry_run: bool) -> Event {
        let backend = "udp://10.0.0.1:53".parse().unwrap();
        Event { dry_run, ..Event::new("e1", Action::BackendDeleted { backend }) }
    }

    #[test]
    fn wire_form_of_a_real_run() {
        let mut outcome = Outcome {
            visited: 4,
            victims: 3,
            destroyed: 1,
            skipped: Skipped { unconnected: 1, gone: 1, ..Skipped::default() },
            ..Outcome::new(EngineName::Netlink)
        };
        outcome.add_failure(a_socket(7), -1);
        assert_eq!(outcome.balanced(false), Ok(()));
        let report = Report::new(&event(false), outcome, PHASES);
        let json = concat!(
            r#"{"id":"e1","type":"backend-deleted","backend":"udp://10.0.0.1:53","#,
            r#""engine":"netlink","dry_run":false,"complete":true,"incomplete_because":[],"#,
            r#""visited":4,"victims":3,"destroyed":1,"#,
            r#""skipped":{"unconnected":1,"moved_on":0,"no_peer":0,"state":0,"stale":0,"gone":1,"accepted":0},"#,
            r#""failed":{"total":1,"by_errno":{"EPERM":1},"sockets":[{"socket":"#,
            r#"{"protocol":"udp","saddr":"10.0.0.2","sport":4000,"daddr":"10.0.0.1","dport":53,"#,
            r#""ifindex":0,"cookie":7,"netns":12,"netns_inum":4026531840,"state":"ESTABLISHED"},"#,
            r#""errno":1,"reason":"not permitted; run with CAP_NET_ADMIN in the socket's network namespace"}],"#,
            r#""left_out":0},"#,
            r#""ns":{"queue":1,"order":4,"pending":5,"walk":2,"destroy":3,"other":6,"total":21}}"#,
        );
        assert_eq!(serde_json::to_string(&report).unwrap(), json);
        assert_eq!(serde_json::from_str::<Report>(json).unwrap(), report);
    }

    #[test]
    fn dry_run_lists_the_victims() {
        let outcome = Outcome {
            visited: 1,
            victims: 1,
            victims_listed: Some(vec![a_socket(7)]),
            incomplete: [Incomplete::WildcardUnconnected, Incomplete::IndexFull].into(),
            ..Outcome::new(EngineName::Kfunc)
        };
        let json = serde_json::to_value(Report::new(&event(true), outcome, PHASES)).unwrap();
        assert_eq!(json["dry_run"], true);
        assert_eq!(json["complete"], false);
        assert_eq!(json["incomplete_because"], serde_json::json!(["index-full", "wildcard-unconnected"]));
        assert_eq!(json["sockets"][0]["cookie"], 7);
        assert_eq!(json.get("error"), None);
    }

    #[test]
    fn victims_have_an_order() {
        let at = |netns, peer: [u8; 4], cookie| SocketTuple {
            netns,
            daddr: IpAddr::from(peer),
            ..a_socket(cookie)
        };
        let listed = vec![
            at(13, [10, 0, 0, 1], 1),
            at(12, [10, 0, 0, 9], 2),
            at(12, [10, 0, 0, 10], 3),
            at(12, [10, 0, 0, 9], 4),
        ];
        let outcome = Outcome { victims_listed: Some(listed), ..Outcome::new(EngineName::Netlink) };
        let sockets = Report::new(&event(true), outcome, PHASES).sockets.unwrap();
        assert_eq!(sockets.iter().map(|socket| socket.cookie).collect::<Vec<_>>(), [2, 4, 3, 1]);
    }

    #[test]
    fn what_is_seldom_there_is_named() {
        let mut outcome = Outcome {
            pending_walks: 2,
            pending: 3,
            pending_elsewhere: 1,
            ..Outcome::new(EngineName::Netlink)
        };
        outcome.add_fallback(FallbackRun {
            engine: EngineName::Iter,
            because: FallbackReason::IndexFull,
            victims: 4,
            destroyed: 3,
            ns: 9,
        });
        let backend = event(false).action.gone()[0];
        let mut report = Report::new(&event(false), outcome, PHASES);
        report.guard = Some(Guarded { max_victims: Some(5), ..Guarded::default() });
        report.frontend_unknown = 2;
        report.merged.insert(backend, "e0".to_owned());
        report.by_backend =
            vec![BackendReport { backend, visited: 4, victims: 3, destroyed: 2, failed: 1, complete: true }];
        let json = serde_json::to_value(&report).unwrap();
        let fallback =
            serde_json::json!([{"engine":"iter","because":"index-full","victims":4,"destroyed":3,"ns":9}]);
        assert_eq!(json["fallbacks"], fallback);
        assert_eq!((&json["pending_walks"], &json["pending"]), (&2.into(), &3.into()));
        assert_eq!((&json["pending_elsewhere"], &json["frontend_unknown"]), (&1.into(), &2.into()));
        assert_eq!(json["guard"], serde_json::json!({"max_victims":5,"refused":false,"paced_ns":0}));
        assert_eq!(json["merged"], serde_json::json!({"udp://10.0.0.1:53":"e0"}));
        assert_eq!(json["by_backend"][0]["failed"], 1);
        assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
    }

    #[test]
    fn readers_ignore_fields_of_later_versions() {
        let report = Report::new(&event(false), Outcome::new(EngineName::Diag), PHASES);
        let mut json = serde_json::to_value(&report).unwrap();
        json["later"] = serde_json::json!({"a": [1]});
        assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
    }

    proptest! {
        #[test]
        fn round_trip(report in strategies::report()) {
            let json = serde_json::to_string(&report).unwrap();
            prop_assert!(!json.contains('\n'), "one line");
            prop_assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
        }
    }
}
