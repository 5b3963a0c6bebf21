//! Answers to questions about a service.

use skreap_core::{Refusal, Request};

use crate::observe::monitor::Monitor;
use crate::service::source::Reply;

/// Answers a question from what the monitor has seen; refuses everything that is not one. `line`: that of the question.
#[must_use]
pub fn answer(monitor: &Monitor, request: &Request, line: u64) -> Reply {
    let id = request.id().to_owned();
    let answer = match request {
        Request::Index { .. } => {
            monitor.observer().listing().map(|index| Reply::Index { id, index: Box::new(index) })
        }
        Request::Status { .. } => {
            monitor.full_status().map(|status| Reply::Status { id, status: Box::new(status) })
        }
        Request::Top { .. } => monitor.top().map(|top| Reply::Top { id, top: Box::new(top) }),
        _ => return Reply::Refused(Refusal::new(line, "this version cannot do that").with_id(&id)),
    };
    answer.unwrap_or_else(|e| Reply::Refused(Refusal::new(line, e.to_string()).with_id(request.id())))
}
