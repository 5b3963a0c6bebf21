//! The result of an engine.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::engine::EngineName;
use crate::errno::{errno_name, errno_reason};
use crate::socket::SocketTuple;
use crate::timing::Phases;

/// Maximum number of failed sockets that a report lists one by one; all of them are counted by
/// errno.
pub const MAX_FAILURES_LISTED: usize = 64;

/// Visited sockets that were not destroyed, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Skipped {
    /// Sent to the backend without connecting to it; preserved by policy.
    pub unconnected: u64,
    /// Connected to another peer now.
    pub moved_on: u64,
    /// Recorded by `connect()` but without a peer now: the connect is in flight or failed, the
    /// socket was disconnected (`AF_UNSPEC`), or it was destroyed before. Also a sender that was
    /// already a victim of the same event, for another of its backends.
    pub no_peer: u64,
    /// In a TCP state that cannot be destroyed (CLOSE, TIME_WAIT).
    pub state: u64,
    /// A node whose socket no longer exists. Anything but 0 is an alarm: the index missed a close.
    pub stale: u64,
    /// Chosen as a victim, but closed by its owner before the destroy reached it.
    pub gone: u64,
    /// Connected to the same link-local address on another link, or not known on which. Left out when 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub other_link: u64,
    /// The kernel's own (an NFS or CIFS mount, say): nothing can be told to its owner, and no engine
    /// destroys it. The subflows of MPTCP, which belong to a program's socket, are victims instead.
    /// Left out when 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub kernel: u64,
    /// Found by a scan: the server's side of a TCP connection, which a listener has made. The index
    /// does not know such sockets, and no engine destroys them.
    #[serde(default)]
    pub accepted: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Skipped {
    /// All of them together, saturating.
    pub fn total(&self) -> u64 {
        [
            self.unconnected,
            self.moved_on,
            self.no_peer,
            self.state,
            self.stale,
            self.gone,
            self.other_link,
            self.kernel,
            self.accepted,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }
}

/// Why an engine cannot claim to have found every socket of the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Incomplete {
    /// The index was full when a socket should have been added, and no scan has finished the event.
    IndexFull,
    /// An unconnected socket sent to more peers than its record holds, or found no room in the
    /// index. A scan cannot find it either, since the kernel does not remember its destinations.
    WideUnconnected,
    /// A network namespace could not be entered or queried; its sockets were not checked.
    NetnsUnreachable,
    /// The kernel's tables of sockets could not be read, so a dump of them could not be confirmed;
    /// some sockets may be missing from it.
    DumpInterrupted,
    /// The event had more victims than the limit, and destroyed none.
    Refused,
    /// The engine could not work at all; the report's `error` gives the reason.
    EngineFailed,
    /// It is unknown whether the hooks see translated addresses, and no scan has finished the
    /// event; sockets may be recorded under a virtual address.
    HookOrder,
    /// The index may lack sockets of any backend, and no scan has finished the event: the search
    /// for sockets older than the hooks was incomplete, or a hook was detached for a while.
    IndexUnsure,
    /// The kernel's own sockets are connected to the backend, and were not destroyed or could not be
    /// looked for.
    KernelSockets,
    /// A scan came to a socket whose owner held its lock for so long that the scan was given up;
    /// the sockets behind it were not checked.
    SocketLocked,
}

impl Incomplete {
    /// Every reason.
    pub const ALL: [Self; 10] = [
        Self::IndexFull,
        Self::WideUnconnected,
        Self::NetnsUnreachable,
        Self::DumpInterrupted,
        Self::Refused,
        Self::EngineFailed,
        Self::HookOrder,
        Self::IndexUnsure,
        Self::KernelSockets,
        Self::SocketLocked,
    ];

    /// Name in kebab case, for example `index-full`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::IndexFull => "index-full",
            Self::WideUnconnected => "wide-unconnected",
            Self::NetnsUnreachable => "netns-unreachable",
            Self::DumpInterrupted => "dump-interrupted",
            Self::Refused => "refused",
            Self::EngineFailed => "engine-failed",
            Self::HookOrder => "hook-order",
            Self::IndexUnsure => "index-unsure",
            Self::KernelSockets => "kernel-sockets",
            Self::SocketLocked => "socket-locked",
        }
    }
}

impl fmt::Display for Incomplete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Reason why a second engine had to finish an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FinishReason {
    /// The index does not hold every socket of the backend: a full scan finds the rest.
    IndexFull,
    /// The index may lack sockets of any backend: a full scan finds the rest.
    IndexUnsure,
    /// Sockets may be recorded under a virtual address: a full scan finds them by their peer.
    HookOrder,
    /// Sockets that differ only in their cookie (SO_REUSEPORT groups): sock_diag cannot name them,
    /// an iterator can.
    NoExactId,
    /// The kernel's own sockets have connected to the backend, and the index has none of those: a
    /// dump finds them. Its victims are subflows of MPTCP.
    KernelSockets,
}

/// The result of a second engine. Its numbers are part of the totals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Finished {
    /// The engine that finished.
    pub engine: EngineName,
    /// Why it had to.
    pub because: FinishReason,
    /// Victims that it found or was given.
    pub victims: u64,
    /// Those that it destroyed.
    pub destroyed: u64,
    /// Nanoseconds it took; part of the phases.
    pub ns: u64,
}

/// A victim that could not be destroyed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Failure {
    /// The socket.
    pub socket: SocketTuple,
    /// Positive error number.
    pub errno: i32,
    /// Meaning of the number.
    pub reason: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = errno_name(self.errno);
        write!(f, "{}: {name}: {}", self.socket, self.reason)
    }
}

/// Victims that could not be destroyed: all counted, the first [`MAX_FAILURES_LISTED`] listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    total: u64,
    by_errno: BTreeMap<String, u64>,
    sockets: Vec<Failure>,
    left_out: u64,
}

impl Failures {
    /// Counts a failure, and lists it while there is room. The sign of `errno` is ignored.
    pub fn add(&mut self, socket: SocketTuple, errno: i32) {
        self.total = self.total.saturating_add(1);
        let count = self.by_errno.entry(errno_name(errno).into()).or_default();
        *count = count.saturating_add(1);
        if self.sockets.len() < MAX_FAILURES_LISTED {
            self.sockets.push(Failure {
                socket,
                errno: errno.saturating_abs(),
                reason: errno_reason(errno).to_owned(),
            });
        } else {
            self.left_out = self.left_out.saturating_add(1);
        }
    }

    /// Adds the failures of another walk of the same event.
    pub fn merge(&mut self, other: Self) {
        self.total = self.total.saturating_add(other.total);
        for (name, more) in other.by_errno {
            let count = self.by_errno.entry(name).or_default();
            *count = count.saturating_add(more);
        }
        self.left_out = self.left_out.saturating_add(other.left_out);
        for failure in other.sockets {
            if self.sockets.len() < MAX_FAILURES_LISTED {
                self.sockets.push(failure);
            } else {
                self.left_out = self.left_out.saturating_add(1);
            }
        }
    }

    /// Takes one failure of this socket back: it came to something else after all. False if there is none.
    pub fn take_back(&mut self, cookie: u64, errno: i32) -> bool {
        let name = errno_name(errno);
        let Some(count) = self.by_errno.get_mut(name.as_ref()) else {
            return false;
        };
        let listed = |failure: &Failure| failure.socket.cookie == cookie && failure.errno == errno;
        match self.sockets.iter().position(listed) {
            Some(at) => drop(self.sockets.remove(at)),
            None if self.left_out > 0 => self.left_out -= 1,
            None => return false,
        }
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.by_errno.remove(name.as_ref());
        }
        self.total = self.total.saturating_sub(1);
        true
    }

    /// How many victims could not be destroyed.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// How many, by the name of the error (`ENOENT`).
    pub const fn by_errno(&self) -> &BTreeMap<String, u64> {
        &self.by_errno
    }

    /// The first of them, at most [`MAX_FAILURES_LISTED`].
    pub fn sockets(&self) -> &[Failure] {
        &self.sockets
    }

    /// The same, for adding whose they are.
    pub fn sockets_mut(&mut self) -> impl Iterator<Item = &mut SocketTuple> {
        self.sockets.iter_mut().map(|failure| &mut failure.socket)
    }

    /// How many are counted but not listed.
    pub const fn left_out(&self) -> u64 {
        self.left_out
    }
}

/// The result of an engine for one target.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    pub finished: Vec<Finished>,
    /// Repeated walks because a `connect()` was under way.
    pub rechecks: u64,
    /// Sockets that still had no peer, or another one, when the wait for their connect ended.
    pub pending: u64,
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
            finished: Vec::new(),
            rechecks: 0,
            pending: 0,
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
    pub fn add_finished(&mut self, more: Finished) {
        let same = |f: &&mut Finished| f.engine == more.engine && f.because == more.because;
        match self.finished.iter_mut().find(same) {
            Some(f) => {
                f.victims = f.victims.saturating_add(more.victims);
                f.destroyed = f.destroyed.saturating_add(more.destroyed);
                f.ns = f.ns.saturating_add(more.ns);
            }
            None => self.finished.push(more),
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
            (&mut skipped.kernel, more.kernel),
            (&mut skipped.accepted, more.accepted),
            (&mut self.rechecks, other.rechecks),
            (&mut self.pending, other.pending),
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
        other.finished.into_iter().for_each(|f| self.add_finished(f));
        if let Some(listed) = other.victims_listed {
            self.victims_listed.get_or_insert_default().extend(listed);
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
        let forgotten = self.failed.total.saturating_sub(self.failed_portless.total);
        self.failed = self.failed_portless.clone();
        self.victims = self.victims.saturating_sub(forgotten);
        self.visited = self.visited.saturating_sub(forgotten);
    }

    /// Nothing was missed and nothing failed, so this result also answers another request for the
    /// same backend.
    pub fn is_clean(&self) -> bool {
        self.is_complete() && self.failed.total == 0 && self.pending == 0
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
        let failed = self.failed.total;
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

    #[test]
    fn skipped_total_counts_every_reason_once() {
        let skipped = Skipped {
            unconnected: 1,
            moved_on: 10,
            no_peer: 100,
            state: 1_000,
            stale: 10_000,
            gone: 100_000,
            other_link: 1_000_000,
            kernel: 10_000_000,
            accepted: 100_000_000,
        };
        assert_eq!(skipped.total(), 111_111_111);
        assert_eq!(Skipped::default().total(), 0);
    }

    #[test]
    fn incomplete_names_agree() {
        for why in Incomplete::ALL {
            assert_eq!(serde_json::to_string(&why).unwrap(), format!("\"{why}\""));
        }
    }

    #[test]
    fn failures_are_all_counted_and_the_first_are_listed() {
        let mut failures = Failures::default();
        for cookie in 0..100 {
            failures.add(a_socket(cookie), if cookie % 4 == 0 { -95 } else { 2 });
        }
        assert_eq!(failures.total(), 100);
        assert_eq!(failures.by_errno()["EOPNOTSUPP"], 25);
        assert_eq!(failures.by_errno()["ENOENT"], 75);
        assert_eq!(failures.by_errno().len(), 2);
        assert_eq!(failures.sockets().len(), 64);
        assert_eq!(failures.left_out(), 36);
        assert_eq!(failures.sockets()[0].errno, 95);
        assert_eq!(failures.sockets()[63].socket.cookie, 63);
        assert_eq!(
            failures.sockets()[1].to_string(),
            "udp 10.0.0.2:4000 -> 10.0.0.1:53 cookie 1 netns 12: ENOENT: \
             no socket has exactly this id now (closed, or in state CLOSE)"
        );

        let mut both = Failures::default();
        both.add(a_socket(1000), 1);
        both.merge(failures);
        assert_eq!(both.total(), 101);
        assert_eq!(both.sockets().len(), 64);
        assert_eq!(both.left_out(), 37);
        assert_eq!(both.by_errno()["EPERM"], 1);
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
        let finished = |victims, destroyed| Finished {
            engine: EngineName::Iter,
            because: FinishReason::IndexFull,
            victims,
            destroyed,
            ns: 5,
        };
        let mut all = outcome();
        let mut other = outcome();
        other.add_finished(finished(3, 2));
        all.add_backend(other.clone());
        assert_eq!(all.balanced(false), Ok(()));
        assert_eq!((all.visited, all.victims, all.destroyed, all.failed.total), (46, 32, 24, 6));
        assert_eq!((all.skipped.total(), all.skipped.gone), (16, 2));
        assert_eq!((all.walk_ns, all.destroy_ns), (400, 600));

        // A further pass: its victims only.
        all.add_victims(other);
        assert_eq!(all.balanced(false), Ok(()));
        assert_eq!((all.visited, all.victims, all.skipped.total(), all.skipped.gone), (62, 48, 17, 3));
        assert_eq!(all.finished, [finished(6, 4)].map(|f| Finished { ns: 10, ..f }));
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
