//! One pass over the whole index: the index without the benefit of its key.
//!
//! Stands for the ways to see the sockets of all netns at once that have been discussed for the kernel
//! (iterators over all netns, or over socket storage).

use std::collections::HashSet;
use std::time::Instant;

use skreap_bpf::{Relation, Select, Victim, Walker};
use skreap_core::{Backend, EngineName, Incomplete, Outcome, Protocol, Target, Unconnected};

use super::counts::note_incomplete;
use super::destroy::Destroyer;
use super::in_index::InIndex;
use super::selection::Selection;
use super::{Chosen, Engine, EngineError, EngineOptions, StateMask, nanos};

/// Engine `index-scan`: every bucket, matched in user space, exact-id `SOCK_DESTROY` in batches.
#[derive(Debug)]
pub struct IndexScan {
    walker: Walker,
    destroyer: Destroyer,
    victims: Vec<Victim>,
    states: StateMask,
}

/// Candidates that are no victims.
#[derive(Default)]
struct Left {
    unconnected: u64,
    state: u64,
    stale: u64,
    /// Unconnected, and its destinations are no longer known.
    unnamed: u64,
}

impl IndexScan {
    /// # Errors
    /// [`EngineError::Io`] if no thread that destroys can be made.
    pub fn new(walker: Walker, options: &EngineOptions) -> Result<Self, EngineError> {
        let destroyer = Destroyer::new(options)?;
        Ok(Self { walker, destroyer, victims: Vec::new(), states: options.states })
    }
}

impl Engine for IndexScan {
    fn name(&self) -> EngineName {
        EngineName::IndexScan
    }

    fn run(&mut self, target: &Target, chosen: &mut Chosen) -> Result<Outcome, EngineError> {
        let start = Instant::now();
        let mut outcome = Outcome::new(EngineName::IndexScan);
        self.victims.clear();
        let left = scan(&mut self.walker, target, self.states, &mut self.victims)?;
        // A walk of the one bucket provides what the scan cannot see: the sockets that have left
        // the backend they are recorded under, and whether the index is complete for it. It costs
        // nothing compared with the scan.
        let mut wanted = Vec::new();
        self.walker.restrict(chosen.frontends())?;
        let counts = self.walker.walk(target, &mut wanted)?;
        if !chosen.frontends().is_any() {
            // That walk knows who came through them.
            let wanted: HashSet<u64> = wanted.iter().map(Victim::cookie).collect();
            self.victims.retain(|victim| wanted.contains(&victim.cookie()));
        }
        let sifted = chosen.sift(target, &mut self.victims);
        chosen.note_unknown(self.walker.unknown_frontends(), &self.victims);
        let walked = Instant::now();
        note_incomplete(&counts, target, &mut outcome);
        if Chosen::matters(target) && left.unnamed > 0 {
            outcome.incomplete.insert(Incomplete::WildcardUnconnected);
        }
        outcome.victims = self.victims.len() as u64;
        outcome.skipped.unconnected = left.unconnected;
        outcome.skipped.moved_on = counts.moved_on;
        outcome.skipped.no_peer = counts.no_peer;
        sifted.note(&mut outcome.skipped);
        outcome.skipped.state = left.state;
        outcome.skipped.stale = left.stale;
        outcome.skipped.frontend = counts.frontend;
        outcome.skipped.frontend_unknown = counts.frontend_unknown;
        outcome.visited = outcome.victims + outcome.skipped.total();
        let (walker, states) = (&mut self.walker, self.states);
        self.destroyer.finish(target.dry_run, &mut self.victims, &mut outcome, |victims| {
            scan(walker, target, states, victims)?;
            Ok(())
        });
        outcome.walk_ns = nanos(walked.duration_since(start));
        outcome.destroy_ns = nanos(walked.elapsed());
        Ok(outcome)
    }

    fn select(
        &mut self,
        selection: &Selection,
        select: &mut Select,
        chosen: &mut Chosen,
    ) -> Result<Outcome, EngineError> {
        let Self { walker, destroyer, states, .. } = self;
        InIndex { name: EngineName::IndexScan, walker, destroyer, states: *states }
            .run(selection, select, chosen)
    }
}

/// Appends the victims of the target to `victims`.
fn scan(
    walker: &mut Walker,
    target: &Target,
    states: StateMask,
    victims: &mut Vec<Victim>,
) -> Result<Left, EngineError> {
    let mut left = Left::default();
    walker.walk_all(|batch| {
        for victim in batch {
            match victim.relation() {
                Relation::Connected if is_of(victim, &target.backend) => {
                    if victim.protocol_number() == Protocol::Tcp.number() && !states.contains(victim.state())
                    {
                        left.state += 1;
                    } else {
                        victims.push(*victim);
                    }
                }
                Relation::Unconnected => match victim.backend() {
                    None => left.unnamed += 1,
                    Some(backend) if backend != target.backend => {}
                    Some(_) if target.unconnected == Unconnected::Destroy => victims.push(*victim),
                    Some(_) => left.unconnected += 1,
                },
                // Recorded under some backend that it has left; which one is unknown here.
                Relation::Connected | Relation::MovedOn | Relation::NoPeer => {}
                Relation::Stale => left.stale += 1,
            }
        }
    })?;
    Ok(left)
}

/// The port first: it excludes most sockets, and this runs for every socket in the index.
fn is_of(victim: &Victim, backend: &Backend) -> bool {
    victim.dport() == backend.port() && victim.backend() == Some(*backend)
}
