//! Assigns to each victim the action of its rule.

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
    names: Names,
    /// By cookie and backend; `None`: no rule holds.
    assigned: HashMap<(u64, Backend), Option<usize>>,
    failure: Option<String>,
    /// Nothing is done, only counted: what a rule would have moved is a victim, too.
    moves_are_victims: bool,
}

/// What looks at sockets for rules, from one event to the next.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) select: Option<Select>,
    pub(crate) commands: Commands,
}

/// The cgroup, user and command of sockets, for rules that ask for them.
pub(super) trait Facts {
    /// Keeps those of the backend's sockets that are at this place.
    ///
    /// # Errors
    /// [`EngineError`] if it cannot be found out.
    fn sift(&mut self, place: Place, backend: &Backend, sockets: &mut Vec<Victim>)
    -> Result<(), EngineError>;

    /// By cookie, the names of the processes that have the socket open.
    ///
    /// # Errors
    /// As [`sift`](Self::sift).
    fn names(&mut self, sockets: &[Victim]) -> Result<HashMap<u64, Vec<String>>, EngineError>;
}

/// Of sockets in the index.
impl Facts for Tools {
    fn sift(&mut self, place: Place, _: &Backend, sockets: &mut Vec<Victim>) -> Result<(), EngineError> {
        match &mut self.select {
            Some(select) => Ok(select.sift(&filter(Rule { place, ..Rule::default() })?, false, sockets)?),
            None => {
                sockets.clear();
                Ok(())
            }
        }
    }

    fn names(&mut self, sockets: &[Victim]) -> Result<HashMap<u64, Vec<String>>, EngineError> {
        let cookies: Vec<u64> = sockets.iter().map(Victim::cookie).collect();
        self.commands.of(&cookies)
    }
}

impl Assigner {
    pub(crate) fn new(rules: Arc<ActionRules>, places: HashMap<usize, Place>, tools: Tools) -> Self {
        let (names, assigned) = (Names::default(), HashMap::new());
        Self { rules, places, tools, names, assigned, failure: None, moves_are_victims: false }
    }

    /// For a pass that only counts what would be touched, destroyed or moved.
    pub(crate) fn with_moves_as_victims(self) -> Self {
        Self { moves_are_victims: true, ..self }
    }

    /// For the next event.
    pub(crate) fn into_tools(self) -> Tools {
        self.tools
    }

    /// Why rules could not be asked about some sockets, which are destroyed then.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// True if some rule for this backend asks for the names of processes.
    pub(crate) fn asks_for_commands(&self, backend: &Backend) -> bool {
        let rules = self.rules.rules();
        let of_backend = self.rules.of_backend(backend).into_iter();
        of_backend.filter_map(|i| rules.get(i)).any(|rule| !rule.commands.is_empty())
    }

    /// Asks who has these open, in one pass over the open files of all processes: it takes as long for one socket as for many,
    /// and [`assign`](Self::assign) sees those of one backend only.
    pub(crate) fn learn_commands(&mut self, victims: &[Victim]) {
        if let Err(e) = self.names.learn(&mut self.tools, victims) {
            // It is asked again for each backend, and what fails then is reported.
            tracing::debug!(sockets = victims.len(), "cannot look who has sockets open: {e}");
        }
    }

    /// Decides for the sockets of this backend that it has not decided for yet.
    pub(crate) fn assign(&mut self, backend: Backend, victims: &[Victim]) {
        let new = self.new_among(backend, victims);
        let Self { rules, places, tools, names, .. } = self;
        let mut decided = Decided::default();
        if let Err(e) = decided.decide(rules, places, &mut Learned { names, facts: tools }, backend, &new) {
            let sockets = new.len() - decided.0.len();
            tracing::warn!(%backend, sockets, "rules could not be asked: {e}");
            self.failure.get_or_insert(format!("rules could not be asked about all sockets: {e}"));
        }
        self.keep(backend, &new, &decided);
    }

    /// As [`assign`](Self::assign), for sockets of which something else than the index knows.
    ///
    /// # Errors
    /// [`EngineError`] if that could not be asked. Nothing is decided then.
    pub(super) fn assign_by(
        &mut self,
        facts: &mut dyn Facts,
        backend: Backend,
        victims: &[Victim],
    ) -> Result<(), EngineError> {
        let new = self.new_among(backend, victims);
        let mut decided = Decided::default();
        decided.decide(&self.rules, &self.places, facts, backend, &new)?;
        self.keep(backend, &new, &decided);
        Ok(())
    }

    fn new_among(&self, backend: Backend, victims: &[Victim]) -> Vec<Victim> {
        // One without a cookie is met again when it has one.
        let is_new = |victim: &&Victim| {
            victim.cookie() != 0 && !self.assigned.contains_key(&(victim.cookie(), backend))
        };
        victims.iter().filter(is_new).copied().collect()
    }

    fn keep(&mut self, backend: Backend, victims: &[Victim], decided: &Decided) {
        for victim in victims {
            let rule = decided.0.get(&victim.cookie()).copied();
            self.assigned.insert((victim.cookie(), backend), rule);
        }
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
                Protocol::Udp => {
                    let moves = victim.relation() == Relation::Connected;
                    moves && how.otherwise == Instead::Spare && !self.moves_are_victims
                }
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
        counts.into_iter().map(|((i, action), sockets)| RuleCount::new(name(i), action, sockets)).collect()
    }
}

/// The names of the processes that have sockets open, as far as they were asked for.
#[derive(Debug, Default)]
struct Names {
    asked: HashSet<u64>,
    known: HashMap<u64, Vec<String>>,
}

impl Names {
    /// Asks for those that were not asked for yet, in one go.
    fn learn(&mut self, facts: &mut dyn Facts, sockets: &[Victim]) -> Result<(), EngineError> {
        let is_new = |socket: &&Victim| socket.cookie() != 0 && !self.asked.contains(&socket.cookie());
        let new: Vec<Victim> = sockets.iter().filter(is_new).copied().collect();
        if !new.is_empty() {
            self.known.extend(facts.names(&new)?);
            self.asked.extend(new.iter().map(Victim::cookie));
        }
        Ok(())
    }
}

/// The names that are known already, and where to ask for those that are not.
struct Learned<'a> {
    names: &'a mut Names,
    facts: &'a mut dyn Facts,
}

impl Facts for Learned<'_> {
    fn sift(
        &mut self,
        place: Place,
        backend: &Backend,
        sockets: &mut Vec<Victim>,
    ) -> Result<(), EngineError> {
        self.facts.sift(place, backend, sockets)
    }

    fn names(&mut self, sockets: &[Victim]) -> Result<HashMap<u64, Vec<String>>, EngineError> {
        self.names.learn(self.facts, sockets)?;
        let known =
            |socket: &Victim| Some((socket.cookie(), self.names.known.get(&socket.cookie())?.clone()));
        Ok(sockets.iter().filter_map(known).collect())
    }
}

/// The rules of sockets, by cookie; one that is not here has none.
#[derive(Default)]
struct Decided(HashMap<u64, usize>);

impl Decided {
    /// Decides for these sockets of the backend.
    fn decide(
        &mut self,
        rules: &ActionRules,
        places: &HashMap<usize, Place>,
        facts: &mut dyn Facts,
        backend: Backend,
        victims: &[Victim],
    ) -> Result<(), EngineError> {
        let mut left = victims.to_vec();
        // Asked for once, and of all.
        let mut names = None;
        for i in rules.of_backend(&backend) {
            let Some(rule) = rules.rules().get(i) else { continue };
            if left.is_empty() {
                break;
            }
            let mut held = left.clone();
            if rule.cgroup.is_some() || rule.uid.is_some() {
                match places.get(&i) {
                    Some(place) => facts.sift(*place, &backend, &mut held)?,
                    None => held.clear(),
                }
            }
            if !rule.commands.is_empty() && !held.is_empty() {
                let names = match &mut names {
                    Some(names) => names,
                    none => none.insert(facts.names(&left)?),
                };
                let is_named = |name: &String| rule.commands.iter().any(|wanted| wanted.as_str() == name);
                held.retain(|victim| names.get(&victim.cookie()).is_some_and(|all| all.iter().any(is_named)));
            }
            let taken: HashSet<u64> = held.iter().map(Victim::cookie).collect();
            self.0.extend(taken.iter().map(|cookie| (*cookie, i)));
            left.retain(|victim| !taken.contains(&victim.cookie()));
        }
        Ok(())
    }
}

/// The sockets that the rule selects, in whatever state.
pub(super) fn filter(rule: Rule) -> Result<Filter, EngineError> {
    Filter::new(&rule, None, &[], StateMask::default().bits()).map_err(|what| EngineError::Io {
        what: format!("too many {what} for one rule"),
        source: std::io::ErrorKind::QuotaExceeded.into(),
    })
}
