#![allow(clippy::unwrap_used, reason = "input of the tests is written here")]

use serde_json::{Value, json};

use super::*;
use crate::state::{Change, Conditions, Kind, Member, Object, Policy, Slice};

fn backend(text: &str) -> Backend {
    text.parse().unwrap()
}

fn decision(text: &str, frontends: &[&str]) -> Decision {
    let clients = match frontends {
        [] => Clients::All,
        list => Clients::Through(list.iter().map(|text| backend(text)).collect()),
    };
    Decision {
        backend: backend(text),
        clients,
        action: Action::Destroy,
        to: None,
        service: None,
        since: Duration::from_secs(7),
    }
}

fn knowing(living: &[&str]) -> State {
    let mut state = State::new(Policy::default());
    state.apply(Change::ListBegun(Kind::Slices));
    let member = |text: &&str| Member {
        backend: backend(text),
        port: "".into(),
        conditions: Conditions::default(),
        instance: None,
    };
    let members = living.iter().map(member).collect();
    state.apply(Change::Listed("s".into(), Object::Slice(Slice { service: None, members })));
    state.apply(Change::ListComplete(Kind::Slices));
    // The settle time.
    assert_eq!(state.advance(Duration::from_secs(1)), []);
    state
}

fn all_able() -> Abilities {
    Abilities { frontends: true, actions: true }
}

fn lines(outbox: &mut Outbox, state: &State) -> Vec<Value> {
    std::iter::from_fn(|| outbox.next(state)).map(|line| serde_json::from_str(&line).unwrap()).collect()
}

#[test]
fn what_is_alike_is_one_event() {
    let mut outbox = Outbox::new(false, None);
    outbox.connected(all_able());
    let state = knowing(&[]);
    for text in ["udp://10.0.0.1:53", "tcp://10.0.0.1:53", "udp://10.0.0.2:53"] {
        outbox.push(decision(text, &[]));
    }
    outbox.push(decision("udp://10.0.0.3:53", &["udp://10.96.0.1:53"]));
    let moved = Action::Move;
    let to = Some(backend("udp://10.96.0.9:53"));
    outbox.push(Decision { action: moved, to, ..decision("udp://10.0.0.4:53", &[]) });
    assert_eq!(outbox.waiting(), 5);
    assert_eq!(
        lines(&mut outbox, &state),
        [
            json!({"id": "watch-000000000001", "type": "backends-deleted",
                "backends": ["udp://10.0.0.1:53", "udp://10.0.0.2:53"]}),
            json!({"id": "watch-000000000002", "type": "backends-deleted", "backends": ["tcp://10.0.0.1:53"]}),
            json!({"id": "watch-000000000003", "type": "backends-deleted", "backends": ["udp://10.0.0.3:53"],
                "frontend": ["udp://10.96.0.1:53"]}),
            json!({"id": "watch-000000000004", "type": "backends-deleted", "backends": ["udp://10.0.0.4:53"],
                "action": "move", "to": "udp://10.96.0.9:53"}),
        ]
    );
    assert_eq!((outbox.waiting(), outbox.sent().events), (5, 4));
}

#[test]
fn a_line_is_what_the_service_reads() {
    let mut outbox = Outbox::new(true, None);
    outbox.push(decision("udp://10.0.0.1:53", &[]));
    let line = outbox.next(&knowing(&[])).unwrap();
    assert!(line.ends_with('\n'));
    let request = skreap_core::Request::parse(line.as_bytes(), 1).unwrap();
    assert_eq!(request.id(), "watch-000000000001");
}

#[test]
fn answers() {
    let mut outbox = Outbox::new(false, None);
    let state = knowing(&[]);
    for n in 1..=3 {
        outbox.push(decision(&format!("udp://10.0.0.{n}:53"), &[]));
        outbox.next(&state).unwrap();
    }
    let report = r#"{"id":"watch-000000000002","complete":true,"destroyed":23,"failed":{"total":0}}"#;
    assert_eq!(outbox.answered(report), Answered::Report(Some(Duration::from_secs(7))));
    assert_eq!(outbox.answered(report), Answered::Unknown, "one answer for each event");
    let refusal = r#"{"error":{"line":1,"field":"backends","message":"too many"},"id":"watch-000000000001"}"#;
    assert_eq!(outbox.answered(refusal), Answered::Refused("too many".to_owned()));
    let failed = r#"{"id":"watch-000000000003","complete":true,"destroyed":1,"failed":{"total":2},"error":"it says why"}"#;
    assert_eq!(outbox.answered(failed), Answered::Report(Some(Duration::from_secs(7))));
    for line in ["", "{}", "[]", "null", r#"{"id":"x"}"#] {
        assert_eq!(outbox.answered(line), Answered::Unknown, "{line}");
    }
    let expected =
        Sent { events: 3, reports: 2, refused: 1, incomplete: 1, destroyed: 24, ..Sent::default() };
    assert_eq!((outbox.sent(), outbox.waiting()), (expected, 0));
}

#[test]
fn a_broken_connection_loses_nothing_and_sends_nothing_that_is_outdated() {
    let mut outbox = Outbox::new(false, None);
    outbox.connected(all_able());
    for text in ["udp://10.0.0.1:53", "tcp://10.0.0.2:80", "udp://10.0.0.3:53"] {
        outbox.push(decision(text, &[]));
    }
    assert_eq!(lines(&mut outbox, &knowing(&[])).len(), 2);
    outbox.broken();
    assert_eq!(outbox.waiting(), 3);
    // Meanwhile one of them has come back.
    let again = lines(&mut outbox, &knowing(&["udp://10.0.0.3:53"]));
    assert_eq!(again.len(), 2);
    assert_eq!(again[0]["backends"], json!(["udp://10.0.0.1:53"]));
    assert_eq!(again[1]["backends"], json!(["tcp://10.0.0.2:80"]));
    assert_eq!((outbox.sent().outdated, outbox.waiting()), (1, 2));
}

#[test]
fn a_service_without_frontends_or_actions_is_not_asked_for_them() {
    let mut outbox = Outbox::new(false, None);
    outbox.push(decision("udp://10.0.0.1:53", &["udp://10.96.0.1:53"]));
    let to = Some(backend("udp://10.96.0.9:53"));
    outbox.push(Decision { action: Action::Revive, to, ..decision("udp://10.0.0.4:53", &[]) });
    assert_eq!(lines(&mut outbox, &knowing(&[])), [] as [Value; 0]);
    assert_eq!((outbox.sent().no_frontends, outbox.sent().no_action, outbox.waiting()), (1, 1, 0));
}

#[test]
fn a_service_that_refuses_an_action_is_sent_no_other() {
    let mut outbox = Outbox::new(false, None);
    outbox.connected(all_able());
    let to = Some(backend("udp://10.96.0.9:53"));
    let moved = |text| Decision { action: Action::Move, to, ..decision(text, &[]) };
    outbox.push(moved("udp://10.0.0.4:53"));
    assert_eq!(lines(&mut outbox, &knowing(&[])).len(), 1);
    let refusal = r#"{"error":{"line":1,"field":"action","message":"not known"},"id":"watch-000000000001"}"#;
    assert_eq!(outbox.answered(refusal), Answered::Refused("not known".to_owned()));
    outbox.push(moved("udp://10.0.0.5:53"));
    assert_eq!(lines(&mut outbox, &knowing(&[])), [] as [Value; 0]);
    assert_eq!((outbox.sent().no_action, outbox.sent().refused), (2, 0));
}

#[test]
fn no_more_than_the_service_reads_and_no_event_too_large() {
    let mut outbox = Outbox::new(false, None);
    let state = knowing(&[]);
    for n in 0..2500_u32 {
        outbox.push(decision(&format!("udp://10.1.{}.{}:53", n / 250, n % 250 + 1), &[]));
    }
    let sizes: Vec<_> =
        lines(&mut outbox, &state).iter().map(|line| line["backends"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [1024, 1024, 452]);
    for n in 0..60 {
        outbox.push(decision(&format!("udp://10.9.0.{}:53", n + 1), &[]));
        outbox.next(&state);
    }
    assert_eq!((outbox.flying.len(), outbox.queue.len()), (IN_FLIGHT, 31));
}

#[test]
fn a_service_that_is_away_for_days_costs_no_more_than_its_backends() {
    let mut outbox = Outbox::new(false, None);
    for n in 0..100_000_u32 {
        outbox.push(decision(&format!("udp://10.1.0.{}:53", n % 200 + 1), &[]));
    }
    assert!(outbox.waiting() <= THIN_OUT, "{}", outbox.waiting());
    let sent: Vec<_> = lines(&mut outbox, &knowing(&[]));
    let backends = sent.iter().flat_map(|line| line["backends"].as_array().unwrap());
    assert_eq!(backends.collect::<HashSet<_>>().len(), 200);
}

#[test]
fn the_first_reconcile_names_the_living_in_its_networks_once() {
    let within = vec!["10.1.0.0/16".parse().unwrap()];
    let mut outbox = Outbox::new(false, Some(within));
    assert_eq!(lines(&mut outbox, &State::new(Policy::default())), [] as [Value; 0], "not listed yet");
    let state = knowing(&["udp://10.1.0.1:53", "udp://192.0.2.1:53"]);
    let expected = json!({"id": "watch-000000000001", "type": "reconcile", "backends": ["udp://10.1.0.1:53"],
        "within": ["10.1.0.0/16"]});
    assert_eq!(lines(&mut outbox, &state), [expected]);
    outbox.broken();
    assert_eq!(lines(&mut outbox, &state).len(), 1, "without a report it is sent again");
    let report = r#"{"id":"watch-000000000002","complete":true,"destroyed":0}"#;
    assert_eq!(outbox.answered(report), Answered::Report(None));
    assert_eq!(lines(&mut outbox, &state), [] as [Value; 0]);
    let mut none = Outbox::new(false, Some(vec!["10.2.0.0/16".parse().unwrap()]));
    assert_eq!(lines(&mut none, &state), [] as [Value; 0], "an empty list would be refused");
}
