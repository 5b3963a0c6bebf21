//! Events without an action of their own, in a service with rules.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use skreap_bpf::Victim;
use skreap_core::{
    ActionRules, Backend, Directions, Event, Incomplete, Protocol, Revive, Through, VictimAction,
};

use super::Reaper;
use super::batch::Batch;
use super::done::Done;
use super::moving::without_links;
use super::place;
use crate::engine::{Assigner, Chosen, EngineError, Link, Rules, Tools};
use crate::upkeep::revive::Revival;

/// The backends of an event, by what is done with their sockets.
#[derive(Debug, Default)]
pub(super) struct Apart {
    /// All are destroyed, or only counted.
    pub(super) plain: Vec<Backend>,
    /// The others.
    pub(super) others: Vec<Backend>,
    /// What says what is done with those; `None`: the action of the event.
    pub(super) by: Option<Arc<ActionRules>>,
}

/// A backend, with its link if the event names one.
type Named = (Backend, Option<Link>);

impl Reaper {
    /// From now on these rules give the victims of events on backends their actions, unless the event does, or selects
    /// its sockets; `None`: what is [usual](super::Builder::victim_action) does.
    pub fn set_action_rules(&mut self, rules: Option<ActionRules>) {
        self.action_rules = rules.map(Arc::new);
    }

    /// The rules that give the victims of this event their actions, if any do.
    pub(super) fn rules_for(&self, event: &Event) -> Option<Arc<ActionRules>> {
        let says_itself = event.victim_action.is_some() || event.selector.is_some() || event.except.is_some();
        self.action_rules.clone().filter(|_| !says_itself)
    }

    /// Keeps those apart whose sockets are not just destroyed, or counted.
    pub(super) fn apart(&self, event: &Event, backends: Vec<Backend>, done: &mut Done) -> Apart {
        if let Some(rules) = self.rules_for(event) {
            let (plain, others) =
                backends.into_iter().partition(|backend| rules.only_destroy(&backend.without_zone()));
            return Apart { plain, others, by: Some(rules) };
        }
        if done.action.to().is_none() {
            return Apart { plain: backends, ..Apart::default() };
        }
        let (plain, others): (Vec<_>, Vec<_>) =
            backends.into_iter().partition(|backend| done.action.spares_state_of(backend));
        done.stateful.clone_from(&plain);
        Apart { plain, others, by: None }
    }

    /// Revives or moves the sockets of these backends, as the event says.
    pub(super) fn reap_otherwise(
        &mut self,
        batch: &mut Batch,
        event: &Event,
        backends: Vec<Named>,
        rules: Option<Rules>,
        done: &mut Done,
    ) {
        let whole = event.netns.is_none() && event.through.is_any() && rules.is_none();
        let mut chosen = Chosen::through(&event.through).with_rules(rules);
        match done.action.clone() {
            VictimAction::Move(how) => {
                let (left, spared) = if event.dry_run {
                    let is_victim =
                        |backend: &Backend| backend.protocol() == Protocol::Udp || done.action.destroys_tcp();
                    backends.into_iter().partition(|(backend, _)| is_victim(backend))
                } else {
                    self.move_victims(&how, backends, &mut chosen, done)
                };
                self.reap(batch, event, left, &mut chosen, false, done);
                self.count_spared(event, &spared, &mut chosen, done);
            }
            VictimAction::Revive(how) => {
                if !event.dry_run {
                    chosen.remember();
                }
                let gone: Vec<Backend> = backends.iter().map(|(backend, _)| *backend).collect();
                self.reap(batch, event, backends, &mut chosen, whole, done);
                done.revival = Revival::new(&event.id, vec![(chosen.take_remembered(), how)], &gone);
            }
            VictimAction::Destroy | VictimAction::None => {}
        }
    }

    /// Does to each socket of these backends what its rule says.
    pub(super) fn reap_by_rules(
        &mut self,
        batch: &mut Batch,
        event: &Event,
        backends: Vec<Named>,
        rules: Arc<ActionRules>,
        done: &mut Done,
    ) {
        let mut chosen = Chosen::through(&event.through);
        let mut assigner = self.assigner(&rules, &backends);
        if event.dry_run {
            assigner = assigner.with_moves_as_victims();
        }
        self.learn_commands(&mut assigner, &backends, &chosen);
        let is_moving = |backend: &Backend| {
            backend.protocol() == Protocol::Udp && assigner.moves(&backend.without_zone())
        };
        let moving: Vec<Named> = backends.iter().copied().filter(|(backend, _)| is_moving(backend)).collect();
        if !event.dry_run && !moving.is_empty() {
            self.move_by_rules(&mut assigner, &moving, &mut chosen, done);
        }
        chosen.set_assigner(assigner);
        if !event.dry_run {
            chosen.remember();
        }
        let gone: Vec<Backend> = backends.iter().map(|(backend, _)| *backend).collect();
        self.reap(batch, event, backends, &mut chosen, false, done);
        let remembered = chosen.take_remembered();
        let Some(assigner) = chosen.take_assigner() else {
            return;
        };
        done.rules.extend(assigner.counts());
        done.revival = Revival::new(&event.id, to_revive(&assigner, remembered), &gone);
        if let Some(failure) = assigner.failure() {
            done.fail(Incomplete::EngineFailed, failure.to_owned());
        }
        self.put_back(Some(assigner));
    }

    /// For the next event.
    pub(super) fn put_back(&mut self, assigner: Option<Assigner>) {
        if let Some(Tools { select, commands }) = assigner.map(Assigner::into_tools) {
            self.commands = commands;
            if let Some(select) = select {
                self.select.put_back(select);
            }
        }
    }

    pub(super) fn assigner(&mut self, rules: &Arc<ActionRules>, backends: &[Named]) -> Assigner {
        let mut places = HashMap::new();
        let mut asked: Vec<usize> =
            backends.iter().flat_map(|(backend, _)| rules.of_backend(&backend.without_zone())).collect();
        asked.sort_unstable();
        asked.dedup();
        for i in asked {
            let rule = rules.rules().get(i).filter(|rule| rule.cgroup.is_some() || rule.uid.is_some());
            places.extend(rule.and_then(|rule| place::of_rule(rule, &self.cgroup)).map(|place| (i, place)));
        }
        let asks = !places.is_empty();
        let select = asks.then(|| self.take_select()).transpose();
        let select = select
            .inspect_err(|e| tracing::warn!("rules cannot look at cgroups and users: {e}"))
            .unwrap_or_default();
        let tools = Tools { select, commands: std::mem::take(&mut self.commands) };
        Assigner::new(Arc::clone(rules), places, tools)
    }

    /// Looks once for the processes of all sockets whose rules ask for those, if that saves anything.
    fn learn_commands(&mut self, assigner: &mut Assigner, backends: &[Named], chosen: &Chosen) {
        let mut asking: Vec<Backend> = backends.iter().map(|(backend, _)| backend.without_zone()).collect();
        asking.retain(|backend| assigner.asks_for_commands(backend));
        if asking.len() < 2 {
            return;
        }
        let found = self.walker.restrict(chosen.frontends()).map_err(EngineError::from).and_then(|()| {
            let mut victims = Vec::new();
            for backend in asking {
                self.walker.walk(&self.target(backend, true), &mut victims)?;
            }
            Ok(victims)
        });
        let restored = self.walker.restrict(&Through::default());
        match found.and_then(|victims| Ok((victims, restored?))) {
            Ok((victims, ())) => assigner.learn_commands(&victims),
            // They are looked for once more, backend by backend, and what fails then is reported.
            Err(e) => tracing::debug!("cannot look for the sockets of several backends: {e}"),
        }
    }

    fn move_by_rules(
        &mut self,
        assigner: &mut Assigner,
        backends: &[Named],
        chosen: &mut Chosen,
        done: &mut Done,
    ) {
        let start = Instant::now();
        let gone = without_links(backends);
        let found = self.find_udp(backends, chosen).map(|victims| {
            let mut by_backend: HashMap<Backend, Vec<Victim>> = HashMap::new();
            for (victim, backend) in victims.iter().filter_map(|victim| Some((victim, victim.backend()?))) {
                by_backend.entry(backend).or_default().push(*victim);
            }
            by_backend.iter().for_each(|(backend, victims)| assigner.assign(*backend, victims));
            let mut by_rule: HashMap<usize, Directions> = HashMap::new();
            let to = |victim: &Victim| {
                let (i, rule) = assigner.rule_of(victim.cookie(), &victim.backend()?)?;
                let VictimAction::Move(how) = &rule.action else { return None };
                let to = by_rule.entry(i).or_insert_with(|| how.to.without(&gone));
                Some((*victim, to.of(victim.peer().ip(), victim.cookie())))
            };
            victims.iter().filter_map(to).collect()
        });
        self.move_each(found, start, done);
    }
}

/// Those whose rule has them revived, by the rule.
fn to_revive(assigner: &Assigner, remembered: Vec<Victim>) -> Vec<(Vec<Victim>, Revive)> {
    let mut parts: HashMap<usize, (Vec<Victim>, Revive)> = HashMap::new();
    for victim in remembered {
        let rule = victim.backend().and_then(|backend| assigner.rule_of(victim.cookie(), &backend));
        if let Some((i, rule)) = rule
            && let VictimAction::Revive(how) = &rule.action
        {
            parts.entry(i).or_insert_with(|| (Vec::new(), how.clone())).0.push(victim);
        }
    }
    parts.into_values().collect()
}
