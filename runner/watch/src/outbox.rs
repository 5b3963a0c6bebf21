//! Decisions on their way to the service: what is sent when, and what its answers say. Without I/O.
//!
//! A decision leaves when its report is there. If the connection breaks before, it is made again from what is known by
//! then: while nobody could be told, the backend may have come back.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use skreap_core::{Backend, MAX_BACKENDS, Network};

use crate::state::{Action, Clients, Decision, State};

/// Events that wait for their reports at a time. The service reads no more than 256 of a client.
const IN_FLIGHT: usize = 32;
/// Backends of one event.
const TOGETHER: usize = 1024;
/// The shortest queue that repetitions are taken out of.
const THIN_OUT: usize = 10_000;
/// Living backends of one reconcile: what the service takes in one event.
const RECONCILE: usize = MAX_BACKENDS;

/// What the service can do besides destroying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Events for the clients of frontends.
    pub frontends: bool,
    /// Events with an action.
    pub actions: bool,
}

/// What happened to decisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Events sent.
    pub events: u64,
    /// Reports received.
    pub reports: u64,
    /// Events that the service has refused as input.
    pub refused: u64,
    /// Reports that say that something failed, or may have been missed.
    pub incomplete: u64,
    /// Sockets destroyed.
    pub destroyed: u64,
    /// Decisions left out because the service knows no frontends.
    pub no_frontends: u64,
    /// Decisions left out because the service does not know the action.
    pub no_action: u64,
    /// Decisions that held no longer when they could be sent.
    pub outdated: u64,
}

/// An event on its way.
#[derive(Clone, Debug)]
enum Flight {
    Decisions(Vec<Decision>),
    Reconcile,
}

/// The first reconcile of `--initial-reconcile`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Initial {
    No,
    Wanted,
    Done,
}

/// See the module.
#[derive(Debug)]
pub struct Outbox {
    queue: VecDeque<Decision>,
    flying: BTreeMap<String, Flight>,
    dry_run: bool,
    abilities: Abilities,
    initial: Initial,
    within: Vec<Network>,
    next_id: u64,
    sent: Sent,
    /// Length of the queue at which repetitions are taken out.
    thin_out_at: usize,
}

/// An event on the wire. Fields that the service may not know yet are left out if they say nothing.
#[derive(Serialize)]
struct Wire<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    backends: &'a [Backend],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    frontend: &'a [Backend],
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<Action>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Backend>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    within: &'a [Network],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
}

/// An answer, as far as it is of use here.
#[derive(Deserialize)]
struct Answer {
    id: Option<String>,
    /// Of a refusal an object; of a report text.
    #[serde(default)]
    error: serde_json::Value,
    #[serde(default)]
    complete: bool,
    #[serde(default)]
    destroyed: u64,
    #[serde(default)]
    failed: Failed,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Failed {
    total: u64,
}

/// What an answer was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered {
    /// A report on these decisions, by the earliest change.
    Report(Option<Duration>),
    /// The service did not understand.
    Refused(String),
    /// Not an answer to anything that was asked.
    Unknown,
}

impl Outbox {
    /// Nothing is on its way. Events are dry runs if `dry_run`; `reconcile` are the networks of the first reconcile, if
    /// there is to be one.
    pub fn new(dry_run: bool, reconcile: Option<Vec<Network>>) -> Self {
        Self {
            queue: VecDeque::new(),
            flying: BTreeMap::new(),
            dry_run,
            abilities: Abilities { frontends: false, actions: false },
            initial: if reconcile.is_some() { Initial::Wanted } else { Initial::No },
            within: reconcile.unwrap_or_default(),
            next_id: 0,
            sent: Sent::default(),
            thin_out_at: THIN_OUT,
        }
    }

    /// What happened so far.
    pub const fn sent(&self) -> Sent {
        self.sent
    }

    /// Decisions without a report.
    pub fn waiting(&self) -> usize {
        let flying = self.flying.values().map(|flight| match flight {
            Flight::Decisions(decisions) => decisions.len(),
            Flight::Reconcile => 0,
        });
        self.queue.len() + flying.sum::<usize>()
    }

    /// A service is there.
    pub fn connected(&mut self, abilities: Abilities) {
        self.abilities = abilities;
    }

    /// The connection broke: what has no report is to be sent again.
    pub fn broken(&mut self) {
        for (_, flight) in std::mem::take(&mut self.flying).into_iter().rev() {
            match flight {
                Flight::Decisions(decisions) => {
                    decisions.into_iter().rev().for_each(|d| self.queue.push_front(d))
                }
                Flight::Reconcile => self.initial = Initial::Wanted,
            }
        }
    }

    /// Takes a decision in.
    pub fn push(&mut self, decision: Decision) {
        self.queue.push_back(decision);
        // While the service is away a backend may come and go for days.
        if self.queue.len() > self.thin_out_at {
            let mut seen = HashSet::new();
            self.queue.retain(|d| seen.insert((d.backend, d.clients.clone(), d.action, d.to)));
            self.thin_out_at = (2 * self.queue.len()).max(THIN_OUT);
        }
    }

    /// The next line to send, if there is anything to say and the service can take it.
    pub fn next(&mut self, state: &State) -> Option<String> {
        if self.flying.len() >= IN_FLIGHT {
            return None;
        }
        if self.initial == Initial::Wanted && state.settled() {
            self.initial = Initial::Done;
            if let Some(line) = self.reconcile(state) {
                return Some(line);
            }
        }
        while let Some(first) = self.queue.pop_front() {
            let Some(first) = self.worth_sending(&first, state) else { continue };
            let mut together = vec![first];
            let (mut rest, mut changed) = (VecDeque::new(), Vec::new());
            while let Some(other) = self.queue.pop_front() {
                if together.len() >= TOGETHER || !alike(&other, &together[0]) {
                    rest.push_back(other);
                } else if let Some(other) = self.worth_sending(&other, state) {
                    // What has changed since it was decided is an event of its own.
                    let to = if alike(&other, &together[0]) { &mut together } else { &mut changed };
                    to.push(other);
                }
            }
            rest.extend(changed);
            self.queue = rest;
            return Some(self.event(together));
        }
        None
    }

    fn worth_sending(&mut self, decision: &Decision, state: &State) -> Option<Decision> {
        let Some(decision) = state.confirm(decision) else {
            self.sent.outdated += 1;
            return None;
        };
        let backend = decision.backend;
        if matches!(decision.clients, Clients::Through(_)) && !self.abilities.frontends {
            self.sent.no_frontends += 1;
            tracing::warn!("{backend} has left a Service, not others: start `skreap serve` with --frontends");
            return None;
        }
        if decision.action.connects_anew() && !self.abilities.actions {
            self.sent.no_action += 1;
            tracing::warn!("{backend} is gone, and this service knows no action {}", decision.action);
            return None;
        }
        Some(decision)
    }

    fn event(&mut self, decisions: Vec<Decision>) -> String {
        let id = self.id();
        let backends: Vec<Backend> = decisions.iter().map(|decision| decision.backend).collect();
        let frontend = match &decisions[0].clients {
            Clients::All => &[][..],
            Clients::Through(frontends) => frontends,
        };
        let action = Some(decisions[0].action).filter(|action| *action != Action::Destroy);
        let line = text(&Wire {
            id: &id,
            kind: "backends-deleted",
            backends: &backends,
            frontend,
            action,
            to: decisions[0].to,
            within: &[],
            dry_run: self.dry_run,
        });
        self.sent.events += 1;
        self.flying.insert(id, Flight::Decisions(decisions));
        line
    }

    fn reconcile(&mut self, state: &State) -> Option<String> {
        let within = |backend: &Backend| self.within.iter().any(|network| network.contains(backend.addr()));
        let living: Vec<Backend> = state.living().filter(within).collect();
        if living.is_empty() || living.len() > RECONCILE {
            let n = living.len();
            tracing::error!(
                "no first reconcile: {n} backends live in the networks of --within, 1 to {RECONCILE} can be named"
            );
            return None;
        }
        let id = self.id();
        let line = text(&Wire {
            id: &id,
            kind: "reconcile",
            backends: &living,
            frontend: &[],
            action: None,
            to: None,
            within: &self.within,
            dry_run: self.dry_run,
        });
        self.sent.events += 1;
        self.flying.insert(id, Flight::Reconcile);
        Some(line)
    }

    /// Ids sort in the order in which they were sent.
    fn id(&mut self) -> String {
        self.next_id += 1;
        format!("watch-{:012}", self.next_id)
    }

    /// Takes a line of the service in.
    pub fn answered(&mut self, line: &str) -> Answered {
        let Ok(answer) = serde_json::from_str::<Answer>(line) else { return Answered::Unknown };
        let Some(flight) = answer.id.and_then(|id| self.flying.remove(&id)) else { return Answered::Unknown };
        if answer.error.is_object() {
            let field = answer.error.get("field").and_then(|field| field.as_str());
            if let (Some("action"), Flight::Decisions(decisions)) = (field, &flight) {
                self.abilities.actions = false;
                self.sent.no_action += decisions.len() as u64;
            } else {
                self.sent.refused += 1;
            }
            let message = answer.error.get("message").and_then(|message| message.as_str());
            return Answered::Refused(message.unwrap_or("no reason given").to_owned());
        }
        self.sent.reports += 1;
        self.sent.destroyed += answer.destroyed;
        self.sent.incomplete += u64::from(!answer.complete || answer.failed.total > 0);
        Answered::Report(match flight {
            Flight::Decisions(decisions) => decisions.iter().map(|decision| decision.since).min(),
            Flight::Reconcile => None,
        })
    }
}

/// True if one event can be about both.
fn alike(a: &Decision, b: &Decision) -> bool {
    (a.action, a.to, &a.clients) == (b.action, b.to, &b.clients)
        && a.backend.protocol() == b.backend.protocol()
}

fn text(wire: &Wire<'_>) -> String {
    // Text, numbers and lists of those: nothing that JSON lacks.
    let mut line = serde_json::to_string(wire).unwrap_or_default();
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "input of the tests is written here")]

    use serde_json::{Value, json};

    use super::*;
    use crate::state::{Change, Conditions, Kind, Member, Object, Policy, Slice};

    fn backend(text: &str) -> Backend {
        text.parse().unwrap()
    }

    fn decision(text: &str, frontends: &[&str]) -> Decision {
        let clients = match frontends {
            [] => Clients::All,
            list => Clients::Through(list.iter().map(|text| backend(text)).collect()),
        };
        Decision {
            backend: backend(text),
            clients,
            action: Action::Destroy,
            to: None,
            service: None,
            since: Duration::from_secs(7),
        }
    }

    fn knowing(living: &[&str]) -> State {
        let mut state = State::new(Policy::default());
        state.apply(Change::ListBegun(Kind::Slices));
        let member = |text: &&str| Member {
            backend: backend(text),
            port: "".into(),
            conditions: Conditions::default(),
            instance: None,
        };
        let members = living.iter().map(member).collect();
        state.apply(Change::Listed("s".into(), Object::Slice(Slice { service: None, members })));
        state.apply(Change::ListComplete(Kind::Slices));
        // The settle time.
        assert_eq!(state.advance(Duration::from_secs(1)), []);
        state
    }

    fn all_able() -> Abilities {
        Abilities { frontends: true, actions: true }
    }

    fn lines(outbox: &mut Outbox, state: &State) -> Vec<Value> {
        std::iter::from_fn(|| outbox.next(state)).map(|line| serde_json::from_str(&line).unwrap()).collect()
    }

    #[test]
    fn what_is_alike_is_one_event() {
        let mut outbox = Outbox::new(false, None);
        outbox.connected(all_able());
        let state = knowing(&[]);
        for text in ["udp://10.0.0.1:53", "tcp://10.0.0.1:53", "udp://10.0.0.2:53"] {
            outbox.push(decision(text, &[]));
        }
        outbox.push(decision("udp://10.0.0.3:53", &["udp://10.96.0.1:53"]));
        let moved = Action::Move;
        let to = Some(backend("udp://10.96.0.9:53"));
        outbox.push(Decision { action: moved, to, ..decision("udp://10.0.0.4:53", &[]) });
        assert_eq!(outbox.waiting(), 5);
        assert_eq!(
            lines(&mut outbox, &state),
            [
                json!({"id": "watch-000000000001", "type": "backends-deleted",
                    "backends": ["udp://10.0.0.1:53", "udp://10.0.0.2:53"]}),
                json!({"id": "watch-000000000002", "type": "backends-deleted", "backends": ["tcp://10.0.0.1:53"]}),
                json!({"id": "watch-000000000003", "type": "backends-deleted", "backends": ["udp://10.0.0.3:53"],
                    "frontend": ["udp://10.96.0.1:53"]}),
                json!({"id": "watch-000000000004", "type": "backends-deleted", "backends": ["udp://10.0.0.4:53"],
                    "action": "move", "to": "udp://10.96.0.9:53"}),
            ]
        );
        assert_eq!((outbox.waiting(), outbox.sent().events), (5, 4));
    }

    #[test]
    fn a_line_is_what_the_service_reads() {
        let mut outbox = Outbox::new(true, None);
        outbox.push(decision("udp://10.0.0.1:53", &[]));
        let line = outbox.next(&knowing(&[])).unwrap();
        assert!(line.ends_with('\n'));
        let request = skreap_core::Request::parse(line.as_bytes(), 1).unwrap();
        assert_eq!(request.id(), "watch-000000000001");
    }

    #[test]
    fn answers() {
        let mut outbox = Outbox::new(false, None);
        let state = knowing(&[]);
        for n in 1..=3 {
            outbox.push(decision(&format!("udp://10.0.0.{n}:53"), &[]));
            outbox.next(&state).unwrap();
        }
        let report = r#"{"id":"watch-000000000002","complete":true,"destroyed":23,"failed":{"total":0}}"#;
        assert_eq!(outbox.answered(report), Answered::Report(Some(Duration::from_secs(7))));
        assert_eq!(outbox.answered(report), Answered::Unknown, "one answer for each event");
        let refusal =
            r#"{"error":{"line":1,"field":"backends","message":"too many"},"id":"watch-000000000001"}"#;
        assert_eq!(outbox.answered(refusal), Answered::Refused("too many".to_owned()));
        let failed = r#"{"id":"watch-000000000003","complete":true,"destroyed":1,"failed":{"total":2},"error":"it says why"}"#;
        assert_eq!(outbox.answered(failed), Answered::Report(Some(Duration::from_secs(7))));
        for line in ["", "{}", "[]", "null", r#"{"id":"x"}"#] {
            assert_eq!(outbox.answered(line), Answered::Unknown, "{line}");
        }
        let expected =
            Sent { events: 3, reports: 2, refused: 1, incomplete: 1, destroyed: 24, ..Sent::default() };
        assert_eq!((outbox.sent(), outbox.waiting()), (expected, 0));
    }

    #[test]
    fn a_broken_connection_loses_nothing_and_sends_nothing_that_is_outdated() {
        let mut outbox = Outbox::new(false, None);
        outbox.connected(all_able());
        for text in ["udp://10.0.0.1:53", "tcp://10.0.0.2:80", "udp://10.0.0.3:53"] {
            outbox.push(decision(text, &[]));
        }
        assert_eq!(lines(&mut outbox, &knowing(&[])).len(), 2);
        outbox.broken();
        assert_eq!(outbox.waiting(), 3);
        // Meanwhile one of them has come back.
        let again = lines(&mut outbox, &knowing(&["udp://10.0.0.3:53"]));
        assert_eq!(again.len(), 2);
        assert_eq!(again[0]["backends"], json!(["udp://10.0.0.1:53"]));
        assert_eq!(again[1]["backends"], json!(["tcp://10.0.0.2:80"]));
        assert_eq!((outbox.sent().outdated, outbox.waiting()), (1, 2));
    }

    #[test]
    fn a_service_without_frontends_or_actions_is_not_asked_for_them() {
        let mut outbox = Outbox::new(false, None);
        outbox.push(decision("udp://10.0.0.1:53", &["udp://10.96.0.1:53"]));
        let to = Some(backend("udp://10.96.0.9:53"));
        outbox.push(Decision { action: Action::Revive, to, ..decision("udp://10.0.0.4:53", &[]) });
        assert_eq!(lines(&mut outbox, &knowing(&[])), [] as [Value; 0]);
        assert_eq!((outbox.sent().no_frontends, outbox.sent().no_action, outbox.waiting()), (1, 1, 0));
    }

    #[test]
    fn a_service_that_refuses_an_action_is_sent_no_other() {
        let mut outbox = Outbox::new(false, None);
        outbox.connected(all_able());
        let to = Some(backend("udp://10.96.0.9:53"));
        let moved = |text| Decision { action: Action::Move, to, ..decision(text, &[]) };
        outbox.push(moved("udp://10.0.0.4:53"));
        assert_eq!(lines(&mut outbox, &knowing(&[])).len(), 1);
        let refusal =
            r#"{"error":{"line":1,"field":"action","message":"not known"},"id":"watch-000000000001"}"#;
        assert_eq!(outbox.answered(refusal), Answered::Refused("not known".to_owned()));
        outbox.push(moved("udp://10.0.0.5:53"));
        assert_eq!(lines(&mut outbox, &knowing(&[])), [] as [Value; 0]);
        assert_eq!((outbox.sent().no_action, outbox.sent().refused), (2, 0));
    }

    #[test]
    fn no_more_than_the_service_reads_and_no_event_too_large() {
        let mut outbox = Outbox::new(false, None);
        let state = knowing(&[]);
        for n in 0..2500_u32 {
            outbox.push(decision(&format!("udp://10.1.{}.{}:53", n / 250, n % 250 + 1), &[]));
        }
        let sizes: Vec<_> = lines(&mut outbox, &state)
            .iter()
            .map(|line| line["backends"].as_array().unwrap().len())
            .collect();
        assert_eq!(sizes, [1024, 1024, 452]);
        for n in 0..60 {
            outbox.push(decision(&format!("udp://10.9.0.{}:53", n + 1), &[]));
            outbox.next(&state);
        }
        assert_eq!((outbox.flying.len(), outbox.queue.len()), (IN_FLIGHT, 31));
    }

    #[test]
    fn a_service_that_is_away_for_days_costs_no_more_than_its_backends() {
        let mut outbox = Outbox::new(false, None);
        for n in 0..100_000_u32 {
            outbox.push(decision(&format!("udp://10.1.0.{}:53", n % 200 + 1), &[]));
        }
        assert!(outbox.waiting() <= THIN_OUT, "{}", outbox.waiting());
        let sent: Vec<_> = lines(&mut outbox, &knowing(&[]));
        let backends = sent.iter().flat_map(|line| line["backends"].as_array().unwrap());
        assert_eq!(backends.collect::<HashSet<_>>().len(), 200);
    }

    #[test]
    fn the_first_reconcile_names_the_living_in_its_networks_once() {
        let within = vec!["10.1.0.0/16".parse().unwrap()];
        let mut outbox = Outbox::new(false, Some(within));
        assert_eq!(lines(&mut outbox, &State::new(Policy::default())), [] as [Value; 0], "not listed yet");
        let state = knowing(&["udp://10.1.0.1:53", "udp://192.0.2.1:53"]);
        let expected = json!({"id": "watch-000000000001", "type": "reconcile", "backends": ["udp://10.1.0.1:53"],
            "within": ["10.1.0.0/16"]});
        assert_eq!(lines(&mut outbox, &state), [expected]);
        outbox.broken();
        assert_eq!(lines(&mut outbox, &state).len(), 1, "without a report it is sent again");
        let report = r#"{"id":"watch-000000000002","complete":true,"destroyed":0}"#;
        assert_eq!(outbox.answered(report), Answered::Report(None));
        assert_eq!(lines(&mut outbox, &state), [] as [Value; 0]);
        let mut none = Outbox::new(false, Some(vec!["10.2.0.0/16".parse().unwrap()]));
        assert_eq!(lines(&mut none, &state), [] as [Value; 0], "an empty list would be refused");
    }
}
