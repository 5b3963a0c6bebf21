//! Selectors as the programs read them: tables (`filter.bpf.h`).

use std::io;
use std::mem::offset_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;

use libbpf_rs::{MapCore as _, MapFlags, Object};
use skreap_core::{PortRange, Prefix, Protocol};

use crate::error::io_error;
use crate::skel::select_types::filter;
use crate::{mapping, object, trie};

/// What a rule says of the socket itself; everything that is there must hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The id of a cgroup that it is in, or below.
    pub cgroup: Option<u64>,
    /// The cookie of its netns.
    pub netns: Option<u64>,
    /// Its user.
    pub uid: Option<u32>,
    /// The interface that it is bound to.
    pub ifindex: Option<u32>,
}

/// One rule: conditions on a socket, all of which must hold. An empty list is no condition.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// Its protocol.
    pub protocol: Option<Protocol>,
    /// It is connected to an address in one of these.
    pub to: Vec<Prefix>,
    /// It is connected to a port in one of these.
    pub ports: Vec<PortRange>,
    /// What the socket itself decides.
    pub place: Place,
}

impl Rule {
    /// Whether what it says of protocol and peer holds.
    #[must_use]
    pub fn admits(&self, protocol: Protocol, addr: IpAddr, port: u16) -> bool {
        self.protocol.is_none_or(|wanted| wanted == protocol)
            && (self.to.is_empty() || self.to.iter().any(|prefix| prefix.contains(addr)))
            && (self.ports.is_empty() || self.ports.iter().any(|ports| ports.contains(port)))
    }

    /// Whether it holds for a UDP socket as far as that does not depend on its peer; `None` if it does.
    fn admits_any_udp(&self) -> Option<bool> {
        match self.protocol {
            Some(Protocol::Tcp) => Some(false),
            _ if self.to.is_empty() && self.ports.is_empty() => Some(true),
            _ => None,
        }
    }
}

/// Which sockets are meant: those of one rule, without those of others.
#[derive(Clone)]
pub struct Filter {
    bytes: Vec<u8>,
    /// The used part of the trie.
    trie: Vec<u16>,
    /// The one that excepts.
    except: Option<Rule>,
}

/// Bits of the rules: the one that selects, the one that excepts, and from this one on those that are allowed.
const ALLOWED: usize = 2;
/// Rules that a set has room for.
const RULES_MAX: usize = 64;

impl Filter {
    /// Compiles rules: a socket is meant if `selected` holds for it, and neither `except` nor any of `allowed`, whose
    /// places are not looked at. `states` has bit `1 << TCP_*` for each TCP state in which sockets are meant.
    ///
    /// # Errors
    /// What there is too much of. The limits of [`skreap_core`] are lower.
    pub fn new(
        selected: &Rule,
        except: Option<&Rule>,
        allowed: &[Rule],
        states: u32,
    ) -> Result<Self, &'static str> {
        if ALLOWED + allowed.len() > RULES_MAX {
            return Err("rules");
        }
        let rules = || {
            let first = [(0, selected)].into_iter().chain(except.map(|rule| (1, rule)));
            first.chain(allowed.iter().enumerate().map(|(i, rule)| (ALLOWED + i, rule)))
        };
        let mut filter =
            Self { bytes: vec![0; size_of::<filter>()], trie: Vec::new(), except: except.cloned() };
        for (protocol, at) in
            [(Protocol::Tcp, offset_of!(filter, tcp)), (Protocol::Udp, offset_of!(filter, udp))]
        {
            let holds = rules().filter(|(_, rule)| rule.protocol.is_none_or(|wanted| wanted == protocol));
            filter.put(at, &holds.fold(0_u64, |set, (bit, _)| set | 1 << bit).to_ne_bytes());
        }
        filter.put(offset_of!(filter, unnamed), &of_unnamed(selected, except, allowed).to_ne_bytes());
        filter.put(offset_of!(filter, states), &states.to_ne_bytes());
        filter.put_place(0, &selected.place);
        filter.put_place(1, &except.map(|rule| rule.place).unwrap_or_default());
        filter.put_ports(rules())?;
        filter.put_ipv4(rules())?;
        filter.put_ipv6(rules())?;
        let ipv6 = selected.to.is_empty() || selected.to.iter().any(|prefix| prefix.range().0.is_ipv6());
        filter.put(offset_of!(filter, any_ipv6), &u32::from(ipv6).to_ne_bytes());
        Ok(filter)
    }

    /// Whether what the exception says of protocol and peer holds for this peer; then what it says of the socket decides.
    #[must_use]
    pub fn excepts(&self, protocol: Protocol, addr: IpAddr, port: u16) -> bool {
        self.except.as_ref().is_some_and(|rule| rule.admits(protocol, addr, port))
    }

    /// Gives it to the programs of an object.
    pub(crate) fn write_to(&self, object: &Object) -> io::Result<()> {
        let map = object::map(object, ".bss.filter")?;
        map.update(&0_u32.to_ne_bytes(), &self.bytes, MapFlags::ANY).map_err(io_error)?;
        if self.trie.is_empty() {
            return Ok(());
        }
        mapping::write(object::map(object, ".bss.trie")?.as_fd(), &self.trie)
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.bytes.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    fn put_place(&mut self, rule: usize, place: &Place) {
        use crate::skel::select_types::{filter_has as has, filter_place};
        let mut bits = 0_u32;
        for (there, bit) in [
            (place.cgroup.is_some(), has::FILTER_CGROUP),
            (place.netns.is_some(), has::FILTER_NETNS),
            (place.uid.is_some(), has::FILTER_UID),
            (place.ifindex.is_some(), has::FILTER_IFINDEX),
        ] {
            bits |= if there { bit.0 } else { 0 };
        }
        let at = offset_of!(filter, place) + rule * size_of::<filter_place>();
        self.put(at + offset_of!(filter_place, cgroup), &place.cgroup.unwrap_or(0).to_ne_bytes());
        self.put(at + offset_of!(filter_place, netns), &place.netns.unwrap_or(0).to_ne_bytes());
        self.put(at + offset_of!(filter_place, uid), &place.uid.unwrap_or(0).to_ne_bytes());
        self.put(at + offset_of!(filter_place, ifindex), &place.ifindex.unwrap_or(0).to_ne_bytes());
        self.put(at + offset_of!(filter_place, has), &bits.to_ne_bytes());
    }

    fn put_ports<'a>(&mut self, rules: impl Iterator<Item = (usize, &'a Rule)>) -> Result<(), &'static str> {
        const MOST: usize = length_of(|f: &filter| &f.ports);
        let range = |ports: &PortRange| Some((ports.first().into(), ports.last().into()));
        let table = Table::new(
            u16::MAX.into(),
            rules.map(|(bit, rule)| (bit, rule.ports.iter().map(range).collect())),
        );
        if table.bounds.len() > MOST {
            return Err("port ranges");
        }
        self.put(offset_of!(filter, nr_ports), &(table.bounds.len() as u32).to_ne_bytes());
        for (i, bound) in table.bounds.iter().enumerate() {
            self.put(offset_of!(filter, ports) + 4 * i, &(*bound as u32).to_ne_bytes());
        }
        self.put_sets(offset_of!(filter, port_rules), &table.sets);
        Ok(())
    }

    fn put_ipv4<'a>(&mut self, rules: impl Iterator<Item = (usize, &'a Rule)>) -> Result<(), &'static str> {
        const MOST: usize = length_of(|f: &filter| &f.ipv4);
        let range = |prefix: &Prefix| match prefix.range() {
            (IpAddr::V4(first), IpAddr::V4(last)) => Some((number4(first), number4(last))),
            _ => None,
        };
        let table =
            Table::new(u32::MAX.into(), rules.map(|(bit, rule)| (bit, rule.to.iter().map(range).collect())));
        if table.bounds.len() > MOST {
            return Err("prefixes");
        }
        self.put(offset_of!(filter, nr_ipv4), &(table.bounds.len() as u32).to_ne_bytes());
        for (i, bound) in table.bounds.iter().enumerate() {
            self.put(offset_of!(filter, ipv4) + 4 * i, &(*bound as u32).to_ne_bytes());
        }
        self.put_sets(offset_of!(filter, ipv4_rules), &table.sets);
        let bounds: Vec<u32> = table.bounds.iter().map(|bound| *bound as u32).collect();
        self.trie = trie::words(&bounds).ok_or("prefixes")?;
        Ok(())
    }

    fn put_ipv6<'a>(&mut self, rules: impl Iterator<Item = (usize, &'a Rule)>) -> Result<(), &'static str> {
        const MOST: usize = length_of(|f: &filter| &f.ipv6);
        let range = |prefix: &Prefix| match prefix.range() {
            (IpAddr::V6(first), IpAddr::V6(last)) => Some((number6(first), number6(last))),
            _ => None,
        };
        let table =
            Table::new(u128::MAX, rules.map(|(bit, rule)| (bit, rule.to.iter().map(range).collect())));
        if table.bounds.len() > MOST {
            return Err("prefixes");
        }
        self.put(offset_of!(filter, nr_ipv6), &(table.bounds.len() as u32).to_ne_bytes());
        for (i, bound) in table.bounds.iter().enumerate() {
            let at = offset_of!(filter, ipv6) + 16 * i;
            self.put(at, &((bound >> 64) as u64).to_ne_bytes());
            self.put(at + 8, &(*bound as u64).to_ne_bytes());
        }
        self.put_sets(offset_of!(filter, ipv6_rules), &table.sets);
        Ok(())
    }

    fn put_sets(&mut self, at: usize, sets: &[u64]) {
        for (i, set) in sets.iter().enumerate() {
            self.put(at + 8 * i, &set.to_ne_bytes());
        }
    }
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filter").finish_non_exhaustive()
    }
}

/// The rules that hold for a UDP socket without a peer that has sent to backends nobody knows: it may be selected, and is
/// spared only by what would spare it whatever they are. 0: it is not meant.
fn of_unnamed(selected: &Rule, except: Option<&Rule>, allowed: &[Rule]) -> u64 {
    let always = |rule: &Rule| rule.admits_any_udp() == Some(true);
    if selected.admits_any_udp() == Some(false) || allowed.iter().any(always) {
        return 0;
    }
    if except.is_some_and(always) { 3 } else { 1 }
}

/// The length of an array in the struct, which is not there.
const fn length_of<T, const N: usize>(_: fn(&filter) -> &[T; N]) -> usize {
    N
}

fn number4(addr: Ipv4Addr) -> u128 {
    addr.to_bits().into()
}

fn number6(addr: Ipv6Addr) -> u128 {
    addr.to_bits()
}

/// For each number the set of rules that hold: `bounds` are the first numbers of the intervals, but for the first one,
/// which begins at 0; `sets` has one set for each interval.
struct Table {
    bounds: Vec<u128>,
    sets: Vec<u64>,
}

impl Table {
    /// Of rules with their ranges; `None` is a range of another family. A rule without any range always holds.
    /// `top` is the last number there is.
    fn new(top: u128, rules: impl Iterator<Item = (usize, Vec<Option<(u128, u128)>>)>) -> Self {
        let mut always = 0;
        // Where a range of a rule begins (true), and where it has ended.
        let mut changes: Vec<(u128, usize, bool)> = Vec::new();
        for (bit, ranges) in rules {
            if ranges.is_empty() {
                always |= 1 << bit;
            }
            for (first, last) in ranges.into_iter().flatten() {
                changes.push((first, bit, true));
                // Else it goes on to the end.
                changes.extend((last < top).then(|| (last + 1, bit, false)));
            }
        }
        changes.sort_unstable();
        let mut open = [0_u32; RULES_MAX];
        let mut table = Self { bounds: Vec::new(), sets: vec![always] };
        for change in changes.chunk_by(|a, b| a.0 == b.0) {
            for (_, bit, begins) in change {
                if let Some(open) = open.get_mut(*bit) {
                    *open = if *begins { *open + 1 } else { *open - 1 };
                }
            }
            let at = change.first().map_or(0, |change| change.0);
            let held = open.iter().enumerate().filter(|(_, open)| **open > 0);
            let set = held.fold(always, |set, (bit, _)| set | 1 << bit);
            if at == 0 {
                table.sets = vec![set];
            } else if table.sets.last() != Some(&set) {
                table.bounds.push(at);
                table.sets.push(set);
            }
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn held(table: &Table, number: u128) -> u64 {
        table.sets[table.bounds.partition_point(|bound| *bound <= number)]
    }

    #[test]
    fn neighbours_and_overlaps_are_joined() {
        let table =
            Table::new(99, [(0, vec![Some((0, 9)), Some((10, 19)), Some((5, 12))]), (1, vec![])].into_iter());
        assert_eq!((table.bounds.as_slice(), table.sets.as_slice()), (&[20][..], &[3, 2][..]));
        let everything = Table::new(u128::MAX, [(0, vec![Some((0, u128::MAX))])].into_iter());
        assert_eq!((everything.bounds.len(), everything.sets), (0, vec![1]));
    }

    #[test]
    fn as_many_prefixes_as_there_may_be_have_room() {
        let to: Vec<Prefix> = (0..1024_u32)
            .map(|i| Prefix::from(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0001 + 2 * i))))
            .collect();
        let ports: Vec<PortRange> = (1..=256).map(|i| PortRange::new(2 * i, 2 * i).unwrap()).collect();
        let rule = Rule { to, ports, ..Rule::default() };
        assert!(Filter::new(&rule, None, &[], 0).is_ok());
        let mut more = rule.clone();
        more.to.push("192.0.2.1".parse().unwrap());
        assert_eq!(Filter::new(&more, None, &[], 0).unwrap_err(), "prefixes");
        assert!(Filter::new(&Rule::default(), None, &vec![Rule::default(); 62], 0).is_ok());
        assert_eq!(Filter::new(&Rule::default(), None, &vec![Rule::default(); 63], 0).unwrap_err(), "rules");
    }

    #[test]
    fn senders_to_nobody_knows_whom_are_spared_only_by_what_spares_all() {
        let of = |protocol| Rule { protocol, ..Rule::default() };
        let to = || Rule { to: vec!["10.0.0.0/8".parse().unwrap()], ..Rule::default() };
        let (udp, tcp) = (of(Some(Protocol::Udp)), of(Some(Protocol::Tcp)));
        for (selected, except, allowed, rules) in [
            (of(None), None, vec![], 1),
            (to(), None, vec![], 1),
            (tcp.clone(), None, vec![], 0),
            (to(), Some(to()), vec![to()], 1),
            (to(), Some(udp.clone()), vec![tcp.clone()], 3),
            (to(), Some(tcp), vec![to(), udp], 0),
        ] {
            assert_eq!(of_unnamed(&selected, except.as_ref(), &allowed), rules, "{selected:?} {except:?}");
        }
    }

    #[test]
    fn an_exception_is_asked_for_a_backend() {
        let except = Rule {
            protocol: Some(Protocol::Udp),
            to: vec!["10.0.0.0/8".parse().unwrap()],
            ports: PortRange::new(53, 53).into_iter().collect(),
            place: Place { uid: Some(7), ..Place::default() },
        };
        let filter = Filter::new(&Rule::default(), Some(&except), &[], 0).unwrap();
        for (protocol, addr, port, holds) in [
            (Protocol::Udp, "10.1.2.3", 53, true),
            (Protocol::Udp, "::ffff:10.1.2.3", 53, true),
            (Protocol::Tcp, "10.1.2.3", 53, false),
            (Protocol::Udp, "11.1.2.3", 53, false),
            (Protocol::Udp, "10.1.2.3", 54, false),
        ] {
            assert_eq!(
                filter.excepts(protocol, addr.parse().unwrap(), port),
                holds,
                "{protocol} {addr} {port}"
            );
        }
        let none = Filter::new(&Rule::default(), None, &[], 0).unwrap();
        assert!(!none.excepts(Protocol::Udp, "10.1.2.3".parse().unwrap(), 53));
    }

    proptest! {
        #[test]
        fn the_set_of_a_number_is_that_of_the_ranges(
            rules in prop::collection::vec(prop::collection::vec((0..60_u128, 0..20_u128), 0..5), 0..6),
            top in prop_oneof![Just(0), Just(u128::MAX - 79)],
        ) {
            let ranges = |rule: &Vec<(u128, u128)>| {
                rule.iter().map(|(first, more)| (top + first, top + first + more)).collect::<Vec<_>>()
            };
            let rules: Vec<Vec<(u128, u128)>> = rules.iter().map(ranges).collect();
            let table =
                Table::new(u128::MAX, rules.iter().enumerate().map(|(i, r)| (i, r.iter().copied().map(Some).collect())));
            prop_assert!(table.bounds.is_sorted() && table.sets.len() == table.bounds.len() + 1);
            for number in (top..=top + 79).chain([0, u128::MAX]) {
                let expected = rules.iter().enumerate().fold(0, |set, (bit, rule)| {
                    let holds = rule.is_empty() || rule.iter().any(|(a, b)| *a <= number && number <= *b);
                    if holds { set | 1 << bit } else { set }
                });
                prop_assert_eq!(held(&table, number), expected, "{}", number);
            }
        }
    }
}
