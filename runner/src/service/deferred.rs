//! Answers that wait: for the owners of sockets, or for an earlier answer to the same client.

use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use skreap_core::{Action, Event, Refusal};

use crate::reaper::batch::Batch;
use crate::reaper::{Reaper, Underway};
use crate::service::event_log;
use crate::service::recorder::Recorder;
use crate::service::source::{Reply, Requester};
use crate::service::unconfirmed::Unconfirmed;
use crate::upkeep::revive::Revival;

/// Whether there is more to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Requests come.
    Open,
    /// All were read, and nobody can take back what waits to be confirmed: that is refused.
    Read,
    /// The service ends, and waits for nothing.
    Ending,
}

/// Answers in the order of their questions. The work of all of them is done, but for events that wait to be
/// confirmed: nothing waits for those.
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
    /// None yet; the recorder gets every event.
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

    /// A backend was added, says this event: deletions of it that wait to be confirmed are taken back.
    pub(crate) fn cancel(&mut self, added: &Event) {
        let Action::BackendAdded { backend } = added.action else { return };
        for one in &mut self.waiting {
            if let What::Unconfirmed(event) = &mut one.what {
                event.cancel(backend, added.netns.as_deref(), &added.id);
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

    /// Gives the answers that are due, or, when all is to end, every one. All that was received until `seen` was handled.
    pub(crate) fn deliver(&mut self, reaper: &mut Reaper, stage: Stage, seen: Instant) {
        let mut kept: Vec<Waiting> = Vec::new();
        let mut unconfirmed = 0;
        for Waiting { what, to } in std::mem::take(&mut self.waiting) {
            let (answer, revival) = match confirm(what, reaper, seen) {
                What::Unconfirmed(event) if stage != Stage::Open => {
                    (Reply::Refused(not_confirmed(&event)), None)
                }
                What::Unconfirmed(event) => {
                    unconfirmed += 1;
                    kept.push(Waiting { what: What::Unconfirmed(event), to });
                    continue;
                }
                What::Event(mut underway, by) => {
                    if !reaper.poll(&mut underway) && stage != Stage::Ending {
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
            let answers_before =
                |earlier: &Waiting| !earlier.what.is_unconfirmed() && earlier.to.same_channel(&to);
            if kept.iter().any(answers_before) {
                kept.push(Waiting { what: What::Answer(answer, revival), to });
            } else {
                let id = revival.is_some().then(|| answer.id()).flatten().unwrap_or_default();
                // A client that has gone away has its work done, and gets no answer.
                let _ = to.send(answer);
                if let Some(revival) = revival {
                    let told = move |revived| drop(to.send(Reply::Revived { id, revived }));
                    reaper.revive(*revival, Some(Box::new(told)));
                }
            }
        }
        self.waiting = kept;
        reaper.monitor().unconfirmed(unconfirmed);
        // After the reports: the recorder knows by then which event has named the socket.
        if let Some(recorder) = &mut self.recorder {
            reaper.take_late_results().iter().for_each(|late| recorder.late(late));
            reaper.take_revived_events().iter().for_each(|event| recorder.revived(event));
        }
    }
}

impl What {
    const fn is_unconfirmed(&self) -> bool {
        matches!(self, Self::Unconfirmed(_))
    }
}

/// An event whose time is over is carried out.
fn confirm(what: What, reaper: &mut Reaper, seen: Instant) -> What {
    match what {
        What::Unconfirmed(event) if event.is_confirmed(seen) => {
            let Unconfirmed { event, by, cancelled, received, .. } = *event;
            // It has waited as it was asked to, and not for us: that is no part of the phases of its report.
            let (now, mut batch) = (Instant::now(), Batch::default());
            let waited = now.saturating_duration_since(received);
            let underway = reaper.begin_confirmed(&mut batch, &event, now, waited, cancelled);
            What::Event(Box::new(underway), by)
        }
        other => other,
    }
}

fn not_confirmed(event: &Unconfirmed) -> Refusal {
    let message = "the service ends before the event was confirmed, and nothing was done; send it again";
    Refusal::new(event.line, message).with_id(&event.event.id)
}
