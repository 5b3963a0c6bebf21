//! Staying the last program on each hook, and the work that is due when we were not last.
//!
//! A load balancer that is attached after the hooks translates the address after they have recorded
//! it. The order is checked before every event and about once a second. If a foreign program runs
//! after ours, ours is attached once more, behind it, and then detached from its old place, so it
//! runs at every moment. Sockets that were recorded under a virtual address meanwhile are then
//! recorded under their live peer (a *re-key*).

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::mem::replace;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use skreap_bpf::attach_order::{Hook, HookRevision, Order};
use skreap_bpf::hooks::{self, Hooks};
use skreap_bpf::{Index, Rekeyed, Rekeyer, Relation};
use skreap_core::{Backend, Unconnected};

use crate::observe::observer::Observer;
use crate::observe::status::OrderStatus;
use crate::sys::{objects, rcu};

use super::first_order::{FirstKeeper, listed};

/// Maximum number of moves of the hooks in [`WINDOW`]. Another agent may also want to be last, and
/// two such agents would do nothing but move.
const MOVES: usize = 8;
/// See [`MOVES`].
const WINDOW: Duration = Duration::from_secs(60);
/// Period in which sockets whose connect may have been pending are checked again before every
/// event. The way from the hook to the peer is a few microseconds of one system call.
const SUSPECT_WINDOW: Duration = Duration::from_secs(2);

/// Keeps the hooks last, and the index right when they were not.
#[derive(Debug)]
pub struct OrderKeeper {
    cgroup: File,
    rekeyer: Rekeyer,
    /// Keeps the first programs, where there are any.
    first: Option<FirstKeeper>,
    /// The revisions of the hooks when the order was last restored.
    revisions: [Option<HookRevision>; Hook::ALL.len()],
    moves: VecDeque<Instant>,
    /// There is a hook that could be moved, but was not.
    waiting: bool,
    /// Sockets that were recorded under another address than their peer's and may still get another
    /// peer.
    suspects: Vec<u64>,
    suspected: Instant,
    /// The order could not be read.
    unreadable: bool,
    /// Of which hooks the log has that already.
    logged: [bool; Hook::ALL.len()],
    /// The log has it that closed sockets stay in the index.
    told_release: bool,
    /// The index was to be looked over, and that has failed.
    unchecked: bool,
    status: OrderStatus,
}

impl OrderKeeper {
    /// For hooks that have just been attached to the cgroup.
    ///
    /// # Errors
    /// [`skreap_bpf::Error::Object`] if the re-key program is missing.
    pub fn new(index: &Index, cgroup: File) -> Result<Self, skreap_bpf::Error> {
        Ok(Self {
            first: FirstKeeper::new(index, &cgroup)?,
            cgroup,
            rekeyer: index.rekeyer()?,
            revisions: [const { None }; Hook::ALL.len()],
            moves: VecDeque::new(),
            waiting: false,
            suspects: Vec::new(),
            suspected: Instant::now(),
            unreadable: false,
            logged: [false; Hook::ALL.len()],
            told_release: false,
            unchecked: false,
            status: OrderStatus::default(),
        })
    }

    /// The position of the hooks, and the work done so far.
    #[must_use]
    pub fn status(&self) -> OrderStatus {
        OrderStatus { first: self.first.as_ref().map(FirstKeeper::status), ..self.status }
    }

    /// Call it before each event, with the hooks that may have recorded its sockets: afterwards each of them is recorded
    /// under its live peer, whatever the order was until now. Returns false, and logs, if that is not certain,
    /// because the order could not be read or the index could not be checked.
    pub fn before_event(&mut self, on: &[Hook], hooks: &mut Hooks, observer: &Observer) -> bool {
        let done = if self.unreadable || self.changed(on, false) {
            self.restore_last(hooks, observer)
        } else if self.unchecked || self.status.behind > 0 {
            self.rekey_moved_on(observer)
        } else if !self.suspects.is_empty() && self.suspected.elapsed() < SUSPECT_WINDOW {
            self.rekey_suspects()
        } else {
            Ok(())
        };
        let done = done.and_then(|()| self.begin_epoch());
        report(done) && !self.unreadable
    }

    /// Call it about once a second: it also sees changes in parent cgroups, and makes the moves
    /// that had to wait.
    pub fn tidy(&mut self, hooks: &mut Hooks, observer: &Observer) {
        self.count_detached(hooks);
        if self.unreadable || self.changed(&Hook::ALL, true) || self.waiting && self.may_move(Instant::now())
        {
            report(self.restore_last(hooks, observer));
        } else if self.unchecked {
            report(self.rekey_moved_on(observer));
        } else if !self.suspects.is_empty() {
            let over = self.suspected.elapsed() >= SUSPECT_WINDOW;
            report(self.rekey_suspects());
            if over {
                self.suspects = Vec::new();
            }
        }
        report(self.begin_epoch());
    }

    /// To be called after each look at the order: see `first_order.rs`.
    fn begin_epoch(&mut self) -> Result<(), skreap_bpf::Error> {
        self.first.as_mut().map_or(Ok(()), FirstKeeper::begin_epoch)
    }

    /// A detached hook is not attached again. Without a connect hook each event has a fallback scan;
    /// without the release hook all events are right, and the index fills up.
    fn count_detached(&mut self, hooks: &Hooks) {
        let detached: Vec<&str> = hooks.detached().collect();
        self.status.detached = detached.len() as u64;
        if detached.contains(&hooks::RELEASE) && !replace(&mut self.told_release, true) {
            tracing::error!(
                hook = hooks::RELEASE,
                "our program was detached: closed sockets stay in the index (with engine kfunc also in the kernel) until it \
                 is full; restart the service"
            );
        }
    }

    /// Whether anything was attached to one of these hooks, or detached, since the order was restored.
    fn changed(&mut self, on: &[Hook], thorough: bool) -> bool {
        if self.first.as_ref().is_some_and(FirstKeeper::changed) {
            return true;
        }
        Hook::ALL.iter().zip(&self.revisions).filter(|(hook, _)| on.contains(hook)).any(|(hook, seen)| {
            let now = HookRevision::take(self.cgroup.as_fd(), *hook, thorough).ok();
            match (seen, now) {
                (Some(seen), Some(now)) => !seen.holds(&now),
                (None, None) => false,
                _ => true,
            }
        })
    }

    fn may_move(&mut self, now: Instant) -> bool {
        while self.moves.front().is_some_and(|moved| now.duration_since(*moved) >= WINDOW) {
            self.moves.pop_front();
        }
        self.moves.len() < MOVES
    }

    /// Becomes last where that can be done, then looks over the index.
    fn restore_last(&mut self, hooks: &mut Hooks, observer: &Observer) -> Result<(), skreap_bpf::Error> {
        let now = Instant::now();
        let may_move = self.may_move(now);
        let (mut tried, mut moved, mut behind, mut waiting, mut unreadable) = (false, false, 0, false, false);
        if let Some(first) = &mut self.first {
            first.doubt();
            // Before the revisions below are read: this changes them.
            tried = may_move && first.put_first(hooks, observer.index(), &self.cgroup);
        }
        for ((hook, revision), logged) in Hook::ALL.into_iter().zip(&mut self.revisions).zip(&mut self.logged)
        {
            // The revision is read first: a later change is seen the next time.
            let mut at = HookRevision::take(self.cgroup.as_fd(), hook, true);
            let mut order = read(hooks, &self.cgroup, hook);
            if may_move
                && let Ok(seen) = &order
                && seen.foreign_after().next().is_some()
            {
                tried = true;
                if become_last(hooks, observer.index(), &self.cgroup, seen) {
                    moved = true;
                    at = HookRevision::take(self.cgroup.as_fd(), hook, true);
                    order = read(hooks, &self.cgroup, hook);
                }
            }
            *revision = at.ok();
            match place(hook, order, logged, observer.index()) {
                Some(order) => {
                    let after = order.foreign_after().next().is_some();
                    waiting |= after;
                    behind += u64::from(after || order.foreign_above().next().is_some());
                    log_foreign(&order, may_move);
                }
                None => unreadable = true,
            }
        }
        if tried {
            self.moves.push_back(now);
        }
        self.status.moves += u64::from(moved);
        self.status.held_back += u64::from(waiting && !may_move);
        self.status.behind = behind;
        self.status.last = behind == 0 && !unreadable;
        self.waiting = waiting;
        self.unreadable = unreadable;
        if let Some(first) = &mut self.first {
            first.look(hooks, &self.cgroup)?;
        }
        // After a grace period every hook that ran in the old order has ended: the kernel runs them
        // in RCU sections.
        rcu::grace_period_or_pause();
        self.rekey_moved_on(observer)
    }

    /// Visits every node and records each socket anew whose live peer is not the one it is recorded
    /// under.
    fn rekey_moved_on(&mut self, observer: &Observer) -> Result<(), skreap_bpf::Error> {
        // Until it has been done: the next event, or tidy(), tries again.
        self.unchecked = true;
        let mut cookies = Vec::new();
        let (mut visited, mut sent) = (0_u64, 0_u64);
        let forget = self.first.as_ref().and_then(FirstKeeper::doubtful);
        observer.walk_all_forgetting(forget, |batch| {
            visited += batch.len() as u64;
            for victim in batch {
                match victim.relation() {
                    // Without a peer, a socket that has also sent shows as unconnected.
                    Relation::MovedOn | Relation::NoPeer | Relation::Unconnected => {
                        cookies.push(victim.cookie())
                    }
                    Relation::Connected | Relation::Stale => {}
                }
            }
        })?;
        if let Some(first) = &mut self.first {
            first.forgotten();
        }
        cookies.sort_unstable();
        cookies.dedup();
        self.suspects.clear();
        self.suspected = Instant::now();
        let before = self.status.rekeyed;
        for cookie in cookies {
            match self.rekeyer.rekey(cookie)? {
                Rekeyed::Added { only } => {
                    self.status.rekeyed += 1;
                    if !only {
                        self.suspects.push(cookie);
                    }
                }
                Rekeyed::Known | Rekeyed::NoPeer => self.suspects.push(cookie),
                Rekeyed::OnlySent => sent += 1,
                Rekeyed::Gone | Rekeyed::NoNode => {}
            }
        }
        let rekeyed = self.status.rekeyed - before;
        self.unchecked = false;
        // Addresses that were only sent to are left out: the kernel does not keep their
        // translation.
        tracing::info!(
            visited,
            rekeyed,
            suspects = self.suspects.len(),
            only_sent = sent,
            "looked over the index"
        );
        Ok(())
    }

    /// Checks the suspects once more. None is dismissed: a pending connect may take effect after
    /// the peer was read.
    fn rekey_suspects(&mut self) -> Result<(), skreap_bpf::Error> {
        let mut failed = Ok(());
        let (rekeyer, rekeyed) = (&self.rekeyer, &mut self.status.rekeyed);
        self.suspects.retain(|cookie| match rekeyer.rekey(*cookie) {
            Ok(Rekeyed::Added { .. }) => {
                *rekeyed += 1;
                true
            }
            Ok(Rekeyed::Known | Rekeyed::NoPeer) => true,
            Ok(Rekeyed::Gone | Rekeyed::NoNode | Rekeyed::OnlySent) => false,
            Err(e) => {
                failed = Err(e);
                true
            }
        });
        failed
    }
}

/// The hooks that may have recorded the sockets of these backends; all of them if none are named. An IPv4 backend
/// is the peer of IPv6 sockets, too, under its mapped address; what only sends is on other hooks than what connects.
pub(crate) fn recorded_on(backends: &[Backend], unconnected: Unconnected) -> &'static [Hook] {
    match backends {
        _ if unconnected == Unconnected::Destroy => &Hook::ALL,
        [] => &Hook::ALL,
        _ if backends.iter().all(|backend| backend.addr().is_ipv6()) => &[Hook::Connect6],
        _ => &[Hook::Connect4, Hook::Connect6],
    }
}

fn read(hooks: &Hooks, cgroup: &File, hook: Hook) -> io::Result<Order> {
    objects::order(hooks, hook, cgroup.as_fd())
}

/// Moves our program behind the foreign ones of its cgroup, and logs it. Returns whether it was moved.
fn become_last(hooks: &mut Hooks, index: &Index, cgroup: &File, seen: &Order) -> bool {
    let hook = seen.hook;
    let done = objects::become_last(hooks, index, hook, cgroup.as_fd());
    match &done {
        Ok(()) => tracing::warn!(%hook, after = %listed(seen.foreign_after()),
            "a program was attached after ours: ours was moved behind it"),
        Err(e) => tracing::warn!(%hook, "cannot move behind the last program: {e}"),
    }
    done.is_ok()
}

/// The order of a hook in which our program is. `None` where it is not, or where that is not known; the log has it
/// once, as `logged` says.
fn place(hook: Hook, order: io::Result<Order>, logged: &mut bool, index: &Index) -> Option<Order> {
    match order {
        Ok(order) if order.ours.is_none() => {
            // No hook has recorded the sockets that have connected since then.
            if let Err(e) = index.incomplete_writer().and_then(|marker| marker.everything()) {
                tracing::error!("events may be incomplete without a report of it: {e}");
            }
            if !replace(logged, true) {
                tracing::error!(%hook, "our program was detached: sockets are no longer recorded; restart the service");
            }
            None
        }
        Ok(order) => {
            *logged = false;
            Some(order)
        }
        Err(e) => {
            if !replace(logged, true) {
                tracing::error!(%hook, "cannot read the order of the programs, each event has a fallback scan: {e}");
            }
            None
        }
    }
}

/// Logs the programs that run after ours, if there are any.
fn log_foreign(order: &Order, may_move: bool) {
    let hook = order.hook;
    if order.foreign_above().next().is_some() {
        tracing::warn!(%hook, after = %listed(order.foreign_above()),
            "programs of a parent cgroup run after ours, so each event takes a pass over the index: attach to the \
             root of cgroup2");
    }
    if order.foreign_after().next().is_some() && !may_move {
        tracing::warn!(%hook, after = %listed(order.foreign_after()), moves = MOVES, seconds = WINDOW.as_secs(),
            "another agent also keeps attaching last: not moved for now, and each event takes a pass over the index");
    }
}

fn report(done: Result<(), skreap_bpf::Error>) -> bool {
    if let Err(e) = &done {
        tracing::error!("cannot check the index after a change of the order of the hooks: {e}");
    }
    done.is_ok()
}

#[cfg(test)]
mod tests {
    use Hook::{Connect4, Connect6, Sendmsg4, Sendmsg6};
    use Unconnected::{Destroy, Preserve};

    use super::*;

    #[test]
    fn only_hooks_that_record_such_sockets_are_asked() {
        let (v4, v6) = ("udp://10.0.0.1:53", "tcp://[fd00::1]:53");
        let all = [Connect4, Connect6, Sendmsg4, Sendmsg6];
        for (backends, unconnected, expected) in [
            (&[v4][..], Preserve, &[Connect4, Connect6][..]),
            (&[v6], Preserve, &[Connect6]),
            (&["udp://[::ffff:10.0.0.1]:53"], Preserve, &[Connect4, Connect6]),
            (&[v6, v4], Preserve, &[Connect4, Connect6]),
            (&[v6], Destroy, &all),
            (&[], Preserve, &all),
        ] {
            let backends: Vec<Backend> = backends.iter().map(|backend| backend.parse().unwrap()).collect();
            assert_eq!(recorded_on(&backends, unconnected), expected, "{backends:?}");
        }
    }
}
