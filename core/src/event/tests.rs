use super::*;

fn event(dry_run: bool) -> Event {
    let backend = "udp://10.0.0.1:53".parse().unwrap();
    Event { dry_run, ..Event::new("e1", Action::BackendDeleted { backend }) }
}

#[test]
fn a_link_local_backend_needs_its_link_and_the_netns_of_that() {
    let backend = |text: &str| text.parse::<Backend>().unwrap();
    let (bare, zoned) = (backend("udp://[fe80::1]:53"), backend("udp://[fe80::1%eth0]:53"));
    let plain = backend("udp://10.0.0.1:53");
    let check = |action: Action, netns: Option<&str>| {
        Event { netns: netns.map(str::to_owned), ..Event::new("e", action) }.check_links()
    };
    let one = |backend| Action::BackendDeleted { backend };
    let living =
        |backend| Action::Reconcile { backends: vec![backend], within: Vec::new(), max_victims: None };
    let blue = Some("/run/netns/blue");
    assert_eq!(check(one(plain), None), Ok(()));
    assert_eq!(check(one(zoned), blue), Ok(()));
    assert_eq!(check(one(bare), None), Err(LinkError::NoZone(bare)));
    assert_eq!(check(one(bare), blue), Err(LinkError::NoZone(bare)));
    assert_eq!(check(one(zoned), None), Err(LinkError::NoNetns(zoned)));
    assert_eq!(check(one(plain), blue), Err(LinkError::NoUse));
    let added = |backend| Action::BackendAdded { backend };
    assert_eq!(check(added(plain), None), Ok(()));
    assert_eq!(check(added(zoned), blue), Ok(()));
    assert_eq!(check(added(bare), blue), Err(LinkError::NoZone(bare)));
    assert_eq!(check(added(zoned), None), Err(LinkError::NoNetns(zoned)));
    assert_eq!(check(added(plain), blue), Err(LinkError::NoUse));
    let both = Action::BackendsDeleted { backends: vec![zoned, plain] };
    assert_eq!(check(both, blue), Err(LinkError::NoUse));
    assert_eq!(check(living(plain), None), Ok(()));
    assert_eq!(check(living(plain), blue), Err(LinkError::NoUse));
    assert_eq!(check(living(bare), None), Err(LinkError::Reconcile(bare)));
    assert_eq!(check(living(zoned), blue), Err(LinkError::Reconcile(zoned)));
    assert_eq!(LinkError::NoZone(bare).field(&one(bare)), "backend");
    assert_eq!(LinkError::Reconcile(bare).field(&living(bare)), "backends");
    assert_eq!(LinkError::NoUse.field(&one(plain)), "netns");
}

#[test]
fn events_are_made_in_few_words() {
    let backend: Backend = "udp://10.0.0.1:53".parse().unwrap();
    let (one, more) = (Event::deleted(backend), Event::deleted(backend));
    assert!(one.id != more.id && check_id(&one.id) == Ok(()), "{} {}", one.id, more.id);
    assert_eq!(one.with_id("e1"), event(false));
    assert_eq!(more.with_id("e1").with_dry_run(true), event(true));
    let all = Event::all_deleted([backend, backend]);
    assert_eq!(all.action, Action::BackendsDeleted { backends: vec![backend; 2] });
    let within: Vec<Network> = vec!["10.0.0.0/8".parse().unwrap()];
    let living = Event::reconcile([backend], within.clone());
    assert_eq!(living.action, Action::Reconcile { backends: vec![backend], within, max_victims: None });
    assert_eq!(Event::deleted(backend).with_netns("/run/netns/a").netns.as_deref(), Some("/run/netns/a"));
}

#[test]
fn wire_form() {
    assert_eq!(
        serde_json::to_string(&event(true)).unwrap(),
        r#"{"id":"e1","type":"backend-deleted","backend":"udp://10.0.0.1:53","dry_run":true}"#
    );
    assert_eq!(
        serde_json::to_string(&event(false)).unwrap(),
        r#"{"id":"e1","type":"backend-deleted","backend":"udp://10.0.0.1:53"}"#
    );
}

#[test]
fn what_is_seldom_there_has_its_wire_form() {
    let action = Action::Reconcile {
        backends: vec!["udp://10.0.0.1:53".parse().unwrap()],
        within: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
        max_victims: Some(7),
    };
    assert_eq!(
        serde_json::to_string(&Event::new("r1", action)).unwrap(),
        r#"{"id":"r1","type":"reconcile","backends":["udp://10.0.0.1:53"],"within":["10.0.0.0/8","fd00::/8"],"max_victims":7}"#
    );
    let action = Action::BackendDeleted { backend: "udp://[fe80::1%eth0]:53".parse().unwrap() };
    let event = Event { netns: Some("/run/netns/blue".to_owned()), ..Event::new("e1", action) };
    assert_eq!(
        serde_json::to_string(&event).unwrap(),
        r#"{"id":"e1","type":"backend-deleted","backend":"udp://[fe80::1%eth0]:53","netns":"/run/netns/blue"}"#
    );
}

#[test]
fn name_is_the_wire_type() {
    let action = event(false).action;
    let json = serde_json::to_value(&action).unwrap();
    assert_eq!(json["type"], action.name());
    assert_eq!(action.gone().len(), 1);
    assert_eq!(action.gone()[0].to_string(), "udp://10.0.0.1:53");
    for action in [
        Action::BackendsDeleted { backends: action.gone().to_vec() },
        Action::Reconcile { backends: action.gone().to_vec(), within: Vec::new(), max_victims: None },
    ] {
        let json = serde_json::to_value(&action).unwrap();
        assert_eq!(json["type"], action.name());
        assert_eq!(json["backends"], serde_json::json!(["udp://10.0.0.1:53"]));
    }
}

#[test]
fn ids() {
    assert_eq!(check_id("e1"), Ok(()));
    assert_eq!(check_id("ä \"quoted\""), Ok(()));
    assert_eq!(check_id(&"x".repeat(256)), Ok(()));
    assert_eq!(check_id(&"x".repeat(257)), Err(IdError::TooLong { bytes: 257 }));
    assert_eq!(check_id(&"é".repeat(129)), Err(IdError::TooLong { bytes: 258 }));
    assert_eq!(check_id(""), Err(IdError::Empty));
    assert_eq!(check_id("ab\n"), Err(IdError::Control { offset: 2 }));
    assert_eq!(check_id("\u{7f}"), Err(IdError::Control { offset: 0 }));
    assert_eq!(check_id("a\u{85}"), Err(IdError::Control { offset: 1 }));
}
