//! The only place that constructs engines.

use anyhow::{Context as _, Result};
use skreap::bpf::{Config, Index};
use skreap::choice::{self, EngineChoice};
use skreap::core::EngineName;
use skreap::engine::{Engine, EngineOptions, Scope};
use skreap::netns::NetnsId;

use crate::world::World;

/// Starts an engine. `netns`: where a full scan has to look.
///
/// A full scan gets this list in place of `Scope::All`, with which it would first search /proc for
/// namespaces. It gets no cgroup, so it need not check the membership of sockets: it only scans.
/// All engines have the same TCP state mask, the default one.
///
/// # Errors
/// When it does not work on this kernel; the message says why.
pub fn start(name: EngineName, world: &World, netns: &[NetnsId]) -> Result<Box<dyn Engine>> {
    let options =
        EngineOptions { scope: Scope::Known(netns.to_vec()), single_dump: true, ..EngineOptions::default() };
    let wanted = EngineChoice::Named(name);
    let engine = if is_scan(name) {
        // A scan holds a walker, for the searches that the list above spares it. An index has slots
        // for eight walkers, so each scan gets an index of its own: an empty one.
        let index =
            Index::load(&Config::default().max_sockets(1).buckets(1)).context("load an index for a scan")?;
        choice::start(wanted, &index, &options)?
    } else {
        choice::start(wanted, world.index(), &options)?
    };
    Ok(engine)
}

/// True for a full scan of the kernel's sockets, which can be limited to some netns.
pub fn is_scan(name: EngineName) -> bool {
    matches!(name, EngineName::Iter | EngineName::Diag | EngineName::DiagFilter)
}
