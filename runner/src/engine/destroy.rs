//! Destroying victims by exact id over netlink, for every engine that lists them first.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use skreap_bpf::Victim;
use skreap_core::{EngineName, FinishReason, Finished, Incomplete, Outcome};

use super::named::{netns_id, tuple};
use super::{EngineError, Pace, by_cookie, nanos};
use crate::sys::sock_diag::{DiagSockets, Verdict};

/// How long the diag socket of a netns is kept after its last use.
const KEEP: Duration = Duration::from_secs(10);
/// What [`DiagSockets::prepare`] says of a netns that is there and that it finds no way to.
const NOTHING_LEADS_THERE: i32 = libc::ESRCH;

/// Diag sockets, and what is used again from one target to the next.
#[derive(Debug)]
pub(super) struct Destroyer {
    pub(super) diag: DiagSockets,
    pace: Pace,
    verdicts: Vec<Verdict>,
}

impl Destroyer {
    /// # Errors
    /// [`EngineError::Io`] if the thread that visits namespaces cannot be made.
    pub(super) fn new(pace: Pace) -> Result<Self, EngineError> {
        let diag = DiagSockets::new(KEEP)
            .map_err(|source| EngineError::Io { what: "cannot start the netns thread".to_owned(), source })?;
        Ok(Self { diag, pace, verdicts: Vec::new() })
    }

    /// Handles the victims as the target requests: lists them (dry run) or destroys them all.
    ///
    /// `again` finds the victims of the target once more; it is called if the kernel could not find
    /// some, or its response was lost.
    pub(super) fn finish(
        &mut self,
        dry_run: bool,
        victims: &mut Vec<Victim>,
        outcome: &mut Outcome,
        again: impl FnMut(&mut DiagSockets, &mut Vec<Victim>) -> Result<(), EngineError>,
    ) {
        if dry_run {
            outcome.victims_listed = Some(victims.iter().map(tuple).collect());
        } else if !victims.is_empty() {
            let unsettled = self.destroy(victims, outcome);
            self.settle(victims, outcome, unsettled, again);
        }
    }

    /// Destroys the victims; answers those that the kernel could not find, or whose answer was lost.
    fn destroy(&mut self, victims: &mut [Victim], outcome: &mut Outcome) -> Vec<Unsettled> {
        // One message per netns: sockets of one netns side by side.
        victims.sort_unstable_by_key(Victim::netns);
        let mut unsettled = Vec::new();
        for part in victims.chunks(self.pace.batch()) {
            self.pace.before();
            self.destroy_part(part, outcome, &mut unsettled);
            self.pace.after(part.len() as u64);
        }
        unsettled
    }

    /// Destroys victims that are sorted by netns.
    fn destroy_part(&mut self, victims: &[Victim], outcome: &mut Outcome, unsettled: &mut Vec<Unsettled>) {
        let groups = || victims.chunk_by(|a, b| a.netns() == b.netns());
        let unreachable = self.diag.prepare(groups().filter_map(<[Victim]>::first).map(netns_id));
        let now = Instant::now();
        self.verdicts.clear();
        for group in groups() {
            let Some(netns) = group.first().map(Victim::netns) else {
                continue;
            };
            let first = self.verdicts.len();
            match self.diag.send(netns, group, &mut self.verdicts, now) {
                Some(Ok(())) => {}
                Some(Err(e)) => {
                    let sent = self.verdicts.iter().skip(first).filter(|v| **v != Verdict::Unsent).count();
                    let unsent = group.get(sent..).unwrap_or_default();
                    fail(outcome, unsent, e.raw_os_error().unwrap_or(libc::EIO));
                }
                None => {
                    self.verdicts.resize(first + group.len(), Verdict::Unsent);
                    match unreachable.get(&netns).copied().unwrap_or(libc::EIO) {
                        // The netns is gone, and its sockets with it.
                        libc::ESTALE => outcome.skipped.gone += group.len() as u64,
                        // Before 6.18: nothing leads to it, or not any more, as it is about to go.
                        NOTHING_LEADS_THERE => unsettled.extend(group.iter().map(Unsettled::unreached)),
                        errno => {
                            outcome.incomplete.insert(Incomplete::NetnsUnreachable);
                            fail(outcome, group, errno);
                        }
                    }
                }
            }
        }
        self.diag.settle(&mut self.verdicts);
        for (victim, verdict) in victims.iter().zip(&self.verdicts) {
            match *verdict {
                Verdict::Destroyed => outcome.destroyed += 1,
                Verdict::Failed(libc::ENOENT) => unsettled.push(Unsettled::not_found(victim)),
                Verdict::Failed(errno) => outcome.add_failure(tuple(victim), errno),
                Verdict::Unknown => unsettled.push(Unsettled::unanswered(victim)),
                // counted above
                Verdict::Unsent => {}
            }
        }
    }

    /// "Not found" has two meanings: the owner has closed the socket, or another socket with the
    /// same tuple was found first and has another cookie. A second walk distinguishes the two;
    /// while that makes progress, those that still exist are tried again.
    ///
    /// So has "nothing leads to the netns": nothing that we know to look for does, or its last process is ending, which
    /// closes the sockets after it has left the netns. [`DiagSockets::prepare`] has waited for that.
    fn settle(
        &mut self,
        victims: &mut Vec<Victim>,
        outcome: &mut Outcome,
        mut unsettled: Vec<Unsettled>,
        mut again: impl FnMut(&mut DiagSockets, &mut Vec<Victim>) -> Result<(), EngineError>,
    ) {
        while !unsettled.is_empty() {
            victims.clear();
            if let Err(e) = again(&mut self.diag, victims) {
                tracing::warn!("cannot retry {} sockets: {e}", unsettled.len());
                outcome.incomplete.insert(Incomplete::EngineFailed);
                unsettled.iter().for_each(|u| u.fail(outcome));
                return;
            }
            let asked: HashSet<u64> = unsettled.iter().map(|u| u.victim.cookie()).collect();
            victims.retain(|v| asked.contains(&v.cookie()));
            let there: HashSet<u64> = victims.iter().map(Victim::cookie).collect();
            for u in unsettled.iter().filter(|u| !there.contains(&u.victim.cookie())) {
                if u.errno == libc::ENOBUFS {
                    // Destroyed by the request whose response was lost. (Or closed in this very
                    // moment: the kernel does not say which.)
                    outcome.destroyed += 1;
                } else {
                    outcome.skipped.gone += 1;
                }
            }
            unsettled = self.destroy(victims, outcome);
            if unsettled.len() < there.len() {
                continue;
            }
            let (unreached, not_found): (Vec<_>, Vec<_>) =
                unsettled.into_iter().partition(Unsettled::is_unreached);
            // Without a local port it is in no hash table: neither an id nor an iterator reaches
            // it.
            let (portless, unnamed): (Vec<_>, Vec<_>) =
                not_found.into_iter().partition(|u| u.victim.sport() == 0);
            portless.iter().for_each(|u| u.fail(outcome));
            settle_by_cookie(outcome, &unnamed);
            if there.len() == asked.len() {
                unreached.iter().for_each(|u| u.fail(outcome));
                return;
            }
            unsettled = unreached;
        }
    }
}

/// The last resort for sockets that are there and that no id names.
fn settle_by_cookie(outcome: &mut Outcome, unsettled: &[Unsettled]) {
    if unsettled.is_empty() {
        return;
    }
    let start = Instant::now();
    let before = outcome.destroyed;
    let victims: Vec<Victim> = unsettled.iter().map(|u| u.victim).collect();
    for (victim, done) in victims.iter().zip(by_cookie::destroy(&victims)) {
        match done {
            Ok(true) => outcome.destroyed += 1,
            Ok(false) => outcome.skipped.gone += 1,
            Err(errno) => outcome.add_failure(tuple(victim), errno),
        }
    }
    outcome.add_finished(Finished {
        engine: EngineName::Iter,
        because: FinishReason::NoExactId,
        victims: victims.len() as u64,
        destroyed: outcome.destroyed - before,
        ns: nanos(start.elapsed()),
    });
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

    fn unreached(victim: &Victim) -> Self {
        Self { victim: *victim, errno: NOTHING_LEADS_THERE }
    }

    fn is_unreached(&self) -> bool {
        self.errno == NOTHING_LEADS_THERE
    }

    fn fail(&self, outcome: &mut Outcome) {
        if self.is_unreached() {
            outcome.incomplete.insert(Incomplete::NetnsUnreachable);
        }
        outcome.add_failure(tuple(&self.victim), self.errno);
    }

    fn unanswered(victim: &Victim) -> Self {
        Self { victim: *victim, errno: libc::ENOBUFS }
    }
}

fn fail(outcome: &mut Outcome, victims: &[Victim], errno: i32) {
    for victim in victims {
        outcome.add_failure(tuple(victim), errno);
    }
}
