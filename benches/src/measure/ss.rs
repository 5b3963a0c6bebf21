//! `ss -K` as a script runs it: one process in each netns.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use skreap::core::Protocol;

use super::{Sample, nanos};
use crate::world::World;

/// iproute2's `ss`, with its own filter and its own destroy.
pub struct Ss {
    names: Vec<String>,
}

impl Ss {
    /// For all namespaces of the world.
    ///
    /// # Errors
    /// When there is no `ss`.
    pub fn new(world: &World) -> Result<Self> {
        let version =
            Command::new("ss").arg("-V").output().context("run ss, of Debian's package iproute2")?;
        if !version.status.success() {
            bail!("ss -V failed");
        }
        Ok(Self { names: world.netns_names() })
    }

    /// Runs it. It does not report how many sockets it has destroyed, so the sample says `victims`, and the check of the
    /// world decides.
    ///
    /// # Errors
    /// When it cannot be run or fails.
    pub fn run(&mut self, world: &World, victims: u64) -> Result<Sample> {
        let backend = world.target()?.backend;
        let protocol = match backend.protocol() {
            Protocol::Udp => "-u",
            Protocol::Tcp => "-t",
        };
        let peer = format!("{}:{}", backend.addr(), backend.port());
        let start = Instant::now();
        for name in &self.names {
            let status = Command::new("ss")
                .args(["-N", name, "-K", "-n", "-H", protocol, "dst", &peer])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .context("run ss")?;
            if !status.success() {
                bail!("ss -K failed in {name}: {status}");
            }
        }
        let total_ns = nanos(start.elapsed());
        Ok(Sample { total_ns, walk_ns: 0, destroy_ns: 0, destroyed: victims })
    }
}
