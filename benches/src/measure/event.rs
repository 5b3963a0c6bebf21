//! The whole event as an embedder has it: `Reaper::handle`, from the call to the report.

use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use skreap::bpf::Config;
use skreap::core::{Action, Backend, Event, Report};
use skreap::{Reaper, choice::EngineChoice};

use super::{Sample, nanos};
use crate::world::World;

/// A reaper with an index of its own on the cgroup of the world.
pub struct Whole {
    reaper: Reaper,
    number: u64,
}

impl Whole {
    /// Starts it; it searches for the sockets that are there already.
    ///
    /// # Errors
    /// When the index cannot be loaded.
    pub fn new(world: &World) -> Result<Self> {
        let config = Config::default().max_sockets(world.max_sockets());
        let reaper = Reaper::builder()
            .cgroup(world.cgroup())
            .config(config)
            .engine(EngineChoice::Auto)
            .build()
            .context("start a reaper")?;
        Ok(Self { reaper, number: 0 })
    }

    /// One event on the backend that is gone.
    ///
    /// # Errors
    /// When the event failed.
    pub fn run(&mut self, world: &World) -> Result<Sample> {
        self.number += 1;
        let event = deleted(self.number, world.target()?.backend);
        let start = Instant::now();
        let report = self.reaper.handle(&event);
        let total_ns = nanos(start.elapsed());
        sample(total_ns, &report)
    }
}

/// The event that a backend is gone.
pub fn deleted(number: u64, backend: Backend) -> Event {
    Event::new(format!("bench-{number}"), Action::BackendDeleted { backend })
}

/// The numbers of a report, and the time that its receiver has measured.
///
/// # Errors
/// When the report says that the event failed.
pub fn sample(total_ns: u64, report: &Report) -> Result<Sample> {
    if let Some(error) = &report.error {
        bail!("the event failed: {error}");
    }
    Ok(Sample {
        total_ns,
        walk_ns: report.ns.walk_ns,
        destroy_ns: report.ns.destroy_ns,
        destroyed: report.destroyed,
    })
}
