//! What is done with the victims of an event, beside destroying them.

use skreap_core::{Action, Backend, Event, VictimAction};

use super::Reaper;
use crate::engine::{EngineError, Rules};
use crate::sys::objects;
use crate::upkeep::revive::{Revival, RevivedEvent, Reviver, RevivingLimits, Told};

impl Reaper {
    /// What is done with the victims of this event, if no rule says otherwise.
    pub(super) fn action_of(&self, event: &Event) -> VictimAction {
        let usual =
            if self.rules_for(event).is_some() { VictimAction::Destroy } else { self.victim_action.clone() };
        // What is usual for a deleted backend makes no sense where the connections are not wanted.
        let unwanted = event.action.needs_selector() && usual.to().is_some();
        let usual = if unwanted { VictimAction::Destroy } else { usual };
        event.victim_action.clone().unwrap_or(usual)
    }

    /// Why this service does not do that; `None` if it does.
    pub(super) fn objection(&self, event: &Event, action: &VictimAction) -> Option<String> {
        if action.to().is_some() && self.no_revive {
            let name = action.name();
            return Some(format!(
                "this service does not {name} sockets (--no-revive); send the event without it"
            ));
        }
        // The usual action was not checked against this event: sockets without a destination are left destroyed.
        event.check_action().err().map(|e| e.to_string())
    }

    /// Second looks that are still to come connect nothing to a backend that is gone for all, as long as it is.
    pub(super) fn note_deleted(&self, event: &Event, rules: Option<&Rules>, gone: &[Backend]) {
        if self.no_revive {
            return;
        }
        match &event.action {
            Action::BackendAdded { backend } => self.deleted.remove(backend),
            Action::Reconcile { backends: living, .. } => {
                living.iter().for_each(|backend| self.deleted.remove(backend));
            }
            _ => {}
        }
        if rules.is_none() && event.through.is_any() {
            self.deleted.add(gone);
        }
    }

    /// Looks again at destroyed sockets when it is time, on a thread of its own, and calls `told` with what came of them.
    /// That is what [`finish`](Self::finish) does with those of an event, without telling.
    pub(crate) fn revive(&mut self, revival: Revival, told: Option<Told>) {
        if self.reviver.is_none() {
            match self.start_reviver() {
                Ok(reviver) => self.reviver = Some(reviver),
                Err(e) => tracing::error!("cannot start the thread that revives sockets: {e}"),
            }
        }
        match &self.reviver {
            Some(reviver) => reviver.order(revival, told),
            None => {
                let lost = revival.lost();
                self.monitor.revived(&lost);
                if let Some(told) = told {
                    told(lost);
                }
            }
        }
    }

    /// True while destroyed sockets wait to be looked at again.
    pub(crate) fn has_revivals(&self) -> bool {
        self.reviver.as_ref().is_some_and(Reviver::has_waiting)
    }

    /// Does not look again at sockets that wait for it: they are told to be lost.
    pub fn end_revivals(&mut self) {
        self.reviver = None;
    }

    /// What came of second looks since this was called last. Only with
    /// [`Builder::results`](super::Builder::results).
    #[must_use]
    pub fn take_revived_events(&self) -> Vec<RevivedEvent> {
        self.revived_events.take()
    }

    fn start_reviver(&self) -> Result<Reviver, EngineError> {
        let pinned = self.pins.as_ref().and_then(|pins| {
            let warn = |e: &skreap_bpf::Error| {
                tracing::warn!("the next service will not know how many sockets wait for a second look: {e}");
            };
            objects::reviving(pins).inspect_err(warn).ok()
        });
        let reviver = Reviver::start(
            &self.index,
            self.monitor.clone(),
            self.revived_events.clone(),
            self.deleted.clone(),
            RevivingLimits { most: self.reviving_max, pinned },
        )?;
        self.monitor.watch_revivals(reviver.waiting());
        Ok(reviver)
    }
}
