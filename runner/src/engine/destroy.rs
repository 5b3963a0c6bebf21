//! Destroying victims by exact id over netlink, for every engine that lists them first.

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

use skreap_bpf::Victim;
use skreap_core::{EngineName, FallbackReason, FallbackRun, Incomplete, Outcome, counted};

use super::named::tuple;
use super::pool::{Fate, Naming, Pool};
use super::{EngineError, EngineOptions, Ledger, Pace, nanos};

/// What [`Fate::Unreached`] says of a netns that is there and that nothing leads to.
const NOTHING_LEADS_THERE: i32 = libc::ESRCH;

/// How many victims the pool gets at a time: more have no advantage, and it makes copies of them.
const TOGETHER: usize = 16_384;

/// Destroys what an engine has found, at the pace that is set.
#[derive(Debug)]
pub(super) struct Destroyer {
    pool: Pool,
    pace: Pace,
}

impl Destroyer {
    /// # Errors
    /// [`EngineError::Io`] if no thread that destroys can be made.
    pub(super) fn new(options: &EngineOptions) -> Result<Self, EngineError> {
        let what = "cannot start a thread that destroys".to_owned();
        options.pool.start().map_err(|source| EngineError::Io { what, source })?;
        Ok(Self { pool: options.pool.clone(), pace: options.pace.clone() })
    }

    /// There may be victims in a moment.
    pub(super) fn get_ready(&self) {
        self.pool.call();
    }

    /// Where what comes of each victim is written down.
    pub(super) fn ledger(&self) -> &Ledger {
        self.pool.ledger()
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
        again: impl FnMut(&mut Vec<Victim>) -> Result<(), EngineError>,
    ) {
        if dry_run {
            outcome.victims_listed = Some(victims.iter().map(tuple).collect());
        } else if !victims.is_empty() {
            let unresolved = self.destroy(victims, outcome);
            self.retry_unresolved(victims, outcome, unresolved, again);
        }
    }

    /// Destroys the victims of several targets together, at no pace. Each has the place of its outcome.
    pub(super) fn finish_all(
        &mut self,
        mut found: Vec<(usize, Victim)>,
        outcomes: &mut [Result<Outcome, EngineError>],
        mut again: impl FnMut(usize, &mut Vec<Victim>) -> Result<(), EngineError>,
    ) {
        found.sort_unstable_by_key(|(_, victim)| victim.netns());
        let mut unresolved: BTreeMap<usize, Vec<Unresolved>> = BTreeMap::new();
        for part in found.chunks(TOGETHER) {
            let start = Instant::now();
            let victims: Vec<Victim> = part.iter().map(|(_, victim)| *victim).collect();
            let fates = self.pool.destroy(&victims, Naming::Ids);
            // All have taken part in it.
            let each_ns = nanos(start.elapsed()) / part.len() as u64;
            for ((at, victim), fate) in part.iter().zip(fates) {
                let Some(Ok(outcome)) = outcomes.get_mut(*at) else { continue };
                outcome.destroy_ns += each_ns;
                if let Some(more) = self.count(outcome, victim, fate) {
                    unresolved.entry(*at).or_default().push(more);
                }
            }
        }
        for (at, unresolved) in unresolved {
            if let Some(Ok(outcome)) = outcomes.get_mut(at) {
                let start = Instant::now();
                self.retry_unresolved(&mut Vec::new(), outcome, unresolved, |victims| again(at, victims));
                outcome.destroy_ns += nanos(start.elapsed());
            }
        }
    }

    /// Destroys the victims; returns those that the kernel could not find, or whose answer was lost.
    fn destroy(&mut self, victims: &mut [Victim], outcome: &mut Outcome) -> Vec<Unresolved> {
        // One message per netns: sockets of one netns side by side.
        victims.sort_unstable_by_key(Victim::netns);
        let mut unresolved = Vec::new();
        for part in victims.chunks(self.pace.batch().min(TOGETHER)) {
            self.pace.before();
            for (victim, fate) in part.iter().zip(self.pool.destroy(part, Naming::Ids)) {
                unresolved.extend(self.count(outcome, victim, fate));
            }
            self.pace.after(part.len() as u64);
        }
        unresolved
    }

    /// "Not found" has two meanings: the owner has closed the socket, or another socket with the
    /// same tuple was found first and has another cookie. A second walk distinguishes the two;
    /// while that makes progress, those that still exist are tried again.
    ///
    /// So has "nothing leads to the netns": nothing that we know to look for does, or its last process is ending, which
    /// closes the sockets after it has left the netns. The pool has waited for that.
    fn retry_unresolved(
        &mut self,
        victims: &mut Vec<Victim>,
        outcome: &mut Outcome,
        mut unresolved: Vec<Unresolved>,
        mut again: impl FnMut(&mut Vec<Victim>) -> Result<(), EngineError>,
    ) {
        while !unresolved.is_empty() {
            victims.clear();
            if let Err(e) = again(victims) {
                tracing::warn!("cannot retry {}: {e}", counted(unresolved.len() as u64, "socket"));
                outcome.incomplete.insert(Incomplete::EngineFailed);
                unresolved.iter().for_each(|u| u.fail(outcome, self.pool.ledger()));
                return;
            }
            let asked: HashSet<u64> = unresolved.iter().map(|u| u.victim.cookie()).collect();
            victims.retain(|v| asked.contains(&v.cookie()));
            let there: HashSet<u64> = victims.iter().map(Victim::cookie).collect();
            for u in unresolved.iter().filter(|u| !there.contains(&u.victim.cookie())) {
                if u.errno == libc::ENOBUFS {
                    // Destroyed by the request whose response was lost. (Or closed in this very
                    // moment: the kernel does not say which.)
                    outcome.destroyed += 1;
                    self.pool.ledger().destroyed(&u.victim);
                } else {
                    outcome.skipped.gone += 1;
                    self.pool.ledger().gone(&u.victim);
                }
            }
            unresolved = self.destroy(victims, outcome);
            if unresolved.len() < there.len() {
                continue;
            }
            let (unreached, not_found): (Vec<_>, Vec<_>) =
                unresolved.into_iter().partition(Unresolved::is_unreached);
            // Without a local port it is in no hash table: neither an id nor an iterator reaches
            // it.
            let (portless, unnamed): (Vec<_>, Vec<_>) =
                not_found.into_iter().partition(|u| u.victim.sport() == 0);
            portless.iter().for_each(|u| u.fail(outcome, self.pool.ledger()));
            self.destroy_by_cookie(outcome, &unnamed);
            if there.len() == asked.len() {
                unreached.iter().for_each(|u| u.fail(outcome, self.pool.ledger()));
                return;
            }
            unresolved = unreached;
        }
    }
}

impl Destroyer {
    /// The last resort for sockets that are there and that no id names: unconnected UDP sockets of one SO_REUSEPORT group
    /// differ in nothing that sock_diag compares before the cookie, so it finds one of them and says *not found* of all
    /// others.
    fn destroy_by_cookie(&self, outcome: &mut Outcome, unresolved: &[Unresolved]) {
        if unresolved.is_empty() {
            return;
        }
        let start = Instant::now();
        let before = outcome.destroyed;
        let mut victims: Vec<Victim> = unresolved.iter().map(|u| u.victim).collect();
        victims.sort_unstable_by_key(Victim::netns);
        for (victim, fate) in victims.iter().zip(self.pool.destroy(&victims, Naming::Cookies)) {
            if let Some(u) = self.count(outcome, victim, fate) {
                u.fail_unnamed(outcome, self.pool.ledger());
            }
        }
        outcome.add_fallback(FallbackRun::new(
            EngineName::Iter,
            FallbackReason::NoExactId,
            victims.len() as u64,
            outcome.destroyed - before,
            nanos(start.elapsed()),
        ));
    }

    /// Counts a victim; returns it if more has to be found out.
    fn count(&self, outcome: &mut Outcome, victim: &Victim, fate: Fate) -> Option<Unresolved> {
        let ledger = self.pool.ledger();
        let mut fail = |errno| {
            outcome.add_failure(tuple(victim), errno);
            ledger.failed(victim, errno);
        };
        match fate {
            Fate::Destroyed => {
                outcome.destroyed += 1;
                ledger.destroyed(victim);
            }
            // The netns is gone, and its sockets with it.
            Fate::Unreached(libc::ESTALE) => {
                outcome.skipped.gone += 1;
                ledger.gone(victim);
            }
            // Before 6.18: nothing leads to it, or not any more, as it is about to go.
            Fate::Unreached(NOTHING_LEADS_THERE) => return Some(Unresolved::unreached(victim)),
            Fate::Unreached(errno) => {
                fail(errno);
                outcome.incomplete.insert(Incomplete::NetnsUnreachable);
            }
            Fate::Failed(libc::ENOENT) => return Some(Unresolved::not_found(victim)),
            Fate::Failed(errno) => fail(errno),
            // The reaper waits for it, and takes this back.
            Fate::Held => fail(libc::ETIMEDOUT),
            Fate::Unknown => return Some(Unresolved::unanswered(victim)),
        }
        None
    }
}

/// A victim of which the kernel has not said whether it is dead.
struct Unresolved {
    victim: Victim,
    errno: i32,
}

impl Unresolved {
    fn not_found(victim: &Victim) -> Self {
        Self { victim: *victim, errno: libc::ENOENT }
    }

    fn unreached(victim: &Victim) -> Self {
        Self { victim: *victim, errno: NOTHING_LEADS_THERE }
    }

    fn is_unreached(&self) -> bool {
        self.errno == NOTHING_LEADS_THERE
    }

    fn fail(&self, outcome: &mut Outcome, ledger: &Ledger) {
        if self.is_unreached() {
            outcome.incomplete.insert(Incomplete::NetnsUnreachable);
        }
        self.fail_unnamed(outcome, ledger);
    }

    fn fail_unnamed(&self, outcome: &mut Outcome, ledger: &Ledger) {
        outcome.add_failure(tuple(&self.victim), self.errno);
        ledger.failed(&self.victim, self.errno);
    }

    fn unanswered(victim: &Victim) -> Self {
        Self { victim: *victim, errno: libc::ENOBUFS }
    }
}
