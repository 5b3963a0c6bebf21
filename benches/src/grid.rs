//! The worlds that are built, and the measures in each.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use skreap::core::Protocol;

use crate::measure::{Kind, Lull};

/// The hash tables that hold the sockets of a netns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Tables {
    /// One table for all namespaces, the default of Linux.
    Shared,
    /// A table for each netns (`net.ipv4.{udp_child_hash,tcp_child_ehash}_entries`).
    PerNetns,
}

impl Tables {
    /// As in the JSON and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::PerNetns => "per-netns",
        }
    }
}

/// One world, and the numbers of victims it is used with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorldSpec {
    /// Protocol of all sockets.
    pub proto: Protocol,
    /// How many namespaces the sockets are spread over.
    pub netns: u32,
    /// Client sockets in all, victims included.
    pub sockets: u32,
    /// The tables of the sockets.
    pub tables: Tables,
    /// Numbers of victims, the largest first: the world grows from one to the next.
    pub victims: Vec<u32>,
}

impl WorldSpec {
    /// The most victims there will be at a time.
    pub fn max_victims(&self) -> u32 {
        self.victims.iter().copied().max().unwrap_or(0)
    }
}

impl fmt::Display for WorldSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { proto, netns, sockets, tables, .. } = self;
        write!(f, "{proto}, {netns} netns, {sockets} sockets, {} tables", tables.name())
    }
}

/// A named set of worlds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// Small worlds, less than two minutes.
    Quick,
    /// 100 netns with 100,000 UDP and 50,000 TCP sockets, about twelve minutes on two slow cores.
    Standard,
    /// The table of the SOCKHASH RFC: 100 to 1,000,000 UDP sockets in 100 netns, 1 and 5 destroyed.
    Rfc,
    /// 1,000,000 connected UDP sockets in 100 netns, and 1,000 for comparison.
    Million,
    /// Whole events, also the first after 15 seconds of quiet: 10 victims in 10 netns of 100,000 UDP sockets.
    Quiet,
}

/// Where and how often measures run that wait for a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pauses {
    /// In every case, once in each round.
    All,
    /// With UDP, shared tables and the fewest victims of each world.
    Few,
    /// The same, in every second round.
    Rare,
}

impl Pauses {
    /// True if they run in this case.
    pub fn are_in(self, spec: &WorldSpec, victims: u32) -> bool {
        let few = spec.proto == Protocol::Udp
            && spec.tables == Tables::Shared
            && spec.victims.iter().min() == Some(&victims);
        self == Self::All || few
    }
}

/// Values to combine, each with each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Axes {
    /// Protocols.
    pub proto: Vec<Protocol>,
    /// Numbers of namespaces.
    pub netns: Vec<u32>,
    /// Numbers of sockets.
    pub sockets: Vec<u32>,
    /// Numbers of victims.
    pub victims: Vec<u32>,
    /// Kinds of tables.
    pub tables: Vec<Tables>,
}

impl Preset {
    /// How many rounds are measured if the command line does not say.
    pub const fn rounds(self) -> usize {
        match self {
            Self::Quick | Self::Rfc | Self::Million => 5,
            Self::Standard => 8,
            Self::Quiet => 12,
        }
    }

    /// What is measured if the command line does not say.
    pub fn kinds(self) -> Vec<Kind> {
        match self {
            Self::Quick => Kind::all(),
            Self::Quiet => Kind::events(),
            _ => Kind::all().into_iter().chain([Kind::Event(Lull::Quiet)]).collect(),
        }
    }

    /// Where and how often measures run that wait for a pause.
    pub const fn pauses(self) -> Pauses {
        match self {
            Self::Standard => Pauses::Rare,
            Self::Quick | Self::Rfc | Self::Million => Pauses::Few,
            Self::Quiet => Pauses::All,
        }
    }

    fn blocks(self) -> Vec<Axes> {
        use Protocol::{Tcp, Udp};
        use Tables::{PerNetns, Shared};
        let axes = |proto: &[Protocol], netns: &[u32], sockets: &[u32], victims: &[u32], tables| Axes {
            proto: proto.to_vec(),
            netns: netns.to_vec(),
            sockets: sockets.to_vec(),
            victims: victims.to_vec(),
            tables: vec![tables],
        };
        match self {
            Self::Quick => vec![axes(&[Udp, Tcp], &[1, 10], &[1_000, 10_000], &[10], Shared)],
            Self::Standard => vec![
                axes(&[Udp], &[100], &[1_000, 10_000], &[10, 100], Shared),
                axes(&[Udp], &[100], &[100_000], &[10, 100, 1_000], Shared),
                axes(&[Udp], &[100], &[100_000], &[10, 100, 1_000], PerNetns),
                axes(&[Tcp], &[100], &[1_000, 10_000], &[10, 100], Shared),
                axes(&[Tcp], &[100], &[50_000], &[10, 100, 1_000], Shared),
                axes(&[Tcp], &[100], &[50_000], &[10, 100, 1_000], PerNetns),
            ],
            Self::Rfc => {
                vec![axes(&[Udp], &[100], &[100, 1_000, 10_000, 100_000, 1_000_000], &[1, 5], Shared)]
            }
            Self::Million => vec![axes(&[Udp], &[100], &[1_000, 1_000_000], &[10, 100, 1_000], Shared)],
            Self::Quiet => vec![axes(&[Udp], &[10], &[100_000], &[10], Shared)],
        }
    }

    /// The worlds of the preset; an axis of `overrides` that is not empty replaces the preset's.
    pub fn worlds(self, overrides: &Axes) -> Vec<WorldSpec> {
        let mut worlds: Vec<WorldSpec> = Vec::new();
        for block in self.blocks() {
            for world in combine(&block, overrides) {
                let same = |w: &&mut WorldSpec| {
                    WorldSpec { victims: Vec::new(), ..(*w).clone() }
                        == WorldSpec { victims: Vec::new(), ..world.clone() }
                };
                match worlds.iter_mut().find(same) {
                    Some(known) => known.victims.extend(world.victims),
                    None => worlds.push(world),
                }
            }
        }
        for world in &mut worlds {
            world.victims.sort_unstable_by(|a, b| b.cmp(a));
            world.victims.dedup();
        }
        worlds.retain(|world| !world.victims.is_empty());
        worlds
    }
}

fn combine(block: &Axes, overrides: &Axes) -> Vec<WorldSpec> {
    fn pick<'a, T>(preset: &'a [T], wanted: &'a [T]) -> &'a [T] {
        if wanted.is_empty() { preset } else { wanted }
    }
    let mut worlds = Vec::new();
    for &proto in pick(&block.proto, &overrides.proto) {
        for &tables in pick(&block.tables, &overrides.tables) {
            for &netns in pick(&block.netns, &overrides.netns) {
                for &sockets in pick(&block.sockets, &overrides.sockets) {
                    let victims = pick(&block.victims, &overrides.victims).iter().copied();
                    // There cannot be more victims than sockets.
                    let victims = victims.filter(|v| (1..=sockets).contains(v)).collect();
                    worlds.push(WorldSpec { proto, netns, sockets, tables, victims });
                }
            }
        }
    }
    worlds
}

/// Part `number` of `total` dealt out over `parts` as evenly as can be.
pub const fn share(total: u32, number: u32, parts: u32) -> u32 {
    total / parts + (number < total % parts) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_hold_what_they_say() {
        let none = Axes::default();
        assert_eq!(Preset::Quick.worlds(&none).len(), 8);
        assert_eq!(Preset::Standard.worlds(&none).len(), 8);
        let rfc = Preset::Rfc.worlds(&none);
        assert_eq!(
            rfc.iter().map(|w| w.sockets).collect::<Vec<_>>(),
            [100, 1000, 10_000, 100_000, 1_000_000]
        );
        assert_eq!(rfc[0].victims, [5, 1]);
        assert_eq!(Preset::Million.worlds(&none)[1].sockets, 1_000_000);
    }

    #[test]
    fn pauses_are_few_but_in_the_preset_for_them() {
        let few = |preset: Preset| {
            let worlds = preset.worlds(&Axes::default());
            let cases = worlds.iter().flat_map(|w| w.victims.iter().map(move |v| (w, *v)));
            cases.filter(|(w, v)| preset.pauses().are_in(w, *v)).count()
        };
        assert_eq!([Preset::Standard, Preset::Million, Preset::Quiet].map(few), [3, 2, 1]);
        assert!(!Preset::Quick.kinds().contains(&Kind::Event(Lull::Quiet)));
    }

    #[test]
    fn overrides_replace_axes_and_worlds_stay_unique() {
        let overrides = Axes { sockets: vec![500], proto: vec![Protocol::Tcp], ..Axes::default() };
        let worlds = Preset::Standard.worlds(&overrides);
        assert_eq!(worlds.len(), 2);
        assert_eq!(worlds[0].victims, [100, 10], "1000 victims of 500 sockets cannot be");
        assert_eq!(worlds[1].tables, Tables::PerNetns);
        assert_eq!(worlds[0].to_string(), "tcp, 100 netns, 500 sockets, shared tables");
    }

    #[test]
    fn shares_add_up() {
        assert_eq!((0..3).map(|n| share(10, n, 3)).collect::<Vec<_>>(), [4, 3, 3]);
        assert_eq!((0..4).map(|n| share(2, n, 4)).sum::<u32>(), 2);
    }
}
