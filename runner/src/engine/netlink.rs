//! The walk emits the exact id of each victim, user space destroys them by netlink in each netns.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use skreap_bpf::{Victim, WalkCounts, Walker};
use skreap_core::{EngineName, Incomplete, Outcome, Protocol, SocketTuple, Target, Unconnected, state_name};

use super::{Engine, EngineError, nanos};
use crate::netns::NetnsId;
use crate::sock_diag::{DiagSockets, Verdict};

/// How long the diag socket of a netns is kept after its last use.
const KEEP: Duration = Duration::from_secs(10);

/// Engine `netlink`: targeted walk, exact-id `SOCK_DESTROY` in batches.
#[derive(Debug)]
pub struct Netlink {
    walker: Walker,
    diag: DiagSockets,
    victims: Vec<Victim>,
    verdicts: Vec<Verdict>,
}

impl Netlink {
    /// # Errors
    /// [`EngineError::Io`] if the thread that visits namespaces cannot be made.
    pub fn new(walker: Walker) -> Result<Self, EngineError> {
        let diag = DiagSockets::new(KEEP)
            .map_err(|source| EngineError::Io { what: "cannot start the netns thread".to_owned(), source })?;
        Ok(Self { walker, diag, victims: Vec::new(), verdicts: Vec::new() })
    }

    fn walk(&mut self, target: &Target) -> Result<WalkCounts, EngineError> {
        self.victims.clear();
        Ok(self.walker.walk(target, &mut self.victims)?)
    }

    /// Destroys `self.victims`; answers those that the kernel could not find, or whose answer was lost.
    fn destroy(&mut self, outcome: &mut Outcome) -> Vec<Unsettled> {
        let mut unsettled = Vec::new();
        // One message per netns: sockets of one netns side by side.
        self.victims.sort_unstable_by_key(Victim::netns);
        let groups = || self.victims.chunk_by(|a, b| a.netns() == b.netns());
        let unreachable = self.diag.prepare(groups().filter_map(<[Victim]>::first).map(netns_id));
        let now = Instant::now();
        for group in groups() {
            let Some(netns) = group.first().map(Victim::netns) else {
                continue;
            };
            let Some(diag) = self.diag.get(netns, now) else {
                match unreachable.get(&netns).copied().unwrap_or(libc::EIO) {
                    // The netns is gone, and its sockets with it.
                    libc::ESTALE => outcome.skipped.gone += group.len() as u64,
                    errno => {
                        outcome.incomplete.insert(Incomplete::NetnsUnreachable);
                        fail(outcome, group, errno);
                    }
                }
                continue;
            };
            self.verdicts.clear();
            let sent = diag.destroy(group, &mut self.verdicts);
            for (victim, verdict) in group.iter().zip(&self.verdicts) {
                match *verdict {
                    Verdict::Destroyed => outcome.destroyed += 1,
                    Verdict::Failed(libc::ENOENT) => unsettled.push(Unsettled::not_found(victim)),
                    Verdict::Failed(errno) => outcome.add_failure(tuple(victim), errno),
                    Verdict::Unknown => unsettled.push(Unsettled::unanswered(victim)),
                }
            }
            if let Err(e) = sent {
                let unsent = group.get(self.verdicts.len()..).unwrap_or_default();
                fail(outcome, unsent, e.raw_os_error().unwrap_or(libc::EIO));
                self.diag.forget(netns);
            }
        }
        unsettled
    }

    /// "Not found" has two meanings: the owner has closed the socket, or another socket with the same tuple
    /// was found first and has another cookie. A second walk tells which; as long as that makes progress,
    /// those that are still there are tried again.
    fn settle(&mut self, target: &Target, outcome: &mut Outcome, mut unsettled: Vec<Unsettled>) {
        while !unsettled.is_empty() {
            if let Err(e) = self.walk(target) {
                tracing::warn!("cannot walk again for {} sockets: {e}", unsettled.len());
                outcome.incomplete.insert(Incomplete::EngineFailed);
                for u in &unsettled {
                    outcome.add_failure(tuple(&u.victim), u.errno);
                }
                return;
            }
            let asked: HashSet<u64> = unsettled.iter().map(|u| u.victim.cookie()).collect();
            self.victims.retain(|v| asked.contains(&v.cookie()));
            let there: HashSet<u64> = self.victims.iter().map(Victim::cookie).collect();
            for u in unsettled.iter().filter(|u| !there.contains(&u.victim.cookie())) {
                if u.errno == libc::ENOBUFS {
                    // Destroyed by the request whose answer was lost. (Or closed in this very moment: the
                    // kernel does not say which.)
                    outcome.destroyed += 1;
                } else {
                    outcome.skipped.gone += 1;
                }
            }
            unsettled = self.destroy(outcome);
            if unsettled.len() == there.len() {
                for u in &unsettled {
                    outcome.add_failure(tuple(&u.victim), u.errno);
                }
                return;
            }
        }
    }
}

/// A victim of which the kernel has not said whether it is dead.
struct Unsettled {
    victim: Victim,
    errno: i32,
}

impl Unsettled {
    fn not_found(victim: &Victim) -> Self {
        Self { victim: *victim, errno: libc::ENOENT }
    }

    fn unanswered(victim: &Victim) -> Self {
        Self { victim: *victim, errno: libc::ENOBUFS }
    }
}

impl Engine for Netlink {
    fn name(&self) -> EngineName {
        EngineName::Netlink
    }

    fn run(&mut self, target: &Target) -> Result<Outcome, EngineError> {
        let start = Instant::now();
        let counts = self.walk(target)?;
        let walked = Instant::now();
        let mut outcome = Outcome::new(EngineName::Netlink);
        outcome.visited = counts.visited;
        outcome.victims = self.victims.len() as u64;
        outcome.skipped.unconnected = counts.unconnected;
        outcome.skipped.moved_on = counts.moved_on;
        outcome.skipped.no_peer = counts.no_peer;
        outcome.skipped.state = counts.state;
        outcome.skipped.stale = counts.stale;
        if counts.incomplete_full {
            outcome.incomplete.insert(Incomplete::IndexFull);
        }
        if counts.incomplete_unconnected && target.unconnected == Unconnected::Destroy {
            outcome.incomplete.insert(Incomplete::WideUnconnected);
        }
        if target.dry_run {
            outcome.victims_listed = Some(self.victims.iter().map(tuple).collect());
        } else if !self.victims.is_empty() {
            let unsettled = self.destroy(&mut outcome);
            self.settle(target, &mut outcome, unsettled);
        }
        outcome.walk_ns = nanos(walked.duration_since(start));
        outcome.destroy_ns = nanos(walked.elapsed());
        Ok(outcome)
    }

    fn tidy(&mut self) {
        self.diag.expire();
    }
}

fn netns_id(victim: &Victim) -> NetnsId {
    NetnsId { cookie: victim.netns(), inum: victim.netns_inum() }
}

fn fail(outcome: &mut Outcome, victims: &[Victim], errno: i32) {
    for victim in victims {
        outcome.add_failure(tuple(victim), errno);
    }
}

/// A victim in the words of a report.
pub(crate) fn tuple(victim: &Victim) -> SocketTuple {
    SocketTuple {
        protocol: victim.protocol().unwrap_or(Protocol::Udp),
        saddr: victim.saddr(),
        sport: victim.sport(),
        daddr: victim.daddr(),
        dport: victim.dport(),
        ifindex: victim.ifindex(),
        cookie: victim.cookie(),
        netns: victim.netns(),
        netns_inum: victim.netns_inum(),
        state: state_name(victim.state()).into(),
    }
}
