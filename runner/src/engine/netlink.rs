//! The walk emits the exact id of each victim, user space destroys them by netlink in each netns.

use std::time::Instant;

use skreap_bpf::{PendingConnect, Select, Victim, Walker};
use skreap_core::{EngineName, Outcome, Protocol, Target};

use super::counts::note_walk;
use super::destroy::Destroyer;
use super::in_index::InIndex;
use super::selection::Selection;
use super::{Chosen, Engine, EngineError, EngineOptions, StateMask, nanos};

/// Engine `netlink`: targeted walk, exact-id `SOCK_DESTROY` in batches.
#[derive(Debug)]
pub struct Netlink {
    walker: Walker,
    destroyer: Destroyer,
    victims: Vec<Victim>,
    states: StateMask,
}

impl Netlink {
    /// # Errors
    /// [`EngineError::Io`] if no thread that destroys can be made.
    pub fn new(walker: Walker, options: &EngineOptions) -> Result<Self, EngineError> {
        let destroyer = Destroyer::new(options)?;
        Ok(Self { walker, destroyer, victims: Vec::new(), states: options.states })
    }

    /// Adds the victims of a target to `victims`, which is empty.
    fn find(
        &mut self,
        target: &Target,
        chosen: &mut Chosen,
        victims: &mut Vec<Victim>,
    ) -> Result<Outcome, EngineError> {
        let mut watched = chosen.room_for_watched();
        let outcome = self.find_and_watch(target, chosen, watched.as_mut(), victims);
        chosen.add_watched(watched);
        outcome
    }

    fn find_and_watch(
        &mut self,
        target: &Target,
        chosen: &mut Chosen,
        watched: Option<&mut Vec<PendingConnect>>,
        victims: &mut Vec<Victim>,
    ) -> Result<Outcome, EngineError> {
        let start = Instant::now();
        self.walker.restrict(chosen.frontends())?;
        let counts = self.walker.walk_states(target, 0, watched, victims)?;
        let mut outcome = Outcome::new(EngineName::Netlink);
        note_walk(&counts, target, &mut outcome);
        // The walk itself leaves out what the default mask does.
        if self.states != StateMask::default() && target.backend.protocol() == Protocol::Tcp {
            let all = victims.len();
            victims.retain(|v| self.states.contains(v.state()));
            outcome.skipped.state += (all - victims.len()) as u64;
        }
        let sifted = chosen.sift(target, victims);
        chosen.note_unknown(self.walker.unknown_frontends(), victims);
        outcome.victims = victims.len() as u64;
        sifted.note(&mut outcome.skipped);
        outcome.walk_ns = nanos(start.elapsed());
        Ok(outcome)
    }
}

impl Engine for Netlink {
    fn name(&self) -> EngineName {
        EngineName::Netlink
    }

    fn get_ready(&self) {
        self.destroyer.get_ready();
    }

    fn watches(&self) -> bool {
        true
    }

    fn run(&mut self, target: &Target, chosen: &mut Chosen) -> Result<Outcome, EngineError> {
        let mut victims = std::mem::take(&mut self.victims);
        victims.clear();
        let mut outcome = self.find(target, chosen, &mut victims)?;
        let walked = Instant::now();
        let walker = &mut self.walker;
        self.destroyer.finish(target.dry_run, &mut victims, &mut outcome, |victims| {
            walker.walk(target, victims)?;
            Ok(())
        });
        outcome.destroy_ns = nanos(walked.elapsed());
        self.victims = victims;
        Ok(outcome)
    }

    /// Walks for all of them first, and destroys what was found in one go: a netns is opened once, not
    /// once for each target.
    fn run_all(&mut self, targets: &[Target], chosen: &mut Chosen) -> Vec<Result<Outcome, EngineError>> {
        let mut outcomes = Vec::with_capacity(targets.len());
        let mut found: Vec<(usize, Victim)> = Vec::new();
        let mut victims = Vec::new();
        for (at, target) in targets.iter().enumerate() {
            victims.clear();
            let outcome = self.find(target, chosen, &mut victims);
            if outcome.is_ok() {
                found.extend(victims.iter().map(|victim| (at, *victim)));
            }
            outcomes.push(outcome);
        }
        let walker = &mut self.walker;
        self.destroyer.finish_all(found, &mut outcomes, |at, victims| {
            if let Some(target) = targets.get(at) {
                walker.walk(target, victims)?;
            }
            Ok(())
        });
        outcomes
    }

    fn select(
        &mut self,
        selection: &Selection,
        select: &mut Select,
        chosen: &mut Chosen,
    ) -> Result<Outcome, EngineError> {
        let Self { walker, destroyer, states, .. } = self;
        InIndex { name: EngineName::Netlink, walker, destroyer, states: *states }
            .run(selection, select, chosen)
    }
}
