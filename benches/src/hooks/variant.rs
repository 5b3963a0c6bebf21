//! The variants of attached programs.

use std::os::fd::BorrowedFd;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use skreap::bpf::hooks::Hooks;
use skreap::bpf::{Config, Error, FRONTENDS_MAX, Index, module};
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
    /// The hooks of skreap that also record frontends; needs Linux 6.15.
    OursFrontends,
    /// The hooks of skreap with a reference to each socket; needs the kernel module.
    OursHeld,
}

impl Variant {
    /// Every variant. The reference of the ratios comes first.
    pub const ALL: [Self; 6] =
        [Self::Off, Self::Empty, Self::Lru, Self::Ours, Self::OursFrontends, Self::OursHeld];

    /// As in the JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Empty => "empty",
            Self::Lru => "lru",
            Self::Ours => "ours",
            Self::OursFrontends => "ours-frontends",
            Self::OursHeld => "ours-held",
        }
    }
}

/// The programs of the variants.
#[derive(Debug)]
pub struct Indexes {
    plain: Index,
    /// Records frontends; present if the kernel can attach a program before all others.
    frontends: Option<Index>,
    /// Holds references; present if the kernel module is loaded.
    held: Option<Index>,
}

impl Indexes {
    /// Loads the programs that this kernel supports.
    ///
    /// # Errors
    /// When an index cannot be loaded.
    pub fn load(cgroup: BorrowedFd<'_>) -> Result<Self> {
        let plain = Index::load(&Config::default()).context("load the index")?;
        let held = match module::look() {
            Ok(_) => {
                let config = Config::default().refs(true);
                Some(Index::load(&config).context("load the index that holds references")?)
            }
            Err(_) => None,
        };
        let config = Config::default().frontends(FRONTENDS_MAX);
        let frontends = Index::load(&config)
            .and_then(|index| attach_frontends(&index, cgroup).map(|_| index))
            .inspect_err(|e| tracing::warn!("without frontends: {e}"))
            .ok();
        Ok(Self { plain, frontends, held })
    }

    /// The variants that can be attached.
    pub fn variants(&self) -> Vec<Variant> {
        let can_be = |variant: &Variant| match variant {
            Variant::OursFrontends => self.frontends.is_some(),
            Variant::OursHeld => self.held.is_some(),
            Variant::Off | Variant::Empty | Variant::Lru | Variant::Ours => true,
        };
        Variant::ALL.into_iter().filter(can_be).collect()
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
            Variant::OursFrontends => {
                self.frontends.as_ref().map(|index| attach_frontends(index, cgroup)).transpose()
            }
            Variant::OursHeld => self.held.as_ref().map(|held| Hooks::attach(held, cgroup)).transpose(),
        }
        .with_context(|| format!("attach the programs of variant {}", variant.name()))
    }
}

/// Attaches the programs, which trust that theirs is the first from now on: nothing else is attached here.
fn attach_frontends(index: &Index, cgroup: BorrowedFd<'_>) -> Result<Hooks, Error> {
    let hooks = Hooks::attach(index, cgroup)?;
    index.frontends().map_or(Ok(()), |frontends| frontends.set_epoch(1))?;
    Ok(hooks)
}
