//! The result of an engine.

use std::collections::{BTreeSet, HashSet};

use crate::engine::EngineName;
use crate::failures::Failures;
use crate::fallback::FallbackRun;
use crate::incomplete::Incomplete;
use crate::skipped::Skipped;
use crate::socket::SocketTuple;
use crate::timing::Phases;

/// The result of an engine for one target.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "it says whether every socket was destroyed"]
pub struct Outcome {
    /// The engine.
    pub engine: EngineName,
    /// Nodes or sockets that were candidates for the target: for a walk those in the bucket with
    /// its key, for a scan those with its peer.
    pub visited: u64,
    /// Sockets chosen for destruction.
    pub victims: u64,
    /// Victims that were destroyed.
    pub destroyed: u64,
    /// Candidates that were not destroyed, and victims that closed first.
    pub skipped: Skipped,
    /// Victims that could not be destroyed.
    pub failed: Failures,
    /// The victims in `failed` without a local port. They are in none of the kernel's hash tables,
    /// so a scan does not find them. Not part of a report.
    pub failed_portless: Failures,
    /// Reasons why sockets of the backend may have been missed; empty if there are none.
    pub incomplete: BTreeSet<Incomplete>,
    /// Results of other engines; one entry for each engine and reason.
    pub fallbacks: Vec<FallbackRun>,
    /// Repeated walks because a `connect()` was pending.
    pub pending_walks: u64,
    /// Sockets that still had no peer, or another one, when the wait for their connect ended.
    pub pending: u64,
    /// Those of `pending` that are connected to another peer.
    pub pending_elsewhere: u64,
    /// Time spent finding, in nanoseconds.
    pub walk_ns: u64,
    /// Time spent destroying, in nanoseconds; 0 where finding and destroying are one step.
    pub destroy_ns: u64,
    /// The victims, if they were asked for (dry run).
    pub victims_listed: Option<Vec<SocketTuple>>,
}

impl Outcome {
    /// Nothing done yet.
    pub fn new(engine: EngineName) -> Self {
        Self {
            engine,
            visited: 0,
            victims: 0,
            destroyed: 0,
            skipped: Skipped::default(),
            failed: Failures::default(),
            failed_portless: Failures::default(),
            incomplete: BTreeSet::new(),
            fallbacks: Vec::new(),
            pending_walks: 0,
            pending: 0,
            pending_elsewhere: 0,
            walk_ns: 0,
            destroy_ns: 0,
            victims_listed: None,
        }
    }

    /// Counts and lists a victim that could not be destroyed. The sign of `errno` is ignored.
    ///
    /// A victim that its owner closed first is not a failure: count it in `skipped.gone` instead.
    pub fn add_failure(&mut self, socket: SocketTuple, errno: i32) {
        if socket.sport == 0 {
            self.failed_portless.add(socket.clone(), errno);
        }
        self.failed.add(socket, errno);
    }

    /// Takes the failure of a victim back, which is to be counted as something else then. Where there is none, a later
    /// pass has taken it back already: it is a victim again.
    pub fn take_back(&mut self, cookie: u64, errno: i32) {
        self.failed_portless.take_back(cookie, errno);
        if !self.failed.take_back(cookie, errno) {
            self.victims = self.victims.saturating_add(1);
            self.visited = self.visited.saturating_add(1);
        }
    }

    /// Adds the result of another engine, and keeps one entry for each engine and reason.
    pub fn add_fallback(&mut self, more: FallbackRun) {
        let same = |f: &&mut FallbackRun| f.engine == more.engine && f.because == more.because;
        match self.fallbacks.iter_mut().find(same) {
            Some(f) => {
                f.victims = f.victims.saturating_add(more.victims);
                f.destroyed = f.destroyed.saturating_add(more.destroyed);
                f.ns = f.ns.saturating_add(more.ns);
            }
            None => self.fallbacks.push(more),
        }
    }

    /// Adds the result for another backend of the same event. The engine stays that of `self`.
    pub fn add_backend(&mut self, other: Self) {
        let (skipped, more) = (&mut self.skipped, other.skipped);
        for (sum, n) in [
            (&mut self.visited, other.visited - other.victims.min(other.visited)),
            (&mut skipped.unconnected, more.unconnected),
            (&mut skipped.moved_on, more.moved_on),
            (&mut skipped.no_peer, more.no_peer),
            (&mut skipped.state, more.state),
            (&mut skipped.stale, more.stale),
            (&mut skipped.other_link, more.other_link),
            (&mut skipped.frontend, more.frontend),
            (&mut skipped.frontend_unknown, more.frontend_unknown),
            (&mut skipped.not_selected, more.not_selected),
            (&mut skipped.spared, more.spared),
            (&mut skipped.kernel, more.kernel),
            (&mut skipped.accepted, more.accepted),
            (&mut self.pending_walks, other.pending_walks),
            (&mut self.pending, other.pending),
            (&mut self.pending_elsewhere, other.pending_elsewhere),
        ] {
            *sum = sum.saturating_add(n);
        }
        self.add_victims(other);
    }

    /// Counts nodes without their socket that a walk other than the engine's has found.
    pub fn add_stale(&mut self, stale: u64) {
        self.visited = self.visited.saturating_add(stale);
        self.skipped.stale = self.skipped.stale.saturating_add(stale);
    }

    /// Counts sockets of the kernel's own that are connected to the backend and stay so.
    pub fn add_kernel(&mut self, kernel: u64) {
        self.visited = self.visited.saturating_add(kernel);
        self.skipped.kernel = self.skipped.kernel.saturating_add(kernel);
        self.incomplete.insert(Incomplete::KernelSockets);
    }

    /// Adds the result of a further pass over the same backend: its victims, but not the sockets
    /// that it skipped, which the first pass has counted.
    pub fn add_victims(&mut self, other: Self) {
        for (sum, n) in [
            (&mut self.visited, other.victims),
            (&mut self.victims, other.victims),
            (&mut self.destroyed, other.destroyed),
            (&mut self.skipped.gone, other.skipped.gone),
            (&mut self.walk_ns, other.walk_ns),
            (&mut self.destroy_ns, other.destroy_ns),
        ] {
            *sum = sum.saturating_add(n);
        }
        self.failed.merge(other.failed);
        self.failed_portless.merge(other.failed_portless);
        self.incomplete.extend(other.incomplete);
        other.fallbacks.into_iter().for_each(|f| self.add_fallback(f));
        if let Some(listed) = other.victims_listed {
            self.victims_listed.get_or_insert_default().extend(listed);
        }
    }

    /// Adds the sockets that a later pass over the same nodes has left alone beyond those counted so far, as they are not
    /// what the event means: some have connected since.
    pub fn note_left_alone(&mut self, later: &Skipped) {
        let skipped = &mut self.skipped;
        for (counted, now) in [
            (&mut skipped.frontend, later.frontend),
            (&mut skipped.frontend_unknown, later.frontend_unknown),
            (&mut skipped.not_selected, later.not_selected),
        ] {
            let more = now.saturating_sub(*counted);
            *counted = counted.saturating_add(more);
            self.visited = self.visited.saturating_add(more);
        }
    }

    /// Removes the victims that could not be destroyed: another pass over the same nodes has found
    /// those that are left.
    pub fn forget_failures(&mut self) {
        self.failed_portless = Failures::default();
        self.forget_failures_of_scan();
    }

    /// As [`forget_failures`](Self::forget_failures), for a pass over the kernel's hash tables,
    /// which do not contain sockets without a local port.
    pub fn forget_failures_of_scan(&mut self) {
        let forgotten = self.failed.total().saturating_sub(self.failed_portless.total());
        self.failed = self.failed_portless.clone();
        self.victims = self.victims.saturating_sub(forgotten);
        self.visited = self.visited.saturating_sub(forgotten);
    }

    /// Takes back the failures that a later pass lists too: that pass has not seen everything, but it has met these
    /// sockets, and counts them. Failures that are not listed on both sides stay.
    pub fn forget_failures_of(&mut self, later: &Failures) {
        let met: HashSet<u64> = later.sockets().iter().map(|failure| failure.socket.cookie).collect();
        let listed = self.failed.sockets().iter().map(|failure| (failure.socket.cookie, failure.errno));
        let again: Vec<(u64, i32)> = listed.filter(|(cookie, _)| met.contains(cookie)).collect();
        for (cookie, errno) in again {
            if self.failed.take_back(cookie, errno) {
                self.victims = self.victims.saturating_sub(1);
                self.visited = self.visited.saturating_sub(1);
            }
        }
    }

    /// Nothing was missed and nothing failed, so this result also answers another request for the
    /// same backend.
    pub fn is_clean(&self) -> bool {
        self.is_complete() && self.failed.total() == 0 && self.pending == 0
    }

    /// Every socket of the backend was visited. Some may still have failed.
    pub fn is_complete(&self) -> bool {
        self.incomplete.is_empty()
    }

    /// The phases of an event that took `queue_ns` to reach the engine and `total_ns` in all.
    pub fn phases(&self, queue_ns: u64, total_ns: u64) -> Phases {
        let measured =
            Phases { queue_ns, walk_ns: self.walk_ns, destroy_ns: self.destroy_ns, ..Phases::default() };
        measured.closed(total_ns)
    }

    /// Checks that every visited socket is accounted for exactly once.
    ///
    /// # Errors
    /// The first [`Imbalance`], with the numbers. It is a bug in the engine that produced the
    /// outcome.
    pub fn balanced(&self, dry_run: bool) -> Result<(), Imbalance> {
        let failed = self.failed.total();
        let gone = self.skipped.gone;
        // u128: sums of counters must not wrap into agreement.
        let [visited, victims, destroyed, failed_w, gone_w] =
            [self.visited, self.victims, self.destroyed, failed, gone].map(u128::from);
        let skipped = self.skipped.total();
        if visited + gone_w != victims + u128::from(skipped) {
            return Err(Imbalance::Visited {
                visited: self.visited,
                victims: self.victims,
                skipped: skipped.saturating_sub(gone),
            });
        }
        if dry_run {
            if self.destroyed != 0 || failed != 0 {
                return Err(Imbalance::DryRun { destroyed: self.destroyed, failed });
            }
        } else if victims != destroyed + failed_w + gone_w {
            return Err(Imbalance::Victims {
                victims: self.victims,
                destroyed: self.destroyed,
                failed,
                gone,
            });
        }
        Ok(())
    }
}

/// Counters of an [`Outcome`] that do not add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Imbalance {
    /// `visited` is not `victims` plus the skipped ones that were never victims.
    #[error("visited {visited} is not victims {victims} + skipped without gone {skipped}")]
    Visited {
        /// Candidates.
        visited: u64,
        /// Chosen ones.
        victims: u64,
        /// Skipped ones, `gone` not counted.
        skipped: u64,
    },
    /// `victims` is not `destroyed + failed + gone`.
    #[error("victims {victims} is not destroyed {destroyed} + failed {failed} + gone {gone}")]
    Victims {
        /// Chosen ones.
        victims: u64,
        /// Destroyed ones.
        destroyed: u64,
        /// Ones that could not be destroyed.
        failed: u64,
        /// Ones that their owner closed first.
        gone: u64,
    },
    /// A dry run touched sockets.
    #[error("a dry run destroyed {destroyed} sockets and failed to destroy {failed}")]
    DryRun {
        /// Destroyed ones.
        destroyed: u64,
        /// Ones that could not be destroyed.
        failed: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fallback::FallbackReason;
    use crate::strategies::a_socket;

    #[test]
    fn failures_that_another_pass_has_seen_are_taken_back() {
        let mut outcome =
            Outcome { visited: 5, victims: 3, destroyed: 1, ..Outcome::new(EngineName::Netlink) };
        outcome.skipped.moved_on = 2;
        outcome.add_failure(a_socket(1), 12);
        outcome.add_failure(a_socket(2), 12);
        assert_eq!(outcome.balanced(false), Ok(()));
        outcome.forget_failures();
        assert_eq!((outcome.visited, outcome.victims, outcome.failed.total()), (3, 1, 0));
        assert_eq!(outcome.balanced(false), Ok(()));
    }

    #[test]
    fn a_failure_that_comes_to_something_is_counted_as_that() {
        let mut outcome = Outcome { visited: 70, victims: 70, ..Outcome::new(EngineName::Netlink) };
        (0..70).for_each(|n| outcome.add_failure(a_socket(n), if n == 3 { 1 } else { 110 }));
        // One that is listed, one that is not, one that failed otherwise, one that a later pass has not met again.
        for (cookie, total) in [(5, 69), (68, 68), (3, 67)] {
            outcome.take_back(cookie, if cookie == 3 { 1 } else { 110 });
            outcome.destroyed += 1;
            assert_eq!((outcome.failed.total(), outcome.balanced(false)), (total, Ok(())));
        }
        assert_eq!(outcome.failed.by_errno().iter().collect::<Vec<_>>(), [(&"ETIMEDOUT".to_owned(), &67)]);
        assert_eq!((outcome.failed.sockets().len(), outcome.failed.left_out()), (62, 5));
        let mut forgotten = Outcome::new(EngineName::Netlink);
        forgotten.take_back(5, 110);
        forgotten.destroyed += 1;
        assert_eq!((forgotten.victims, forgotten.visited, forgotten.balanced(false)), (1, 1, Ok(())));
    }

    #[test]
    fn a_pass_that_has_not_seen_everything_takes_back_what_it_lists() {
        let mut outcome =
            Outcome { visited: 4, victims: 4, destroyed: 1, ..Outcome::new(EngineName::Netlink) };
        for (cookie, errno) in [(1, 110), (2, 110), (3, 12)] {
            outcome.add_failure(a_socket(cookie), errno);
        }
        let mut later = Outcome { visited: 2, victims: 2, ..Outcome::new(EngineName::Diag) };
        // The same socket with the same error, and one with another error. The third was not met.
        later.add_failure(a_socket(2), 110);
        later.add_failure(a_socket(3), 110);
        outcome.forget_failures_of(&later.failed);
        assert_eq!((outcome.visited, outcome.victims, outcome.failed.total()), (2, 2, 1));
        assert_eq!(outcome.failed.sockets()[0].socket.cookie, 1);
        outcome.add_victims(later);
        assert_eq!((outcome.visited, outcome.victims, outcome.failed.total()), (4, 4, 3));
        assert_eq!(outcome.balanced(false), Ok(()));
    }

    #[test]
    fn a_scan_takes_back_no_failure_that_it_cannot_see() {
        let mut outcome = Outcome { visited: 70, victims: 70, ..Outcome::new(EngineName::Netlink) };
        for n in 0..70 {
            let sport = if n % 10 == 0 { 0 } else { 4000 };
            outcome.add_failure(SocketTuple { sport, ..a_socket(n) }, if n == 0 { 12 } else { 2 });
        }
        assert_eq!((outcome.failed.total(), outcome.failed.left_out()), (70, 6));
        outcome.forget_failures_of_scan();
        assert_eq!((outcome.visited, outcome.victims, outcome.failed.total()), (7, 7, 7));
        let by_errno: Vec<_> =
            outcome.failed.by_errno().iter().map(|(name, n)| (name.as_str(), *n)).collect();
        assert_eq!(by_errno, [("ENOENT", 6), ("ENOMEM", 1)]);
        assert_eq!((outcome.failed.sockets().len(), outcome.failed.left_out()), (7, 0));
        assert!(outcome.failed.sockets().iter().all(|failure| failure.socket.sport == 0));
        assert_eq!(outcome.balanced(false), Ok(()));
    }

    /// 23 visited: 7 skipped, 16 victims of which 12 destroyed, 3 failed, 1 gone.
    fn outcome() -> Outcome {
        let mut outcome = Outcome {
            visited: 23,
            victims: 16,
            destroyed: 12,
            skipped: Skipped { unconnected: 4, moved_on: 2, no_peer: 1, gone: 1, ..Skipped::default() },
            walk_ns: 200,
            destroy_ns: 300,
            ..Outcome::new(EngineName::Netlink)
        };
        for cookie in 0..3 {
            outcome.add_failure(a_socket(cookie), 1);
        }
        outcome
    }

    #[test]
    fn balance() {
        assert_eq!(Outcome::new(EngineName::Kfunc).balanced(false), Ok(()));
        assert_eq!(outcome().balanced(false), Ok(()));
        assert_eq!(outcome().balanced(true), Err(Imbalance::DryRun { destroyed: 12, failed: 3 }));

        let mut lost = outcome();
        lost.visited += 1;
        assert_eq!(
            lost.balanced(false).unwrap_err().to_string(),
            "visited 24 is not victims 16 + skipped without gone 7"
        );

        let mut lost = outcome();
        lost.destroyed -= 1;
        assert_eq!(
            lost.balanced(false).unwrap_err().to_string(),
            "victims 16 is not destroyed 11 + failed 3 + gone 1"
        );

        let dry = Outcome { visited: 5, victims: 5, ..Outcome::new(EngineName::Netlink) };
        assert_eq!(dry.balanced(true), Ok(()));
    }

    #[test]
    fn sums_stay_balanced() {
        let fallback = |victims, destroyed| FallbackRun {
            engine: EngineName::Iter,
            because: FallbackReason::IndexFull,
            victims,
            destroyed,
            ns: 5,
        };
        let mut all = outcome();
        let mut other = outcome();
        other.add_fallback(fallback(3, 2));
        all.add_backend(other.clone());
        assert_eq!(all.balanced(false), Ok(()));
        assert_eq!((all.visited, all.victims, all.destroyed, all.failed.total()), (46, 32, 24, 6));
        assert_eq!((all.skipped.total(), all.skipped.gone), (16, 2));
        assert_eq!((all.walk_ns, all.destroy_ns), (400, 600));

        // A further pass: its victims only.
        all.add_victims(other);
        assert_eq!(all.balanced(false), Ok(()));
        assert_eq!((all.visited, all.victims, all.skipped.total(), all.skipped.gone), (62, 48, 17, 3));
        assert_eq!(all.fallbacks, [fallback(6, 4)].map(|f| FallbackRun { ns: 10, ..f }));
        assert!(!all.is_clean() && Outcome::new(EngineName::Iter).is_clean());
    }

    #[test]
    fn balance_does_not_wrap() {
        let huge = Outcome {
            visited: u64::MAX,
            victims: 0,
            destroyed: u64::MAX,
            skipped: Skipped { moved_on: u64::MAX, gone: 1, ..Skipped::default() },
            ..Outcome::new(EngineName::Iter)
        };
        assert!(huge.balanced(false).is_err());
    }

    #[test]
    fn phases_take_walk_and_destroy_from_the_outcome() {
        assert_eq!(
            outcome().phases(100, 650),
            Phases {
                queue_ns: 100,
                walk_ns: 200,
                destroy_ns: 300,
                other_ns: 50,
                total_ns: 650,
                ..Phases::default()
            }
        );
        assert!(outcome().is_complete());
    }
}
