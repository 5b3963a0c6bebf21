//! Decisions on their way to the service: what is sent when, and what its answers say. Without I/O.
//!
//! A decision leaves when its report is there. If the connection breaks before, it is made again from what is known by
//! then: while the service was away, the backend may have come back.

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
mod tests;
