//! Netns that are unreachable because they are being torn down.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use super::{NetnsId, all};
use crate::sys::rcu;

/// Time for which an unreachable netns may exist without losing a reference: the last process
/// closes its sockets after it has left the netns. One grace period is added, because a closed
/// socket keeps its netns for that long.
const STEADY: Duration = Duration::from_millis(200);
/// How long at all: an event waits for this.
const MAX: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(2);

struct Dying {
    id: NetnsId,
    /// Lowest reference count seen so far.
    references: u32,
    since: Instant,
    /// A grace period has also passed.
    grace_passed: bool,
}

impl Dying {
    /// False if it is gone.
    fn look(&mut self, references: &HashMap<u64, u32>) -> bool {
        match references.get(&self.id.cookie) {
            Some(&left) if left < self.references => {
                (self.references, self.since, self.grace_passed) = (left, Instant::now(), false);
                true
            }
            left => left.is_some(),
        }
    }
}

/// Waits for all of these together, while any reference count keeps dropping. Returns the netns
/// that still exist, or whose state is unknown: no path leads to them, and something holds them.
pub(crate) fn wait_for_dying(ids: Vec<NetnsId>) -> Vec<NetnsId> {
    let begin = Instant::now();
    let dying = |id| Dying { id, references: u32::MAX, since: begin, grace_passed: false };
    let mut dying: Vec<Dying> = ids.into_iter().map(dying).collect();
    while !dying.is_empty() {
        let Some(list) = all::kernel_list() else {
            break;
        };
        let references = list.iter().map(|netns| (netns.cookie, netns.references)).collect();
        dying.retain_mut(|one| one.look(&references));
        if begin.elapsed() >= MAX || dying.iter().all(|one| one.grace_passed) {
            break;
        }
        if dying.iter().all(|one| one.since.elapsed() >= STEADY) {
            rcu::grace_period_or_pause();
            dying.iter_mut().for_each(|one| one.grace_passed = true);
        } else {
            thread::sleep(STEP);
        }
    }
    dying.into_iter().map(|one| one.id).collect()
}

/// As [`wait_for_dying`]; logs the netns that still exist.
pub(super) fn unreached(ids: Vec<NetnsId>) -> Vec<NetnsId> {
    let there = wait_for_dying(ids);
    for id in &there {
        tracing::warn!(
            cookie = id.cookie,
            inum = id.inum,
            "cannot enter netns: it has no process, name or open descriptor"
        );
    }
    there
}
