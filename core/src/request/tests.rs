//! Tests of [`Request::parse`](super::Request::parse).

use proptest::prelude::*;

use super::*;
use crate::VictimAction;
use crate::backend::Backend;
use crate::frontend::{Frontend, MAX_FRONTENDS, Through, UnknownFrontend};
use crate::limits::MAX_BACKENDS;
use crate::network::MAX_NETWORKS;
use crate::strategies;

fn refusal(line: &str) -> (Option<String>, Option<String>, String) {
    let refusal = Request::parse(line.as_bytes(), 9).unwrap_err();
    assert_eq!(refusal.line, 9);
    (refusal.id, refusal.field, refusal.message)
}

/// Asserts id, field and how the message begins.
fn refused(line: &str, id: Option<&str>, field: Option<&str>, message: &str) {
    let got = refusal(line);
    assert_eq!(got.0.as_deref(), id, "id of {line}");
    assert_eq!(got.1.as_deref(), field, "field of {line}");
    assert!(got.2.starts_with(message), "{line}: {}", got.2);
}

#[test]
fn reads_events() {
    let read = |line: &str| Request::parse(line.as_bytes(), 1).unwrap();
    let event = |dry_run| {
        let action = Action::BackendDeleted { backend: "udp://10.0.0.1:53".parse().unwrap() };
        Request::Event(Event { dry_run, ..Event::new("e1", action) })
    };
    let line = r#"{"id":"e1","type":"backend-deleted","backend":"udp://10.0.0.1:53""#;
    assert_eq!(read(&format!("{line}}}\r\n")), event(false));
    assert_eq!(read(&format!("{line},\"dry_run\":false}}")), event(false));
    assert_eq!(read(&format!("{line},\"dry_run\":true}}")), event(true));
    assert_eq!(read(r#"{"type":"index","id":"q\u0031"}"#), Request::Index { id: "q1".to_owned() });
    assert_eq!(read(r#"{"type":"audit","id":"q2"}"#), Request::Audit { id: "q2".to_owned() });
}

#[test]
fn refuses_what_is_not_an_object() {
    refused("", None, None, "the line is empty; write one JSON");
    refused(" \r\n", None, None, "the line is empty;");
    for line in ["null", "true", "3", "\"x\"", "[1]", "[]"] {
        refused(line, None, None, "this is not a JSON object;");
    }
    refused("{} {}", None, None, "this is not JSON: trailing characters at column 4; write");
    refused("{\"id\":", None, None, "this is not JSON: EOF while");
    refused("{id:1}", None, None, "this is not JSON: key must be a");
    refused("\u{feff}{}", None, None, "this is not JSON: expected");
    refused("\0\u{1}\u{2}", None, None, "this is not JSON: expected");
    let deep = format!("{{\"id\":{}", "[".repeat(100_000));
    refused(&deep, None, None, "this is not JSON: recursion limit");
    let refusal = Request::parse(b"{\"id\":\"\xff\"}", 1).unwrap_err();
    assert_eq!(refusal.field, None);
    assert!(refusal.message.starts_with("byte 7 is not UTF-8;"));
}

#[test]
fn refuses_fields() {
    refused("{}", None, Some("type"), "\"type\" is missing;");
    refused(
        r#"{"id":"e1","type":"backend-lost"}"#,
        Some("e1"),
        Some("type"),
        "type \"backend-lost\" is not known; write one of: backend-deleted, backends-deleted, reconcile, terminate, policy, \
         backend-added, index, status, top, audit",
    );
    refused(
        r#"{"id":"e1","type":"backend-deleted","bakend":"udp://10.0.0.1:53"}"#,
        Some("e1"),
        Some("bakend"),
        "field \"bakend\" is not known; \"backend-deleted\" takes: id, type, backend, where, except, dry_run, netns, \
         confirm_after_ms, action, to, spread, force, after_ms, tcp, else, frontend, unknown_frontend",
    );
    refused(
        r#"{"id":"q1","type":"index","backend":"udp://10.0.0.1:53"}"#,
        Some("q1"),
        Some("backend"),
        "field \"backend\" is not for this type; \"index\" takes: id, type",
    );
    refused(
        r#"{"id":"e1","type":"backend-deleted"}"#,
        Some("e1"),
        Some("backend"),
        "\"backend\" is missing;",
    );
    refused(
        r#"{"id":"e1","type":"backend-deleted","backend":"udp://10.0.0.1:0"}"#,
        Some("e1"),
        Some("backend"),
        "port 0 would match",
    );
    refused(
        r#"{"id":"e1","type":"backend-deleted","backend":["udp://10.0.0.1:53"]}"#,
        Some("e1"),
        Some("backend"),
        "\"backend\" is an array; write a string",
    );
    for value in ["null", "0", "\"true\"", "{}"] {
        refused(
            &format!(
                r#"{{"id":"e1","type":"backend-deleted","backend":"udp://10.0.0.1:53","dry_run":{value}}}"#
            ),
            Some("e1"),
            Some("dry_run"),
            "\"dry_run\" is ",
        );
    }
}

#[test]
fn reads_lists() {
    let backends = vec!["udp://10.0.0.1:53".parse().unwrap(), "tcp://[fd00::1]:80".parse().unwrap()];
    let list = r#""backends":["udp://10.0.0.1:53","tcp://[fd00::1]:80"]"#;
    for (name, action) in [
        ("backends-deleted", Action::BackendsDeleted { backends: backends.clone() }),
        ("reconcile", Action::Reconcile { backends, within: Vec::new(), max_victims: None }),
    ] {
        let line = format!(r#"{{"id":"e1","type":"{name}",{list},"dry_run":true}}"#);
        let event = Event { dry_run: true, ..Event::new("e1", action) };
        assert_eq!(Request::parse(line.as_bytes(), 1), Ok(Request::Event(event)));
    }
}

#[test]
fn refuses_lists() {
    for name in ["backends-deleted", "reconcile"] {
        let line = |rest: &str| format!(r#"{{"id":"e1","type":"{name}"{rest}}}"#);
        let bad = |rest: &str, field: &str, message: &str| {
            refused(&line(rest), Some("e1"), Some(field), message);
        };
        bad("", "backends", "\"backends\" is missing; write an array of backends,");
        bad(r#","backends":[]"#, "backends", "\"backends\" is empty;");
        bad(r#","backends":"udp://10.0.0.1:53""#, "backends", "\"backends\" is a string; write an array");
        bad(r#","backends":["udp://10.0.0.1:53",7]"#, "backends[1]", "it is a number; write a string");
        bad(r#","backends":["udp://10.0.0.1:0"]"#, "backends[0]", "port 0 would match");
        bad(r#","backend":"udp://10.0.0.1:53""#, "backend", "field \"backend\" is not for this type;");
        let many = |n| vec!["\"udp://10.0.0.1:53\""; n].join(",");
        bad(
            &format!(r#","backends":[{}]"#, many(MAX_BACKENDS + 1)),
            "backends",
            "\"backends\" has 16385 entries; write at most 16384",
        );
        let most = line(&format!(r#","backends":[{}]"#, many(MAX_BACKENDS)));
        assert!(Request::parse(most.as_bytes(), 1).is_ok());
    }
}

/// The longest spelling of a backend that a request is written with, as often as it may be there.
#[test]
fn the_longest_list_fits_in_one_mebibyte() {
    let longest: Backend = "tcp://[1111:2222:3333:4444:5555:6666:7777:8888]:55555".parse().unwrap();
    let action = Action::BackendsDeleted { backends: vec![longest; MAX_BACKENDS] };
    let event = Event { dry_run: true, ..Event::new("\u{10ffff}".repeat(64), action) };
    assert!(serde_json::to_vec(&event).unwrap().len() <= 1 << 20);
}

#[test]
fn reads_what_restricts_a_reconcile() {
    let line =
        |rest: &str| format!(r#"{{"id":"r1","type":"reconcile","backends":["udp://10.0.0.1:53"]{rest}}}"#);
    let read = line(r#","within":["10.0.0.0/8","fd00::/8"],"max_victims":0"#);
    let action = Action::Reconcile {
        backends: vec!["udp://10.0.0.1:53".parse().unwrap()],
        within: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
        max_victims: Some(0),
    };
    assert_eq!(Request::parse(read.as_bytes(), 1), Ok(Request::Event(Event::new("r1", action))));
    let bad = |rest: &str, field: &str, message: &str| refused(&line(rest), Some("r1"), Some(field), message);
    bad(r#","within":[]"#, "within", "\"within\" is empty; write an array of networks,");
    bad(r#","within":"10.0.0.0/8""#, "within", "\"within\" is a string; write an array of networks,");
    bad(r#","within":["10.0.0.0/8",1]"#, "within[1]", "it is a number; write a string");
    bad(r#","within":["0.0.0.0/0"]"#, "within[0]", "a prefix of length 0 restricts nothing;");
    let many = vec!["\"10.0.0.0/8\""; MAX_NETWORKS + 1].join(",");
    bad(&format!(r#","within":[{many}]"#), "within", "\"within\" has 1025 entries; write at most 1024");
    for (value, what) in [("-1", "a number"), ("1.5", "a number"), ("\"1\"", "a string"), ("null", "null")] {
        let message = format!("\"max_victims\" is {what}; write a whole number, 0 or more");
        bad(&format!(r#","max_victims":{value}"#), "max_victims", &message);
    }
    let deleted =
        r#"{"id":"e","type":"backend-deleted","backend":"udp://10.0.0.1:53","within":["10.0.0.0/8"]}"#;
    refused(deleted, Some("e"), Some("within"), "field \"within\" is not for this type;");
}

#[test]
fn reads_what_frontends_an_event_is_restricted_to() {
    let line =
        |rest: &str| format!(r#"{{"id":"e1","type":"backend-deleted","backend":"udp://10.0.0.1:53"{rest}}}"#);
    let read = |rest: &str| match Request::parse(line(rest).as_bytes(), 1) {
        Ok(Request::Event(event)) => event.through,
        other => unreachable!("{other:?}"),
    };
    let vip = Frontend::Address("udp://10.96.0.10:53".parse().unwrap());
    assert_eq!(read(""), Through::default());
    assert_eq!(read(r#","frontend":"direct""#).frontends, [Frontend::Direct]);
    assert_eq!(read(r#","frontend":"udp://10.96.0.10:53""#).frontends, [vip]);
    let both = read(r#","frontend":["direct","udp://10.96.0.10:53"],"unknown_frontend":"destroy""#);
    assert_eq!(both, Through { frontends: vec![Frontend::Direct, vip], unknown: UnknownFrontend::Destroy });
    let bad = |rest: &str, field: &str, message: &str| refused(&line(rest), Some("e1"), Some(field), message);
    bad(r#","frontend":[]"#, "frontend", "\"frontend\" is empty; write an address that clients name,");
    bad(r#","frontend":7"#, "frontend", "\"frontend\" is a number; write an address that clients name,");
    bad(r#","frontend":["direct",7]"#, "frontend[1]", "it is a number; write a string");
    bad(r#","frontend":"10.96.0.10:53""#, "frontend", "\"10.96.0.10:53\" has no scheme;");
    bad(r#","frontend":"tcp://10.96.0.10:53""#, "frontend", "tcp://10.96.0.10:53 has another protocol");
    bad(r#","unknown_frontend":"destroy""#, "unknown_frontend", "\"unknown_frontend\" is for events with");
    bad(r#","frontend":"direct","unknown_frontend":"keep""#, "unknown_frontend", "\"keep\" is not a policy");
    let many = vec!["\"direct\""; MAX_FRONTENDS + 1].join(",");
    bad(&format!(r#","frontend":[{many}]"#), "frontend", "\"frontend\" has 1025 entries; write at most 1024");
    refused(
        r#"{"id":"r","type":"reconcile","backends":["udp://10.0.0.1:53"],"frontend":"direct"}"#,
        Some("r"),
        Some("frontend"),
        "field \"frontend\" is not for this type;",
    );
}

#[test]
fn a_link_local_backend_needs_its_link_and_the_netns_of_that() {
    let line = |backend: &str, rest: &str| {
        format!(r#"{{"id":"e1","type":"backend-deleted","backend":"{backend}"{rest}}}"#)
    };
    let action = Action::BackendDeleted { backend: "udp://[fe80::1%eth0]:53".parse().unwrap() };
    let event = Event { netns: Some("/run/netns/blue".to_owned()), ..Event::new("e1", action) };
    let read = line("udp://[fe80::1%eth0]:53", r#","netns":"/run/netns/blue""#);
    assert_eq!(Request::parse(read.as_bytes(), 1), Ok(Request::Event(event)));
    let bad = |backend: &str, rest: &str, field: &str, message: &str| {
        refused(&line(backend, rest), Some("e1"), Some(field), message);
    };
    bad("udp://[fe80::1]:53", "", "backend", "udp://[fe80::1]:53 is link-local, and every link may have");
    bad("udp://[fe80::1%eth0]:53", "", "netns", "udp://[fe80::1%eth0]:53 names a link, and every network");
    bad("udp://10.0.0.1:53", r#","netns":"/run/netns/blue""#, "netns", "\"netns\" is for link-local");
    bad("udp://[fe80::1%eth0]:53", r#","netns":"blue""#, "netns", "\"blue\" is not an absolute path;");
    bad("udp://[fe80::1%eth0]:53", r#","netns":"/a\nb""#, "netns", "\"/a\\nb\" is not an absolute path;");
    bad("udp://[fe80::1%eth0]:53", r#","netns":7"#, "netns", "\"netns\" is a number; write a string");
    refused(
        r#"{"id":"r","type":"reconcile","backends":["udp://[fe80::1%eth0]:53"]}"#,
        Some("r"),
        Some("backends"),
        "udp://[fe80::1%eth0]:53 is link-local, and a reconcile leaves",
    );
}

#[test]
fn refuses_ids() {
    refused(r#"{"type":"index"}"#, None, Some("id"), "\"id\" is missing");
    refused(r#"{"id":1,"type":"index"}"#, None, Some("id"), "\"id\" is a number; write a string");
    refused(r#"{"id":"","type":"index"}"#, None, Some("id"), "the id is empty;");
    refused(
        r#"{"id":"a\u0000","type":"index"}"#,
        None,
        Some("id"),
        "the id has a control character at byte 1;",
    );
    let long = "x".repeat(257);
    refused(
        &format!(r#"{{"id":"{long}","type":"index"}}"#),
        None,
        Some("id"),
        "the id has 257 bytes; write at most 256",
    );
}

#[test]
fn refuses_repeated_fields() {
    refused(
        r#"{"id":"a","type":"index","id":"b"}"#,
        None,
        Some("id"),
        "field \"id\" is there twice; write it once",
    );
    refused(
        r#"{"id":"a","type":"index","type":"index"}"#,
        Some("a"),
        Some("type"),
        "field \"type\" is there twice;",
    );
    // Escapes spell the same name.
    refused(
        r#"{"id":"a","x":1,"\u0078":2,"type":"index"}"#,
        Some("a"),
        Some("x"),
        "field \"x\" is there twice;",
    );
}

#[test]
fn refusals_stay_short_for_long_input() {
    let name = "y".repeat(100_000);
    let refusal =
        Request::parse(format!(r#"{{"id":"a","type":"index","{name}":1}}"#).as_bytes(), 1).unwrap_err();
    assert!(refusal.to_string().len() < 300);
}

fn any_json() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        Just("id".to_owned()),
        Just("type".to_owned()),
        Just("backend".to_owned()),
        Just("backends".to_owned()),
        Just("dry_run".to_owned()),
        Just("netns".to_owned()),
        Just("frontend".to_owned()),
        Just("unknown_frontend".to_owned()),
        Just("within".to_owned()),
        Just("max_victims".to_owned()),
        any::<String>(),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(Value::from("index")),
        Just(Value::from("status")),
        Just(Value::from("top")),
        Just(Value::from("backend-deleted")),
        Just(Value::from("backends-deleted")),
        Just(Value::from("reconcile")),
        Just(Value::from("udp://10.0.0.1:53")),
        Just(Value::from("udp://[fe80::1%eth0]:53")),
        Just(Value::from("/run/netns/blue")),
        Just(Value::from("direct")),
        Just(Value::from("destroy")),
        Just(Value::from("10.0.0.0/8")),
    ];
    leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn round_trip(request in strategies::request(), line in any::<u64>()) {
        let json = serde_json::to_vec(&request).unwrap();
        prop_assert_eq!(Request::parse(&json, line), Ok(request));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in any::<Vec<u8>>(), line in any::<u64>()) {
        if let Err(refusal) = Request::parse(&bytes, line) {
            prop_assert_eq!(refusal.line, line);
        }
    }

    #[test]
    fn arbitrary_json_never_panics_and_refusals_name_the_field(json in any_json()) {
        match Request::parse(json.to_string().as_bytes(), 1) {
            Ok(request) => {
                // Exactly what was written, apart from a spelled-out default.
                let mut written = json;
                if written["dry_run"] == Value::Bool(false) {
                    written.as_object_mut().unwrap().remove("dry_run");
                }
                prop_assert_eq!(serde_json::to_value(request).unwrap(), written);
            }
            Err(refusal) => prop_assert_eq!(refusal.field.is_some(), json.is_object()),
        }
    }

    /// Damage to a good line is read as another request or refused, never a panic.
    #[test]
    fn damaged_lines_never_panic(
        request in strategies::request(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut json = serde_json::to_vec(&request).unwrap();
        let at = at.index(json.len());
        json[at] = byte;
        let _ = Request::parse(&json, 1);
        let _ = Request::parse(&json[..at], 1);
    }
}

#[test]
fn reads_what_is_done_with_the_victims() {
    let line =
        |rest: &str| format!(r#"{{"id":"e","type":"backend-deleted","backend":"udp://10.0.0.1:53"{rest}}}"#);
    let read = |rest: &str| match Request::parse(line(rest).as_bytes(), 1) {
        Ok(Request::Event(event)) => event.victim_action,
        other => panic!("{rest}: {other:?}"),
    };
    assert_eq!(read(""), None);
    assert_eq!(read(r#","action":"destroy""#), Some(VictimAction::Destroy));
    assert_eq!(read(r#","action":"none""#), Some(VictimAction::None));
    for (rest, wire) in [
        (r#","action":"revive","to":"udp://10.0.0.2:53""#, r#"{"action":"revive","to":"udp://10.0.0.2:53"}"#),
        (
            r#","action":"revive","to":["udp://10.0.0.2:53"],"after_ms":0"#,
            r#"{"action":"revive","to":"udp://10.0.0.2:53","after_ms":0}"#,
        ),
        (
            r#","action":"move","to":"udp://10.0.0.2:53","spread":"cookie","tcp":"spare","else":"spare""#,
            r#"{"action":"move","to":"udp://10.0.0.2:53","spread":"cookie","tcp":"spare","else":"spare"}"#,
        ),
        (
            r#","action":"revive","to":"udp://10.0.0.2:443","force":true"#,
            r#"{"action":"revive","to":"udp://10.0.0.2:443","force":true}"#,
        ),
    ] {
        assert_eq!(serde_json::to_string(&read(rest)).unwrap(), wire);
    }
    for (rest, field, message) in [
        (r#","force":true"#, "force", "\"force\" needs \"action\" to be revive or move"),
        (r#","action":"move","to":"udp://10.0.0.2:53","force":1"#, "force", "\"force\" is a number;"),
        (
            r#","action":"move","to":"udp://10.0.0.2:443""#,
            "to",
            "udp://10.0.0.2:443: port 443 is one of a protocol whose two ends share state",
        ),
        (r#","action":"kill""#, "action", "\"kill\" is not an action; write one of: destroy, revive"),
        (r#","action":7"#, "action", "\"action\" is a number; write a string"),
        (r#","action":"revive""#, "to", "\"to\" is missing;"),
        (r#","to":"udp://10.0.0.2:53""#, "to", "\"to\" needs \"action\" to be revive or move"),
        (r#","action":"none","to":"udp://10.0.0.2:53""#, "to", "\"to\" needs \"action\""),
        (r#","action":"move","to":"udp://10.0.0.2:53","after_ms":1"#, "after_ms", "\"after_ms\" needs"),
        (r#","action":"revive","to":"udp://10.0.0.2:53","else":"spare""#, "else", "\"else\" needs"),
        (r#","action":"revive","to":"udp://10.0.0.2:53","after_ms":3600001"#, "after_ms", "\"after_ms\" is"),
        (r#","action":"revive","to":[]"#, "to", "\"to\" is empty;"),
        (r#","action":"revive","to":7"#, "to", "\"to\" is a number;"),
        (r#","action":"revive","to":["udp://10.0.0.2:53",7]"#, "to[1]", "it is a number;"),
        (r#","action":"revive","to":"tcp://10.0.0.2:53""#, "to", "tcp://10.0.0.2:53 is no UDP backend"),
        (r#","action":"revive","to":"udp://0.0.0.0:53""#, "to", ""),
        (r#","action":"revive","to":"udp://224.0.0.1:53""#, "to", ""),
        (
            r#","action":"revive","to":"udp://10.0.0.1:53""#,
            "to",
            "udp://10.0.0.1:53 is deleted by this event",
        ),
        (r#","action":"revive","to":"udp://[fd00::2]:53""#, "to", "the sockets of udp://10.0.0.1:53 have no"),
        (r#","action":"move","to":"udp://10.0.0.2:53","tcp":"keep""#, "tcp", "\"keep\" is not what is"),
    ] {
        refused(&line(rest), Some("e"), Some(field), message);
    }
    refused(
        r#"{"id":"e","type":"backend-deleted","backend":"tcp://10.0.0.1:53","action":"revive","to":"udp://10.0.0.2:53"}"#,
        Some("e"),
        Some("to"),
        "udp://10.0.0.2:53 is a UDP backend, and all deleted ones are TCP",
    );
}

#[test]
fn a_destination_may_not_be_selected() {
    let to = r#""action":"move","to":"udp://10.0.0.2:53"}"#;
    for (selects, refused_for_it) in [
        (r#""type":"terminate","where":{"to":["10.0.0.0/8"]}"#, true),
        (r#""type":"terminate","where":{"uid":1000}"#, true),
        (r#""type":"terminate","where":{"to":["10.0.0.0/8"]},"except":{"to":["10.0.0.2"],"uid":7}"#, true),
        (r#""type":"terminate","where":{"to":["10.0.0.0/8"]},"except":{"to":["10.0.0.2"]}"#, false),
        (r#""type":"terminate","where":{"to":["10.0.0.0/8"],"ports":["54"]}"#, false),
        (r#""type":"terminate","where":{"protocol":"tcp","uid":1000}"#, false),
        (r#""type":"policy","where":{"uid":1000},"allow":[{"to":["10.0.0.0/8"],"ports":["53"]}]"#, false),
        (r#""type":"policy","where":{"uid":1000},"allow":[{"to":["10.0.0.0/8"],"ports":["54"]}]"#, true),
        (r#""type":"backend-deleted","backend":"udp://10.0.0.1:53","where":{"uid":1000}"#, false),
    ] {
        let line = format!(r#"{{"id":"e",{selects},{to}"#);
        if refused_for_it {
            refused(&line, Some("e"), Some("to"), "udp://10.0.0.2:53 is selected by the event itself");
        } else {
            assert!(matches!(Request::parse(line.as_bytes(), 1), Ok(Request::Event(_))), "{line}");
        }
    }
}

#[test]
fn a_deletion_may_wait_to_be_confirmed() {
    let line =
        |rest: &str| format!(r#"{{"id":"e","type":"backend-deleted","backend":"udp://10.0.0.1:53"{rest}}}"#);
    let read = |line: &str| match Request::parse(line.as_bytes(), 1) {
        Ok(Request::Event(event)) => event,
        other => panic!("{line}: {other:?}"),
    };
    assert_eq!(read(&line("")).confirm_after_ms, 0);
    assert_eq!(read(&line(r#","confirm_after_ms":5000"#)).confirm_after_ms, 5000);
    let message = "\"confirm_after_ms\" is 3600001; write at most 3600000";
    refused(&line(r#","confirm_after_ms":3600001"#), Some("e"), Some("confirm_after_ms"), message);
    let added = r#"{"id":"a","type":"backend-added","backend":"udp://10.0.0.1:53"}"#;
    let event = read(added);
    assert_eq!((event.action.name(), event.action.gone().len()), ("backend-added", 0));
    assert_eq!(serde_json::to_string(&event).unwrap(), added);
    let on_link =
        r#"{"id":"a","type":"backend-added","backend":"udp://[fe80::1%eth0]:53","netns":"/run/netns/a"}"#;
    assert_eq!(read(on_link).netns.as_deref(), Some("/run/netns/a"));
    assert_eq!(serde_json::to_string(&read(on_link)).unwrap(), on_link);
    let nowhere = r#"{"id":"a","type":"backend-added","backend":"udp://[fe80::1%eth0]:53"}"#;
    let message =
        "udp://[fe80::1%eth0]:53 names a link, and every network namespace may have a link of that name";
    refused(nowhere, Some("a"), Some("netns"), message);
    let late = r#"{"id":"a","type":"backend-added","backend":"udp://10.0.0.1:53","confirm_after_ms":1}"#;
    refused(late, Some("a"), Some("confirm_after_ms"), "field \"confirm_after_ms\" is not for this type");
}
