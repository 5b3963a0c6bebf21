//! Full scan with BPF socket iterators: each socket is compared and destroyed in one step, under
//! its lock.

use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use skreap_bpf::{Scan, ScanCounts, ScanHit, Victim, Walker};
use skreap_core::{EngineName, Incomplete, Outcome, Target, Unconnected};

use super::destroy::Destroyer;
use super::named::tuple;
use super::scope::Finder;
use super::{Chosen, Engine, EngineError, EngineOptions, Link, Pace, Scope, StateMask, membership, nanos};
use crate::sys::netns::{self, Everywhere, NetnsId};

/// Engine `iter`: one pass of iter/tcp or iter/udp in each netns.
#[derive(Debug)]
pub struct Iter {
    finder: Finder,
    scanner: Scanner,
    states: StateMask,
    pace: Pace,
}

impl Iter {
    /// `walker` is for [`Scope::All`] only: it lists netns that no path shows.
    ///
    /// # Errors
    /// [`EngineError`] if the iterators cannot be loaded, or the thread that visits namespaces
    /// cannot be made.
    pub fn new(walker: Walker, options: &EngineOptions) -> Result<Self, EngineError> {
        let cgroup = match &options.cgroup {
            Some(path) => membership::id_of(path)?,
            None => None,
        };
        let finder = Finder::new(walker, options.scope.clone());
        let scanner = Scanner::new(Scan::load(cgroup)?)?;
        Ok(Self { finder, scanner, states: options.states, pace: options.pace.clone() })
    }
}

impl Iter {
    /// An iterator does not know links: lists the sockets of the one netns first, and destroys
    /// those on the link by their id.
    fn run_on(&mut self, link: Link, target: &Target, chosen: &mut Chosen) -> Result<Outcome, EngineError> {
        let start = Instant::now();
        let mut outcome = Outcome::new(EngineName::Iter);
        if target.unconnected == Unconnected::Destroy {
            outcome.incomplete.insert(Incomplete::WideUnconnected);
        }
        let mut netns = self.finder.find(target)?.netns;
        netns.retain(|id| id.cookie == link.netns);
        let (scanner, states) = (&self.scanner, self.states);
        let list = || -> Result<Done, EngineError> {
            scanner.scan(Job { target: Target { dry_run: true, ..*target }, states, netns: netns.clone() })
        };
        let done = list()?;
        if done.unreachable > 0 {
            outcome.incomplete.insert(Incomplete::NetnsUnreachable);
        }
        let mut victims: Vec<Victim> = done.hits.iter().map(|hit| hit.victim).collect();
        outcome.skipped.other_link = chosen.sift(target, &mut victims).other_link;
        outcome.skipped.state = done.counts.unsupported;
        outcome.victims = victims.len() as u64;
        outcome.visited = outcome.victims + outcome.skipped.total();
        let walked = Instant::now();
        Destroyer::new(self.pace.clone())?.finish(
            target.dry_run,
            &mut victims,
            &mut outcome,
            |_, victims| {
                victims.extend(list()?.hits.iter().map(|hit| hit.victim));
                Ok(())
            },
        );
        outcome.walk_ns = nanos(walked.duration_since(start));
        outcome.destroy_ns = nanos(walked.elapsed());
        Ok(outcome)
    }
}

impl Engine for Iter {
    fn name(&self) -> EngineName {
        EngineName::Iter
    }

    fn run(&mut self, target: &Target, chosen: &mut Chosen) -> Result<Outcome, EngineError> {
        if let Some(link) = chosen.link() {
            return self.run_on(link, target, chosen);
        }
        let start = Instant::now();
        let mut outcome = Outcome::new(EngineName::Iter);
        if target.unconnected == Unconnected::Destroy {
            // Only the index has the destinations of an unconnected socket.
            outcome.incomplete.insert(Incomplete::WideUnconnected);
        }
        let Everywhere { netns, whole } = self.finder.find(target)?;
        let done = self.scanner.scan(Job { target: *target, states: self.states, netns })?;
        if done.unreachable > 0 || !whole {
            outcome.incomplete.insert(Incomplete::NetnsUnreachable);
        }
        tracing::debug!(counts = ?done.counts, "scanned");
        let ScanCounts { matched, destroyed, gone, unsupported, .. } = done.counts;
        outcome.visited = matched;
        outcome.victims = matched.saturating_sub(unsupported);
        outcome.destroyed = destroyed;
        outcome.skipped.gone = gone;
        outcome.skipped.state = unsupported;
        if target.dry_run {
            outcome.victims_listed = Some(done.hits.iter().map(|hit| tuple(&hit.victim)).collect());
        } else {
            for hit in &done.hits {
                outcome.add_failure(tuple(&hit.victim), hit.errno);
            }
        }
        outcome.walk_ns = nanos(start.elapsed());
        Ok(outcome)
    }

    fn set_scope(&mut self, scope: Scope) {
        self.finder.set_scope(scope);
    }
}

/// One scan.
struct Job {
    target: Target,
    states: StateMask,
    netns: Vec<NetnsId>,
}

/// What came of it.
struct Done {
    counts: ScanCounts,
    hits: Vec<ScanHit>,
    /// Netns that could not be entered or not be read to the end, other than those that are gone.
    unreachable: usize,
}

/// A thread of its own for the scans: an iterator covers the netns of the thread that makes it, and
/// setns() must never move a thread that others run on.
#[derive(Debug)]
struct Scanner {
    ask: Option<Sender<Job>>,
    answer: Receiver<Result<Done, EngineError>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Scanner {
    fn new(mut scan: Scan) -> Result<Self, EngineError> {
        let error = |source| EngineError::Io { what: "cannot start the scan thread".to_owned(), source };
        let (ask, asked) = bounded::<Job>(1);
        let (reply, answer) = bounded(1);
        let home = netns::current().map_err(error)?;
        let thread = thread::Builder::new().name("skreap-scan".to_owned()).spawn(move || {
            for job in asked {
                let done = passes(&mut scan, &job);
                // The thread's own place keeps a netns alive as well.
                if let Err(e) = netns::enter(&home) {
                    tracing::error!("cannot return to the service's own netns: {e}");
                }
                if reply.send(done).is_err() {
                    return;
                }
            }
        });
        Ok(Self { ask: Some(ask), answer, thread: Some(thread.map_err(error)?) })
    }

    fn scan(&self, job: Job) -> Result<Done, EngineError> {
        let sent = self.ask.as_ref().is_some_and(|ask| ask.send(job).is_ok());
        let done = if sent { self.answer.recv().ok() } else { None };
        done.ok_or_else(|| EngineError::Io {
            what: "the scan thread has ended".to_owned(),
            source: std::io::ErrorKind::BrokenPipe.into(),
        })?
    }
}

impl Drop for Scanner {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the scan thread panicked");
        }
    }
}

fn passes(scan: &mut Scan, job: &Job) -> Result<Done, EngineError> {
    scan.begin(&job.target, job.states.bits())?;
    let (mut hits, mut unreachable, mut dying) = (Vec::new(), 0, Vec::new());
    for &id in &job.netns {
        match netns::open_at_once(id).and_then(|fd| netns::enter(&fd)) {
            Ok(()) => {}
            // The netns is gone, and its sockets with it.
            Err(e) if e.raw_os_error() == Some(libc::ESTALE) => continue,
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {
                dying.push(id);
                continue;
            }
            Err(e) => {
                tracing::warn!(cookie = id.cookie, inum = id.inum, "cannot enter netns: {e}");
                unreachable += 1;
                continue;
            }
        }
        if let Err(e) = scan.pass(job.target.backend.protocol(), &mut hits) {
            tracing::warn!(cookie = id.cookie, inum = id.inum, "cannot scan netns: {e}");
            unreachable += 1;
        }
    }
    unreachable += netns::count_unreached(dying);
    Ok(Done { counts: scan.counts()?, hits, unreachable })
}
