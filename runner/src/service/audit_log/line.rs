//! The lines of the audit log.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use skreap_core::{
    Action, Backend, Connected, EngineName, Event, Incomplete, Moved, Report, Revived, RuleCount, SocketEnd,
    SocketResult, SocketTuple, errno_name, nanos,
};

use crate::engine::LateResult;
use crate::service::source::Requester;
use crate::upkeep::revive::{RevivedEvent, RevivedSocket};

/// Who asked.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "source", rename_all = "kebab-case")]
pub(super) enum By {
    Stdin,
    Socket {
        uid: u32,
        /// 0 if the process is in no namespace of the service's.
        pid: u32,
    },
    Program,
}

impl From<Requester> for By {
    fn from(requester: Requester) -> Self {
        match requester {
            Requester::Stdin => Self::Stdin,
            Requester::Client { uid, pid } => Self::Socket { uid, pid },
            Requester::Program => Self::Program,
        }
    }
}

/// The wall clock at the arrival of an event.
pub(super) struct Clock {
    received: SystemTime,
    total: Duration,
    /// From the arrival to the confirmation.
    unconfirmed: Duration,
}

impl Clock {
    /// For an event that is reported now.
    pub(super) fn at_end_of(report: &Report) -> Self {
        let unconfirmed = report.results.as_ref().map_or(0, |results| results.unconfirmed_ns);
        let unconfirmed = Duration::from_nanos(unconfirmed);
        let total = Duration::from_nanos(report.ns.total_ns).saturating_add(unconfirmed);
        let now = now();
        Self { received: now.checked_sub(total).unwrap_or(now), total, unconfirmed }
    }

    fn received(&self) -> String {
        text(self.received)
    }

    /// From the arrival of the event to what came of a socket, which counts from the confirmation.
    fn of_socket(&self, one: &SocketResult) -> Duration {
        Duration::from_nanos(one.after_ns).saturating_add(self.unconfirmed)
    }

    /// So long after the arrival.
    fn after(&self, time: Duration) -> String {
        text(self.received.checked_add(time).unwrap_or(self.received))
    }
}

#[expect(clippy::disallowed_methods, reason = "points in time for people, from which nothing is computed")]
fn now() -> SystemTime {
    SystemTime::now()
}

/// RFC 3339, UTC, with nanoseconds.
fn text(time: SystemTime) -> String {
    humantime::format_rfc3339_nanos(time).to_string()
}

/// The line that says how many are missing.
pub(super) fn dropped(lines: u64, total: u64) -> Vec<u8> {
    #[derive(Serialize)]
    struct Dropped {
        kind: &'static str,
        lines: u64,
        total: u64,
        at: String,
    }
    to_line(&Dropped { kind: "dropped", lines, total, at: text(now()) })
}

/// The line of an event.
pub(super) fn event(report: &Report, by: Requester, clock: &Clock) -> Vec<u8> {
    #[derive(Serialize)]
    struct Line<'a> {
        kind: &'static str,
        event: &'a str,
        by: By,
        #[serde(skip_serializing_if = "Option::is_none")]
        request: Option<&'a Event>,
        engine: EngineName,
        victims: u64,
        destroyed: u64,
        failed: u64,
        gone: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        moved: Option<&'a Moved>,
        #[serde(skip_serializing_if = "<[RuleCount]>::is_empty")]
        rules: &'a [RuleCount],
        /// Backends about which nothing was done, as they were added again.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        cancelled: &'a BTreeMap<Backend, String>,
        refused: bool,
        complete: bool,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        incomplete_because: Vec<Incomplete>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a str>,
        /// Lines of sockets that follow.
        sockets: u64,
        received: String,
        reported: String,
        total_ns: u64,
    }
    to_line(&Line {
        kind: "event",
        event: &report.id,
        by: by.into(),
        request: report.results.as_ref().map(|results| &results.event),
        engine: report.engine,
        victims: report.victims,
        destroyed: report.destroyed,
        failed: report.failed.total(),
        gone: report.skipped.gone,
        moved: report.moved.as_ref(),
        rules: &report.rules,
        cancelled: &report.cancelled,
        refused: report.guard.is_some_and(|guard| guard.refused),
        complete: report.complete,
        incomplete_because: report.incomplete_because.iter().copied().collect(),
        error: report.error.as_deref(),
        sockets: report.results.as_ref().map_or(0, |results| results.sockets.len()) as u64,
        received: clock.received(),
        reported: clock.after(clock.total),
        total_ns: nanos(clock.total),
    })
}

/// The line of a second look at the sockets of an event.
pub(super) fn revived(event: &RevivedEvent) -> Vec<u8> {
    #[derive(Serialize)]
    struct Line<'a> {
        kind: &'static str,
        event: &'a str,
        revived: &'a Revived,
        at: String,
    }
    to_line(&Line { kind: "revived", event: &event.id, revived: &event.revived, at: text(now()) })
}

/// The line of a socket that was looked at again.
pub(super) fn revived_socket(event: &str, one: &RevivedSocket) -> Vec<u8> {
    #[derive(Serialize)]
    struct Line<'a> {
        kind: &'static str,
        event: &'a str,
        result: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        errno: Option<String>,
        socket: &'a SocketTuple,
        #[serde(skip_serializing_if = "Option::is_none")]
        to: Option<Backend>,
        at: String,
    }
    let (result, errno) = match one.end {
        // As in the counts.
        Connected::HasPeer => ("healed".into(), None),
        Connected::Failed(errno) => ("not-revived".into(), Some(errno_name(errno).into_owned())),
        end => (end.name("revived"), None),
    };
    let (socket, to, at) = (&one.socket, one.to, text(now()));
    to_line(&Line { kind: "revived-socket", event, result: &result, errno, socket, to, at })
}

/// The line of a socket.
#[derive(Serialize)]
pub(super) struct Socket<'a> {
    kind: &'static str,
    event: &'a str,
    by: By,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<Backend>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    action: Option<&'static str>,
    result: Cow<'static, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno: Option<String>,
    socket: &'a SocketTuple,
    #[serde(skip_serializing_if = "Option::is_none")]
    received: Option<String>,
    at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    after_ns: Option<u64>,
    /// After its event had reported it as failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    late_ns: Option<u64>,
}

impl<'a> Socket<'a> {
    pub(super) fn of(report: &'a Report, one: &'a SocketResult, by: Requester, clock: &Clock) -> Self {
        let (result, errno) = result(Some(one.result));
        let after = clock.of_socket(one);
        Self {
            kind: "socket",
            event: &report.id,
            by: by.into(),
            backend: backend(&report.action, &one.socket),
            action: Some(report.action.name()),
            result,
            errno,
            socket: &one.socket,
            received: Some(clock.received()),
            at: clock.after(after),
            after_ns: Some(nanos(after)),
            late_ns: None,
        }
    }

    pub(super) fn late(event: &'a str, late: &'a LateResult, by: By) -> Self {
        let (result, errno) = result(late.end);
        Self {
            kind: "socket",
            event,
            by,
            backend: peer(&late.socket),
            action: None,
            result,
            errno,
            socket: &late.socket,
            received: None,
            at: text(now()),
            after_ns: None,
            late_ns: Some(nanos(late.waited)),
        }
    }

    pub(super) fn line(&self) -> Vec<u8> {
        to_line(self)
    }
}

/// The backend that the socket is a victim of: the only one of the event, or its peer.
fn backend(action: &Action, socket: &SocketTuple) -> Option<Backend> {
    match action.gone() {
        [only] => Some(*only),
        _ => peer(socket),
    }
}

fn peer(socket: &SocketTuple) -> Option<Backend> {
    Backend::new(socket.protocol, socket.daddr, socket.dport).ok()
}

fn result(end: Option<SocketEnd>) -> (Cow<'static, str>, Option<String>) {
    match end {
        Some(SocketEnd::Destroyed) => ("destroyed".into(), None),
        Some(SocketEnd::Failed(errno)) => ("failed".into(), Some(errno_name(errno).into_owned())),
        Some(SocketEnd::Refused) => ("refused".into(), None),
        Some(SocketEnd::Moved(Connected::Failed(errno))) => {
            ("not-moved".into(), Some(errno_name(errno).into_owned()))
        }
        Some(SocketEnd::Moved(end)) => (end.name("moved"), None),
        Some(_) => ("unknown".into(), None),
        None => ("closed".into(), None),
    }
}

fn to_line(line: &impl Serialize) -> Vec<u8> {
    // Strings, numbers and structs of them cannot fail.
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_in_utc() {
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_796_036_405, 7);
        assert_eq!(text(time), "2026-11-30T11:00:05.000000007Z");
    }

    #[test]
    fn who_asked_is_an_object() {
        let json = |by: Requester| serde_json::to_string(&By::from(by)).unwrap();
        assert_eq!(json(Requester::Stdin), r#"{"source":"stdin"}"#);
        assert_eq!(json(Requester::Program), r#"{"source":"program"}"#);
        assert_eq!(json(Requester::Client { uid: 7, pid: 42 }), r#"{"source":"socket","uid":7,"pid":42}"#);
    }
}
