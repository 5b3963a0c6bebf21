//! Sources on one side, the reaper on the other, a bounded queue between.

use std::io;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use skreap_core::{Refusal, Request};

use crate::Reaper;
use crate::source::{Job, Reply, Running, Source, Stop};

/// Requests that may wait; a full queue blocks the sources, and nothing is dropped.
pub const QUEUE: usize = 1024;
/// How often the reaper lets go of what is only kept for speed.
const TIDY: Duration = Duration::from_secs(1);

/// Serves until every source has ended (end of input, or `stop`), and every accepted request is answered.
///
/// # Errors
/// The error of starting a source. Those already started are stopped first.
pub fn serve(reaper: &mut Reaper, sources: &[Source], stop: &Stop) -> io::Result<()> {
    let (queue, jobs) = bounded(QUEUE);
    let mut running = Vec::new();
    let mut failed = Ok(());
    for source in sources {
        match source.start(queue.clone(), stop) {
            Ok(source) => running.push(source),
            Err(e) => {
                stop.give();
                failed = Err(e);
                break;
            }
        }
    }
    drop(queue);
    work(reaper, &jobs);
    running.into_iter().for_each(Running::wait);
    failed
}

/// Answers jobs until all senders are gone: what [`serve`] does, for a program with sources of its own.
pub fn work(reaper: &mut Reaper, jobs: &Receiver<Job>) {
    let mut tidied = Instant::now();
    loop {
        match jobs.recv_timeout(TIDY) {
            Ok(job) => {
                let reply = answer(reaper, &job);
                // A client that has gone away has its work done, and nobody to tell.
                let _ = job.reply.send(reply);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if tidied.elapsed() >= TIDY {
            reaper.tidy();
            tidied = Instant::now();
        }
    }
}

fn answer(reaper: &mut Reaper, job: &Job) -> Reply {
    match &job.request {
        Request::Event(event) => {
            let report = reaper.handle_received(event, job.received);
            tracing::debug!(id = %report.id, destroyed = report.destroyed, total_ns = report.ns.total_ns, "event");
            Reply::Report(Box::new(report))
        }
        Request::Index { id } => match reaper.listing() {
            Ok(index) => Reply::Index { id: id.clone(), index: Box::new(index) },
            Err(e) => Reply::Refused(Refusal::new(0, e.to_string()).with_id(id)),
        },
        other => Reply::Refused(Refusal::new(0, "this version cannot do that").with_id(other.id())),
    }
}
