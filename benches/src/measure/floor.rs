//! The lower bounds for every targeted engine: one call of the walk program, and the destroys; with a
//! socket open in every netns, and with none.

use std::os::fd::OwnedFd;
use std::time::Instant;

use anyhow::{Result, anyhow, bail};
use skreap::bpf::{Victim, Walker};
use skreap::core::Target;
use skreap::netns::{self, NetnsId};
use skreap::sock_diag::{DiagSocket, DiagSockets, Verdict};

use super::{Sample, nanos};
use crate::world::World;

/// What is known in advance.
#[derive(Default)]
struct Known {
    /// By netns.
    victims: Vec<Victim>,
    /// A walker, and a target without sockets.
    walk: Option<(Walker, Target)>,
}

impl Known {
    fn learn(&mut self, world: &World) -> Result<()> {
        let mut walker = world.index().walker()?;
        self.victims.clear();
        walker.walk(&world.target()?, &mut self.victims)?;
        self.victims.sort_unstable_by_key(Victim::netns);
        self.walk = Some((walker, world.nobody()?));
        Ok(())
    }

    /// One walk that finds nothing, and the destroys.
    fn run(&mut self, destroy: impl FnOnce(&[Victim], &mut Vec<Verdict>) -> Result<()>) -> Result<Sample> {
        // Dropped at the end: a walker takes one of the few slots.
        let Some((mut walker, nobody)) = self.walk.take() else { bail!("run before prepare") };
        let mut none = Vec::new();
        let mut verdicts = Vec::with_capacity(self.victims.len());
        let start = Instant::now();
        walker.walk(&nobody, &mut none)?;
        let walked = Instant::now();
        destroy(&self.victims, &mut verdicts)?;
        let end = Instant::now();
        Ok(Sample {
            total_ns: nanos(end - start),
            walk_ns: nanos(walked - start),
            destroy_ns: nanos(end - walked),
            destroyed: verdicts.iter().filter(|v| **v == Verdict::Destroyed).count() as u64,
        })
    }
}

/// With a socket open in every netns.
pub struct Floor {
    diag: DiagSockets,
    known: Known,
}

impl Floor {
    /// # Errors
    /// When the thread that visits namespaces cannot be created.
    pub fn new() -> Result<Self> {
        Ok(Self { diag: DiagSockets::new()?, known: Known::default() })
    }

    /// Learns the victims.
    pub fn prepare(&mut self, world: &World) -> Result<()> {
        self.known.learn(world)?;
        let ids: Vec<NetnsId> = by_netns(&self.known.victims).map(|(id, _)| id).collect();
        let mut rest = ids.as_slice();
        while !rest.is_empty() {
            let (opened, failed) = self.diag.open_some(rest);
            if !failed.is_empty() {
                bail!("{} namespaces could not be reached", failed.len());
            }
            rest = rest.get(opened..).unwrap_or_default();
        }
        Ok(())
    }

    /// Does it.
    pub fn run(&mut self) -> Result<Sample> {
        let diag = &mut self.diag;
        self.known.run(|victims, verdicts| {
            for (id, group) in by_netns(victims) {
                let diag = diag.get(id.cookie).ok_or_else(|| anyhow!("a netns is gone"))?;
                diag.destroy(group, verdicts)?;
            }
            Ok(())
        })
    }
}

/// As [`Floor`], but no netns is open before: each is opened, entered, and left for the next one.
pub struct FloorClosed {
    home: OwnedFd,
    known: Known,
}

impl FloorClosed {
    /// # Errors
    /// When the netns of this process cannot be opened.
    pub fn new() -> Result<Self> {
        Ok(Self { home: netns::current()?, known: Known::default() })
    }

    /// Learns the victims.
    pub fn prepare(&mut self, world: &World) -> Result<()> {
        self.known.learn(world)
    }

    /// Does it, on the calling thread.
    pub fn run(&mut self) -> Result<Sample> {
        let home = &self.home;
        self.known.run(|victims, verdicts| {
            for (id, group) in by_netns(victims) {
                netns::enter(&netns::open(id)?)?;
                DiagSocket::open_to_destroy()?.destroy(group, verdicts)?;
            }
            Ok(netns::enter(home)?)
        })
    }
}

/// The victims of each netns; they are sorted by it.
fn by_netns(victims: &[Victim]) -> impl Iterator<Item = (NetnsId, &[Victim])> {
    victims.chunk_by(|a, b| a.netns() == b.netns()).filter_map(|group| {
        let first = group.first()?;
        Some((NetnsId { cookie: first.netns(), inum: first.netns_inum() }, group))
    })
}
