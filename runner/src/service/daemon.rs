//! Sources on one side, the reaper on the other, a bounded queue between.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, never, select, unbounded};
use skreap_core::{Refusal, Request};

use crate::observe::monitor::Monitor;
use crate::reaper::Reaper;
use crate::reaper::batch::Batch;
use crate::service::answers;
use crate::service::deferred::Deferred;
use crate::service::source::{Inbox, Job, Reply, Running, Source, Stop};
use crate::service::systemd::{Beat, Supervisor, Telling};
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
    let (events, jobs) = bounded(QUEUE);
    // Holds one question of each connection at most.
    let (questions, asked) = unbounded();
    let monitor = reaper.monitor().clone();
    let queue = jobs.clone();
    monitor.watch_queue(Some(Box::new(move || queue.len())));
    let answering = answer_questions(monitor.clone(), reaper.audits(), asked)?;
    let inbox = Inbox { events, questions };
    let mut running = Vec::new();
    let mut failed = Ok(());
    for source in sources {
        match source.start(inbox.clone(), stop, monitor.clients()) {
            Ok(source) => running.push(source),
            Err(e) => {
                failed = Err(e);
                break;
            }
        }
    }
    drop(inbox);
    let telling = failed.and_then(|()| supervisor.ready(&monitor, stop));
    if telling.is_err() {
        stop.give();
    }
    let (ending, beat) = (stop.clone(), supervisor.beat().clone());
    // Asked again and again while the reaper waits.
    reaper.pace().give_up_when(move || {
        beat.beat();
        ending.given()
    });
    work_beating(reaper, &jobs, supervisor.beat(), || stop.given());
    // A caller that uses the reaper afterwards keeps its pace.
    reaper.pace().give_up_when(|| false);
    running.into_iter().for_each(Running::wait);
    // At the end of input the signal has not been given yet.
    stop.give();
    monitor.watch_queue(None);
    if answering.join().is_err() {
        tracing::error!("the thread that answers questions panicked");
    }
    telling.map(Telling::end)
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
                request => answers::answer(&monitor, request),
            };
            // A client that has disconnected needs no answer.
            let _ = job.reply.send(answer);
        }
    })
}

fn ask_audit(audits: Option<&Asker>, id: &str, job: &Job) -> Result<(), Refusal> {
    let (reply, own_id) = (job.reply.clone(), id.to_owned());
    let answer: Answer = Box::new(move |result| {
        let answer = match result {
            Ok(audit) => Reply::Audit { id: own_id, audit: Box::new(audit) },
            Err(e) => Reply::Refused(Refusal::new(0, e).with_id(&own_id)),
        };
        let _ = reply.send(answer);
    });
    let accepted = audits.is_some_and(|audits| audits.ask(answer));
    let busy = "audits were not started, or too many are asked for already; ask again when they are answered";
    if accepted { Ok(()) } else { Err(Refusal::new(0, busy).with_id(id)) }
}

/// Answers jobs until all senders are dropped: the loop of [`serve`], for a program with sources of
/// its own.
pub fn work(reaper: &mut Reaper, jobs: &Receiver<Job>) {
    work_beating(reaper, jobs, &Beat::default(), || false);
}

/// `ending`: what waits for the owners of sockets waits no longer.
fn work_beating(reaper: &mut Reaper, jobs: &Receiver<Job>, beat: &Beat, ending: impl Fn() -> bool) {
    let mut tidied = Instant::now();
    let mut deferred = Deferred::default();
    let (late, none) = (reaper.late(), never());
    let mut open = true;
    while open || !deferred.is_empty() {
        beat.beat();
        let rest = deferred.rest(reaper).map_or(TIDY, |rest| rest.min(TIDY)).min(beat.rest());
        let jobs = if open { jobs } else { &none };
        select! {
            recv(jobs) -> job => match job {
                Ok(job) => work_off(reaper, jobs, job, &mut deferred, beat),
                Err(_) => open = false,
            },
            // Both are looked at below.
            recv(late) -> _ => {},
            default(rest) => {},
        }
        deferred.deliver(reaper, ending());
        if tidied.elapsed() >= TIDY {
            reaper.tidy();
            tidied = Instant::now();
        }
    }
}

/// A job, and whatever waits with it by now: that was received before the first walk begins, and may share it.
fn work_off(reaper: &mut Reaper, jobs: &Receiver<Job>, job: Job, deferred: &mut Deferred, beat: &Beat) {
    let waiting: Vec<Job> = std::iter::once(job).chain(jobs.try_iter().take(BATCH - 1)).collect();
    let mut batch = Batch::default();
    for job in waiting {
        match &job.request {
            Request::Event(event) => {
                let underway = reaper.begin(&mut batch, event, job.received);
                deferred.event(underway, job.requester, job.reply);
            }
            question => deferred.answer(answers::answer(reaper.monitor(), question), job.reply),
        }
        deferred.deliver(reaper, false);
        beat.beat();
    }
}
