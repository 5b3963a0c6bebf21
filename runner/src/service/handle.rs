//! Events from any number of threads of one program, through one bounded queue.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded, unbounded};
use parking_lot::{Mutex, RwLock};
use skreap_core::{Event, Report, Request};

use super::recorder::Recorder;
use super::source::{Job, Reply, Requester};

/// Why an event has no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandleError {
    /// [`Handle::try_send`]: the queue is full. Here is the event; `send` waits for room.
    #[error("the queue of events is full; send event {:?} again when others are reported, or wait with `send`", .0.id)]
    Full(Box<Event>),
    /// The reaper takes no events any more. Here is the event; nothing was done about it.
    #[error("the reaper has stopped; event {:?} was not handled", .0.id)]
    Stopped(Box<Event>),
    /// The reaper ended before it could report.
    #[error("the reaper ended before the report; its sockets may be destroyed or not: send the event again")]
    NoReport,
}

/// Sends events to a [`Reaper`](crate::Reaper) that works on another thread. Clones send to the same one, from any
/// thread.
///
/// Events that wait in the queue together share one walk for each backend, whichever threads they are from.
#[derive(Clone)]
pub struct Handle(Arc<RwLock<Option<Sender<Job>>>>);

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("stopped", &self.is_stopped()).finish_non_exhaustive()
    }
}

impl Handle {
    /// Puts an event into the queue, and waits for room if it is full.
    ///
    /// # Errors
    /// [`HandleError::Stopped`], with the event.
    pub fn send(&self, event: Event) -> Result<Pending, HandleError> {
        let (job, pending) = job(event);
        match self.sender() {
            // The lock is not held here: a reaper that stops must not wait for a full queue.
            Some(queue) => match queue.send(job) {
                Ok(()) => Ok(pending),
                Err(refused) => Err(HandleError::Stopped(event_of(refused.0))),
            },
            None => Err(HandleError::Stopped(event_of(job))),
        }
    }

    /// Puts an event into the queue if there is room.
    ///
    /// # Errors
    /// [`HandleError::Full`] and [`HandleError::Stopped`], with the event.
    pub fn try_send(&self, event: Event) -> Result<Pending, HandleError> {
        let (job, pending) = job(event);
        match self.sender() {
            Some(queue) => match queue.try_send(job) {
                Ok(()) => Ok(pending),
                Err(TrySendError::Full(job)) => Err(HandleError::Full(event_of(job))),
                Err(TrySendError::Disconnected(job)) => Err(HandleError::Stopped(event_of(job))),
            },
            None => Err(HandleError::Stopped(event_of(job))),
        }
    }

    /// Sends an event and waits for its report.
    ///
    /// # Errors
    /// [`HandleError::Stopped`], with the event; [`HandleError::NoReport`].
    pub fn reap(&self, event: Event) -> Result<Report, HandleError> {
        self.send(event)?.report()
    }

    /// True if the reaper takes no events any more.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.read().is_none()
    }

    fn sender(&self) -> Option<Sender<Job>> {
        self.0.read().clone()
    }

    /// Takes no events any more; those in the queue are still handled.
    pub(super) fn stop(&self) {
        drop(self.0.write().take());
    }
}

/// An event in the queue. Its work is done whether or not anyone waits for the report.
#[must_use = "its report says whether every socket was destroyed"]
#[derive(Debug)]
pub struct Pending(Receiver<Reply>);

impl Pending {
    /// Waits for the report.
    ///
    /// # Errors
    /// [`HandleError::NoReport`].
    pub fn report(self) -> Result<Report, HandleError> {
        match self.0.recv() {
            Ok(Reply::Report(report)) => Ok(*report),
            _ => Err(HandleError::NoReport),
        }
    }

    /// Waits for the report until then; `None` if there is none yet.
    ///
    /// # Errors
    /// [`HandleError::NoReport`]; also when the report was taken already.
    pub fn report_within(&self, time: Duration) -> Result<Option<Report>, HandleError> {
        match self.0.recv_timeout(time) {
            Ok(Reply::Report(report)) => Ok(Some(*report)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            _ => Err(HandleError::NoReport),
        }
    }
}

/// The queue between [`Handle`]s and a reaper.
pub struct Queue {
    handle: Handle,
    jobs: Receiver<Job>,
    recorder: Mutex<Option<Box<dyn Recorder>>>,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("waiting", &self.jobs.len()).finish_non_exhaustive()
    }
}

impl Queue {
    /// A queue with room for this many events, one at least.
    #[must_use]
    pub fn bounded(events: usize) -> Self {
        let (sender, jobs) = bounded(events.max(1));
        Self { handle: Handle(Arc::new(RwLock::new(Some(sender)))), jobs, recorder: Mutex::new(None) }
    }

    /// The same queue; `recorder` gets every event that comes out of it.
    #[must_use]
    pub fn recorded_by(self, recorder: Box<dyn Recorder>) -> Self {
        *self.recorder.lock() = Some(recorder);
        self
    }

    /// For the loop that handles the events.
    pub(super) fn take_recorder(&self) -> Option<Box<dyn Recorder>> {
        self.recorder.lock().take()
    }

    /// What puts events into it.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// For sources; `None` if it was stopped.
    pub(super) fn sender(&self) -> Option<Sender<Job>> {
        self.handle.sender()
    }

    pub(super) fn jobs(&self) -> &Receiver<Job> {
        &self.jobs
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.handle.stop();
    }
}

fn job(event: Event) -> (Job, Pending) {
    // What comes after the report is nobody's here, and whoever says it must not wait.
    let (reply, report) = unbounded();
    let job = Job {
        request: Request::Event(event),
        requester: Requester::Program,
        line: 0,
        received: Instant::now(),
        reply,
    };
    (job, Pending(report))
}

/// The event that [`job`] has wrapped.
fn event_of(job: Job) -> Box<Event> {
    match job.request {
        Request::Event(event) => Box::new(event),
        _ => unreachable!("only events are put into jobs here"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str) -> Event {
        Event::deleted("udp://10.0.0.1:53".parse().unwrap()).with_id(id)
    }

    #[test]
    fn a_full_queue_gives_the_event_back() {
        let queue = Queue::bounded(2);
        let handle = queue.handle();
        let (_first, _second) = (handle.try_send(event("e1")).unwrap(), handle.send(event("e2")).unwrap());
        let HandleError::Full(back) = handle.try_send(event("e3")).unwrap_err() else { panic!() };
        assert_eq!(*back, event("e3"));
        let job = queue.jobs().recv().unwrap();
        assert_eq!(job.request.id(), "e1");
        assert!(handle.try_send(*back).is_ok());
        assert_eq!(queue.jobs().len(), 2);
    }

    #[test]
    fn a_stopped_queue_gives_the_event_back_and_keeps_what_it_has() {
        let queue = Queue::bounded(1);
        let handle = queue.handle();
        let pending = handle.send(event("e1")).unwrap();
        handle.stop();
        assert!(handle.is_stopped() && queue.handle().is_stopped());
        for refused in [handle.send(event("e2")), handle.try_send(event("e2"))] {
            let Err(HandleError::Stopped(back)) = refused else { panic!("{refused:?}") };
            assert_eq!(*back, event("e2"));
        }
        assert_eq!(queue.jobs().iter().map(|job| job.request.id().to_owned()).collect::<Vec<_>>(), ["e1"]);
        assert!(matches!(pending.report(), Err(HandleError::NoReport)));
    }

    #[test]
    fn who_waits_for_room_learns_that_the_queue_is_gone() {
        let queue = Queue::bounded(1);
        let handle = queue.handle();
        let pending = handle.send(event("e1")).unwrap();
        let waiting = std::thread::spawn(move || handle.send(event("e2")));
        drop(queue);
        assert!(matches!(waiting.join().unwrap(), Err(HandleError::Stopped(back)) if *back == event("e2")));
        assert!(matches!(pending.report_within(Duration::from_secs(60)), Err(HandleError::NoReport)));
    }
}
