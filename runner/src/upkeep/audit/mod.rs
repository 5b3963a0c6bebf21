//! The audit: compares the index with an independent scan of all sockets.
//!
//! ```text
//!   every node of the index ──► is there such a socket?  ─ no ─► stale
//!   the kernel's tables      ─► client sockets ──► would a walk for its peer find it?
//!                                                   no, under no key    ─► missed (incomplete, if the index was full)
//!                                                   no, under other keys ─► wrong key
//! ```
//!
//! The scan reads the kernel's tables of sockets, and knows nothing of the index. It waits for no
//! socket's lock. The index is queried as by an event: with a dry walk for the backend the socket is
//! connected to.
//!
//! Sockets open and close meanwhile. Therefore suspects of the first pass are checked again, and
//! again after a pause, in their own netns only. For a socket that may be missing from the index,
//! each pass queries the scan first and the index afterwards; for a node that may be surplus, the
//! other way round. So a socket that merely opens or closes is suspected at most once. A difference
//! is one that every pass has found.

mod report;
mod scan;
mod service;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use skreap_bpf::{Owner, Relation, Victim, Walker};
use skreap_core::{Backend, Target, Unconnected};

pub use report::{Audit, Difference, Kind, LISTED_MAX};
pub use service::{Answer, Asker, Service};

use crate::engine::{EngineError, OwnerFinder, nanos, netns_id, tuple};
use crate::observe::listing::FrontendCensus;
use crate::sys::netns::{self, AllNetns, NetnsId};
use scan::{Census, Scan};

/// The pauses before the second pass and those that follow: increasing, so that a socket whose
/// owner changes it periodically is not in the same state in all of them.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(5),
    Duration::from_millis(23),
    Duration::from_millis(61),
    Duration::from_millis(149),
];

/// The suspects: kind, socket, and backend (none: all of them).
type Suspect = (Kind, u64, Option<Backend>);

/// Audits an index.
#[derive(Debug)]
pub struct Auditor {
    walker: Walker,
    scan: Scan,
    preexisting: HashSet<(u64, Backend)>,
    owners: OwnerFinder,
}

/// One pass over index and sockets.
#[derive(Default)]
struct Look {
    suspects: BTreeMap<Suspect, Victim>,
    /// Nodes without their socket that the walk itself has found and removed: nothing is left to
    /// check again.
    removed: Vec<Victim>,
    census: Census,
    nodes: u64,
    /// What of the nodes is known of frontends, if that is recorded.
    frontends: Option<FrontendCensus>,
    preexisting: u64,
    /// Clients of the census that turned out to be the kernel's own.
    kernel: u64,
    /// Every netns was reached.
    whole: bool,
}

/// The nodes of one socket.
struct Recorded {
    /// Of the last node that was read.
    victim: Victim,
    /// The socket has a name that the kernel would show.
    shown: bool,
}

impl Auditor {
    /// `cgroup` is the directory whose sockets belong in the index. The auditor uses the walker for
    /// its whole life.
    ///
    /// # Errors
    /// [`EngineError`] if the cgroup cannot be opened, or the thread that visits namespaces cannot
    /// be created.
    pub fn new(walker: Walker, cgroup: &Path) -> Result<Self, EngineError> {
        Ok(Self {
            walker,
            scan: Scan::new(cgroup)?,
            preexisting: HashSet::new(),
            owners: OwnerFinder::default(),
        })
    }

    /// Stores the connected sockets that are not in the index now, and ignores them in later
    /// audits. Call it once after the hooks were attached, if pre-existing sockets are not
    /// to be indexed.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn forgive_preexisting(&mut self) -> Result<u64, EngineError> {
        let look = self.look(None)?;
        let missed = look.suspects.into_keys().filter_map(|(kind, cookie, backend)| match kind {
            Kind::Missed => Some((cookie, backend?)),
            _ => None,
        });
        self.preexisting.extend(missed);
        Ok(self.preexisting.len() as u64)
    }

    /// Audits the index now. Takes as long as a look at every socket, and a quarter of a second
    /// more if the first pass has suspects.
    ///
    /// # Errors
    /// [`EngineError`] if the index cannot be walked or `/proc` cannot be read.
    pub fn run(&mut self) -> Result<Audit, EngineError> {
        let start = Instant::now();
        let first = self.look(None)?;
        let mut audit = Audit {
            complete: first.whole,
            netns: first.census.netns.len() as u64,
            unreachable_netns: first.census.unreachable,
            sockets: first.census.sockets() - first.kernel,
            backends: first.census.clients.len() as u64,
            nodes: first.nodes,
            accepted: first.census.accepted,
            preexisting: first.preexisting,
            kernel: first.kernel + first.census.kernel,
            undecided: first.census.undecided,
            frontends: first.frontends,
            looks: 1,
            ..Audit::default()
        };
        let (mut suspects, mut removed) = (first.suspects, first.removed);
        for pause in PAUSES {
            if suspects.is_empty() {
                break;
            }
            thread::sleep(pause);
            let again = self.look(Some(&suspects))?;
            audit.looks += 1;
            suspects.retain(|suspect, _| again.suspects.contains_key(suspect));
            removed.extend(again.removed);
        }
        let removed = removed.into_iter().map(|victim| (Kind::Stale, victim));
        let mut wrong = self.wrong_keys(&suspects)?;
        for (kind, victim) in suspects.into_iter().map(|((kind, ..), victim)| (kind, victim)).chain(removed) {
            let recorded = match kind {
                Kind::WrongKey => wrong.remove(&victim.cookie()).unwrap_or_default(),
                _ => BTreeSet::new(),
            };
            audit.add(Difference { kind, socket: tuple(&victim), recorded: recorded.into_iter().collect() });
        }
        audit.agrees = audit.missed + audit.wrong_key + audit.stale == 0;
        audit.ns = nanos(start.elapsed());
        Ok(audit)
    }

    /// The backends under which the sockets with a wrong key are recorded, by cookie.
    fn wrong_keys(
        &mut self,
        suspects: &BTreeMap<Suspect, Victim>,
    ) -> Result<HashMap<u64, BTreeSet<Backend>>, EngineError> {
        let mut wrong: HashMap<u64, BTreeSet<Backend>> = suspects
            .keys()
            .filter(|(kind, ..)| *kind == Kind::WrongKey)
            .map(|(_, cookie, _)| (*cookie, BTreeSet::new()))
            .collect();
        if !wrong.is_empty() {
            self.walker.walk_recorded(|batch| {
                for victim in batch.iter().filter(|victim| victim.relation() == Relation::MovedOn) {
                    if let Some(recorded) = wrong.get_mut(&victim.cookie()) {
                        recorded.extend(victim.backend());
                    }
                }
            })?;
        }
        Ok(wrong)
    }

    /// Checks everything, or the suspects once more.
    fn look(&mut self, only: Option<&BTreeMap<Suspect, Victim>>) -> Result<Look, EngineError> {
        let mut look = Look::default();
        let recorded = self.recorded(&mut look)?;
        let suspected = |suspects: &BTreeMap<Suspect, Victim>| {
            let netns: BTreeSet<NetnsId> = suspects.values().map(netns_id).collect();
            AllNetns { netns: netns.into_iter().collect(), whole: true }
        };
        let netns = only.map_or_else(|| everywhere(&recorded), |suspects| Ok(suspected(suspects)))?;
        look.census = self.scan.take(&netns.netns, only.is_some())?;
        look.whole = netns.whole && look.census.unreachable == 0;

        for (&cookie, Recorded { victim, shown }) in &recorded {
            if *shown && look.census.netns.contains(&victim.netns()) && !look.census.alive.contains(&cookie) {
                look.suspects.insert((Kind::Stale, cookie, None), *victim);
            }
        }
        self.look_for_clients(&mut look, only)?;
        Ok(look)
    }

    /// All nodes of the index, by the cookie of their socket.
    fn recorded(&mut self, look: &mut Look) -> Result<HashMap<u64, Recorded>, EngineError> {
        let mut recorded: HashMap<u64, Recorded> = HashMap::new();
        let mut ways: HashMap<u32, u64> = HashMap::new();
        self.walker.walk_all_with_frontends(|victim, frontend| {
            look.nodes += 1;
            // A socket without a peer may have no local port, and then it is in none of the kernel's
            // tables.
            let shown = match victim.relation() {
                Relation::Stale => {
                    look.removed.push(*victim);
                    return;
                }
                Relation::Connected | Relation::MovedOn | Relation::Unconnected => true,
                Relation::NoPeer => false,
            };
            if matches!(victim.relation(), Relation::Connected | Relation::Unconnected) {
                *ways.entry(frontend).or_default() += 1;
            }
            recorded.insert(victim.cookie(), Recorded { victim: *victim, shown });
        })?;
        look.frontends = self.walker.frontends().map(|known| {
            let mut census = FrontendCensus::default();
            ways.into_iter().for_each(|(id, n)| census.add(known.name(id), n));
            census
        });
        Ok(recorded)
    }

    /// The kernel's own sockets do not belong in the index: they are counted, and no longer absent.
    fn drop_kernel_sockets(
        &mut self,
        look: &mut Look,
        absent: &mut Vec<(Backend, Victim, bool)>,
    ) -> Result<(), EngineError> {
        let sockets: Vec<Victim> = absent.iter().map(|(_, socket, _)| *socket).collect();
        let owners = self.owners.find(&sockets)?;
        absent.retain(|(_, socket, _)| {
            !matches!(owners.get(&socket.cookie()), Some(Owner::Kernel | Owner::Subflow))
        });
        look.kernel += (sockets.len() - absent.len()) as u64;
        Ok(())
    }

    /// Looks for each client socket as an event for its backend would.
    fn look_for_clients(
        &mut self,
        look: &mut Look,
        only: Option<&BTreeMap<Suspect, Victim>>,
    ) -> Result<(), EngineError> {
        let suspected: Option<HashSet<u64>> =
            only.map(|suspects| suspects.keys().map(|(_, cookie, _)| *cookie).collect());
        let asked = |cookie| suspected.as_ref().is_none_or(|suspected| suspected.contains(&cookie));
        let mut absent = Vec::new();
        let mut victims = Vec::new();
        for (&backend, sockets) in &look.census.clients {
            if !sockets.iter().any(|socket| asked(socket.cookie())) {
                continue;
            }
            victims.clear();
            let target = Target { backend, unconnected: Unconnected::Preserve, dry_run: true };
            let counts = self.walker.walk(&target, &mut victims)?;
            let found: HashSet<u64> = victims.iter().map(Victim::cookie).collect();
            for socket in sockets.iter().filter(|socket| !found.contains(&socket.cookie())) {
                if self.preexisting.contains(&(socket.cookie(), backend)) {
                    look.preexisting += 1;
                } else if asked(socket.cookie()) {
                    absent.push((backend, *socket, counts.incomplete_full || counts.incomplete_everything));
                }
            }
        }
        self.drop_kernel_sockets(look, &mut absent)?;
        if absent.is_empty() {
            return Ok(());
        }
        // Only now, so that a socket that was recorded a moment ago is not missed.
        let mut unused = Look::default();
        let recorded = self.recorded(&mut unused)?;
        look.removed.append(&mut unused.removed);
        for (backend, socket, full) in absent {
            let kind = match (full, recorded.contains_key(&socket.cookie())) {
                (true, _) => Kind::Incomplete,
                (false, true) => Kind::WrongKey,
                (false, false) => Kind::Missed,
            };
            look.suspects.insert((kind, socket.cookie(), Some(backend)), socket);
        }
        Ok(())
    }
}

/// Every netns. Where the kernel's list cannot be read: those that are shown, and those that only
/// the index knows.
fn everywhere(recorded: &HashMap<u64, Recorded>) -> Result<AllNetns, EngineError> {
    let AllNetns { netns, whole } = netns::everywhere()
        .map_err(|source| EngineError::Io { what: "cannot list the netns in /proc".to_owned(), source })?;
    let all: BTreeSet<NetnsId> =
        netns.into_iter().chain(recorded.values().map(|r| netns_id(&r.victim))).collect();
    Ok(AllNetns { netns: all.into_iter().collect(), whole })
}
