//! A client of the unix socket: every line that is not blank is answered exactly once, whatever is in it, and
//! questions are answered in their place.

use std::sync::Arc;
use std::thread;

use crossbeam_channel::bounded;
use skreap::core::{EngineName, Outcome, Refusal, Report, Request};
use skreap::source::{Clients, Inbox, Job, Reply};

/// See the module.
pub fn holds(data: &[u8]) {
    let (events, jobs) = bounded::<Job>(2);
    let (questions, asked) = bounded::<Job>(2);
    let clients = Arc::new(Clients::default());

    let reaper = thread::spawn(move || {
        for Job { request, reply, .. } in jobs {
            let Request::Event(event) = request else { panic!("not for the reaper: {request:?}") };
            let outcome = Outcome::new(EngineName::Netlink);
            let phases = outcome.phases(0, 0);
            let _ = reply.send(Reply::Report(Box::new(Report::new(&event, outcome, phases))));
        }
    });
    // Any answer will do that has the id.
    let observer = thread::spawn(move || {
        for Job { request, reply, .. } in asked {
            assert!(!matches!(request, Request::Event(_)), "not for the observer: {request:?}");
            let _ = reply.send(Reply::Refused(Refusal::new(0, "asked").with_id(request.id())));
        }
    });
    let answers = skreap::fuzz::converse(data.to_vec(), Inbox { events, questions }, &clients).unwrap();
    reaper.join().unwrap();
    observer.join().unwrap();

    // What is expected, by the rules of the protocol: lines, then requests.
    let lines = data.split(|&b| b == b'\n').zip(1..);
    let mut expected: Vec<Result<Request, Refusal>> = lines
        .filter(|(line, _)| !line.iter().all(u8::is_ascii_whitespace))
        .map(|(line, number)| Request::parse(line, number))
        .collect();
    let refused = expected.iter().filter(|r| r.is_err()).count() as u64;
    assert_eq!(clients.counts().refused_lines, refused);

    let answers = answers.split_inclusive(|&b| b == b'\n').map(|line| {
        assert_eq!(line.last(), Some(&b'\n'), "whole lines");
        serde_json::from_slice::<serde_json::Value>(line).unwrap()
    });
    let mut answered = 0;
    for answer in answers {
        // A refusal may overtake a report, but nothing overtakes a question or is overtaken by one; but for deletions that
        // wait to be confirmed, whose answers come whenever they do.
        let question =
            |r: &Result<Request, Refusal>| r.as_ref().is_ok_and(|r| !matches!(r, Request::Event(_)));
        let waits = |r: &Result<Request, Refusal>| matches!(r, Ok(Request::Event(event)) if event.waits());
        let within = expected.iter().position(question).unwrap_or(expected.len() - 1);
        let place = expected.iter().take(within + 1).position(|request| match request {
            Ok(request) if question(&Ok(request.clone())) => {
                answer["error"]["message"] == "asked" && answer["id"] == request.id()
            }
            Ok(request) => answer.get("error").is_none() && answer["id"] == request.id(),
            Err(refusal) => answer == serde_json::to_value(refusal).unwrap(),
        });
        let place =
            place.unwrap_or_else(|| panic!("{answer} answers nothing, or not in its place: {expected:?}"));
        let first = expected.iter().take(place).all(waits);
        assert!(!question(&expected[place]) || first, "all before a question is answered first");
        let _ = expected.remove(place);
        answered += 1;
    }
    assert!(expected.is_empty(), "after {answered} answers, none for {expected:?}");
}
