//! The line of log about an event.

use skreap_core::{Action, Backend, Incomplete, Report, counted};

use crate::observe::status::EventResult;
use crate::service::source::Requester;

/// One line for every event that did something or should have: who asked for what, and what came of
/// it.
pub(super) fn log(report: &Report, requester: Requester) {
    let result = EventResult::of(report);
    let idle = report.destroyed == 0 && matches!(result, EventResult::Complete | EventResult::DryRun);
    let (id, by, backends) = (shown(&report.id), requester, subject(report));
    let ms = report.ns.total_ns as f64 / 1e6;
    let reason = reason(report);
    let refused = report.guard.filter(|guard| guard.refused);
    if idle {
        tracing::debug!(%id, %by, %backends, victims = report.victims, ms, "event: {}", result.name());
    } else {
        tracing::info!(
            %id,
            %by,
            %backends,
            victims = report.victims,
            destroyed = report.destroyed,
            failed = report.failed.total(),
            complete = report.complete,
            found = refused.and_then(|guard| guard.found),
            ceiling = refused.and_then(|guard| guard.max_victims),
            reason,
            ms,
            "event: {}",
            result.name()
        );
    }
}

/// An id as a client chose it: in quotes, and escaped, if it could be read as more than one field.
fn shown(id: &str) -> String {
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '=' | '"' | '\\');
    if id.chars().all(is_plain) { id.to_owned() } else { format!("{id:?}") }
}

/// Why an event did not do all it should have; `None` if it did.
fn reason(report: &Report) -> Option<String> {
    let mut reasons: Vec<String> = report.error.iter().cloned().collect();
    let failed = report.failed.by_errno().iter();
    reasons.extend(failed.map(|(errno, n)| format!("{} failed with {errno}", counted(*n, "socket"))));
    // The error says these in more words.
    let said = |why: &Incomplete| {
        report.error.is_some() && matches!(why, Incomplete::EngineFailed | Incomplete::Refused)
    };
    let incomplete = report.incomplete_because.iter().filter(|why| !said(why));
    reasons.extend(incomplete.map(|why| why.name().to_owned()));
    (!reasons.is_empty()).then(|| reasons.join(", "))
}

/// Backends that a line of the log names.
const NAMED: usize = 3;

/// The first backends of an event, and how many more there are. A reconcile has those that are
/// gone.
fn subject(report: &Report) -> String {
    let gone: Vec<Backend> = match report.action.gone() {
        [] => report.by_backend.iter().map(|b| b.backend).collect(),
        gone => gone.to_vec(),
    };
    let mut text = gone.iter().take(NAMED).map(Backend::to_string).collect::<Vec<_>>().join(",");
    if gone.len() > NAMED {
        text.push_str(&format!(" and {} more", gone.len() - NAMED));
    }
    match &report.action {
        Action::Reconcile { backends, .. } => format!("not among {} living: {text}", backends.len()),
        _ => match &report.selector {
            Some(selector) if text.is_empty() => format!("where {selector}"),
            Some(selector) => format!("{text} where {selector}"),
            None => text,
        },
    }
}

#[cfg(test)]
mod tests {
    use skreap_core::{EngineName, Event, Outcome, Phases};

    use super::*;

    #[test]
    fn what_was_not_done_has_its_reason() {
        let backend = "udp://10.0.0.1:53".parse().unwrap();
        let event = Event::new("e1", Action::BackendDeleted { backend });
        let report = |incomplete: &[Incomplete], error: Option<&str>| {
            let mut outcome = Outcome::new(EngineName::Netlink);
            outcome.incomplete = incomplete.iter().copied().collect();
            let mut report = Report::new(&event, outcome, Phases::default());
            report.error = error.map(str::to_owned);
            reason(&report)
        };
        assert_eq!(report(&[], None), None);
        let both = [Incomplete::IndexFull, Incomplete::KernelSockets];
        assert_eq!(report(&both, None).as_deref(), Some("index-full, kernel-sockets"));
        assert_eq!(report(&[Incomplete::Refused], Some("refused: why")).as_deref(), Some("refused: why"));
        let partly = [Incomplete::EngineFailed, Incomplete::IndexFull];
        assert_eq!(report(&partly, Some("no walk")).as_deref(), Some("no walk, index-full"));
    }

    #[test]
    fn an_id_is_one_field() {
        assert_eq!(shown("rollout-7:a/b"), "rollout-7:a/b");
        assert_eq!(shown("e9 by=root"), r#""e9 by=root""#);
        assert_eq!(shown("a=b"), r#""a=b""#);
        assert_eq!(shown("\u{202e}x"), r#""\u{202e}x""#);
        assert_eq!(shown("\u{2028}"), r#""\u{2028}""#);
    }
}
