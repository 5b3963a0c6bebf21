//! Staying the first program on each hook, where frontends are recorded.
//!
//! What our first program notes is the address that the client named, unless another program has
//! translated it before. The order is looked at as for the last place (`hook_order.rs`). Each look
//! that finds ours first begins a new *epoch*, which the hooks store with what they record. When a
//! look finds that anything was attached or detached since the one before, all frontends that were
//! recorded since may be wrong: the pass over the index forgets them. While ours is not first, the
//! hooks record none.

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use skreap_bpf::attach_order::{Hook, HookRevision, Program, parent};
use skreap_bpf::hooks::Hooks;
use skreap_bpf::{Frontends, Index};

use crate::observe::status::FirstStatus;
use crate::sys::objects;

/// Keeps the first programs first, and the frontends right when they were not.
#[derive(Debug)]
pub(super) struct FirstKeeper {
    frontends: Arc<Frontends>,
    /// The cgroups above, as far as they are visible: a program there may run before ours.
    above: Vec<OwnedFd>,
    /// Theirs, hook by hook, when ours was last seen first.
    revisions: Vec<Option<HookRevision>>,
    epoch: u32,
    /// What was recorded in this epoch and later is still to be forgotten.
    doubtful: Option<u32>,
    /// The log has it that ours is not first.
    told: bool,
    status: FirstStatus,
}

impl FirstKeeper {
    /// For hooks that have just been attached to the cgroup; `None` if no frontends are recorded.
    pub(super) fn new(index: &Index, cgroup: &File) -> Result<Option<Self>, skreap_bpf::Error> {
        let Some(frontends) = index.frontends() else {
            return Ok(None);
        };
        Ok(Some(Self {
            // Of pinned hooks: nobody has looked at the order since the process before has ended.
            epoch: frontends.last_epoch()?,
            frontends: Arc::clone(frontends),
            above: above(cgroup.as_fd()),
            revisions: Vec::new(),
            doubtful: None,
            told: false,
            status: FirstStatus::default(),
        }))
    }

    pub(super) fn status(&self) -> FirstStatus {
        self.status
    }

    /// Whether anything was attached or detached above the cgroup since ours was seen first.
    pub(super) fn changed(&self) -> bool {
        let now = self.revisions_now();
        now.len() != self.revisions.len()
            || now.iter().zip(&self.revisions).any(|(now, seen)| match (seen, now) {
                (Some(seen), Some(now)) => !seen.holds(now),
                (None, None) => false,
                _ => true,
            })
    }

    /// What was recorded since the last look may be wrong. That look was taken in the epoch before the
    /// one that it has begun.
    pub(super) fn doubt(&mut self) {
        if self.epoch > 0 {
            let since = self.epoch.saturating_sub(1).max(1);
            self.doubtful = Some(self.doubtful.map_or(since, |before| before.min(since)));
        }
    }

    /// Becomes first where another program runs before ours. Returns whether it was tried.
    pub(super) fn put_first(&mut self, hooks: &mut Hooks, index: &Index, cgroup: &File) -> bool {
        let mut tried = false;
        for hook in Hook::ALL {
            // Only what is attached to the same cgroup can be overtaken, but that does not show.
            let Ok(before) = before(hooks, cgroup, hook) else {
                continue;
            };
            if before.is_empty() {
                continue;
            }
            tried = true;
            let moved = objects::become_first(hooks, index, hook, cgroup.as_fd());
            match moved {
                Ok(()) => {
                    self.status.moves += 1;
                    tracing::warn!(%hook, before = %listed(before.iter()),
                        "a program was attached before the first of ours: ours was attached before it");
                }
                Err(e) => tracing::warn!(%hook, "cannot move before the first program: {e}"),
            }
        }
        tried
    }

    /// Looks whether ours is first everywhere; if not, no frontends are recorded from now on.
    pub(super) fn look(&mut self, hooks: &Hooks, cgroup: &File) -> Result<(), skreap_bpf::Error> {
        // The revisions first: a later change is seen the next time.
        self.revisions = self.revisions_now();
        let mut first = true;
        for hook in Hook::ALL {
            let why = match before(hooks, cgroup, hook) {
                Ok(before) if before.is_empty() => continue,
                Ok(before) => format!("{} runs before ours", listed(before.iter())),
                Err(why) => why,
            };
            first = false;
            if !self.told {
                tracing::warn!(%hook, "frontends are not recorded: {why}");
            }
        }
        if first && self.told {
            tracing::info!("frontends are recorded again");
        }
        self.told = !first;
        self.status.first = first;
        if first { Ok(()) } else { self.frontends.set_epoch(0) }
    }

    /// The epoch from which on frontends have to be forgotten, if any.
    pub(super) fn doubtful(&self) -> Option<u32> {
        self.doubtful
    }

    /// The pass over the index is done.
    pub(super) fn forgotten(&mut self) {
        self.doubtful = None;
    }

    /// The order was looked at just now: what is recorded from now on belongs to another epoch.
    pub(super) fn begin_epoch(&mut self) -> Result<(), skreap_bpf::Error> {
        if !self.status.first || self.doubtful.is_some() {
            return Ok(());
        }
        self.epoch = self.epoch.checked_add(1).unwrap_or(1);
        self.frontends.set_epoch(self.epoch)
    }

    fn revisions_now(&self) -> Vec<Option<HookRevision>> {
        let hooks = |cgroup| Hook::ALL.into_iter().map(move |hook| (cgroup, hook));
        let all = self.above.iter().flat_map(hooks);
        all.map(|(cgroup, hook)| HookRevision::take(cgroup.as_fd(), hook, false).ok()).collect()
    }
}

/// The programs of others before ours, or why that is not known.
fn before(hooks: &Hooks, cgroup: &File, hook: Hook) -> Result<Vec<Program>, String> {
    match objects::before_first(hooks, hook, cgroup.as_fd()) {
        Ok(Some(before)) => Ok(before),
        Ok(None) => Err("our first program was detached; restart the service".to_owned()),
        Err(e) => Err(format!("the order of the programs cannot be read: {e}")),
    }
}

/// The cgroups above this one.
fn above(cgroup: BorrowedFd<'_>) -> Vec<OwnedFd> {
    let mut above = Vec::new();
    let mut next = parent(cgroup);
    while let Ok(cgroup) = next {
        // The directory that the hierarchy is mounted in is none.
        if HookRevision::take(cgroup.as_fd(), Hook::Connect4, false).is_err() {
            break;
        }
        next = parent(cgroup.as_fd());
        above.push(cgroup);
    }
    above
}

/// Programs, as the log names them.
pub(super) fn listed<'a>(programs: impl Iterator<Item = &'a Program>) -> String {
    programs.map(Program::to_string).collect::<Vec<_>>().join(", ")
}
