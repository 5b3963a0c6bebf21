//! Answers that wait: for the owners of sockets, or for an earlier answer to the same client.

use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use crate::reaper::{Reaper, Underway};
use crate::service::event_log;
use crate::service::recorder::Recorder;
use crate::service::source::{Reply, Requester};
use crate::upkeep::revive::Revival;

/// Answers in the order of their questions. The work of all of them is done.
#[derive(Default)]
pub(crate) struct Deferred {
    waiting: Vec<Waiting>,
    recorder: Option<Box<dyn Recorder>>,
}

#[derive(Debug)]
struct Waiting {
    what: What,
    to: Sender<Reply>,
}

#[derive(Debug)]
enum What {
    Event(Box<Underway>, Requester),
    Answer(Reply, Option<Box<Revival>>),
}

impl Deferred {
    /// None yet; the recorder is told of every event.
    pub(crate) fn recorded_by(recorder: Option<Box<dyn Recorder>>) -> Self {
        Self { waiting: Vec::new(), recorder }
    }

    /// An event that may wait for the owners of some sockets.
    pub(crate) fn event(&mut self, underway: Underway, by: Requester, to: Sender<Reply>) {
        self.waiting.push(Waiting { what: What::Event(Box::new(underway), by), to });
    }

    /// An answer, which has its place behind earlier ones to the same client.
    pub(crate) fn answer(&mut self, answer: Reply, to: Sender<Reply>) {
        self.waiting.push(Waiting { what: What::Answer(answer, None), to });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Time until the next answer is due at the latest; `None` if there is none.
    pub(crate) fn rest(&self, reaper: &Reaper) -> Option<Duration> {
        let due = self.waiting.iter().filter_map(|one| match &one.what {
            What::Event(underway, _) => Some(reaper.due(underway)),
            What::Answer(..) => None,
        });
        due.min().map(|due| due.saturating_duration_since(Instant::now()))
    }

    /// Gives the answers that are due, or, when all is to end, every one.
    pub(crate) fn deliver(&mut self, reaper: &mut Reaper, ending: bool) {
        let mut kept: Vec<Waiting> = Vec::new();
        for Waiting { what, to } in std::mem::take(&mut self.waiting) {
            let (answer, revival) = match what {
                What::Event(mut underway, by) => {
                    if !reaper.poll(&mut underway) && !ending {
                        kept.push(Waiting { what: What::Event(underway, by), to });
                        continue;
                    }
                    let (report, revival) = reaper.conclude(*underway);
                    event_log::log(&report, by);
                    if let Some(recorder) = &mut self.recorder {
                        recorder.event(&report, by);
                    }
                    (Reply::Report(Box::new(report)), revival.map(Box::new))
                }
                What::Answer(answer, revival) => (answer, revival),
            };
            if kept.iter().any(|earlier| earlier.to.same_channel(&to)) {
                kept.push(Waiting { what: What::Answer(answer, revival), to });
            } else {
                let id = revival.is_some().then(|| answer.id()).flatten().unwrap_or_default();
                // A client that has gone away has its work done, and nobody to tell.
                let _ = to.send(answer);
                if let Some(revival) = revival {
                    let told = move |revived| drop(to.send(Reply::Revived { id, revived }));
                    reaper.revive(*revival, Some(Box::new(told)));
                }
            }
        }
        self.waiting = kept;
        // After the reports: the recorder knows by then which event has named the socket.
        if let Some(recorder) = &mut self.recorder {
            reaper.take_late_results().iter().for_each(|late| recorder.late(late));
        }
    }
}
