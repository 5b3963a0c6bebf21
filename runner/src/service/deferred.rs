//! Answers that wait: for the owners of sockets, or for an earlier answer to the same client.

use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use skreap_core::{Backend, Event, Refusal};

use crate::reaper::batch::Batch;
use crate::reaper::{Reaper, Underway};
use crate::service::event_log;
use crate::service::recorder::Recorder;
use crate::service::source::{Reply, Requester};
use crate::service::unconfirmed::Unconfirmed;
use crate::upkeep::revive::Revival;

/// Answers in the order of their questions. The work of all of them is done, but for events that wait to be
/// confirmed.
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
    Unconfirmed(Box<Unconfirmed>),
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

    /// An event that waits to be confirmed.
    pub(crate) fn unconfirmed(&mut self, event: Unconfirmed, to: Sender<Reply>) {
        self.waiting.push(Waiting { what: What::Unconfirmed(Box::new(event)), to });
    }

    /// This backend was added, says the event with this id: deletions of it that wait to be confirmed are taken back.
    pub(crate) fn cancel(&mut self, backend: Backend, id: &str) {
        for one in &mut self.waiting {
            if let What::Unconfirmed(event) = &mut one.what {
                event.cancel(backend, id);
            }
        }
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
            What::Unconfirmed(event) => Some(event.due()),
            What::Event(underway, _) => Some(reaper.due(underway)),
            What::Answer(..) => None,
        });
        due.min().map(|due| due.saturating_duration_since(Instant::now()))
    }

    /// Gives the answers that are due, or, when all is to end, every one.
    pub(crate) fn deliver(&mut self, reaper: &mut Reaper, ending: bool) {
        let mut kept: Vec<Waiting> = Vec::new();
        for Waiting { what, to } in std::mem::take(&mut self.waiting) {
            let (answer, revival) = match confirm(what, reaper) {
                What::Unconfirmed(event) if ending => (Reply::Refused(not_confirmed(&event.event)), None),
                What::Unconfirmed(event) => {
                    kept.push(Waiting { what: What::Unconfirmed(event), to });
                    continue;
                }
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
            reaper.take_revived_events().iter().for_each(|event| recorder.revived(event));
        }
    }
}

/// An event whose time is over is carried out.
fn confirm(what: What, reaper: &mut Reaper) -> What {
    match what {
        What::Unconfirmed(event) if event.due() <= Instant::now() => {
            let Unconfirmed { event, by, cancelled, .. } = *event;
            // It has waited as it was asked to, and not for us.
            let underway = reaper.begin_without(&mut Batch::default(), &event, Instant::now(), cancelled);
            What::Event(Box::new(underway), by)
        }
        other => other,
    }
}

fn not_confirmed(event: &Event) -> Refusal {
    let message = "the service ends before the event was confirmed, and nothing was done; send it again";
    Refusal::new(0, message).with_id(&event.id)
}
