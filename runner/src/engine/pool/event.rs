//! The victims of one event on their way through the pool.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use skreap_bpf::Victim;
use skreap_core::{counted, plural};

use super::Pool;
use super::job::{Fate, Job, Task};
use super::queue::{LINGER, lingers, spin};
use crate::engine::netns_id;
use crate::sys::netns::{self, NetnsId, Way};

/// How long a batch may take until it is looked whether it waits for a lock: longer than any that does not.
const PATIENCE: Duration = Duration::from_millis(20);
/// The same for what is left of a batch in which a lock was waited for: there may be more of them, and each would cost as much.
const NEXT_PATIENCE: Duration = Duration::from_millis(2);
/// What a job should cost to be worth the wake-up of another destroyer, in destroys; and what a netns costs.
const JOB_COST: usize = 256;
const NETNS_COST: usize = 32;
/// A job's part of one netns, at least.
const PIECE: usize = 128;

/// How victims are named to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    /// By their exact ids.
    Ids,
    /// By their cookies, with one pass over their netns for each: UDP sockets. Others fail with `ENOENT`.
    Cookies,
}

impl Pool {
    /// Destroys victims, those of one netns side by side; returns what is known of each, in order.
    pub(crate) fn destroy(&self, victims: &[Victim], naming: Naming) -> Vec<Fate> {
        let mut fates = self.run(victims, naming, Way::Handle);
        // The kernel says of some netns that they are gone and means that no handle opens them. Its list is read here: the
        // descriptors of that are in the table of this thread.
        let mut doubtful = unreached(&fates, libc::ESTALE);
        let living: HashSet<u64> = netns_of(victims, &doubtful)
            .into_iter()
            .filter(|id| !netns::is_gone(*id))
            .map(|id| id.cookie)
            .collect();
        if !living.is_empty() {
            doubtful.retain(|i| living.contains(&victims[*i].netns()));
            let again: Vec<Victim> = doubtful.iter().map(|i| victims[*i]).collect();
            for (i, fate) in doubtful.into_iter().zip(self.run(&again, naming, Way::Anything)) {
                fates[i] = fate;
            }
        }
        // What nothing leads to is about to go, or out of reach.
        let lost = unreached(&fates, libc::ESRCH);
        if !lost.is_empty() {
            let there = netns::wait_for_dying(netns_of(victims, &lost));
            let there: HashSet<u64> = there.into_iter().map(|id| id.cookie).collect();
            for i in lost.into_iter().filter(|i| !there.contains(&victims[*i].netns())) {
                fates[i] = Fate::Unreached(libc::ESTALE);
            }
        }
        fates
    }

    fn run(&self, victims: &[Victim], naming: Naming, way: Way) -> Vec<Fate> {
        if let Err(e) = self.start() {
            tracing::warn!("cannot start a thread that destroys: {e}");
        }
        let mut event = Event::new(self, victims);
        let (parts, task) = match naming {
            Naming::Ids => (shares(&event.todo, self.0.wanted), Task::ById { way, asked: 0 }),
            Naming::Cookies => (groups(&event.todo), Task::ByCookie { way }),
        };
        for part in parts {
            event.submit(part, task);
        }
        event.finish()
    }
}

fn unreached(fates: &[Fate], errno: i32) -> Vec<usize> {
    (0..fates.len()).filter(|i| fates[*i] == Fate::Unreached(errno)).collect()
}

fn netns_of(victims: &[Victim], some: &[usize]) -> Vec<NetnsId> {
    let mut ids: Vec<NetnsId> = some.iter().map(|i| netns_id(&victims[*i])).collect();
    ids.dedup();
    ids
}

/// Victims of one netns.
fn groups(victims: &[Victim]) -> Vec<Range<usize>> {
    let mut start = 0;
    let by_netns = victims.chunk_by(|a, b| a.netns() == b.netns());
    by_netns
        .map(|group| {
            start += group.len();
            start - group.len()..start
        })
        .collect()
}

/// Shares the victims between destroyers: as many as there is work for, and each gets about as much.
fn shares(victims: &[Victim], workers: usize) -> Vec<Range<usize>> {
    let groups = groups(victims);
    let cost = victims.len() + NETNS_COST * groups.len();
    let jobs = (cost / JOB_COST).clamp(1, workers.max(1));
    let each = cost.div_ceil(jobs);
    let mut shares = Vec::with_capacity(jobs);
    let (mut start, mut spent) = (0, 0);
    for group in groups {
        let mut next = group.start;
        spent += NETNS_COST;
        while next < group.end {
            let piece = group.end.min(next + PIECE);
            spent += piece - next;
            next = piece;
            // The last share takes what is left.
            if spent >= each && shares.len() + 1 < jobs {
                shares.push(start..next);
                (start, spent) = (next, if next < group.end { NETNS_COST } else { 0 });
            }
        }
    }
    if start < victims.len() {
        shares.push(start..victims.len());
    }
    shares
}

/// A job, and the place of its first victim in the event.
struct Part {
    job: Arc<Job>,
    at: usize,
}

struct Event<'a> {
    pool: &'a Pool,
    /// Those of `fates` that are not known yet, and their places there.
    todo: Vec<Victim>,
    places: Vec<usize>,
    fates: Vec<Fate>,
    /// Of `todo`.
    known: Vec<Option<Fate>>,
    open: Vec<Part>,
    /// Jobs that wait for a lock, in the order in which that was found.
    stuck: Vec<Part>,
    done: (Sender<()>, Receiver<()>),
}

impl<'a> Event<'a> {
    fn new(pool: &'a Pool, victims: &[Victim]) -> Self {
        let mut event = Self {
            pool,
            todo: Vec::with_capacity(victims.len()),
            places: Vec::new(),
            fates: vec![Fate::Held; victims.len()],
            known: Vec::new(),
            open: Vec::new(),
            stuck: Vec::new(),
            done: unbounded(),
        };
        let mut state = pool.0.shared.state();
        for (place, victim) in victims.iter().enumerate() {
            // What is waited for already is asked for once.
            if !state.meet(victim.cookie()) {
                event.todo.push(*victim);
                event.places.push(place);
            }
        }
        event.known = vec![None; event.todo.len()];
        event
    }

    fn submit(&mut self, part: Range<usize>, task: Task) {
        let at = part.start;
        let job = Job::new(self.todo[part].to_vec(), task, self.done.0.clone());
        self.open.push(Part { job: Arc::clone(&job), at });
        self.pool.0.queue.push(job);
    }

    /// Waits until a job may have ended. A short one is waited for without sleeping, if the thread
    /// takes no CPU from the destroyers.
    fn wait(&self) {
        let done = &self.done.1;
        if lingers(self.pool.0.cpus)
            && self.open.len() < self.pool.0.cpus
            && spin(LINGER, || !done.is_empty())
        {
            let _ = done.try_recv();
        } else {
            // Woken or not: all are looked at.
            let shortest = self.open.iter().map(Part::patience).min();
            let _ = done.recv_timeout(shortest.unwrap_or(PATIENCE));
        }
    }

    /// Waits for all jobs, but for those that wait for a lock.
    fn finish(mut self) -> Vec<Fate> {
        while !self.open.is_empty() {
            self.wait();
            for part in std::mem::take(&mut self.open) {
                let progress = part.job.progress();
                if progress.ended {
                    note(&mut self.known, part.at, &progress.fates);
                    continue;
                }
                let stuck = progress.is_stuck(part.patience());
                drop(progress);
                if stuck && self.pool.give_up(&part.job) {
                    self.pass_on(part);
                } else if self.pool.nobody_takes(&part.job) {
                    self.fail(part.at..part.at + part.job.victims.len());
                } else {
                    self.open.push(part);
                }
            }
        }
        self.hold();
        for (place, known) in self.places.iter().zip(self.known) {
            self.fates[*place] = known.unwrap_or(Fate::Unknown);
        }
        self.fates
    }

    /// Gives what a stuck destroyer has not done to another, which looks for the socket that it waits for.
    fn pass_on(&mut self, part: Part) {
        let (start, end) = (part.at, part.at + part.job.victims.len());
        let progress = part.job.progress();
        note(&mut self.known, part.at, &progress.fates);
        let batch = progress.batch.clone();
        drop(progress);
        match part.job.task {
            Task::ById { way, .. } => {
                if self.pool.has_workers() {
                    self.submit(start + batch.start..end, Task::ById { way, asked: batch.len() });
                } else {
                    // Nobody looks which of the batch it is: all of it is waited for.
                    self.fail(start + batch.end..end);
                }
            }
            // All others of the netns would wait for the same socket.
            Task::ByCookie { .. } => {
                for known in self.known[start..end].iter_mut().filter(|known| known.is_none()) {
                    *known = Some(Fate::Held);
                }
            }
        }
        self.stuck.push(part);
    }

    /// There are too many threads that wait for locks.
    fn fail(&mut self, range: Range<usize>) {
        let n = range.len() as u64;
        tracing::warn!(
            "{} {} not destroyed: too many threads wait for the locks of others already; see `held` in the status",
            counted(n, "socket"),
            plural(n, "is", "are")
        );
        for known in &mut self.known[range] {
            *known = Some(known.unwrap_or(Fate::Failed(libc::EAGAIN)));
        }
    }

    /// Has the pool remember what is waited for, if it still is.
    fn hold(&mut self) {
        if self.stuck.is_empty() {
            return;
        }
        // What comes late waits for this.
        let mut state = self.pool.0.shared.state();
        for part in &self.stuck {
            note(&mut self.known, part.at, &part.job.progress().fates);
        }
        for (at, known) in self.known.iter_mut().enumerate() {
            let in_hand = |part: &Part| Some((Arc::clone(&part.job), part.in_hand_since(at)?));
            let (by, since): (Vec<_>, Vec<_>) = self.stuck.iter().filter_map(in_hand).unzip();
            // The last destroyer was given it last.
            *known = match (*known, since.last()) {
                (None | Some(Fate::Held), Some(since)) => {
                    state.hold(&self.todo[at], by, *since);
                    Some(Fate::Held)
                }
                // Two were at it, and one of them is not done.
                (Some(Fate::Failed(libc::ENOENT)), Some(_)) => Some(Fate::Unknown),
                (None | Some(Fate::Held), None) => Some(Fate::Unknown),
                (known, _) => known,
            };
        }
    }
}

impl Part {
    /// How long a batch of it may take until it is looked whether it waits for a lock.
    fn patience(&self) -> Duration {
        match self.job.task {
            Task::ById { asked: 1.., .. } => NEXT_PATIENCE,
            Task::ById { asked: 0, .. } | Task::ByCookie { .. } => PATIENCE,
        }
    }

    /// Since when the kernel has had this victim of the event from this job; `None` if it does not have it now.
    fn in_hand_since(&self, at: usize) -> Option<Instant> {
        let i = at.checked_sub(self.at)?;
        let progress = self.job.progress();
        let fate = progress.fates.get(i)?;
        let has = match self.job.task {
            Task::ById { .. } => progress.batch.contains(&i),
            Task::ByCookie { .. } => !progress.ended && fate.is_none(),
        };
        has.then_some(progress.since)
    }
}

fn note(known: &mut [Option<Fate>], at: usize, fates: &[Option<Fate>]) {
    for (known, fate) in known[at..].iter_mut().zip(fates) {
        *known = match (*known, *fate) {
            (Some(known), Some(fate)) => Some(known.or(fate)),
            (known, fate) => known.or(fate),
        };
    }
}

#[cfg(test)]
mod tests {
    use skreap_core::Protocol;

    use super::*;

    fn victims(by_netns: &[usize]) -> Vec<Victim> {
        let victim = |netns| Victim::from_inet_diag(&[0; 72], Protocol::Udp, netns, 1).unwrap();
        by_netns.iter().zip(1..).flat_map(|(n, netns)| vec![victim(netns); *n]).collect()
    }

    fn lengths(by_netns: &[usize], workers: usize) -> Vec<usize> {
        let victims = victims(by_netns);
        let shares = shares(&victims, workers);
        let mut next = 0;
        for share in &shares {
            assert!(share.start == next && share.end > next, "{shares:?}");
            next = share.end;
        }
        assert_eq!(next, victims.len());
        shares.iter().map(Range::len).collect()
    }

    #[test]
    fn little_work_is_for_one() {
        assert_eq!(lengths(&[1; 10], 8), [10]);
        assert_eq!(lengths(&[200], 8), [200]);
        assert_eq!(lengths(&[1], 8), [1]);
        assert!(lengths(&[], 8).is_empty());
    }

    #[test]
    fn much_work_is_shared() {
        assert_eq!(lengths(&[1; 32], 2), [16, 16]);
        assert_eq!(lengths(&[10_000], 2), [4992, 5008]);
        assert_eq!(lengths(&[1; 1000], 4), [250; 4]);
        let some = lengths(&[3000, 1, 1, 1], 4);
        assert_eq!((some.len(), some.iter().sum::<usize>()), (4, 3003));
    }
}
