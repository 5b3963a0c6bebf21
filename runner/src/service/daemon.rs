//! Sources on one side, the reaper on the other, a bounded queue between.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, never, select, unbounded};
use skreap_core::{Refusal, Request};

use crate::observe::monitor::Monitor;
use crate::reaper::Reaper;
use crate::reaper::batch::Batch;
use crate::service::answers;
use crate::service::deferred::{Deferred, Stage};
use crate::service::handle::Queue;
use crate::service::recorder::Recorder;
use crate::service::source::{Inbox, Job, Reply, Running, Source, Stop};
use crate::service::systemd::{Heartbeat, NotifierThread, Supervisor};
use crate::service::unconfirmed::Unconfirmed;
use crate::upkeep::audit::{Answer, Asker};

/// Requests that may wait; a full queue blocks the sources, and nothing is dropped.
pub const QUEUE: usize = 1024;
/// Requests that are taken out of the queue together.
const BATCH: usize = 256;
/// Interval at which the reaper frees caches.
const TIDY: Duration = Duration::from_secs(1);

/// Serves until every source has ended (end of input, or `stop`), and every accepted request is
/// answered. Notifies the service manager when all sources listen, and at the end; sets `stop`
/// then, whatever the cause.
///
/// # Errors
/// The error of starting a source, or of notifying the service manager. Sources that were started
/// are stopped first.
pub fn serve(
    reaper: &mut Reaper,
    sources: &[Source],
    stop: &Stop,
    supervisor: &Supervisor,
) -> io::Result<()> {
    serve_queue(reaper, &Queue::bounded(QUEUE), sources, stop, supervisor)
}

/// As [`serve`], with a queue that takes events from the program itself as well, through
/// [handles](Queue::handle). They are stopped when every source has ended.
///
/// # Errors
/// As [`serve`].
pub fn serve_queue(
    reaper: &mut Reaper,
    queue: &Queue,
    sources: &[Source],
    stop: &Stop,
    supervisor: &Supervisor,
) -> io::Result<()> {
    // Holds one question of each connection at most.
    let (questions, asked) = unbounded();
    let monitor = reaper.monitor().clone();
    let answering = answer_questions(monitor.clone(), reaper.audits(), asked)?;
    let (running, started) = start(sources, queue, questions, stop, &monitor);
    let handle = queue.handle();
    let ending = thread::Builder::new().name("sources".to_owned()).spawn(move || {
        running.into_iter().for_each(Running::wait);
        handle.stop();
    });
    let started =
        started.and(ending.as_ref().map(|_| ()).map_err(|e| io::Error::new(e.kind(), e.to_string())));
    let telling = started.and_then(|()| supervisor.ready(&monitor, stop));
    if telling.is_err() {
        stop.give();
        queue.handle().stop();
    }
    let given = stop.clone();
    // Its senders are those of the sources, which drop them when they have read everything.
    let read = || answering.is_finished();
    work_until(reaper, queue, supervisor.beat(), move || given.given(), read);
    if ending.is_ok_and(|ending| ending.join().is_err()) {
        tracing::error!("the thread that waits for the sources panicked");
    }
    // At the end of input the signal has not been given yet.
    stop.give();
    if answering.join().is_err() {
        tracing::error!("the thread that answers questions panicked");
    }
    telling.map(NotifierThread::end)
}

/// Starts sources until one fails.
fn start(
    sources: &[Source],
    queue: &Queue,
    questions: Sender<Job>,
    stop: &Stop,
    monitor: &Monitor,
) -> (Vec<Running>, io::Result<()>) {
    let mut running = Vec::new();
    let Some(events) = queue.sender() else {
        return (running, Err(io::Error::other("the queue was stopped before")));
    };
    let inbox = Inbox { events, questions };
    for source in sources {
        match source.start(inbox.clone(), stop, monitor.clients()) {
            Ok(source) => running.push(source),
            Err(e) => return (running, Err(e)),
        }
    }
    (running, Ok(()))
}

/// Answers the jobs of a queue until it was stopped and every accepted one is answered. `ending`: from now on neither the
/// pace nor the owner of a socket is waited for. `read`: no source puts a job into the queue any more.
pub(super) fn work_until(
    reaper: &mut Reaper,
    queue: &Queue,
    beat: &Heartbeat,
    ending: impl Fn() -> bool + Clone + Send + 'static,
    read: impl Fn() -> bool,
) {
    let monitor = reaper.monitor().clone();
    let jobs = queue.jobs().clone();
    monitor.watch_queue(Some(Box::new(move || jobs.len())));
    // Asked again and again while the reaper waits.
    let (beating, given) = (beat.clone(), ending.clone());
    reaper.pace().give_up_when(move || {
        beating.beat();
        given()
    });
    work_beating(reaper, queue.jobs(), queue.take_recorder(), beat, ending, read);
    // A caller that uses the reaper afterwards keeps its pace.
    reaper.pace().give_up_when(|| false);
    monitor.watch_queue(None);
}

/// Answers questions about the service beside the reaper, until all senders are dropped.
fn answer_questions(
    monitor: Monitor,
    audits: Option<Asker>,
    asked: Receiver<Job>,
) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("questions".to_owned()).spawn(move || {
        for job in asked {
            let answer = match &job.request {
                // Takes as long as a dump of every socket, so it runs on the thread of the audits.
                Request::Audit { id } => match ask_audit(audits.as_ref(), id, &job) {
                    Ok(()) => continue,
                    Err(busy) => Reply::Refused(busy),
                },
                request => answers::answer(&monitor, request, job.line),
            };
            // A client that has disconnected needs no answer.
            let _ = job.reply.send(answer);
        }
    })
}

fn ask_audit(audits: Option<&Asker>, id: &str, job: &Job) -> Result<(), Refusal> {
    let (reply, own_id, line) = (job.reply.clone(), id.to_owned(), job.line);
    let answer: Answer = Box::new(move |result| {
        let answer = match result {
            Ok(audit) => Reply::Audit { id: own_id, audit: Box::new(audit) },
            Err(e) => Reply::Refused(Refusal::new(line, e).with_id(&own_id)),
        };
        let _ = reply.send(answer);
    });
    let accepted = audits.is_some_and(|audits| audits.ask(answer));
    let busy = "audits were not started, or too many are asked for already; ask again when they are answered";
    if accepted { Ok(()) } else { Err(Refusal::new(line, busy).with_id(id)) }
}

/// Answers jobs until all senders are dropped: the loop of [`serve`], for a program with sources of
/// its own.
pub fn work(reaper: &mut Reaper, jobs: &Receiver<Job>) {
    work_beating(reaper, jobs, None, &Heartbeat::default(), || false, || false);
}

/// `ending`: what waits for the owners of sockets waits no longer. `read`: there will be no further jobs.
fn work_beating(
    reaper: &mut Reaper,
    jobs: &Receiver<Job>,
    recorder: Option<Box<dyn Recorder>>,
    beat: &Heartbeat,
    ending: impl Fn() -> bool,
    read: impl Fn() -> bool,
) {
    let mut tidied = Instant::now();
    let mut deferred = Deferred::recorded_by(recorder);
    let (late, none) = (reaper.late(), never());
    let mut open = true;
    // What was received until then was handled.
    let mut seen = Instant::now();
    while open || !deferred.is_empty() || reaper.has_revivals() && !ending() {
        beat.beat();
        let rest = deferred.rest(reaper).map_or(TIDY, |rest| rest.min(TIDY)).min(beat.rest());
        let jobs = if open { jobs } else { &none };
        select! {
            recv(jobs) -> job => match job {
                Ok(job) => work_off(reaper, jobs, job, &mut deferred, &mut seen, beat),
                Err(_) => open = false,
            },
            // Both are looked at below.
            recv(late) -> _ => {},
            default(rest) => {},
        }
        let ends = ending();
        // In this order: what was received before is in the queue.
        let (all_read, now) = (!open || read(), Instant::now());
        let idle = jobs.is_empty();
        if idle {
            seen = now;
        }
        let stage = match (ends, idle && all_read) {
            (true, _) => Stage::Ending,
            (false, true) => Stage::Read,
            (false, false) => Stage::Open,
        };
        deferred.deliver(reaper, stage, seen);
        if ends {
            // The writers of their answers are waited for.
            reaper.end_revivals();
        }
        if tidied.elapsed() >= TIDY {
            reaper.tidy();
            tidied = Instant::now();
        }
    }
    reaper.end_revivals();
    // What it was told to be lost.
    deferred.deliver(reaper, Stage::Ending, Instant::now());
}

/// A job, and whatever waits with it by now: that was received before the first walk begins, and may share it. `seen`: when
/// the last of those that were handled was received.
fn work_off(
    reaper: &mut Reaper,
    jobs: &Receiver<Job>,
    job: Job,
    deferred: &mut Deferred,
    seen: &mut Instant,
    beat: &Heartbeat,
) {
    let waiting: Vec<Job> = std::iter::once(job).chain(jobs.try_iter().take(BATCH - 1)).collect();
    let mut batch = Batch::default();
    for job in waiting {
        *seen = job.received.max(*seen);
        match &job.request {
            Request::Event(event) => {
                deferred.cancel(event);
                if let Some(event) = Unconfirmed::new(event, job.requester, job.line, job.received) {
                    deferred.unconfirmed(event, job.reply);
                    continue;
                }
                let underway = reaper.begin(&mut batch, event, job.received);
                deferred.event(underway, job.requester, job.reply);
            }
            question => deferred.answer(answers::answer(reaper.monitor(), question, job.line), job.reply),
        }
        deferred.deliver(reaper, Stage::Open, *seen);
        beat.beat();
    }
}
