//! The walk destroys each victim itself, under the lock of the socket, with the function of the kernel module.

use std::collections::HashSet;
use std::time::Instant;

use skreap_bpf::{PendingConnect, Select, Undestroyed, Victim, Walker};
use skreap_core::{EngineName, Incomplete, Outcome, Target, Unconnected};

use super::counts::note_walk;
use super::destroy::Destroyer;
use super::in_index::InIndex;
use super::named::tuple;
use super::selection::Selection;
use super::{Chosen, Engine, EngineError, EngineOptions, StateMask, nanos};

/// Engine `kfunc`: targeted walk that destroys in place.
///
/// The few victims that the walk cannot destroy, because it has no reference to them or somebody else has it in
/// hand at this moment, are finished by their exact id, as engine `netlink` does with all. So are all of them if
/// there is a limit to how many may be destroyed per second: a walk does not wait. And so are senders, once an event
/// has had victims: which of them are among those, the walk does not know. Nor does it know links: the victims of an event
/// about one are listed first.
#[derive(Debug)]
pub struct Kfunc {
    walker: Walker,
    destroyer: Destroyer,
    left: Vec<Undestroyed>,
    victims: Vec<Victim>,
    states: StateMask,
    /// There is a limit to how many may be destroyed per second.
    paced: bool,
}

impl Kfunc {
    /// # Errors
    /// [`EngineError::Io`] if no thread that destroys can be made.
    pub fn new(walker: Walker, options: &EngineOptions) -> Result<Self, EngineError> {
        Ok(Self {
            walker,
            destroyer: Destroyer::new(options)?,
            left: Vec::new(),
            victims: Vec::new(),
            states: options.states,
            paced: options.pace.rate().is_some(),
        })
    }

    /// Lists the victims first, and destroys them by their id unless it is a dry run.
    fn run_by_id(
        &mut self,
        target: &Target,
        chosen: &mut Chosen,
        watched: Option<&mut Vec<PendingConnect>>,
    ) -> Result<Outcome, EngineError> {
        let start = Instant::now();
        let mut outcome = Outcome::new(EngineName::Kfunc);
        self.victims.clear();
        let counts = self.walker.walk_states(target, self.states.bits(), watched, &mut self.victims)?;
        let sifted = chosen.sift(target, &mut self.victims);
        chosen.note_unknown(self.walker.unknown_frontends(), &self.victims);
        let walked = Instant::now();
        note_walk(&counts, target, &mut outcome);
        sifted.note(&mut outcome.skipped);
        outcome.victims = self.victims.len() as u64;
        self.finish(target, &mut outcome);
        outcome.walk_ns = nanos(walked.duration_since(start));
        outcome.destroy_ns = nanos(walked.elapsed());
        Ok(outcome)
    }

    /// Adds the senders that a walk has left alone to `victims`, but for those that the event has had before, and
    /// those that the walk has tried to destroy all the same: they were connected to the target.
    fn add_senders(&mut self, target: &Target, chosen: &mut Chosen, outcome: &mut Outcome) {
        let mut senders = Vec::new();
        match self.walker.walk_states(target, self.states.bits(), None, &mut senders) {
            Ok(counts) if !counts.incomplete_unconnected => {}
            Ok(_) => {
                outcome.incomplete.insert(Incomplete::WildcardUnconnected);
            }
            Err(e) => {
                tracing::warn!(backend = %target.backend, "cannot walk for unconnected senders: {e}");
                outcome.incomplete.insert(Incomplete::EngineFailed);
                return;
            }
        }
        let tried: HashSet<u64> = self.left.iter().map(|left| left.victim.cookie()).collect();
        senders.retain(|victim| !tried.contains(&victim.cookie()));
        let found = senders.len() as u64;
        outcome.visited = outcome.visited - outcome.skipped.unconnected + found;
        outcome.skipped.unconnected = 0;
        outcome.skipped.no_peer += chosen.sift(target, &mut senders).again;
        chosen.note_unknown(self.walker.unknown_frontends(), &senders);
        outcome.victims += senders.len() as u64;
        self.victims.append(&mut senders);
    }

    fn finish(&mut self, target: &Target, outcome: &mut Outcome) {
        let (walker, states) = (&mut self.walker, self.states.bits());
        self.destroyer.finish(target.dry_run, &mut self.victims, outcome, |victims| {
            walker.walk_states(target, states, None, victims)?;
            Ok(())
        });
    }

    /// Destroys in the walk, unless the victims have to be listed first.
    fn run_and_watch(
        &mut self,
        target: &Target,
        chosen: &mut Chosen,
        watched: Option<&mut Vec<PendingConnect>>,
    ) -> Result<Outcome, EngineError> {
        self.walker.restrict(chosen.frontends())?;
        if target.dry_run || self.paced || chosen.lists() {
            return self.run_by_id(target, chosen, watched);
        }
        let start = Instant::now();
        let mut outcome = Outcome::new(EngineName::Kfunc);
        self.left.clear();
        self.victims.clear();
        let remember = Chosen::matters(target);
        let apart = remember && !chosen.is_empty();
        let in_place = if apart { Target { unconnected: Unconnected::Preserve, ..*target } } else { *target };
        let names = self.walker.unknown_frontends().is_some();
        let list = remember || names || self.destroyer.ledger().is_on();
        let walk = self.walker.destroy(&in_place, self.states.bits(), list, watched, &mut self.left);
        if remember {
            self.left.iter().for_each(|left| chosen.add(left.victim.cookie()));
        }
        let counts = walk?;
        if names {
            let victims: Vec<Victim> = self.left.iter().map(|left| left.victim).collect();
            chosen.note_unknown(self.walker.unknown_frontends(), &victims);
        }
        let walked = Instant::now();
        note_walk(&counts, target, &mut outcome);
        outcome.destroyed = counts.destroyed;
        outcome.skipped.gone = counts.gone;
        outcome.victims = counts.destroyed + counts.gone;
        for left in &self.left {
            match left.errno {
                // counted by the walk
                0 => {
                    self.destroyer.ledger().destroyed(&left.victim);
                    continue;
                }
                libc::ENOENT => continue,
                libc::ENODATA | libc::EBUSY => self.victims.push(left.victim),
                errno => {
                    outcome.add_failure(tuple(&left.victim), errno);
                    self.destroyer.ledger().failed(&left.victim, errno);
                }
            }
            outcome.victims += 1;
        }
        if apart {
            self.add_senders(target, chosen, &mut outcome);
        }
        if !self.victims.is_empty() {
            self.finish(target, &mut outcome);
            outcome.destroy_ns = nanos(walked.elapsed());
        }
        outcome.walk_ns = nanos(walked.duration_since(start));
        Ok(outcome)
    }
}

impl Engine for Kfunc {
    fn name(&self) -> EngineName {
        EngineName::Kfunc
    }

    fn watches(&self) -> bool {
        true
    }

    fn run(&mut self, target: &Target, chosen: &mut Chosen) -> Result<Outcome, EngineError> {
        let mut watched = chosen.room_for_watched();
        let outcome = self.run_and_watch(target, chosen, watched.as_mut());
        chosen.add_watched(watched);
        outcome
    }

    /// By their ids, as engine `netlink` does.
    fn select(
        &mut self,
        selection: &Selection,
        select: &mut Select,
        chosen: &mut Chosen,
    ) -> Result<Outcome, EngineError> {
        let Self { walker, destroyer, states, .. } = self;
        InIndex { name: EngineName::Kfunc, walker, destroyer, states: *states }.run(selection, select, chosen)
    }
}
