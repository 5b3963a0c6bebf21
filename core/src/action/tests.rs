use super::*;

fn backend(text: &str) -> Backend {
    text.parse().unwrap()
}

fn to(list: &[&str], spread: Spread) -> Destinations {
    Destinations::new(list.iter().map(|text| backend(text)).collect(), spread).unwrap()
}

fn revive(list: &[&str]) -> VictimAction {
    VictimAction::Revive(Revive { to: to(list, Spread::Even), after_ms: REVIVE_AFTER_MS })
}

#[test]
fn a_destination_is_a_udp_backend_that_names_one_host() {
    let new = |list: &[&str]| {
        Destinations::new(list.iter().map(|text| backend(text)).collect(), Spread::Even).map(drop)
    };
    assert_eq!(new(&["udp://10.0.0.2:53", "udp://[fd00::2]:53"]), Ok(()));
    assert_eq!(new(&[]), Err(ActionError::Nowhere));
    let tcp = "tcp://10.0.0.2:53";
    assert_eq!(new(&["udp://10.0.0.2:53", tcp]), Err(ActionError::NotUdp(backend(tcp))));
    let link = "udp://[fe80::2%eth0]:53";
    assert_eq!(new(&[link]), Err(ActionError::LinkLocal(backend(link))));
    let many = vec![backend("udp://10.0.0.2:53"); MAX_BACKENDS + 1];
    assert_eq!(Destinations::new(many, Spread::Even), Err(ActionError::TooMany(MAX_BACKENDS + 1)));
}

#[test]
fn what_is_deleted_needs_a_destination_that_is_not() {
    let (v4, v6, tcp) =
        (backend("udp://10.0.0.1:53"), backend("udp://[fd00::1]:53"), backend("tcp://10.0.0.1:80"));
    let living = revive(&["udp://10.0.0.2:53"]);
    assert_eq!(living.check(&[v4]), Ok(()));
    assert_eq!(living.check(&[v4, tcp]), Ok(()));
    // A reconcile names those that live.
    assert_eq!(living.check(&[]), Ok(()));
    assert_eq!(living.check(&[v4, v6]), Err(ActionError::Family(v6)));
    assert_eq!(living.check(&[tcp]), Err(ActionError::NoUdp(backend("udp://10.0.0.2:53"))));
    assert_eq!(revive(&["udp://10.0.0.1:53"]).check(&[v4]), Err(ActionError::Deleted(v4)));
    assert_eq!(VictimAction::Destroy.check(&[tcp]), Ok(()));
}

#[test]
fn what_has_state_is_destroyed_unless_forced() {
    let (quic, plain) = (backend("udp://10.0.0.1:443"), backend("udp://10.0.0.1:8443"));
    for (to, gone, forced, spared) in [
        ("udp://10.0.0.2:8443", plain, false, false),
        ("udp://10.0.0.2:8443", quic, false, true),
        ("udp://10.0.0.2:443", plain, false, true),
        ("udp://10.0.0.2:443", quic, true, false),
    ] {
        let to = Destinations::new(vec![backend(to)], Spread::Even).unwrap().forced(forced);
        let action = VictimAction::Revive(Revive { to, after_ms: 0 });
        assert_eq!(action.spares_state_of(&gone), spared, "{action:?}");
        assert_eq!(action.check(&[gone]).is_err(), spared, "{action:?}");
    }
    assert!(!VictimAction::Destroy.spares_state_of(&quic));
    // TCP sockets are destroyed anyway.
    let both = [backend("tcp://10.0.0.1:443"), plain];
    assert_eq!(revive(&["udp://10.0.0.2:53"]).check(&both), Ok(()));
    let error = revive(&["udp://10.0.0.2:53"]).check(&[quic]).unwrap_err().to_string();
    assert!(error.starts_with("udp://10.0.0.1:443: port 443 is one of a protocol"), "{error}");
    assert!(error.ends_with("to revive all the same"), "{error}");
}

#[test]
fn sockets_are_spread_evenly_or_by_their_cookie() {
    let list = ["udp://10.0.0.2:53", "udp://[fd00::2]:53", "udp://10.0.0.3:53", "udp://10.0.0.4:53"];
    let from = "10.0.0.1".parse().unwrap();
    let gone = HashSet::from([backend("udp://10.0.0.4:53")]);
    let count = |spread: Spread, n: u64| {
        let mut to = to(&list, spread).without(&gone);
        let chosen: Vec<Backend> = (0..n).filter_map(|cookie| to.of(from, cookie)).collect();
        let second = chosen.iter().filter(|to| to.to_string() == "udp://10.0.0.3:53").count();
        (chosen.len(), second)
    };
    assert_eq!(count(Spread::Even, 10), (10, 5));
    let (all, second) = count(Spread::Cookie, 1000);
    assert!(all == 1000 && (400..600).contains(&second), "{second} of {all}");
    let mut by_cookie = to(&list, Spread::Cookie).without(&gone);
    assert_eq!(by_cookie.of(from, 77), by_cookie.of(from, 77));
    let none = to(&["udp://[fd00::2]:53"], Spread::Even).without(&gone).of(from, 1);
    assert_eq!(none, None);
}

#[test]
fn sockets_of_two_families_that_come_by_turns_are_spread_evenly() {
    let list = ["udp://10.0.0.2:53", "udp://10.0.0.3:53", "udp://[fd00::2]:53", "udp://[fd00::3]:53"];
    let mut to = to(&list, Spread::Even).without(&HashSet::new());
    let mut taken = std::collections::BTreeMap::new();
    for cookie in 0..20 {
        let from = if cookie % 2 == 0 { "10.0.0.1" } else { "fd00::1" };
        *taken.entry(to.of(from.parse().unwrap(), cookie).unwrap()).or_insert(0) += 1;
    }
    assert_eq!(taken, list.map(|text| (backend(text), 5)).into());
}

#[test]
fn names_are_those_of_the_wire() {
    for name in ActionName::ALL {
        assert_eq!(name.name().parse(), Ok(name));
        assert_eq!(serde_json::to_value(name).unwrap(), name.name());
    }
    assert_eq!(
        "kill".parse::<ActionName>().unwrap_err().to_string(),
        "\"kill\" is not an action; write one of: destroy, revive, move, none"
    );
}

#[test]
fn wire_form() {
    let json = |action: &VictimAction| serde_json::to_string(action).unwrap();
    assert_eq!(json(&VictimAction::Destroy), r#"{"action":"destroy"}"#);
    assert_eq!(json(&revive(&["udp://10.0.0.2:53"])), r#"{"action":"revive","to":"udp://10.0.0.2:53"}"#);
    let several = to(&["udp://10.0.0.2:53", "udp://10.0.0.3:53"], Spread::Cookie);
    let action = VictimAction::Revive(Revive { to: several.clone(), after_ms: 100 });
    assert_eq!(
        json(&action),
        r#"{"action":"revive","to":["udp://10.0.0.2:53","udp://10.0.0.3:53"],"spread":"cookie","after_ms":100}"#
    );
    let action = VictimAction::Move(Move {
        to: to(&["udp://10.0.0.2:53"], Spread::Even),
        tcp: Instead::Spare,
        otherwise: Instead::Destroy,
    });
    assert_eq!(json(&action), r#"{"action":"move","to":"udp://10.0.0.2:53","tcp":"spare"}"#);
}
