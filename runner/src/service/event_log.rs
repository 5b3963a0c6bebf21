//! The line of log about an event.

use skreap_core::{Action, Backend, Report};

use crate::observe::status::EventResult;
use crate::service::source::Requester;

/// One line for every event that did something or should have: who asked for what, and what came of
/// it.
pub(super) fn log(report: &Report, requester: Requester) {
    let result = EventResult::of(report);
    let idle = report.destroyed == 0 && matches!(result, EventResult::Complete | EventResult::DryRun);
    let (id, by, backends) = (shown(&report.id), requester, subject(report));
    let ms = report.ns.total_ns as f64 / 1e6;
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
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_field() {
        assert_eq!(shown("rollout-7:a/b"), "rollout-7:a/b");
        assert_eq!(shown("e9 by=root"), r#""e9 by=root""#);
        assert_eq!(shown("a=b"), r#""a=b""#);
        assert_eq!(shown("\u{202e}x"), r#""\u{202e}x""#);
        assert_eq!(shown("\u{2028}"), r#""\u{2028}""#);
    }
}
