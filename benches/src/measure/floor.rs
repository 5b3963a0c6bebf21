//! The lower bound for every targeted engine: one call of the walk program, and the destroys.

use std::time::Instant;

use anyhow::{Result, anyhow, bail};
use skreap::bpf::{Victim, Walker};
use skreap::core::Target;
use skreap::netns::NetnsId;
use skreap::sock_diag::{DiagSockets, Verdict};

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
        let mut walker = world.index().walker()?;
        self.victims.clear();
        walker.walk(&world.target()?, &mut self.victims)?;
        self.victims.sort_unstable_by_key(Victim::netns);
        let ids: Vec<NetnsId> = self
            .victims
            .chunk_by(|a, b| a.netns() == b.netns())
            .filter_map(|group| group.first())
            .map(|v| NetnsId { cookie: v.netns(), inum: v.netns_inum() })
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
        let end = Instant::now();
        let destroyed = verdicts.iter().filter(|v| **v == Verdict::Destroyed).count();
        Ok(Sample {
            total_ns: nanos(end - start),
            walk_ns: nanos(walked - start),
            destroy_ns: nanos(end - walked),
            destroyed: destroyed as u64,
        })
    }
}
