//! Tests of the selectors in requests.

use super::*;

fn read(line: &str) -> Event {
    match Request::parse(line.as_bytes(), 1) {
        Ok(Request::Event(event)) => event,
        other => panic!("{line}: {other:?}"),
    }
}

fn refused(rest: &str, field: Option<&str>, message: &str) {
    let line = format!(r#"{{"id":"p1",{rest}}}"#);
    let refusal = Request::parse(line.as_bytes(), 1).unwrap_err();
    assert_eq!(refusal.field.as_deref(), field, "{line}: {refusal}");
    assert!(refusal.message.starts_with(message), "{line}: {refusal}");
}

#[test]
fn reads_what_selects_sockets() {
    let line = concat!(
        r#"{"id":"p1","type":"terminate","max_victims":7,"dry_run":true,"#,
        r#""where":{"protocol":"udp","to":["10.0.0.0/8","fd00::/8"],"ports":["53","8000-9000"],"#,
        r#""cgroup":"/sys/fs/cgroup/a.slice","netns":"/run/netns/blue","uid":1000,"interface":"eth0"},"#,
        r#""except":{"to":["10.0.0.53"]}}"#,
    );
    let event = read(line);
    assert_eq!(event.action, Action::Terminate { max_victims: Some(7) });
    assert_eq!(event.selector.as_ref().unwrap().to.len(), 2);
    assert_eq!(event.except.as_ref().unwrap().to[0].to_string(), "10.0.0.53");
    assert_eq!(serde_json::to_string(&event).unwrap(), line);

    let line = concat!(
        r#"{"id":"p2","type":"policy","allow":[{"to":["10.0.0.0/8"],"ports":["53"]},{"protocol":"tcp"}],"#,
        r#""where":{"cgroup":"id:4242"}}"#,
    );
    let event = read(line);
    assert_eq!(event.action.allowed().len(), 2);
    assert_eq!(serde_json::to_string(&event).unwrap(), line);

    let line = r#"{"id":"e","type":"backend-deleted","backend":"udp://10.0.0.1:53","where":{"uid":0},"except":{"netns":"blue"}}"#;
    assert_eq!(serde_json::to_string(&read(line)).unwrap(), line);
}

#[test]
fn refuses_with_the_field_at_fault() {
    let terminate = |rest: &str, field: &str, message: &str| {
        refused(&format!(r#""type":"terminate",{rest}"#), Some(field), message);
    };
    refused(r#""type":"terminate""#, Some("where"), "it is missing; write which sockets are meant");
    refused(
        r#""type":"policy","where":{"uid":0}"#,
        Some("allow"),
        "\"allow\" is missing; write what may stay",
    );
    terminate(r#""where":{}"#, "where", "it has no condition, and would select every socket;");
    terminate(r#""where":{"uid":0},"except":{}"#, "except", "it has no condition");
    terminate(r#""where":null"#, "where", "it is null; write an object such as");
    terminate(
        r#""where":{"to":["10.0.0.0/8","0.0.0.0"]}"#,
        "where.to[1]",
        "0.0.0.0 is the address of sockets",
    );
    terminate(r#""where":{"ports":["0"]}"#, "where.ports[0]", "port 0 is that of sockets without a peer;");
    terminate(r#""where":{"udi":0}"#, "where.udi", "field \"udi\" is not known; a selector takes:");
    terminate(
        r#""where":{"uid":0},"backend":"udp://10.0.0.1:53""#,
        "backend",
        "field \"backend\" is not for this",
    );
    terminate(r#""where":{"uid":0},"allow":[]"#, "allow", "field \"allow\" is not for this type;");
    terminate(
        r#""where":{"uid":0},"max_victims":-1"#,
        "max_victims",
        "\"max_victims\" is a number; write a whole",
    );
    let policy = |allow: &str, field: &str, message: &str| {
        refused(&format!(r#""type":"policy","where":{{"uid":0}},"allow":{allow}"#), Some(field), message);
    };
    policy("[]", "allow", "it is empty: nothing would be allowed");
    policy(r#"[{"to":["10.0.0.0/8"]},{"cgroup":"/a"}]"#, "allow[1].cgroup", "field \"cgroup\" is not known;");
    policy(
        r#"[{"protocol":"tcp"},{"to":["fd00::1","fe80::1"],"ports":["53"]}]"#,
        "allow[1].to[1]",
        "it is link-local, and every link may have a host of that address; write fe80::/10",
    );
    let half = |n: u32| {
        (0..600).map(|i| format!("\"10.{n}.{}.{}/32\"", i / 256, i % 256)).collect::<Vec<_>>().join(",")
    };
    let many =
        format!(r#""type":"terminate","where":{{"to":[{}]}},"except":{{"to":[{}]}}"#, half(1), half(2));
    refused(&many, Some("where"), "the event has 1200 prefixes in all; write at most 1024");
}

#[test]
fn refuses_a_repeated_field_wherever_it_is() {
    refused(
        r#""type":"terminate","where":{"uid":1,"uid":2}"#,
        None,
        "field \"uid\" is there twice; write it once",
    );
    refused(
        r#""type":"policy","allow":[{"a":{"b":0,"b":0}}]"#,
        None,
        "field \"b\" is there twice; write it once",
    );
    refused(r#""type":"terminate","type":"terminate""#, Some("type"), "field \"type\" is there twice;");
}
