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

/// One walk that finds nothing, and the destroys with all victims known in advance.
pub struct Floor {
    diag: DiagSockets,
    /// By netns.
    victims: Vec<Victim>,
    /// A walker, and a target without sockets.
    walk: Option<(Walker, Target)>,
}

impl Floor {
    /// # Errors
    /// When the thread that visits namespaces cannot be created.
    pub fn new() -> Result<Self> {
        Ok(Self { diag: DiagSockets::new()?, victims: Vec::new(), walk: None })
    }

    /// Learns the victims.
    pub fn prepare(&mut self, world: &World) -> Result<()> {
        let walker = find(world, &mut self.victims)?;
        let ids: Vec<NetnsId> = self
            .victims
            .chunk_by(|a, b| a.netns() == b.netns())
            .filter_map(|group| group.first())
            .map(netns_of)
            .collect();
        let mut rest = ids.as_slice();
        while !rest.is_empty() {
            let (opened, failed) = self.diag.open_some(rest);
            if !failed.is_empty() {
                bail!("{} namespaces could not be reached", failed.len());
            }
            rest = rest.get(opened..).unwrap_or_default();
        }
        self.walk = Some((walker, world.nobody()?));
        Ok(())
    }

    /// Does it.
    pub fn run(&mut self) -> Result<Sample> {
        // Dropped at the end: a walker takes one of the few slots.
        let Some((mut walker, nobody)) = self.walk.take() else { bail!("run before prepare") };
        let mut none = Vec::new();
        let mut verdicts = Vec::with_capacity(self.victims.len());
        let start = Instant::now();
        walker.walk(&nobody, &mut none)?;
        let walked = Instant::now();
        for group in self.victims.chunk_by(|a, b| a.netns() == b.netns()) {
            let Some(first) = group.first() else { continue };
            let diag = self.diag.get(first.netns()).ok_or_else(|| anyhow!("a netns is gone"))?;
            diag.destroy(group, &mut verdicts)?;
        }
        Ok(sample(start, walked, &verdicts))
    }
}

/// As [`Floor`], but no netns is open before: each is opened, entered, and left for the next one.
pub struct FloorClosed {
    home: OwnedFd,
    victims: Vec<Victim>,
    walk: Option<(Walker, Target)>,
}

impl FloorClosed {
    /// # Errors
    /// When the netns of this process cannot be opened.
    pub fn new() -> Result<Self> {
        Ok(Self { home: netns::current()?, victims: Vec::new(), walk: None })
    }

    /// Learns the victims.
    pub fn prepare(&mut self, world: &World) -> Result<()> {
        self.walk = Some((find(world, &mut self.victims)?, world.nobody()?));
        Ok(())
    }

    /// Does it, on the calling thread.
    pub fn run(&mut self) -> Result<Sample> {
        let Some((mut walker, nobody)) = self.walk.take() else { bail!("run before prepare") };
        let mut none = Vec::new();
        let mut verdicts = Vec::with_capacity(self.victims.len());
        let start = Instant::now();
        walker.walk(&nobody, &mut none)?;
        let walked = Instant::now();
        for group in self.victims.chunk_by(|a, b| a.netns() == b.netns()) {
            let Some(first) = group.first() else { continue };
            netns::enter(&netns::open(netns_of(first))?)?;
            DiagSocket::open_to_destroy()?.destroy(group, &mut verdicts)?;
        }
        netns::enter(&self.home)?;
        Ok(sample(start, walked, &verdicts))
    }
}

/// The victims, by netns, and the walker that has found them.
fn find(world: &World, victims: &mut Vec<Victim>) -> Result<Walker> {
    let mut walker = world.index().walker()?;
    victims.clear();
    walker.walk(&world.target()?, victims)?;
    victims.sort_unstable_by_key(Victim::netns);
    Ok(walker)
}

fn netns_of(victim: &Victim) -> NetnsId {
    NetnsId { cookie: victim.netns(), inum: victim.netns_inum() }
}

fn sample(start: Instant, walked: Instant, verdicts: &[Verdict]) -> Sample {
    let end = Instant::now();
    Sample {
        total_ns: nanos(end - start),
        walk_ns: nanos(walked - start),
        destroy_ns: nanos(end - walked),
        destroyed: verdicts.iter().filter(|v| **v == Verdict::Destroyed).count() as u64,
    }
}
