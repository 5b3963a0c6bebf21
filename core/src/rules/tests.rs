use super::*;
use crate::action::{Destinations, Instead, Move, Revive, Spread};

fn backend(text: &str) -> Backend {
    text.parse().unwrap()
}

fn to(backend: &str) -> Destinations {
    Destinations::new(vec![backend.parse().unwrap()], Spread::Even).unwrap()
}

fn revive() -> VictimAction {
    VictimAction::Revive(Revive { to: to("udp://10.0.0.2:514"), after_ms: 100 })
}

/// A rule for these ports; all if there are none.
fn rule(name: &str, ports: &[&str], action: VictimAction) -> ActionRule {
    ActionRule {
        name: name.to_owned(),
        protocol: None,
        ports: ports.iter().map(|ports| ports.parse().unwrap()).collect(),
        cgroup: None,
        uid: None,
        commands: Vec::new(),
        action,
    }
}

fn with_command(rule: ActionRule, commands: &[&str]) -> ActionRule {
    ActionRule { commands: commands.iter().map(|name| name.parse().unwrap()).collect(), ..rule }
}

fn in_cgroup(rule: ActionRule, cgroup: &str) -> ActionRule {
    ActionRule { cgroup: Some(cgroup.parse().unwrap()), ..rule }
}

#[test]
fn a_backend_comes_to_rules_until_one_holds_for_all() {
    let rules = ActionRules::new(vec![
        with_command(rule("squid", &["514"], revive()), &["squid"]),
        rule("other ports", &["8000-9000"], VictimAction::None),
        ActionRule { uid: Some(7), ..rule("user", &[], VictimAction::None) },
        rule("rest", &["1-600"], VictimAction::Destroy),
        rule("never reached here", &["514"], revive()),
    ])
    .unwrap();
    assert_eq!(rules.of_backend(&backend("udp://10.0.0.1:514")), [0, 2, 3]);
    assert_eq!(rules.of_backend(&backend("tcp://10.0.0.1:8125")), [1]);
    assert_eq!(rules.of_backend(&backend("udp://10.0.0.1:700")), [2]);
    assert!(!rules.only_destroy(&backend("udp://10.0.0.1:514")));
    let plain = ActionRules::new(vec![rule("logs", &["514", "443"], revive())]).unwrap();
    for (backend_of, only) in [
        ("udp://10.0.0.1:514", false),
        // Destroyed: a TCP socket, one that shares state, one that no rule names.
        ("tcp://10.0.0.1:514", true),
        ("udp://10.0.0.1:443", true),
        ("udp://10.0.0.1:515", true),
    ] {
        assert_eq!(plain.only_destroy(&backend(backend_of)), only, "{backend_of}");
    }
    let moved = Move { to: to("udp://10.0.0.2:53"), tcp: Instead::Spare, otherwise: Instead::Destroy };
    let moved = ActionRules::new(vec![rule("move", &[], VictimAction::Move(moved))]).unwrap();
    assert!(!moved.only_destroy(&backend("tcp://10.0.0.1:514")));
    assert!(ActionRules::default().only_destroy(&backend("udp://10.0.0.1:514")));
}

#[test]
fn what_is_of_no_use_is_refused() {
    let error = |rule: ActionRule| rule.check().unwrap_err();
    assert_eq!(
        error(ActionRule { protocol: Some(Protocol::Tcp), ..rule("a", &[], revive()) }),
        RuleError::Tcp
    );
    assert_eq!(error(rule("a", &["443", "5683-5684"], revive())), RuleError::Stateful);
    let quic = VictimAction::Revive(Revive { to: to("udp://10.0.0.2:443"), after_ms: 0 });
    assert_eq!(
        error(rule("a", &["514"], quic)),
        RuleError::StatefulDestination(backend("udp://10.0.0.2:443"))
    );
    let forced = VictimAction::Revive(Revive { to: to("udp://10.0.0.2:443").forced(true), after_ms: 0 });
    assert_eq!(rule("a", &["443"], forced).check(), Ok(()));
    assert_eq!(rule("a", &["443"], VictimAction::None).check(), Ok(()));
    let twice = ActionRules::new(vec![rule("a", &["1"], revive()), rule("a", &["2"], revive())]);
    assert_eq!(twice, Err((1, RuleError::SameName("a".to_owned()))));
    let many = (0..=MAX_RULES).map(|i| rule(&i.to_string(), &[], VictimAction::None)).collect();
    assert_eq!(ActionRules::new(many), Err((MAX_RULES, RuleError::TooMany(MAX_RULES + 1))));
}

#[test]
fn what_never_matches_is_named_with_what_takes_its_sockets() {
    let review = |rules: Vec<ActionRule>| {
        let review = ActionRules::new(rules).unwrap().review();
        let never = review.findings.iter().map(|of_rule| {
            of_rule.iter().find_map(|finding| match finding {
                Finding::NeverMatches(by) => Some(by.clone()),
                Finding::Stateful(_) => None,
            })
        });
        never.collect::<Vec<_>>()
    };
    let none = || VictimAction::None;
    // Two rules together.
    assert_eq!(
        review(vec![
            rule("a", &["1-100"], none()),
            rule("b", &["101-200"], none()),
            rule("c", &["50-150"], none())
        ]),
        [None, None, Some(vec![0, 1])]
    );
    assert_eq!(
        review(vec![rule("a", &[], none()), in_cgroup(rule("b", &["7"], none()), "/a")]),
        [None, Some(vec![0])]
    );
    // One protocol leaves the other.
    let udp = ActionRule { protocol: Some(Protocol::Udp), ..rule("a", &[], none()) };
    assert_eq!(review(vec![udp.clone(), rule("b", &["7"], none())]), [None, None]);
    let tcp = ActionRule { protocol: Some(Protocol::Tcp), ..rule("b", &[], none()) };
    assert_eq!(review(vec![udp, tcp, rule("c", &["7"], none())]), [None, None, Some(vec![0, 1])]);
    // A narrower one before leaves something; a wider one does not.
    let (inner, outer) = (in_cgroup(rule("i", &[], none()), "/a/b"), in_cgroup(rule("o", &[], none()), "/a"));
    assert_eq!(review(vec![inner.clone(), outer.clone()]), [None, None]);
    assert_eq!(review(vec![outer.clone(), inner.clone()]), [None, Some(vec![0])]);
    assert_eq!(review(vec![in_cgroup(rule("x", &[], none()), "/ab"), inner]), [None, None]);
    let named = |name: &str, commands: &[&str]| with_command(rule(name, &[], none()), commands);
    assert_eq!(
        review(vec![named("a", &["x", "y"]), named("b", &["y"]), named("c", &["y", "z"])]),
        [None, Some(vec![0]), None]
    );
    let uid = |name: &str, uid| ActionRule { uid: Some(uid), ..rule(name, &[], none()) };
    assert_eq!(review(vec![uid("a", 1), uid("b", 2), uid("c", 1)]), [None, None, Some(vec![0])]);
}

#[test]
fn ports_that_are_destroyed_all_the_same_are_named() {
    let review =
        ActionRules::new(vec![rule("a", &["400-900"], revive()), rule("b", &[], VictimAction::None)])
            .unwrap();
    assert_eq!(review.review().findings, [vec![Finding::Stateful(vec![443, 853])], vec![]]);
    assert!(!review.review().has_useless());
    let all = ActionRules::new(vec![rule("a", &[], revive())]).unwrap().review();
    assert_eq!(all.findings, [vec![Finding::Stateful(STATEFUL_PORTS.to_vec())]]);
}

#[test]
fn a_command_has_fifteen_bytes() {
    let parse = |text: &str| text.parse::<CommandName>();
    assert_eq!(parse("squid").unwrap().as_str(), "squid");
    assert_eq!(
        parse("systemd-resolved").unwrap_err().to_string(),
        "\"systemd-resolved\" never matches, as the kernel keeps 15 bytes of a command's name; write \"systemd-resolve\""
    );
    for wrong in ["", "a\nb"] {
        assert!(matches!(parse(wrong), Err(CommandError::Syntax(_))), "{wrong:?}");
    }
    // Cut between characters.
    assert!(
        matches!(parse(&"é".repeat(8)), Err(CommandError::TooLong { kept, .. }) if kept == "é".repeat(7))
    );
}

#[test]
fn conditions_are_shown_in_few_words() {
    let full = ActionRule {
        protocol: Some(Protocol::Udp),
        uid: Some(7),
        ..in_cgroup(with_command(rule("a", &["514", "8000-9000"], revive()), &["squid", "gmond"]), "/a.slice")
    };
    assert_eq!(full.to_string(), "udp ports 514,8000-9000 cgroup /a.slice uid 7 command squid|gmond");
    assert_eq!(rule("a", &[], revive()).to_string(), "every socket");
}
