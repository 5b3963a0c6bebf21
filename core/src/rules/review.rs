//! Finds rules that can never match, and ports for which a rule has no effect.

use crate::action::STATEFUL_PORTS;
use crate::backend::Protocol;
use crate::selector::{CgroupName, PortRange};

use super::{ActionRule, ActionRules};

/// A remark on one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// It never matches: the rules with these numbers, from 0 on, take every socket that it could.
    NeverMatches(Vec<usize>),
    /// Sockets of these ports are destroyed all the same ([`STATEFUL_PORTS`]).
    Stateful(Vec<u16>),
}

/// Remarks on each rule of a set, in the order of the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Review {
    /// One list for each rule; most are empty.
    pub findings: Vec<Vec<Finding>>,
}

impl Review {
    /// True if some rule can never match.
    pub fn has_useless(&self) -> bool {
        self.findings.iter().flatten().any(|finding| matches!(finding, Finding::NeverMatches(_)))
    }
}

/// A set of ports, as a bit for each.
struct Ports(Vec<u64>);

impl Ports {
    const fn words() -> usize {
        (1 << 16) / 64
    }

    /// Of a rule; those that it does not name if it names none.
    fn of(ranges: &[PortRange]) -> Self {
        let mut ports = Self(vec![0; Self::words()]);
        let all = PortRange::new(1, u16::MAX).ok();
        for range in if ranges.is_empty() { all.as_slice() } else { ranges } {
            for port in range.first()..=range.last() {
                ports.0[usize::from(port) / 64] |= 1 << (port % 64);
            }
        }
        ports
    }

    /// Takes these out; true if there was one.
    fn remove(&mut self, others: &Self) -> bool {
        let mut some = false;
        for (word, other) in self.0.iter_mut().zip(&others.0) {
            some |= *word & other != 0;
            *word &= !other;
        }
        some
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

impl ActionRules {
    /// What each rule comes to.
    pub fn review(&self) -> Review {
        let rules = self.rules();
        let findings = rules.iter().enumerate().map(|(i, rule)| {
            let mut found = Vec::new();
            let covering = covering(rule, &rules[..i]);
            found.extend(covering.map(Finding::NeverMatches));
            let stateful = destroyed_ports(rule);
            found.extend((!stateful.is_empty()).then_some(Finding::Stateful(stateful)));
            found
        });
        Review { findings: findings.collect() }
    }
}

/// The earlier rules that leave nothing to this one, if there are.
fn covering(rule: &ActionRule, earlier: &[ActionRule]) -> Option<Vec<usize>> {
    let mut taking = Vec::new();
    for protocol in Protocol::ALL {
        if rule.protocol.is_some_and(|wanted| wanted != protocol) {
            continue;
        }
        let mut left = Ports::of(&rule.ports);
        for (i, other) in earlier.iter().enumerate() {
            let same = other.protocol.is_none_or(|wanted| wanted == protocol);
            if same && holds_wherever(other, rule) && left.remove(&Ports::of(&other.ports)) {
                taking.push(i);
            }
        }
        if !left.is_empty() {
            return None;
        }
    }
    taking.sort_unstable();
    taking.dedup();
    Some(taking)
}

/// Whether what `other` says of the socket itself holds wherever what `rule` says of it does.
fn holds_wherever(other: &ActionRule, rule: &ActionRule) -> bool {
    let cgroup = other
        .cgroup
        .as_ref()
        .is_none_or(|outer| rule.cgroup.as_ref().is_some_and(|inner| is_in(inner, outer)));
    let uid = other.uid.is_none_or(|uid| rule.uid == Some(uid));
    let named = !rule.commands.is_empty() && rule.commands.iter().all(|name| other.commands.contains(name));
    cgroup && uid && (other.commands.is_empty() || named)
}

/// Whether a cgroup is the other one or below it, as far as their names show.
fn is_in(inner: &CgroupName, outer: &CgroupName) -> bool {
    match (inner, outer) {
        (CgroupName::Path(inner), CgroupName::Path(outer)) => std::path::Path::new(inner).starts_with(outer),
        _ => inner == outer,
    }
}

/// The ports that the rule names, or includes, and whose sockets are destroyed all the same.
fn destroyed_ports(rule: &ActionRule) -> Vec<u16> {
    let forced = rule.action.to().is_none_or(|to| to.is_forced());
    let named = |port: &&u16| rule.ports.is_empty() || rule.ports.iter().any(|range| range.contains(**port));
    if forced { Vec::new() } else { STATEFUL_PORTS.iter().filter(named).copied().collect() }
}
