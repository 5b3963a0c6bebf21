//! Which rule gives the action of each victim.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use skreap_bpf::{Filter, Place, Relation, Rule, Select, Victim};
use skreap_core::{ActionName, ActionRule, ActionRules, Backend, Instead, Protocol, RuleCount, VictimAction};

use super::connect::Commands;
use super::{EngineError, StateMask};

/// Decides for each victim of one event which rule gives its action.
#[derive(Debug)]
pub(crate) struct Assigner {
    rules: Arc<ActionRules>,
    /// Where the cgroups and users of rules are found, by the number of the rule. A rule that is not here leads nowhere,
    /// as its cgroup is gone, and holds for no socket.
    places: HashMap<usize, Place>,
    tools: Tools,
    /// By cookie and backend; `None`: no rule holds.
    assigned: HashMap<(u64, Backend), Option<usize>>,
    failure: Option<String>,
}

/// What looks at sockets for rules, from one event to the next.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) select: Option<Select>,
    pub(crate) commands: Commands,
}

impl Assigner {
    pub(crate) fn new(rules: Arc<ActionRules>, places: HashMap<usize, Place>, tools: Tools) -> Self {
        Self { rules, places, tools, assigned: HashMap::new(), failure: None }
    }

    /// For the next event.
    pub(crate) fn into_tools(self) -> Tools {
        self.tools
    }

    /// Why rules could not be asked about some sockets, which are destroyed then.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Decides for the sockets of this backend that it has not decided for yet.
    pub(crate) fn assign(&mut self, backend: Backend, victims: &[Victim]) {
        // One without a cookie is met again when it has one.
        let is_new = |victim: &&Victim| {
            victim.cookie() != 0 && !self.assigned.contains_key(&(victim.cookie(), backend))
        };
        let new = victims.iter().filter(is_new);
        let mut left: Vec<Victim> = new.copied().collect();
        let mut names = None;
        for i in self.rules.of_backend(&backend) {
            if left.is_empty() {
                return;
            }
            let taken = match self.taken(i, &left, &mut names) {
                Ok(taken) => taken,
                Err(e) => {
                    let sockets = left.len();
                    tracing::warn!(%backend, sockets, "rules could not be asked: {e}");
                    self.failure.get_or_insert(format!("rules could not be asked about all sockets: {e}"));
                    break;
                }
            };
            for cookie in &taken {
                self.assigned.insert((*cookie, backend), Some(i));
            }
            left.retain(|victim| !taken.contains(&victim.cookie()));
        }
        for victim in left {
            self.assigned.insert((victim.cookie(), backend), None);
        }
    }

    /// The cookies of those for which the rule holds. `names`: what the processes of all of them are called, once that
    /// was looked for.
    fn taken(
        &mut self,
        i: usize,
        left: &[Victim],
        names: &mut Option<HashMap<u64, Vec<String>>>,
    ) -> Result<HashSet<u64>, EngineError> {
        let rules = Arc::clone(&self.rules);
        let Some(rule) = rules.rules().get(i) else {
            return Ok(HashSet::new());
        };
        let mut held = left.to_vec();
        if rule.cgroup.is_some() || rule.uid.is_some() {
            match (self.places.get(&i), &mut self.tools.select) {
                (Some(place), Some(select)) => select.sift(&filter(*place)?, &mut held)?,
                _ => held.clear(),
            }
        }
        if !rule.commands.is_empty() && !held.is_empty() {
            let names = match names {
                Some(names) => names,
                none => {
                    let cookies: Vec<u64> = left.iter().map(Victim::cookie).collect();
                    none.insert(self.tools.commands.of(&cookies)?)
                }
            };
            let is_named = |name: &String| rule.commands.iter().any(|wanted| wanted.as_str() == name);
            held.retain(|victim| names.get(&victim.cookie()).is_some_and(|names| names.iter().any(is_named)));
        }
        Ok(held.iter().map(Victim::cookie).collect())
    }

    /// The rule of a socket of this backend; `None` if none holds, or its action is not taken there.
    pub(crate) fn rule_of(&self, cookie: u64, backend: &Backend) -> Option<(usize, &ActionRule)> {
        let i = (*self.assigned.get(&(cookie, *backend))?)?;
        let rule = self.rules.rules().get(i)?;
        rule.applies_to(backend).then_some((i, rule))
    }

    /// True if the engine must not destroy it.
    pub(crate) fn spares(&self, victim: &Victim, backend: &Backend) -> bool {
        let action = self.rule_of(victim.cookie(), backend).map(|(_, rule)| &rule.action);
        match action {
            Some(VictimAction::None) => true,
            Some(VictimAction::Move(how)) => match backend.protocol() {
                Protocol::Udp => victim.relation() == Relation::Connected && how.otherwise == Instead::Spare,
                Protocol::Tcp => how.tcp == Instead::Spare,
            },
            Some(VictimAction::Destroy | VictimAction::Revive(_)) | None => false,
        }
    }

    /// True if some rule for this backend has its sockets moved.
    pub(crate) fn moves(&self, backend: &Backend) -> bool {
        let rules = self.rules.rules();
        let mut of_backend = self.rules.of_backend(backend).into_iter().filter_map(|i| rules.get(i));
        of_backend.any(|rule| matches!(rule.action, VictimAction::Move(_)) && rule.applies_to(backend))
    }

    /// How many sockets each rule has taken, in the order of the rules; those that none has taken are the last.
    pub(crate) fn counts(&self) -> Vec<RuleCount> {
        let mut counts: BTreeMap<(usize, ActionName), u64> = BTreeMap::new();
        for ((_, backend), i) in &self.assigned {
            let rule = i.and_then(|i| self.rules.rules().get(i));
            let action = rule.map_or(ActionName::Destroy, |rule| rule.effect_on(backend));
            *counts.entry((i.unwrap_or(usize::MAX), action)).or_default() += 1;
        }
        let name = |i: usize| self.rules.rules().get(i).map(|rule| rule.name.clone());
        counts
            .into_iter()
            .map(|((i, action), sockets)| RuleCount { rule: name(i), action, sockets })
            .collect()
    }
}

/// Sockets at this place, whatever they are connected to and in whatever state.
fn filter(place: Place) -> Result<Filter, EngineError> {
    let rule = Rule { place, ..Rule::default() };
    Filter::new(&rule, None, &[], StateMask::default().bits()).map_err(|what| EngineError::Io {
        what: format!("too many {what} for one rule"),
        source: std::io::ErrorKind::QuotaExceeded.into(),
    })
}
