//! The measures: the engines, and their lower bound.

mod engines;
mod event;
mod floor;
mod service;
mod ss;

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::Result;
use skreap::core::EngineName;
use skreap::engine::{Chosen, Engine};

use crate::ratio::{EVENT, EVENT_QUIET, FLOOR, SERVICE, SERVICE_QUIET, SS};
use crate::results::Scope;
use crate::schedule::Pace;
use crate::world::World;

use event::Whole;
use floor::Floor;
use service::Service;
use ss::Ss;

/// What was before the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lull {
    /// Other events, milliseconds ago.
    None,
    /// Nothing for the quiet time of the plan, as before nearly every event of a real service.
    Quiet,
}

/// The choices on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An engine of the service, as it runs in the daemon: it keeps its state between events.
    Engine(EngineName),
    /// `Reaper::handle`: all of an event, as an embedder has it.
    Event(Lull),
    /// `skreap serve`: from a client's write to the end of the answer.
    Service(Lull),
    /// `ss -K` in each netns, one process after the other.
    Ss,
    /// One empty walk, and the same destroys by exact id.
    Floor,
}

impl Kind {
    /// Everything that needs no pause, targeted first.
    pub fn all() -> Vec<Self> {
        let engines = EngineName::ALL.map(Self::Engine);
        let whole = [Self::Event(Lull::None), Self::Service(Lull::None), Self::Ss];
        engines.into_iter().chain(whole).chain([Self::Floor]).collect()
    }

    /// Whole events, right after others and after a pause; the engines; and the lower bound.
    pub fn events() -> Vec<Self> {
        let lulls = [Lull::Quiet, Lull::None];
        let events = lulls.map(Self::Event).into_iter().chain(lulls.map(Self::Service));
        let engines = [EngineName::Kfunc, EngineName::Netlink].map(Self::Engine);
        events.chain(engines).chain([Self::Ss, Self::Floor]).collect()
    }

    fn is_scan(self) -> bool {
        matches!(self, Self::Engine(name) if engines::is_scan(name))
    }

    fn pace(self) -> Pace {
        let slow = self.is_scan()
            || matches!(self, Self::Ss | Self::Event(Lull::Quiet) | Self::Service(Lull::Quiet));
        if slow { Pace::Slow } else { Pace::Fast }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine(name) => name.fmt(f),
            Self::Event(Lull::None) => f.pad(EVENT),
            Self::Event(Lull::Quiet) => f.pad(EVENT_QUIET),
            Self::Service(Lull::None) => f.pad(SERVICE),
            Self::Service(Lull::Quiet) => f.pad(SERVICE_QUIET),
            Self::Ss => f.pad(SS),
            Self::Floor => f.pad(FLOOR),
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            FLOOR => Ok(Self::Floor),
            EVENT => Ok(Self::Event(Lull::None)),
            EVENT_QUIET => Ok(Self::Event(Lull::Quiet)),
            SERVICE => Ok(Self::Service(Lull::None)),
            SERVICE_QUIET => Ok(Self::Service(Lull::Quiet)),
            SS => Ok(Self::Ss),
            _ => text.parse().map(Self::Engine).map_err(|e: skreap::core::UnknownName| {
                format!("{e}, {EVENT}, {EVENT_QUIET}, {SERVICE}, {SERVICE_QUIET}, {SS}, {FLOOR}")
            }),
        }
    }
}

/// How long one run took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// From the call to its return, nanoseconds.
    pub total_ns: u64,
    /// Finding.
    pub walk_ns: u64,
    /// Destroying.
    pub destroy_ns: u64,
    /// How many sockets the engine says it has destroyed.
    pub destroyed: u64,
}

enum State {
    Engine(Box<dyn Engine>),
    Floor(Box<Floor>),
    Event(Box<Whole>),
    Service(Service),
    Ss(Ss),
}

/// One column of the result.
pub struct Measure {
    name: String,
    scope: Scope,
    pace: Pace,
    lull: Lull,
    victims: u64,
    state: State,
}

/// The measures that work with `victims` victims in this world, and the others with the reason.
pub fn all(world: &World, kinds: &[Kind], victims: u32) -> (Vec<Measure>, Vec<(Kind, anyhow::Error)>) {
    let (mut measures, mut refused) = (Vec::new(), Vec::new());
    let everywhere = world.victim_netns(victims).len() == world.all_netns().len();
    for &kind in kinds {
        let mut scopes = vec![Scope::All];
        // With victims in every netns the two are the same.
        if kind.is_scan() && !everywhere {
            scopes.push(Scope::Known);
        }
        for scope in scopes {
            match Measure::new(world, kind, scope, victims) {
                Ok(measure) => measures.push(measure),
                Err(error) => refused.push((kind, error)),
            }
        }
    }
    (measures, refused)
}

impl Measure {
    fn new(world: &World, kind: Kind, scope: Scope, victims: u32) -> Result<Self> {
        let netns = match scope {
            Scope::All => world.all_netns(),
            Scope::Known => world.victim_netns(victims),
        };
        let state = match kind {
            Kind::Engine(name) => State::Engine(engines::start(name, world, &netns)?),
            Kind::Floor => State::Floor(Box::new(Floor::new()?)),
            Kind::Event(_) => State::Event(Box::new(Whole::new(world)?)),
            Kind::Service(_) => State::Service(Service::new(world, &kind.to_string())?),
            Kind::Ss => State::Ss(Ss::new(world)?),
        };
        let name = match &state {
            State::Engine(engine) => engine.name().to_string(),
            _ => kind.to_string(),
        };
        let lull = match kind {
            Kind::Event(lull) | Kind::Service(lull) => lull,
            _ => Lull::None,
        };
        Ok(Self { name, scope, pace: kind.pace(), lull, victims: victims.into(), state })
    }

    /// The engine's own name, or that of the measure.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The netns that it visits.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// How often it runs.
    pub fn pace(&self) -> Pace {
        self.pace
    }

    /// What has to be before the event.
    pub fn lull(&self) -> Lull {
        self.lull
    }

    /// Work before the clock starts.
    ///
    /// # Errors
    /// When it cannot be done.
    pub fn prepare(&mut self, world: &World) -> Result<()> {
        match &mut self.state {
            State::Engine(_) | State::Event(_) | State::Service(_) | State::Ss(_) => Ok(()),
            State::Floor(floor) => floor.prepare(world),
        }
    }

    /// Destroys the victims.
    ///
    /// # Errors
    /// When the engine could not do its work at all.
    pub fn run(&mut self, world: &World) -> Result<Sample> {
        let target = world.target()?;
        let engine = match &mut self.state {
            State::Engine(engine) => engine,
            State::Floor(floor) => return floor.run(),
            State::Event(whole) => return whole.run(world),
            State::Service(service) => return service.run(world),
            State::Ss(ss) => return ss.run(world, self.victims),
        };
        let start = Instant::now();
        let outcome = engine.run(&target, &mut Chosen::default())?;
        let total_ns = nanos(start.elapsed());
        Ok(Sample {
            total_ns,
            walk_ns: outcome.walk_ns,
            destroy_ns: outcome.destroy_ns,
            destroyed: outcome.destroyed,
        })
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_agree() {
        for kind in Kind::all().into_iter().chain(Kind::events()) {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert_eq!(Kind::all().len(), 10);
        let refusal = "auto".parse::<Kind>().unwrap_err();
        assert!(
            refusal.ends_with("index-scan, event, event-quiet, service, service-quiet, ss, floor"),
            "{refusal}"
        );
    }
}
