//! The measures: the engines, and their lower bound.

mod engines;
pub mod event;
mod floor;
pub mod service;
mod ss;

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use skreap::core::EngineName;
use skreap::engine::{Chosen, Engine};

use crate::ratio::{
    BASE_SERVICE, BASE_SERVICE_QUIET, EVENT, EVENT_QUIET, FLOOR, FLOOR_CLOSED, FLOOR_CLOSED_QUIET,
    FLOOR_QUIET, SERVICE, SERVICE_QUIET, SS,
};
use crate::results::Scope;
use crate::schedule::Pace;
use crate::world::World;

pub use engines::start;
use event::Whole;
use floor::{Floor, FloorClosed};
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
    /// The same with the other build that the command line names.
    Base(Lull),
    /// `ss -K` in each netns, one process after the other.
    Ss,
    /// One empty walk, and the same destroys by exact id, with a socket open in every netns.
    Floor(Lull),
    /// The same with nothing open: each netns is opened, entered and left.
    FloorClosed(Lull),
}

/// Every measure that is not an engine, and its name.
const NAMES: [(&str, Kind); 11] = [
    (EVENT, Kind::Event(Lull::None)),
    (EVENT_QUIET, Kind::Event(Lull::Quiet)),
    (SERVICE, Kind::Service(Lull::None)),
    (SERVICE_QUIET, Kind::Service(Lull::Quiet)),
    (BASE_SERVICE, Kind::Base(Lull::None)),
    (BASE_SERVICE_QUIET, Kind::Base(Lull::Quiet)),
    (SS, Kind::Ss),
    (FLOOR, Kind::Floor(Lull::None)),
    (FLOOR_QUIET, Kind::Floor(Lull::Quiet)),
    (FLOOR_CLOSED, Kind::FloorClosed(Lull::None)),
    (FLOOR_CLOSED_QUIET, Kind::FloorClosed(Lull::Quiet)),
];

impl Kind {
    /// Everything that needs no pause, targeted first.
    pub fn all() -> Vec<Self> {
        let engines = EngineName::ALL.map(Self::Engine);
        let whole = [Self::Event(Lull::None), Self::Service(Lull::None), Self::Ss];
        let floors = [Self::Floor, Self::FloorClosed].map(|floor| floor(Lull::None));
        engines.into_iter().chain(whole).chain(floors).collect()
    }

    /// Whole events, right after others and after a pause; the engines; and the lower bounds.
    pub fn events() -> Vec<Self> {
        let pairs = [Self::Event, Self::Service, Self::Floor, Self::FloorClosed];
        let pairs = pairs.iter().flat_map(|pair| [pair(Lull::Quiet), pair(Lull::None)]);
        let engines = [EngineName::Kfunc, EngineName::Netlink].map(Self::Engine);
        pairs.chain(engines).chain([Self::Ss]).collect()
    }

    /// The same measure of the other build, if it has one.
    pub fn of_base(self) -> Option<Self> {
        if let Self::Service(lull) = self { Some(Self::Base(lull)) } else { None }
    }

    /// What was before it.
    pub fn lull(self) -> Lull {
        match self {
            Self::Event(lull)
            | Self::Service(lull)
            | Self::Base(lull)
            | Self::Floor(lull)
            | Self::FloorClosed(lull) => lull,
            Self::Engine(_) | Self::Ss => Lull::None,
        }
    }

    fn is_scan(self) -> bool {
        matches!(self, Self::Engine(name) if engines::is_scan(name))
    }

    fn pace(self) -> Pace {
        match self {
            Self::Ss => Pace::Rare,
            _ if self.is_scan() || self.lull() == Lull::Quiet => Pace::Slow,
            _ => Pace::Fast,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine(name) => name.fmt(f),
            _ => f.pad(NAMES.iter().find(|(_, kind)| kind == self).map_or("?", |(name, _)| name)),
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((_, kind)) = NAMES.iter().find(|(name, _)| *name == text) {
            return Ok(*kind);
        }
        text.parse().map(Self::Engine).map_err(|e: skreap::core::UnknownName| {
            NAMES.iter().fold(e.to_string(), |all, (name, _)| format!("{all}, {name}"))
        })
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
    FloorClosed(Box<FloorClosed>),
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
pub fn all(
    world: &World,
    kinds: &[Kind],
    victims: u32,
    base: Option<&Path>,
) -> (Vec<Measure>, Vec<(Kind, anyhow::Error)>) {
    let (mut measures, mut refused) = (Vec::new(), Vec::new());
    let everywhere = world.victim_netns(victims).len() == world.all_netns().len();
    for &kind in kinds {
        let mut scopes = vec![Scope::All];
        // With victims in every netns the two are the same.
        if kind.is_scan() && !everywhere {
            scopes.push(Scope::Known);
        }
        for scope in scopes {
            match Measure::new(world, kind, scope, victims, base) {
                Ok(measure) => measures.push(measure),
                Err(error) => refused.push((kind, error)),
            }
        }
    }
    (measures, refused)
}

impl Measure {
    fn new(world: &World, kind: Kind, scope: Scope, victims: u32, base: Option<&Path>) -> Result<Self> {
        let netns = match scope {
            Scope::All => world.all_netns(),
            Scope::Known => world.victim_netns(victims),
        };
        let state = match kind {
            Kind::Engine(name) => State::Engine(start(name, world, &netns)?),
            Kind::Floor(_) => State::Floor(Box::new(Floor::new()?)),
            Kind::FloorClosed(_) => State::FloorClosed(Box::new(FloorClosed::new()?)),
            Kind::Event(_) => State::Event(Box::new(Whole::new(world)?)),
            Kind::Service(_) => State::Service(Service::new(world, &kind.to_string(), &service::ours()?)?),
            Kind::Base(_) => {
                let base = base.context("needs --base")?;
                State::Service(Service::new(world, &kind.to_string(), base)?)
            }
            Kind::Ss => State::Ss(Ss::new(world)?),
        };
        let name = match &state {
            State::Engine(engine) => engine.name().to_string(),
            _ => kind.to_string(),
        };
        Ok(Self { name, scope, pace: kind.pace(), lull: kind.lull(), victims: victims.into(), state })
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

    /// From now on it runs so often.
    pub fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
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
            State::FloorClosed(floor) => floor.prepare(world),
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
            State::FloorClosed(floor) => return floor.run(),
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
        let named = NAMES.map(|(_, kind)| kind);
        for kind in Kind::all().into_iter().chain(Kind::events()).chain(named) {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert_eq!((Kind::all().len(), Kind::events().len()), (11, 11));
        let refusal = "auto".parse::<Kind>().unwrap_err();
        assert!(refusal.ends_with("floor, floor-quiet, floor-closed, floor-closed-quiet"), "{refusal}");
    }
}
