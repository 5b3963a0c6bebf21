//! Full scan with BPF socket iterators: each socket is compared and destroyed in one step, under
//! its lock.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use skreap_bpf::{Filter, Rule, Scan, ScanCounts, ScanHit, ScanPass, Select, Victim, Walker};
use skreap_core::{EngineName, Incomplete, Outcome, Protocol, Target};

use super::destroy::Destroyer;
use super::named::tuple;
use super::scope::Finder;
use super::selection::Selection;
use super::{Chosen, Engine, EngineError, EngineOptions, Scope, StateMask, membership, nanos, scope};
use crate::sys::netns::visitor::{Visit, Visitor};
use crate::sys::netns::{AllNetns, NetnsId};

/// Passes that may be given up in one scan. Each has cost the time that a victim is waited for, and the scan is not
/// complete after one.
const GIVEN_UP_MAX: usize = 3;

/// Engine `iter`: one pass of iter/tcp or iter/udp in each netns.
#[derive(Debug)]
pub struct Iter {
    finder: Finder,
    scanner: Scanner,
    states: StateMask,
    options: EngineOptions,
}

impl Iter {
    /// `walker` is for [`Scope::All`] only: it lists netns that no path shows.
    ///
    /// # Errors
    /// [`EngineError`] if the iterators cannot be loaded.
    pub fn new(walker: Walker, options: &EngineOptions) -> Result<Self, EngineError> {
        let cgroup = match &options.cgroup {
            Some(path) => membership::id_of(path)?,
            None => None,
        };
        let finder = Finder::new(walker, options.scope.clone());
        let patience = options.pool.victim_timeout();
        let scanner = Scanner { scan: Some(Scan::load(cgroup)?), cgroup, patience };
        Ok(Self { finder, scanner, states: options.states, options: options.clone() })
    }
}

impl Iter {
    /// The sockets that a pass is about to destroy, if each is to be named: the pass itself only counts them. One that
    /// connects in between is destroyed and not named.
    fn list_first(&mut self, wanted: Wanted<'_>, netns: &[NetnsId]) -> Result<Vec<Victim>, EngineError> {
        if wanted.is_dry_run() || !self.options.pool.ledger().is_on() {
            return Ok(Vec::new());
        }
        let (scanner, states) = (&mut self.scanner, self.states);
        let listed = match wanted {
            Wanted::Target(target) => {
                scanner.scan(Wanted::Target(&Target { dry_run: true, ..*target }), states, netns)?
            }
            Wanted::Filter { filter, protocol, .. } => {
                scanner.scan(Wanted::Filter { filter, protocol, dry_run: true }, states, netns)?
            }
        };
        Ok(listed.hits.iter().map(|hit| hit.victim).collect())
    }

    fn write_down(&self, listed: &[Victim], failed: &[ScanHit]) {
        let ledger = self.options.pool.ledger();
        if ledger.is_on() {
            listed.iter().for_each(|victim| ledger.destroyed(victim));
            failed.iter().for_each(|hit| ledger.failed(&hit.victim, hit.errno));
        }
    }

    /// Lists the sockets first, and destroys them by their id: an iterator does not know links, and shows only what it
    /// could not destroy.
    fn run_listed(&mut self, target: &Target, chosen: &mut Chosen) -> Result<Outcome, EngineError> {
        let start = Instant::now();
        let mut outcome = Outcome::new(EngineName::Iter);
        if Chosen::matters(target) {
            outcome.incomplete.insert(Incomplete::WildcardUnconnected);
        }
        let AllNetns { mut netns, whole } = self.finder.find(target)?;
        if !scope::keep(chosen.link().map(|link| link.netns), &mut netns) && !whole {
            outcome.incomplete.insert(Incomplete::NetnsUnreachable);
        }
        let (scanner, states) = (&mut self.scanner, self.states);
        let mut list = || scanner.scan(Wanted::Target(&Target { dry_run: true, ..*target }), states, &netns);
        let done = list()?;
        done.explain(&mut outcome);
        let mut victims: Vec<Victim> = done.hits.iter().map(|hit| hit.victim).collect();
        chosen.sift(target, &mut victims).note(&mut outcome.skipped);
        outcome.skipped.state = done.counts.unsupported;
        outcome.skipped.accepted = done.counts.accepted;
        outcome.victims = victims.len() as u64;
        outcome.visited = outcome.victims + outcome.skipped.total();
        let walked = Instant::now();
        Destroyer::new(&self.options)?.finish(target.dry_run, &mut victims, &mut outcome, |victims| {
            victims.extend(list()?.hits.iter().map(|hit| hit.victim));
            Ok(())
        });
        outcome.walk_ns = nanos(walked.duration_since(start));
        outcome.destroy_ns = nanos(walked.elapsed());
        Ok(outcome)
    }
}

impl Engine for Iter {
    fn name(&self) -> EngineName {
        EngineName::Iter
    }

    fn run(&mut self, target: &Target, chosen: &mut Chosen) -> Result<Outcome, EngineError> {
        if chosen.lists() {
            return self.run_listed(target, chosen);
        }
        let start = Instant::now();
        let mut outcome = Outcome::new(EngineName::Iter);
        if Chosen::matters(target) {
            // Only the index has the destinations of an unconnected socket.
            outcome.incomplete.insert(Incomplete::WildcardUnconnected);
        }
        let AllNetns { netns, whole } = self.finder.find(target)?;
        let listed = self.list_first(Wanted::Target(target), &netns)?;
        let done = self.scanner.scan(Wanted::Target(target), self.states, &netns)?;
        self.write_down(&listed, &done.hits);
        if !whole {
            outcome.incomplete.insert(Incomplete::NetnsUnreachable);
        }
        done.conclude(target.dry_run, &mut outcome);
        outcome.walk_ns = nanos(start.elapsed());
        Ok(outcome)
    }

    fn select(
        &mut self,
        selection: &Selection,
        _select: &mut Select,
        _chosen: &mut Chosen,
    ) -> Result<Outcome, EngineError> {
        let start = Instant::now();
        let mut outcome = Outcome::new(EngineName::Iter);
        if selection.has_senders() {
            outcome.incomplete.insert(Incomplete::WildcardUnconnected);
        }
        let filter = selection.rules.filter(self.states)?;
        let Rule { protocol, place, .. } = &selection.rules.selected;
        let AllNetns { mut netns, whole } = self.finder.find_any()?;
        if !scope::keep(place.netns, &mut netns) && !whole {
            outcome.incomplete.insert(Incomplete::NetnsUnreachable);
        }
        let (protocol, dry_run) = (*protocol, selection.dry_run);
        let wanted = Wanted::Filter { filter: &filter, protocol, dry_run };
        let listed = self.list_first(wanted, &netns)?;
        let done = self.scanner.scan(wanted, self.states, &netns)?;
        self.write_down(&listed, &done.hits);
        done.conclude(dry_run, &mut outcome);
        outcome.walk_ns = nanos(start.elapsed());
        Ok(outcome)
    }

    fn set_scope(&mut self, scope: Scope) {
        self.finder.set_scope(scope);
    }
}

/// What came of a scan.
#[derive(Default)]
struct Done {
    counts: ScanCounts,
    hits: Vec<ScanHit>,
    /// Netns that could not be entered or not be read to the end, other than those that are gone.
    unreachable: usize,
    /// Netns in which the pass was given up: the owner of a socket held its lock.
    given_up: usize,
}

impl Done {
    /// Says why the scan has not seen all.
    fn explain(&self, outcome: &mut Outcome) {
        if self.unreachable > 0 {
            outcome.incomplete.insert(Incomplete::NetnsUnreachable);
        }
        if self.given_up > 0 {
            outcome.incomplete.insert(Incomplete::SocketLocked);
        }
    }

    /// Puts the numbers into the outcome, and the sockets that were listed.
    fn conclude(&self, dry_run: bool, outcome: &mut Outcome) {
        self.explain(outcome);
        tracing::debug!(counts = ?self.counts, given_up = self.given_up, "scanned");
        let ScanCounts { destroyed, gone, unsupported, accepted, .. } = self.counts;
        // Each match is counted, or it is among the hits. (The hits that an abandoned pass had not yet listed are not.)
        let matched = destroyed + gone + unsupported + self.hits.len() as u64;
        outcome.visited = matched + accepted;
        outcome.victims = matched - unsupported;
        outcome.destroyed = destroyed;
        outcome.skipped.gone = gone;
        outcome.skipped.state = unsupported;
        outcome.skipped.accepted = accepted;
        if dry_run {
            outcome.victims_listed = Some(self.hits.iter().map(|hit| tuple(&hit.victim)).collect());
            return;
        }
        for hit in &self.hits {
            outcome.add_failure(tuple(&hit.victim), hit.errno);
        }
    }

    fn add(&mut self, more: ScanCounts) {
        self.counts.scanned += more.scanned;
        self.counts.matched += more.matched;
        self.counts.destroyed += more.destroyed;
        self.counts.gone += more.gone;
        self.counts.unsupported += more.unsupported;
        self.counts.failed += more.failed;
        self.counts.kernel += more.kernel;
        self.counts.accepted += more.accepted;
    }
}

/// What a scan looks for.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    Target(&'a Target),
    Filter { filter: &'a Filter, protocol: Option<Protocol>, dry_run: bool },
}

impl Wanted<'_> {
    fn begin(self, scan: &mut Scan, states: StateMask) -> Result<(), skreap_bpf::Error> {
        match self {
            Self::Target(target) => scan.begin(target, states.bits()),
            Self::Filter { filter, dry_run, .. } => scan.begin_filtered(filter, states.bits(), dry_run),
        }
    }

    fn is_dry_run(self) -> bool {
        match self {
            Self::Target(target) => target.dry_run,
            Self::Filter { dry_run, .. } => dry_run,
        }
    }

    fn protocols(self) -> Vec<Protocol> {
        match self {
            Self::Target(target) => vec![target.backend.protocol()],
            Self::Filter { protocol, .. } => protocol.map_or_else(|| Protocol::ALL.to_vec(), |one| vec![one]),
        }
    }
}

/// Passes over the sockets of one netns after the other.
#[derive(Debug)]
struct Scanner {
    /// None: the last one was given up, and no other could be loaded.
    scan: Option<Scan>,
    cgroup: Option<u64>,
    /// How long a pass may be without progress.
    patience: Duration,
}

impl Scanner {
    fn scan(
        &mut self,
        wanted: Wanted<'_>,
        states: StateMask,
        netns: &[NetnsId],
    ) -> Result<Done, EngineError> {
        let mut done = Done::default();
        let mut visitor = Visitor::new("skreap-scan", "cannot scan netns", self.patience);
        wanted.begin(self.fresh()?, states)?;
        let protocols = wanted.protocols();
        let each = |id: &NetnsId| protocols.iter().map(|protocol| (*id, *protocol)).collect::<Vec<_>>();
        for (id, protocol) in netns.iter().flat_map(each) {
            if visitor.given_up() == GIVEN_UP_MAX {
                break;
            }
            let scan = self.fresh()?;
            let iterator = || scan.iterator(protocol).map_err(other);
            match visitor.visit(id, protocol, iterator, || scan.scanned().ok(), pass) {
                Visit::Done(mut hits) => done.hits.append(&mut hits),
                Visit::GivenUp => {
                    self.give_up(&mut done)?;
                    wanted.begin(self.fresh()?, states)?;
                }
                Visit::Gone | Visit::Failed => {}
            }
        }
        done.given_up = visitor.given_up();
        done.unreachable = visitor.unreachable();
        let counts = self.fresh()?.counts()?;
        done.add(counts);
        Ok(done)
    }

    fn fresh(&mut self) -> Result<&mut Scan, skreap_bpf::Error> {
        match &mut self.scan {
            Some(scan) => Ok(scan),
            none => Ok(none.insert(Scan::load(self.cgroup)?)),
        }
    }

    /// Leaves the scan to the thread that waits: what it has counted is taken over, and it destroys nothing more. It
    /// ends by itself when the owner lets go of the lock.
    fn give_up(&mut self, done: &mut Done) -> Result<(), EngineError> {
        if let Some(mut scan) = self.scan.take() {
            let counts = scan.counts();
            scan.cancel()?;
            done.add(counts?);
        }
        Ok(())
    }
}

fn pass(iterator: OwnedFd) -> io::Result<Vec<ScanHit>> {
    let mut hits = Vec::new();
    ScanPass::from(iterator).run(&mut hits).map_err(other)?;
    Ok(hits)
}

fn other(e: skreap_bpf::Error) -> io::Error {
    io::Error::other(e.to_string())
}
