//! What can be attached.

use std::os::fd::BorrowedFd;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use skreap::bpf::hooks::Hooks;
use skreap::bpf::{Baseline, Index};

/// Which programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// None.
    Off,
    /// Five that do nothing.
    Empty,
    /// Five that update an LRU hash keyed by cookie and peer, as Cilium does.
    Lru,
    /// Those of skreap.
    Ours,
}

impl Variant {
    /// Every variant; the one that others are relative to comes first.
    pub const ALL: [Self; 4] = [Self::Off, Self::Empty, Self::Lru, Self::Ours];

    /// As in the JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Empty => "empty",
            Self::Lru => "lru",
            Self::Ours => "ours",
        }
    }

    /// Attaches the programs; they go when the hooks are dropped.
    ///
    /// # Errors
    /// When the kernel refuses them.
    pub fn attach(self, index: &Index, cgroup: BorrowedFd<'_>) -> Result<Option<Hooks>> {
        match self {
            Self::Off => Ok(None),
            Self::Empty => Baseline::Empty.attach(cgroup).map(Some),
            Self::Lru => Baseline::Lru.attach(cgroup).map(Some),
            Self::Ours => Hooks::attach(index, cgroup).map(Some),
        }
        .with_context(|| format!("attach the programs of variant {}", self.name()))
    }
}
