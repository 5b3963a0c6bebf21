//! The walk emits the exact id of each victim, user space destroys them by netlink in each netns.

use std::time::Instant;

use skreap_bpf::{Select, Victim, Walker};
use skreap_core::{EngineName, Incomplete, Outcome, Protocol, Target, Unconnected};

use super::destroy::Destroyer;
use super::selection::{InIndex, Selection};
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
}

impl Engine for Netlink {
    fn name(&self) -> EngineName {
        EngineName::Netlink
    }

    fn run(&mut self, target: &Target, chosen: &mut Chosen) -> Result<Outcome, EngineError> {
        let start = Instant::now();
        self.victims.clear();
        self.walker.restrict(chosen.frontends())?;
        let counts = self.walker.walk(target, &mut self.victims)?;
        let mut outcome = Outcome::new(EngineName::Netlink);
        outcome.skipped.state = counts.state;
        // The walk itself leaves out what the default mask does.
        if self.states != StateMask::default() && target.backend.protocol() == Protocol::Tcp {
            let all = self.victims.len();
            self.victims.retain(|v| self.states.contains(v.state()));
            outcome.skipped.state += (all - self.victims.len()) as u64;
        }
        let sifted = chosen.sift(target, &mut self.victims);
        let walked = Instant::now();
        outcome.visited = counts.visited;
        outcome.victims = self.victims.len() as u64;
        outcome.skipped.unconnected = counts.unconnected;
        outcome.skipped.moved_on = counts.moved_on;
        outcome.skipped.no_peer = counts.no_peer + sifted.again;
        outcome.skipped.other_link = sifted.other_link;
        outcome.skipped.stale = counts.stale;
        outcome.skipped.frontend = counts.frontend;
        outcome.skipped.frontend_unknown = counts.frontend_unknown;
        if counts.incomplete_full {
            outcome.incomplete.insert(Incomplete::IndexFull);
        }
        if counts.incomplete_everything {
            outcome.incomplete.insert(Incomplete::IndexUnsure);
        }
        if counts.incomplete_unconnected && target.unconnected == Unconnected::Destroy {
            outcome.incomplete.insert(Incomplete::WildcardUnconnected);
        }
        let walker = &mut self.walker;
        self.destroyer.finish(target.dry_run, &mut self.victims, &mut outcome, |victims| {
            walker.walk(target, victims)?;
            Ok(())
        });
        outcome.walk_ns = nanos(walked.duration_since(start));
        outcome.destroy_ns = nanos(walked.elapsed());
        Ok(outcome)
    }

    fn select(&mut self, selection: &Selection, select: &mut Select) -> Result<Outcome, EngineError> {
        let Self { walker, destroyer, states, .. } = self;
        InIndex { name: EngineName::Netlink, walker, destroyer, states: *states }.run(selection, select)
    }
}
