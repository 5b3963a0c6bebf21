//! Deletions that wait to be confirmed: time passes, and the backend is not added again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use skreap_core::{Action, Backend, Event};

use crate::service::source::Requester;

/// An event that waits.
#[derive(Debug)]
pub(super) struct Unconfirmed {
    pub(super) event: Event,
    pub(super) by: Requester,
    /// Backends that were added again, and the events that said so.
    pub(super) cancelled: BTreeMap<Backend, String>,
    due: Instant,
}

impl Unconfirmed {
    /// `None` if the event does not wait.
    pub(super) fn new(event: &Event, by: Requester) -> Option<Self> {
        let wait = Duration::from_millis(event.confirm_after_ms.into());
        let waits = !wait.is_zero() && !event.dry_run;
        waits.then(|| Self {
            event: event.clone(),
            by,
            cancelled: BTreeMap::new(),
            due: Instant::now() + wait,
        })
    }

    /// When it is carried out: at once if nothing is left of it.
    pub(super) fn due(&self) -> Instant {
        let gone = self.event.action.gone();
        let nothing_left = !gone.is_empty() && gone.iter().all(|backend| self.is_cancelled(backend));
        if nothing_left { Instant::now() } else { self.due }
    }

    fn is_cancelled(&self, backend: &Backend) -> bool {
        self.cancelled.contains_key(&backend.without_zone())
    }

    /// The backend was added again, says the event with this id.
    pub(super) fn cancel(&mut self, backend: Backend, id: &str) {
        let backend = backend.without_zone();
        let names = self.event.action.gone().iter().any(|gone| gone.without_zone() == backend);
        if names || matches!(self.event.action, Action::Reconcile { .. }) {
            self.cancelled.insert(backend, id.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(event: &str) -> Option<Unconfirmed> {
        let skreap_core::Request::Event(event) = skreap_core::Request::parse(event.as_bytes(), 1).unwrap()
        else {
            panic!("no event");
        };
        Unconfirmed::new(&event, Requester::Program)
    }

    #[test]
    fn an_event_waits_until_all_its_backends_are_back() {
        let line = |rest: &str| {
            format!(
                r#"{{"id":"e","type":"backends-deleted","backends":["udp://10.0.0.1:53","udp://10.0.0.2:53"]{rest}}}"#
            )
        };
        assert!(waits(&line("")).is_none());
        assert!(waits(&line(r#","confirm_after_ms":5,"dry_run":true"#)).is_none());
        let mut event = waits(&line(r#","confirm_after_ms":60000"#)).unwrap();
        let soon = || Instant::now() + Duration::from_secs(30);
        for (backend, cancelled, waits) in [
            ("udp://10.0.0.3:53", 0, true),
            ("udp://10.0.0.1:53", 1, true),
            ("udp://10.0.0.1:53", 1, true),
            ("udp://10.0.0.2:53", 2, false),
        ] {
            event.cancel(backend.parse().unwrap(), "a");
            assert_eq!((event.cancelled.len(), event.due() > soon()), (cancelled, waits), "{backend}");
        }
    }
}
