//! Connecting the sockets of other processes: UDP sockets that are to be moved, or revived.
//!
//! The processes that have a socket open are found in one pass over the open files of all processes, and the descriptor is
//! copied (pidfd_getfd). The copy is compared with the cookie, so a descriptor that was closed and used again is never taken for
//! the socket. Then the socket is looked at, connected, and looked at again: if its owner has connected it at the same
//! moment, its owner's choice is put back.
//!
//! To look at a socket and to connect it takes its lock, which its owner may hold for any time. So that is done on a
//! thread that may be given up, as destroyers are; another one does the rest.

mod commands;
mod sources;
mod stuck;
mod threads;
mod wanted;
mod worker;

use std::collections::HashSet;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use skreap_bpf::{CONNECTS_MAX, Connects, Counting, Index, Opener, Openers, Sent, SentLooker};
use skreap_core::Connected;

use super::EngineError;

pub(crate) use commands::Commands;
use threads::Threads;
pub(crate) use wanted::Wanted;
use worker::Task;

/// How long the first socket whose owner holds its lock may hold up all others, and how long each further one of a run.
const PATIENCE: Duration = Duration::from_millis(20);
const NEXT_PATIENCE: Duration = Duration::from_millis(5);
/// Longer than a connect takes from its hook to its effect, unless its thread has to wait for a CPU or for a lock.
const UNDER_WAY: Duration = Duration::from_millis(2);
/// How often it is looked whether another connector is done with a socket.
const BUSY: Duration = Duration::from_millis(1);
/// Connectors of one index: that of the events, and that of the second looks.
const CONNECTORS: usize = 2;
/// Threads of one connector that may wait for locks.
const STUCK_MAX: usize = 16;
/// Sockets that are connected in one go. The count of the next ones is begun meanwhile, and those that a thread waits for
/// take room, too.
const TOGETHER: usize = CONNECTS_MAX / CONNECTORS / 2 - STUCK_MAX;

/// Connects sockets of other processes.
#[derive(Debug)]
pub(crate) struct Connector {
    connects: Connects,
    sent: SentLooker,
    /// Loaded on first use.
    openers: Option<Openers>,
    threads: Threads,
    /// How often the count of connects was begun, and not ended.
    begun: u32,
    /// Those that a thread still waits for. It needs what is counted.
    late: HashSet<u64>,
}

/// Some of what is wanted: its connects are counted.
struct Begun<'a> {
    wanted: &'a [Wanted],
    counting: Counting,
    since: Instant,
}

impl Connector {
    /// # Errors
    /// [`EngineError::Walk`] if the index has no programs for it.
    pub(crate) fn new(index: &Index) -> Result<Self, EngineError> {
        Ok(Self {
            connects: Connects::new(index)?,
            sent: index.sent_looker()?,
            openers: None,
            threads: Threads::default(),
            begun: 0,
            late: HashSet::new(),
        })
    }

    /// Connects these sockets, each once; returns what came of them, in order. Waits for no owner of a socket for long:
    /// one whose owner holds its lock has failed with `ETIMEDOUT`, and is left as it is or connected late.
    ///
    /// # Errors
    /// [`EngineError`] if the programs cannot be loaded or run; nothing was connected then.
    pub(crate) fn run(&mut self, wanted: &[Wanted]) -> Result<Vec<Connected>, EngineError> {
        let mut results = self.pass(wanted)?;
        // Its owner may have given a descriptor another number between the pass and the copy.
        let elsewhere = |i: &usize| self.may_be_elsewhere(&wanted[*i], results[*i]);
        let again: Vec<usize> = (0..wanted.len()).filter(elsewhere).collect();
        if !again.is_empty() {
            let some: Vec<Wanted> = again.iter().map(|i| wanted[*i]).collect();
            match self.pass(&some) {
                Ok(more) => again.into_iter().zip(more).for_each(|(i, result)| results[i] = result),
                Err(e) => tracing::warn!("cannot look again for {} sockets: {e}", some.len()),
            }
        }
        Ok(results)
    }

    /// Nobody had it open where the pass saw it, or anywhere, and it is not closed.
    fn may_be_elsewhere(&self, wanted: &Wanted, result: Connected) -> bool {
        matches!(result, Connected::Closed | Connected::Unreachable)
            && matches!(self.sent.look(wanted.cookie), Ok(Sent::Never | Sent::Perhaps))
    }

    /// Looks once for their owners.
    fn pass(&mut self, wanted: &[Wanted]) -> Result<Vec<Connected>, EngineError> {
        self.let_go();
        let mut parts = wanted.chunks(TOGETHER);
        let mut next = parts.next().map(|part| self.begin(part));
        let found = match self.find(wanted) {
            Ok(found) => found,
            Err(e) => {
                if let Some(Ok(begun)) = next {
                    self.connects.forget(&begun.counting.new);
                }
                self.let_go();
                return Err(e);
            }
        };
        let mut results = Vec::with_capacity(wanted.len());
        while let Some(begun) = next {
            next = parts.next().map(|part| self.begin(part));
            match begun {
                Ok(begun) => results.extend(self.some(begun, &found)),
                Err((count, e)) => {
                    tracing::warn!("cannot connect {count} sockets: {e}");
                    results.extend((0..count).map(|_| Connected::Failed(libc::EIO)));
                }
            }
        }
        self.let_go();
        Ok(results)
    }

    fn find(&mut self, wanted: &[Wanted]) -> Result<Arc<[(u64, Opener)]>, EngineError> {
        let openers = match &mut self.openers {
            Some(openers) => openers,
            none => none.insert(Openers::load()?),
        };
        let cookies: Vec<u64> = wanted.iter().map(|one| one.cookie).collect();
        Ok(openers.find(&cookies)?.into())
    }

    /// Begins to count the connects of these. An error comes with how many they are.
    fn begin<'a>(&mut self, wanted: &'a [Wanted]) -> Result<Begun<'a>, (usize, skreap_bpf::Error)> {
        let cookies: Vec<u64> = wanted.iter().map(|one| one.cookie).collect();
        let counting = self.connects.begin(&cookies).map_err(|e| (wanted.len(), e))?;
        self.begun += u32::from(!counting.new.is_empty());
        Ok(Begun { wanted, counting, since: Instant::now() })
    }

    /// The outcomes of these, in order.
    fn some(&mut self, begun: Begun<'_>, found: &Arc<[(u64, Opener)]>) -> Vec<Connected> {
        let Begun { wanted, counting, since } = begun;
        let mut results = vec![Connected::Unreachable; wanted.len()];
        if counting.busy.is_empty() {
            self.work(wanted, &counting, since, found, &mut results);
            return results;
        }
        let busy: HashSet<u64> = counting.busy.iter().copied().collect();
        let (mut left, mine): (Vec<usize>, Vec<usize>) =
            (0..wanted.len()).partition(|i| busy.contains(&wanted[*i].cookie));
        self.work_on(&mine, wanted, &counting, since, found, &mut results);
        // Another connector has them in hand, or a thread of ours that waits for a lock.
        let until = Instant::now() + PATIENCE;
        loop {
            let (stuck, open): (Vec<usize>, Vec<usize>) =
                left.iter().partition(|i| self.late.contains(&wanted[**i].cookie));
            let over = Instant::now() >= until;
            for i in stuck.iter().chain(open.iter().filter(|_| over)) {
                results[*i] = Connected::Failed(libc::ETIMEDOUT);
            }
            if over || open.is_empty() {
                return results;
            }
            thread::sleep(BUSY);
            left = self.again(open, wanted, found, &mut results);
        }
    }

    /// Does those of these that are not busy any more; returns the others.
    fn again(
        &mut self,
        open: Vec<usize>,
        wanted: &[Wanted],
        found: &Arc<[(u64, Opener)]>,
        results: &mut [Connected],
    ) -> Vec<usize> {
        let some: Vec<Wanted> = open.iter().map(|i| wanted[*i]).collect();
        let Ok(Begun { counting, since, .. }) = self.begin(&some) else {
            return open;
        };
        let new: HashSet<u64> = counting.new.iter().copied().collect();
        let (mine, left): (Vec<usize>, Vec<usize>) =
            open.into_iter().partition(|i| new.contains(&wanted[*i].cookie));
        self.work_on(&mine, wanted, &counting, since, found, results);
        left
    }

    /// As [`work`](Self::work), for those at these places.
    fn work_on(
        &mut self,
        places: &[usize],
        wanted: &[Wanted],
        counting: &Counting,
        since: Instant,
        found: &Arc<[(u64, Opener)]>,
        results: &mut [Connected],
    ) {
        let some: Vec<Wanted> = places.iter().map(|i| wanted[*i]).collect();
        let mut of_some = vec![Connected::Unreachable; some.len()];
        self.work(&some, counting, since, found, &mut of_some);
        for (i, result) in places.iter().zip(of_some) {
            results[*i] = result;
        }
    }

    /// Connects these, which are those whose count was begun. The result of one that nobody has open stays as it is.
    fn work(
        &mut self,
        wanted: &[Wanted],
        counting: &Counting,
        since: Instant,
        found: &Arc<[(u64, Opener)]>,
        results: &mut [Connected],
    ) {
        let (tasks, places) = tasks(wanted, found);
        if !tasks.is_empty() {
            // What a hook has not counted takes effect meanwhile.
            thread::sleep(UNDER_WAY.saturating_sub(since.elapsed()));
            let ends = self.threads.work(tasks, found, counting.before, &self.connects);
            for (place, end) in places.into_iter().zip(ends) {
                results[place] = end.unwrap_or_else(|| {
                    self.late.insert(wanted[place].cookie);
                    Connected::Failed(libc::ETIMEDOUT)
                });
            }
        }
        let done: Vec<u64> =
            counting.new.iter().copied().filter(|cookie| !self.late.contains(cookie)).collect();
        self.connects.forget(&done);
    }

    /// What no thread waits for any more is not counted any more.
    fn let_go(&mut self) {
        let freed = self.threads.take_freed();
        for cookie in &freed {
            self.late.remove(cookie);
        }
        self.connects.forget(&freed);
        self.end(u32::from(!self.late.is_empty()));
    }

    /// Ends the counts that were begun, but for so many.
    fn end(&mut self, but: u32) {
        while self.begun > but {
            if let Err(e) = self.connects.end() {
                return tracing::warn!("connects of others are counted still: {e}");
            }
            self.begun -= 1;
        }
    }
}

impl Drop for Connector {
    /// A thread that still waits for a lock leaves its socket alone.
    fn drop(&mut self) {
        let late: Vec<u64> = self.late.drain().collect();
        self.connects.forget(&late);
        self.end(0);
    }
}

/// Those that somebody has open, process by process, and their places.
fn tasks(wanted: &[Wanted], found: &[(u64, Opener)]) -> (Vec<Task>, Vec<usize>) {
    let mut tasks: Vec<(usize, Task)> = Vec::with_capacity(wanted.len());
    for (place, wanted) in wanted.iter().enumerate() {
        let start = found.partition_point(|(cookie, _)| *cookie < wanted.cookie);
        let openers = found[start..].iter().take_while(|(cookie, _)| *cookie == wanted.cookie).count();
        if openers > 0 {
            tasks.push((place, Task { wanted: *wanted, openers: start..start + openers }));
        }
    }
    let first = |task: &Task| found.get(task.openers.start).map(|(_, opener)| (opener.thread, opener.fd));
    tasks.sort_by_key(|(_, task)| first(task));
    let (places, tasks) = tasks.into_iter().unzip();
    (tasks, places)
}
