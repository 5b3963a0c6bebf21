//! One line of input: what is accepted says the same when it is written and read again, and what is refused is
//! refused in one line that names where.

use skreap::bpf::{Filter, Rule};
use skreap::core::{Event, MAX_BACKENDS, Refusal, Request, Selector, check_id};

const LINE: u64 = 7;

/// See the module.
pub fn holds(data: &[u8]) {
    match Request::parse(data, LINE) {
        Ok(request) => accepted(&request),
        Err(refusal) => refused(data, &refusal),
    }
}

fn accepted(request: &Request) {
    assert_eq!(check_id(request.id()), Ok(()));
    if let Request::Event(event) = request {
        assert!(event.action.gone().len() <= MAX_BACKENDS);
        for backend in event.action.gone() {
            assert_eq!(backend.to_string().parse().as_ref(), Ok(backend), "a backend reads as it is written");
        }
        compiled(event);
    }
    let written = serde_json::to_vec(request).unwrap();
    assert!(!written.contains(&b'\n'), "one line");
    assert_eq!(Request::parse(&written, LINE).as_ref(), Ok(request), "a request reads as it is written");
}

/// What it says of its sockets fits into the tables that the programs read.
fn compiled(event: &Event) {
    let rule = |selector: &Selector| Rule {
        protocol: selector.protocol,
        to: selector.to.clone(),
        ports: selector.ports.clone(),
        ..Rule::default()
    };
    let selected = event.selector.as_deref().map(rule).unwrap_or_default();
    let except = event.except.as_deref().map(rule);
    let allowed: Vec<Rule> = event.action.allowed().iter().map(rule).collect();
    assert!(Filter::new(&selected, except.as_ref(), &allowed, 0).is_ok(), "an event has room: {event:?}");
}

fn refused(data: &[u8], refusal: &Refusal) {
    assert_eq!(refusal.line, LINE);
    assert!(refusal.message.len() > 10, "says something: {refusal}");
    assert!(refusal.message.len() < 2_000, "and not everything: {} bytes", refusal.message.len());
    assert!(!refusal.to_string().contains(char::is_control), "safe in a log: {refusal:?}");
    if let Some(field) = &refusal.field {
        assert!(field.chars().count() <= 65 + "[16384]".len(), "field {field:?}");
        // What is not an object has no fields.
        assert!(data.trim_ascii().starts_with(b"{"));
    }
    if let Some(id) = &refusal.id {
        assert_eq!(check_id(id), Ok(()));
        assert!(refusal.field.is_some(), "who is known by the id has written an object: {refusal:?}");
    }
    let written = serde_json::to_vec(refusal).unwrap();
    assert!(!written.contains(&b'\n'), "one line");
    assert_eq!(&serde_json::from_slice::<Refusal>(&written).unwrap(), refusal);
}
