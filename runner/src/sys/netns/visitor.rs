//! Visiting netns one after the other, each on a thread of its own that may be given up.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use skreap_core::Protocol;

use super::{NetnsId, dying, enter_alone, open_at_once};
use crate::sys::alone::Alone;

/// What came of a visit.
#[derive(Debug)]
pub(crate) enum Visit<T> {
    /// The work was done.
    Done(T),
    /// The netns is gone, and its sockets with it; or nothing leads to it, and [`Visitor::unreachable`] decides which.
    Gone,
    /// The work stood still for too long, as the owner of a socket holds its lock. Its thread goes on alone.
    GivenUp,
    /// The netns could not be entered, or the work has failed. The log says why.
    Failed,
}

/// Runs BPF iterators over sockets: one covers the netns of the thread that makes it, and waits for the lock of each
/// socket that it passes, while the socket's owner holds it.
#[derive(Debug)]
pub(crate) struct Visitor {
    /// Name of the threads.
    thread: &'static str,
    /// What the log says of a visit that has failed.
    cannot: &'static str,
    /// How long the work may be without progress.
    patience: Duration,
    given_up: usize,
    failed: BTreeSet<NetnsId>,
    lost: BTreeSet<NetnsId>,
}

impl Visitor {
    pub(crate) fn new(thread: &'static str, cannot: &'static str, patience: Duration) -> Self {
        Self { thread, cannot, patience, given_up: 0, failed: BTreeSet::new(), lost: BTreeSet::new() }
    }

    /// How many visits were given up.
    pub(crate) fn given_up(&self) -> usize {
        self.given_up
    }

    /// Does the work in this netns, with a descriptor of the iterator.
    pub(crate) fn visit<T: Send + 'static, P: PartialEq>(
        &mut self,
        id: NetnsId,
        protocol: Protocol,
        iterator: impl FnOnce() -> io::Result<OwnedFd>,
        progress: impl FnMut() -> P,
        work: impl FnOnce(OwnedFd) -> io::Result<T> + Send + 'static,
    ) -> Visit<T> {
        let visited = open_at_once(id)
            .and_then(|netns| Ok(vec![netns, iterator()?]))
            .and_then(|kept| Alone::start(self.thread, kept, |kept| run(kept, work)))
            .and_then(|alone| alone.wait(self.patience, progress).transpose());
        match visited {
            Ok(Some(done)) => Visit::Done(done),
            Ok(None) => {
                self.warn(id, protocol, "the owner of a socket holds its lock; given up");
                self.given_up += 1;
                Visit::GivenUp
            }
            Err(e) if e.raw_os_error() == Some(libc::ESTALE) => Visit::Gone,
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {
                self.lost.insert(id);
                Visit::Gone
            }
            Err(e) => {
                self.warn(id, protocol, &e.to_string());
                self.failed.insert(id);
                Visit::Failed
            }
        }
    }

    fn warn(&self, id: NetnsId, protocol: Protocol, why: &str) {
        tracing::warn!(cookie = id.cookie, inum = id.inum, %protocol, "{}: {why}", self.cannot);
    }

    /// How many netns could not be entered, or not be read to the end, other than those that are gone and those that were
    /// given up. Waits for those that are being torn down.
    pub(crate) fn unreachable(self) -> usize {
        let Self { mut failed, lost, .. } = self;
        failed.extend(dying::unreached(lost.into_iter().collect()));
        failed.len()
    }
}

fn run<T>(mut kept: Vec<OwnedFd>, work: impl FnOnce(OwnedFd) -> io::Result<T>) -> io::Result<T> {
    let (Some(iterator), Some(netns)) = (kept.pop(), kept.pop()) else {
        return Err(io::ErrorKind::NotFound.into());
    };
    enter_alone(&netns)?;
    drop(netns);
    work(iterator)
}
