//! One destroyer: a thread that opens netns, destroys in them, and may have to wait for the lock of a socket.

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Sender, bounded};
use skreap_bpf::fault::{self, Point};
use skreap_bpf::{Relation, Scan, Victim};
use skreap_core::{Protocol, counted, plural};

use super::held::Shared;
use super::job::{Fate, Job, Task};
use super::queue::Queue;
use crate::engine::netns_id;
use crate::sys::descriptors;
use crate::sys::netns::{self, Way};
use crate::sys::sock_diag::{BATCH, DiagSocket, Round, Verdict};

/// A destroyer keeps little on its stack.
const STACK: usize = 512 * 1024;

/// A destroyer, and what it has in hand.
struct Worker {
    shared: Arc<Shared>,
    home: OwnedFd,
    verdicts: Vec<Verdict>,
}

/// Starts a destroyer, which takes jobs until there is nobody to give any.
///
/// # Errors
/// The errno of making the thread, or of opening the netns that it comes back to.
pub(super) fn start(shared: &Arc<Shared>, jobs: &Arc<Queue>, wanted: usize) -> io::Result<()> {
    let (ready, started) = bounded(1);
    let (shared, jobs) = (Arc::clone(shared), Arc::clone(jobs));
    thread::Builder::new()
        .name("skreap-destroy".to_owned())
        .stack_size(STACK)
        .spawn(move || run(shared, &jobs, wanted, &ready))?;
    started.recv().map_err(|_| io::Error::other("a destroyer ended as it began"))?
}

fn run(shared: Arc<Shared>, jobs: &Queue, wanted: usize, ready: &Sender<io::Result<()>>) {
    if let Err(e) = fault::at(Point::DestroyerTable).and_then(|()| descriptors::leave()) {
        tracing::warn!(
            "a thread that destroys shares the descriptors of the process, which keep locks and clients if it has to wait: {e}"
        );
    }
    let home = match fault::at(Point::DestroyerHome).and_then(|()| netns::current()) {
        Ok(home) => home,
        Err(e) => {
            let _ = ready.send(Err(e));
            return;
        }
    };
    shared.state().available += 1;
    let _ = ready.send(Ok(()));
    let mut worker = Worker { shared, home, verdicts: Vec::new() };
    let mut just_worked = false;
    while let Some(job) = jobs.take(just_worked) {
        just_worked = true;
        if !job.take_on() {
            continue;
        }
        let left = match job.task {
            Task::ById { way, asked } => worker.by_id(&job, way, asked),
            Task::ByCookie { way } => worker.by_cookie(&job, way),
        };
        if let Err(e) = &left {
            // The place of a thread keeps a netns alive.
            tracing::error!("cannot go back to the own netns, so a destroyer ends: {e}");
        }
        if !worker.shared.state().comes_back(&job, wanted, left.is_ok()) {
            job.finish();
            return;
        }
        job.finish();
    }
}

impl super::held::State {
    /// A destroyer has done its job; false if it is not needed any more, or of no use.
    fn comes_back(&mut self, job: &Job, wanted: usize, of_use: bool) -> bool {
        if job.progress().given_up {
            self.given_up -= 1;
        } else {
            self.available -= 1;
        }
        let stays = of_use && self.available < wanted;
        self.available += usize::from(stays);
        stays
    }
}

impl Worker {
    /// Goes from netns to netns, with one open at a time, and comes back: nothing is open any more when
    /// it returns. If it is stuck in one of them, so is what keeps that one: the held socket.
    fn by_id(&mut self, job: &Arc<Job>, way: Way, asked: usize) -> io::Result<()> {
        let round = Round::start();
        let mut start = 0;
        for victims in job.victims.chunk_by(|a, b| a.netns() == b.netns()) {
            let group = start..start + victims.len();
            start = group.end;
            let Some(first) = victims.first() else { continue };
            match round.enter(netns_id(first), way) {
                Ok(mut diag) => {
                    if !self.group(job, &mut diag, group, asked) {
                        break;
                    }
                }
                Err(e) => job.say(group, Fate::Unreached(e.raw_os_error().unwrap_or(libc::EIO))),
            }
        }
        round.end(&self.home)
    }

    /// Destroys the victims of one netns; false if this destroyer was given up meanwhile.
    fn group(&mut self, job: &Arc<Job>, diag: &mut DiagSocket, group: Range<usize>, asked: usize) -> bool {
        let mut next = group.start;
        if next < asked {
            next = look(job, diag, next..asked.min(group.end));
        }
        while next < group.end {
            let end = batch_end(&job.victims, next, group.end);
            let Some(victims) = job.victims.get(next..end) else {
                return false;
            };
            if !job.begin(next..end) {
                return false;
            }
            self.verdicts.clear();
            let refused = diag.destroy(victims, &mut self.verdicts).err();
            let errno = refused.as_ref().and_then(io::Error::raw_os_error).unwrap_or(libc::EIO);
            if let Some(e) = &refused {
                tracing::debug!(netns = victims.first().map(Victim::netns), "SOCK_DESTROY: {e}");
            }
            self.verdicts.resize(victims.len(), Verdict::Unsent);
            let fates: Vec<Fate> = self.verdicts.iter().map(|verdict| fate(*verdict, errno)).collect();
            if !job.end(&fates) {
                self.shared.came_late(job, &fates);
                return false;
            }
            next = end;
            if refused.is_some() {
                job.say(next..group.end, Fate::Failed(errno));
                return true;
            }
        }
        true
    }

    /// Passes over the netns once for each victim. It may wait for any socket of the netns, and does all of them however
    /// long that takes.
    fn by_cookie(&self, job: &Arc<Job>, way: Way) -> io::Result<()> {
        if let Err(errno) = self.passes(job, way) {
            let done = job.progress().fates.iter().take_while(|fate| fate.is_some()).count();
            self.resolve(job, done..job.victims.len(), &vec![errno; job.victims.len() - done]);
        }
        netns::enter(&self.home)
    }

    fn passes(&self, job: &Arc<Job>, way: Way) -> Result<(), Fate> {
        let Some(first) = job.victims.first() else {
            return Ok(());
        };
        let mut scan = Scan::load(None).map_err(|e| {
            let n = job.victims.len() as u64;
            let (sockets, have) = (counted(n, "socket"), plural(n, "has", "have"));
            tracing::warn!("{sockets} {have} no exact id, and the iterators cannot be loaded: {e}");
            Fate::Failed(libc::ENOENT)
        })?;
        netns::open_by(netns_id(first), way)
            .and_then(|opened| netns::enter(&opened.netns))
            .map_err(|e| Fate::Unreached(e.raw_os_error().unwrap_or(libc::EIO)))?;
        for (i, victim) in job.victims.iter().enumerate() {
            job.begin(i..i + 1);
            let fate = if victim.protocol() == Some(Protocol::Udp) {
                match scan.destroy_udp(victim) {
                    Ok(0) => Fate::Unreached(libc::ESTALE),
                    Ok(_) => Fate::Destroyed,
                    Err(e) => {
                        tracing::warn!(cookie = victim.cookie(), "cannot destroy by cookie: {e}");
                        Fate::Failed(libc::EIO)
                    }
                }
            } else {
                Fate::Failed(libc::ENOENT)
            };
            if !job.end(&[fate]) {
                self.shared.came_late(job, &[fate]);
            }
        }
        Ok(())
    }

    fn resolve(&self, job: &Arc<Job>, range: Range<usize>, fates: &[Fate]) {
        job.begin(range);
        if !job.end(fates) {
            self.shared.came_late(job, fates);
        }
    }
}

/// Where the next batch ends. A sender without a peer goes alone: if its destroy waits, nothing but that tells which of
/// several it waits for, since what is destroyed looks as before.
fn batch_end(victims: &[Victim], start: usize, end: usize) -> usize {
    let most = end.min(start + BATCH);
    let batch = victims.get(start..most).unwrap_or_default();
    let named = batch.iter().take_while(|victim| victim.relation() == Relation::Connected).count();
    start + named.max(1)
}

/// Another destroyer waits for the lock of one of these: the first that is still there, as the kernel works through a
/// batch in order. Says so of it, and of those before it that they were asked for; returns where to go on.
fn look(job: &Job, diag: &mut DiagSocket, asked: Range<usize>) -> usize {
    let victims = job.victims.get(asked.clone()).unwrap_or_default();
    let there = diag.look(victims).unwrap_or_else(|e| {
        tracing::warn!("cannot look which sockets of a batch are there: {e}");
        Vec::new()
    });
    match there.iter().position(|there| *there) {
        Some(first) => {
            let held = asked.start + first;
            job.say(asked.start..held, Fate::Unknown);
            job.say(held..held + 1, Fate::Held);
            held + 1
        }
        // It is all but done, or cannot be asked: what the other says of them is right.
        None => {
            job.say(asked.clone(), Fate::Held);
            asked.end
        }
    }
}

fn fate(verdict: Verdict, unsent: i32) -> Fate {
    match verdict {
        Verdict::Destroyed => Fate::Destroyed,
        Verdict::Failed(errno) => Fate::Failed(errno),
        Verdict::Unknown => Fate::Unknown,
        Verdict::Unsent => Fate::Failed(unsent),
    }
}
