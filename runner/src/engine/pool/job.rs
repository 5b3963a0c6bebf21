//! Victims on their way through one destroyer, and how far it has come.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use parking_lot::{Mutex, MutexGuard};
use skreap_bpf::Victim;

use super::table;
use crate::sys::netns::Way;

/// What is known of one victim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Destroyed.
    Destroyed,
    /// The kernel said why not (positive errno); `ENOENT`: it knows no socket with exactly this id.
    Failed(i32),
    /// Its netns could not be opened (positive errno): `ESTALE` if it is gone, `ESRCH` if nothing leads to it.
    Unreached(i32),
    /// It was asked for, and what came of that was lost.
    Unknown,
    /// Its destroy waits for the lock of a socket, its own if it was destroyed by its id.
    Held,
}

impl Fate {
    /// Of two that were found out for one victim, the one that says more comes first.
    fn rank(self) -> u8 {
        match self {
            Self::Destroyed => 0,
            Self::Failed(errno) if errno != libc::ENOENT => 1,
            Self::Failed(_) => 2,
            Self::Unreached(_) => 3,
            Self::Unknown => 4,
            Self::Held => 5,
        }
    }

    pub(super) fn or(self, other: Self) -> Self {
        if other.rank() < self.rank() { other } else { self }
    }
}

/// How the victims of a job are destroyed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Task {
    /// By their exact ids.
    ById {
        way: Way,
        /// How many of the first victims are in the hands of a destroyer that waits for a lock: the first of them that is
        /// still there is the one that it waits for.
        asked: usize,
    },
    /// By cookie, with an iterator over the sockets of their netns: one netns. An iterator takes the lock of every
    /// socket that it passes.
    ByCookie { way: Way },
}

/// Victims for one destroyer, those of one netns side by side.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) victims: Vec<Victim>,
    pub(super) task: Task,
    progress: Mutex<Progress>,
    /// Of the event, which waits for all of its jobs.
    done: Sender<()>,
}

/// How far the destroyer has come.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) fates: Vec<Option<Fate>>,
    /// In the hands of the kernel now.
    pub(super) batch: Range<usize>,
    /// Since when.
    pub(super) since: Instant,
    thread: libc::pid_t,
    /// The event does not wait for it any more.
    pub(super) given_up: bool,
    /// No destroyer has taken it on, and none is to.
    pub(super) withdrawn: bool,
    pub(super) ended: bool,
}

impl Job {
    pub(super) fn new(victims: Vec<Victim>, task: Task, done: Sender<()>) -> Arc<Self> {
        let progress = Progress {
            fates: vec![None; victims.len()],
            batch: 0..0,
            since: Instant::now(),
            thread: 0,
            given_up: false,
            withdrawn: false,
            ended: false,
        };
        Arc::new(Self { victims, task, progress: Mutex::new(progress), done })
    }

    pub(super) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock()
    }

    /// The calling thread takes it on; false if it is not to any more.
    pub(super) fn take_on(&self) -> bool {
        let mut progress = self.progress.lock();
        progress.thread = table::this_thread();
        progress.since = Instant::now();
        !progress.withdrawn
    }

    /// The kernel is about to be asked for these. False if another destroyer has been given them.
    pub(super) fn begin(&self, batch: Range<usize>) -> bool {
        let mut progress = self.progress.lock();
        if progress.withdrawn || progress.given_up && matches!(self.task, Task::ById { .. }) {
            return false;
        }
        progress.since = Instant::now();
        progress.batch = batch;
        true
    }

    /// Takes the results of the batch. False if the event has given this destroyer up: nothing is taken then, and the results
    /// have to be reported as late.
    pub(super) fn end(&self, fates: &[Fate]) -> bool {
        let mut progress = self.progress.lock();
        if progress.given_up {
            return false;
        }
        progress.note(fates);
        true
    }

    /// What is known of some without having asked the kernel to destroy them.
    pub(super) fn say(&self, range: Range<usize>, fate: Fate) {
        let mut progress = self.progress.lock();
        progress.since = Instant::now();
        for slot in progress.fates.get_mut(range).into_iter().flatten() {
            *slot = Some(fate);
        }
    }

    /// Nothing more comes of it.
    pub(super) fn finish(&self) {
        self.progress.lock().ended = true;
        // An event that has given it up does not listen.
        let _ = self.done.send(());
    }
}

impl Progress {
    /// True if a destroyer has it.
    pub(super) fn is_taken_on(&self) -> bool {
        self.thread != 0
    }

    /// Notes what came of the batch, which is over.
    pub(super) fn note(&mut self, fates: &[Fate]) {
        let batch = std::mem::replace(&mut self.batch, 0..0);
        for (slot, fate) in self.fates.get_mut(batch).into_iter().flatten().zip(fates) {
            *slot = Some(*fate);
        }
        self.since = Instant::now();
    }

    /// True if the destroyer has been at this batch for too long, and does not just lack a CPU.
    pub(super) fn is_stuck(&self, patience: Duration) -> bool {
        !self.ended
            && !self.given_up
            && !self.batch.is_empty()
            && self.since.elapsed() >= patience
            && table::waits_in_kernel(self.thread)
    }
}

#[cfg(test)]
mod tests {
    use super::Fate::{Destroyed, Failed, Held, Unknown, Unreached};

    #[test]
    fn what_says_more_is_kept() {
        let gone = Failed(libc::ENOENT);
        for (a, b, expected) in [
            (Destroyed, gone, Destroyed),
            (Held, gone, gone),
            (Held, Failed(libc::EPERM), Failed(libc::EPERM)),
            (Unknown, Held, Unknown),
            (Unreached(libc::EMFILE), Destroyed, Destroyed),
            (gone, Unknown, gone),
        ] {
            assert_eq!((a.or(b), b.or(a)), (expected, expected));
        }
    }
}
