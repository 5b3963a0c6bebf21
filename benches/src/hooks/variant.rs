//! The variants of attached programs.

use std::os::fd::BorrowedFd;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use skreap::bpf::hooks::Hooks;
use skreap::bpf::{Config, Index, module};
use skreap_testbed::bpf::Baseline;

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
    /// The hooks of skreap with a reference to each socket; needs the kernel module.
    OursHeld,
}

impl Variant {
    /// Every variant. The reference of the ratios comes first, the one that needs the module last.
    pub const ALL: [Self; 5] = [Self::Off, Self::Empty, Self::Lru, Self::Ours, Self::OursHeld];

    /// As in the JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Empty => "empty",
            Self::Lru => "lru",
            Self::Ours => "ours",
            Self::OursHeld => "ours-held",
        }
    }
}

/// The programs of the variants.
#[derive(Debug)]
pub struct Indexes {
    plain: Index,
    /// Holds references; present if the kernel module is loaded.
    held: Option<Index>,
}

impl Indexes {
    /// Loads the programs that this kernel supports.
    ///
    /// # Errors
    /// When an index cannot be loaded.
    pub fn load() -> Result<Self> {
        let plain = Index::load(&Config::default()).context("load the index")?;
        let held = match module::look() {
            Ok(_) => {
                let config = Config::default().refs(true);
                Some(Index::load(&config).context("load the index that holds references")?)
            }
            Err(_) => None,
        };
        Ok(Self { plain, held })
    }

    /// The variants that can be attached.
    pub fn variants(&self) -> &'static [Variant] {
        match self.held {
            Some(_) => &Variant::ALL,
            None => Variant::ALL.split_last().map_or(&[], |(_, without)| without),
        }
    }

    /// Attaches the programs of a variant. Dropping the hooks detaches them.
    ///
    /// # Errors
    /// When the kernel refuses them.
    pub fn attach(&self, variant: Variant, cgroup: BorrowedFd<'_>) -> Result<Option<Hooks>> {
        match variant {
            Variant::Off => Ok(None),
            Variant::Empty => Baseline::Empty.attach(cgroup).map(Some),
            Variant::Lru => Baseline::Lru.attach(cgroup).map(Some),
            Variant::Ours => Hooks::attach(&self.plain, cgroup).map(Some),
            Variant::OursHeld => self.held.as_ref().map(|held| Hooks::attach(held, cgroup)).transpose(),
        }
        .with_context(|| format!("attach the programs of variant {}", variant.name()))
    }
}
