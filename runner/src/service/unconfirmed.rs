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
    /// Its line in the source.
    pub(super) line: u64,
    pub(super) received: Instant,
    /// Backends that were added again, and the events that said so.
    pub(super) cancelled: BTreeMap<Backend, String>,
    due: Instant,
}

impl Unconfirmed {
    /// `None` if the event does not wait.
    pub(super) fn new(event: &Event, by: Requester, line: u64, received: Instant) -> Option<Self> {
        let due = received + Duration::from_millis(event.confirm_after_ms.into());
        let waiting = || Self { event: event.clone(), by, line, received, cancelled: BTreeMap::new(), due };
        event.waits().then(waiting)
    }

    /// When it is carried out, or earlier.
    pub(super) fn due(&self) -> Instant {
        if self.nothing_left() { Instant::now() } else { self.due }
    }

    /// True if nobody can take it back any more, where all that was received until `seen` is known here.
    pub(super) fn is_confirmed(&self, seen: Instant) -> bool {
        self.nothing_left() || self.due <= seen
    }

    fn nothing_left(&self) -> bool {
        let gone = self.event.action.gone();
        !gone.is_empty() && gone.iter().all(|backend| self.cancelled.contains_key(backend))
    }

    /// The backend was added again, says an event with this id. A link-local one is another in each network namespace: that
    /// of the event has to be the same, written in the same way.
    pub(super) fn cancel(&mut self, backend: Backend, netns: Option<&str>, id: &str) {
        let names = self.event.netns.as_deref() == netns && self.event.action.gone().contains(&backend);
        let lives = matches!(self.event.action, Action::Reconcile { .. }) && !backend.is_link_local();
        if names || lives {
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
        Unconfirmed::new(&event, Requester::Program, 1, Instant::now())
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
            event.cancel(backend.parse().unwrap(), None, "a");
            assert_eq!((event.cancelled.len(), event.due() > soon()), (cancelled, waits), "{backend}");
            assert_eq!(event.is_confirmed(Instant::now()), !waits, "{backend}");
        }
    }

    #[test]
    fn it_is_due_from_its_arrival_when_all_of_that_time_was_seen() {
        let event = waits(
            r#"{"id":"e","type":"backend-deleted","backend":"udp://10.0.0.1:53","confirm_after_ms":60000}"#,
        )
        .unwrap();
        let due = event.received + Duration::from_secs(60);
        assert_eq!(event.due(), due);
        assert!(!event.is_confirmed(due - Duration::from_nanos(1)) && event.is_confirmed(due));
    }

    #[test]
    fn a_backend_on_a_link_is_that_of_one_netns() {
        let line = r#"{"id":"e","type":"backends-deleted","netns":"/run/netns/blue","confirm_after_ms":60000,
            "backends":["udp://[fe80::1%eth0]:53","udp://[fe80::1%eth1]:53"]}"#;
        let mut event = waits(line).unwrap();
        for (backend, netns, cancelled) in [
            ("udp://[fe80::1%eth0]:53", Some("/run/netns/red"), 0),
            ("udp://[fe80::1%eth2]:53", Some("/run/netns/blue"), 0),
            ("udp://[fe80::1]:53", None, 0),
            ("udp://[fe80::1%eth0]:53", Some("/run/netns/blue"), 1),
            ("udp://[fe80::1%eth1]:53", Some("/run/netns/blue"), 2),
        ] {
            event.cancel(backend.parse().unwrap(), netns, "a");
            assert_eq!(event.cancelled.len(), cancelled, "{backend} {netns:?}");
        }
        assert!(event.nothing_left());
        // A reconcile leaves all of them alone.
        let line =
            r#"{"id":"e","type":"reconcile","backends":["udp://10.0.0.1:53"],"confirm_after_ms":60000}"#;
        let mut event = waits(line).unwrap();
        event.cancel("udp://[fe80::1%eth0]:53".parse().unwrap(), Some("/run/netns/blue"), "a");
        assert!(event.cancelled.is_empty());
        event.cancel("udp://10.0.0.2:53".parse().unwrap(), None, "a");
        assert_eq!(event.cancelled.len(), 1);
    }
}
