//! The fast answers that are wrong, each as a stream of changes with the exact decisions.

#![allow(clippy::unwrap_used, reason = "input of the tests is written here")]

mod lists;

use std::time::Duration;

use super::*;

const A: &str = "udp://10.1.0.1:53";
const B: &str = "udp://10.1.0.2:53";
const WEB: &str = "tcp://10.1.0.1:8080";

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn backend(text: &str) -> Backend {
    text.parse().unwrap()
}

/// `udp://10.1.0.1:53 dns TTF uid`: backend, name of the port, conditions, instance; all but the first may be absent.
fn member(text: &str) -> Member {
    let mut words = text.split(' ');
    let backend = backend(words.next().unwrap());
    let port = words.next().unwrap_or("dns").into();
    let mut said = words.next().unwrap_or("TTF").chars().map(|c| match c {
        'T' => Some(true),
        'F' => Some(false),
        _ => None,
    });
    let mut next = || said.next().flatten();
    let conditions = Conditions { ready: next(), serving: next(), terminating: next() };
    Member { backend, port, conditions, instance: words.next().map(Name::from) }
}

fn slice_of(service: Option<&str>, members: &[&str]) -> Object {
    let members = members.iter().map(|text| member(text)).collect();
    Object::Slice(Slice { service: service.map(Name::from), members })
}

/// A Service with these frontends, each `port=frontend`.
fn service_of(frontends: &[&str], action: Option<Action>) -> Object {
    let mut service = Service { action, ..Service::default() };
    for text in frontends {
        let (port, frontend) = text.split_once('=').unwrap();
        service.frontends.entry(port.into()).or_default().push(backend(frontend));
    }
    Object::Service(service)
}

/// A state, and what it has decided: `at ms: backend clients action`.
struct Story {
    state: State,
    decided: Vec<String>,
}

impl Story {
    fn new(policy: Policy) -> Self {
        Self { state: State::new(policy), decided: Vec::new() }
    }

    /// The first list: slices, each with its Service.
    fn listed(policy: Policy, slices: &[(&str, &str, &[&str])]) -> Self {
        let mut story = Self::new(policy);
        story.relist(0, slices);
        story
    }

    fn standard(slices: &[(&str, &str, &[&str])]) -> Self {
        Self::listed(Policy::default(), slices)
    }

    fn at(&mut self, now: u64, change: Change) -> &mut Self {
        self.until(now);
        self.state.apply(change);
        self
    }

    fn relist(&mut self, now: u64, slices: &[(&str, &str, &[&str])]) -> &mut Self {
        self.at(now, Change::ListBegun(Kind::Slices));
        for (name, service, members) in slices {
            self.at(now, Change::Listed((*name).into(), slice_of(Some(service), members)));
        }
        self.at(now, Change::ListComplete(Kind::Slices))
    }

    fn put(&mut self, now: u64, name: &str, service: &str, members: &[&str]) -> &mut Self {
        self.at(now, Change::Put(name.into(), slice_of(Some(service), members)))
    }

    fn gone(&mut self, now: u64, name: &str) -> &mut Self {
        self.at(now, Change::Gone(Kind::Slices, name.into()))
    }

    fn service(&mut self, now: u64, name: &str, frontends: &[&str]) -> &mut Self {
        self.at(now, Change::Put(name.into(), service_of(frontends, None)))
    }

    fn until(&mut self, now: u64) -> &mut Self {
        for decision in self.state.advance(ms(now)) {
            let clients = match &decision.clients {
                Clients::All => "all".to_owned(),
                Clients::Through(frontends) => {
                    frontends.iter().map(Backend::to_string).collect::<Vec<_>>().join("+")
                }
            };
            let since = decision.since.as_millis();
            let to = decision.to.map(|to| format!(" to {to}")).unwrap_or_default();
            self.decided.push(format!("{since}: {} {clients} {}{to}", decision.backend, decision.action));
        }
        self
    }

    /// What was decided until long after everything, in any order.
    fn end(&mut self) -> Vec<String> {
        self.until(1_000_000_000);
        let mut decided = std::mem::take(&mut self.decided);
        decided.sort();
        decided
    }

    fn nothing(&mut self) {
        assert_eq!(self.end(), Vec::<String>::new());
    }
}

#[test]
fn a_backend_that_is_gone_is_decided_once_and_after_the_settle_time() {
    let mut story = Story::standard(&[("s1", "d/dns", &[A, B])]);
    story.put(5_000, "s1", "d/dns", &[B]);
    assert_eq!(story.state.next_due(), Some(ms(6_000)));
    story.until(5_999);
    assert_eq!(story.decided, Vec::<String>::new());
    story.until(6_000);
    assert_eq!(story.decided, [format!("5000: {A} all destroy")]);
    assert_eq!(story.state.next_due(), None);
    assert_eq!(story.state.living().collect::<Vec<_>>(), [backend(B)]);
    // One more time, as another life.
    story.put(7_000, "s1", "d/dns", &[A, B]).put(8_000, "s1", "d/dns", &[B]);
    assert_eq!(story.end(), [format!("5000: {A} all destroy"), format!("8000: {A} all destroy")]);
}

#[test]
fn in_two_slices_at_once_and_one_of_them_deleted() {
    let mut story = Story::standard(&[("s1", "d/dns", &[A]), ("s2", "d/dns", &[A, B])]);
    story.gone(19, "s2").put(40, "s3", "d/dns", &[B]);
    story.nothing();
    assert_eq!(story.state.counts().returned, 1);
}

#[test]
fn the_same_address_twice_in_one_slice_is_one_backend() {
    let mut story = Story::standard(&[("s1", "d/dns", &[A, A])]);
    story.put(10, "s1", "d/dns", &[A]).nothing();
    story.put(1_000_000_001, "s1", "d/dns", &[]);
    story.until(2_000_000_000);
    assert_eq!(story.decided, [format!("1000000001: {A} all destroy")]);
}

#[test]
fn eighty_nine_live_addresses_in_no_slice_for_26_ms() {
    let all: Vec<String> = (1..=105).map(|n| format!("udp://10.1.0.{n}:53")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let mut story = Story::standard(&[("s1", "d/dns", &all[..91]), ("s2", "d/dns", &all[91..])]);
    story.put(5_000, "s1", "d/dns", &all[..2]);
    story.put(5_026, "s2", "d/dns", &all[2..]);
    story.nothing();
    assert_eq!(story.state.counts().returned, 89);
    // The same with the port changed: these are gone, whatever the slices did meanwhile.
    let other: Vec<String> = all.iter().map(|text| text.replace(":53", ":54")).collect();
    let other: Vec<&str> = other.iter().map(String::as_str).collect();
    let mut story = Story::standard(&[("s1", "d/dns", &all[..91]), ("s2", "d/dns", &all[91..])]);
    story.put(5_000, "s1", "d/dns", &other[..2]).put(5_026, "s2", "d/dns", &other[2..]);
    let decided = story.end();
    assert_eq!(decided.len(), 105);
    assert_eq!(decided.iter().filter(|line| line.starts_with("5000: ")).count(), 91);
    assert_eq!(decided.iter().filter(|line| line.starts_with("5026: ")).count(), 14);
}

#[test]
fn settling_is_measured_by_the_changes_and_not_by_when_they_are_handled() {
    let mut story = Story::standard(&[("s1", "d/dns", &[A, B])]);
    // Both changes wait in a queue for ten seconds; the second was received 26 ms after the first.
    story.put(5_000, "s1", "d/dns", &[B]).put(5_026, "s2", "d/dns", &[A]);
    story.until(15_000);
    story.nothing();
}

#[test]
fn one_address_two_pods_in_one_change() {
    let mut story = Story::standard(&[("s1", "d/dns", &["udp://10.1.0.1:53 dns TTF pod-1"])]);
    story.put(10, "s1", "d/dns", &["udp://10.1.0.1:53 dns TTF pod-2"]);
    assert_eq!(story.state.counts().replaced, 1);
    // In two changes, with the address away for less than the settle time.
    story.put(3_000, "s1", "d/dns", &[]).put(3_500, "s1", "d/dns", &["udp://10.1.0.1:53 dns TTF pod-3"]);
    assert_eq!((story.state.counts().replaced, story.state.counts().returned), (2, 1));
    story.nothing();
    // One pod in two Services is one pod.
    story.put(2_000_000_000, "s2", "d/other", &["udp://10.1.0.1:53 dns TTF pod-3"]);
    assert_eq!(story.state.counts().replaced, 2);
}

#[test]
fn an_address_in_two_services_with_other_port_names_leaves_one_of_them() {
    let mut story = Story::standard(&[
        ("s1", "d/dns", &["udp://10.1.0.1:53 dns"]),
        ("s2", "d/cache", &["udp://10.1.0.1:53 cache"]),
    ]);
    story.service(0, "d/dns", &["dns=udp://10.96.0.10:53", "dns=udp://192.0.2.1:53"]);
    story.service(0, "d/cache", &["cache=udp://10.96.0.11:5353"]);
    story.put(100, "s1", "d/dns", &[]);
    assert_eq!(story.end(), [format!("100: {A} udp://10.96.0.10:53+udp://192.0.2.1:53 destroy")]);
    // Then the other.
    let now = 2_000_000_000;
    story.gone(now, "s2").until(now + 1_000);
    assert_eq!(story.decided, [format!("{now}: {A} all destroy")]);
}

#[test]
fn only_the_frontends_of_the_port_that_lost_it() {
    // Two ports of one Service lead to one port of the pod; the second is taken from the Service, then from the slice.
    let mut story =
        Story::standard(&[("s1", "d/web", &["tcp://10.1.0.1:8080 http", "tcp://10.1.0.1:8080 alt"])]);
    let http = "http=tcp://10.96.0.1:80";
    story.service(0, "d/web", &[http, "alt=tcp://10.96.0.1:8000"]);
    story.service(100, "d/web", &[http]);
    story.put(110, "s1", "d/web", &["tcp://10.1.0.1:8080 http"]);
    assert_eq!(story.end(), [format!("110: {WEB} tcp://10.96.0.1:8000 destroy")]);
}

#[test]
fn a_frontend_that_still_leads_to_the_backend_is_spared() {
    let shared = "dns=udp://192.0.2.1:53";
    let mut story = Story::standard(&[("s1", "d/a", &[A]), ("s2", "d/b", &[A])]);
    story.service(0, "d/a", &[shared, "dns=udp://10.96.0.1:53"]).service(0, "d/b", &[shared]);
    story.put(100, "s1", "d/a", &[]);
    assert_eq!(story.end(), [format!("100: {A} udp://10.96.0.1:53 destroy")]);
}

#[test]
fn named_ports_that_differ_between_pods() {
    let mut story = Story::standard(&[
        ("s1", "d/web", &["tcp://10.1.0.1:8080 http"]),
        ("s2", "d/web", &["tcp://10.1.0.2:9090 http"]),
    ]);
    story.service(0, "d/web", &["http=tcp://10.96.0.1:80"]);
    story.put(100, "s2", "d/web", &[]);
    assert_eq!(story.end(), ["100: tcp://10.1.0.2:9090 all destroy"]);
}

#[test]
fn a_rolling_pod_drains_first_and_goes_then() {
    let mut story = Story::standard(&[("s1", "d/web", &["tcp://10.1.0.1:8080 http TTF"])]);
    story.service(0, "d/web", &["http=tcp://10.96.0.1:80"]);
    story.put(100, "s1", "d/web", &["tcp://10.1.0.1:8080 http FTT"]).until(30_000);
    assert_eq!(story.decided, Vec::<String>::new(), "it terminates and serves");
    story.put(30_000, "s1", "d/web", &["tcp://10.1.0.1:8080 http FFT"]).until(31_000);
    assert_eq!(story.decided, [format!("30000: {WEB} tcp://10.96.0.1:80 destroy")]);
    story.put(40_000, "s1", "d/web", &[]);
    assert_eq!(
        story.end(),
        [format!("30000: {WEB} tcp://10.96.0.1:80 destroy"), format!("40000: {WEB} all destroy")]
    );
}

#[test]
fn removed_not_ready_and_udp_at_once() {
    let roll = |policy: Policy, text: &str| {
        let line = |conditions: &str| format!("{text} dns {conditions}");
        let mut story = Story::listed(policy, &[("s1", "d/dns", &[&line("TTF")])]);
        story.service(0, "d/dns", &["dns=udp://10.96.0.10:53"]);
        story.put(10_000, "s1", "d/dns", &[&line("FTT")]);
        story.put(20_000, "s1", "d/dns", &[&line("FFT")]);
        story.put(30_000, "s1", "d/dns", &[]);
        story.end()
    };
    let left = |at: u64, text: &str| format!("{at}: {text} udp://10.96.0.10:53 destroy");
    let gone = |text: &str| format!("30000: {text} all destroy");
    let removed = Policy { when: When::Removed, ..Policy::default() };
    assert_eq!(roll(removed, A), [gone(A)]);
    assert_eq!(roll(Policy::default(), A), [left(20_000, A), gone(A)]);
    let not_ready = Policy { when: When::NotReady, ..Policy::default() };
    assert_eq!(roll(not_ready, A), [left(10_000, A), gone(A)]);
    let now = Policy { udp_terminating: UdpTerminating::Now, ..Policy::default() };
    assert_eq!(roll(now, A), [left(10_000, A), gone(A)]);
    assert_eq!(roll(now, WEB), [left(20_000, WEB), gone(WEB)]);
}

#[test]
fn unready_for_a_moment_is_nothing() {
    let mut story = Story::standard(&[("s1", "d/dns", &["udp://10.1.0.1:53 dns TTF"])]);
    story.service(0, "d/dns", &["dns=udp://10.96.0.10:53"]);
    story.put(100, "s1", "d/dns", &["udp://10.1.0.1:53 dns FFF"]);
    story.put(138, "s1", "d/dns", &["udp://10.1.0.1:53 dns TTF"]);
    story.nothing();
}

#[test]
fn published_though_not_ready_is_kept_until_it_is_removed() {
    let mut story = Story::standard(&[("s1", "d/dns", &["udp://10.1.0.1:53 dns TTF"])]);
    story.service(0, "d/dns", &["dns=udp://10.96.0.10:53"]);
    story.put(100, "s1", "d/dns", &["udp://10.1.0.1:53 dns TFF"]);
    story.put(5_000, "s1", "d/dns", &["udp://10.1.0.1:53 dns TTT"]);
    story.put(9_000, "s1", "d/dns", &[]);
    assert_eq!(story.end(), [format!("9000: {A} all destroy")]);
}

#[test]
fn a_headless_service_has_no_frontends_and_its_clients_stay_until_the_end() {
    let mut story = Story::standard(&[("s1", "d/db", &["udp://10.1.0.1:53 dns TTF"])]);
    story.service(0, "d/db", &[]);
    story.put(100, "s1", "d/db", &["udp://10.1.0.1:53 dns FFF"]).nothing();
    assert_eq!(story.state.counts().no_frontend, 1);
    story.put(2_000_000_000, "s1", "d/db", &[]).until(3_000_000_000);
    assert_eq!(story.decided, [format!("2000000000: {A} all destroy")]);
}

#[test]
fn a_slice_of_no_service_keeps_its_backends_alive() {
    let mut story = Story::standard(&[("s1", "d/dns", &[A])]);
    story.service(0, "d/dns", &["dns=udp://10.96.0.10:53"]);
    story.at(10, Change::Put("own".into(), slice_of(None, &[A])));
    story.put(100, "s1", "d/dns", &[]);
    assert_eq!(story.end(), [format!("100: {A} udp://10.96.0.10:53 destroy")]);
    story.gone(2_000_000_000, "own").until(3_000_000_000);
    assert_eq!(story.decided, [format!("2000000000: {A} all destroy")]);
}

#[test]
fn dual_stack_are_two_backends() {
    let six = "udp://[fd00::1]:53";
    let mut story = Story::standard(&[("v4", "d/dns", &[A]), ("v6", "d/dns", &[six])]);
    story.service(0, "d/dns", &["dns=udp://10.96.0.10:53", "dns=udp://[fd00:96::10]:53"]);
    story.gone(10, "v6");
    assert_eq!(story.end(), [format!("10: {six} all destroy")]);
}

#[test]
fn a_thousand_endpoints_in_a_slice() {
    let all: Vec<String> = (0..1000).map(|n| format!("udp://10.1.{}.{}:53", n / 250, n % 250 + 1)).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let mut story = Story::standard(&[("s1", "d/dns", &all)]);
    story.put(10, "s1", "d/dns", &all[1..]);
    assert_eq!(story.end(), [format!("10: {A} all destroy")]);
    story.gone(2_000_000_000, "s1").until(3_000_000_000);
    assert_eq!(story.decided.len(), 999);
    assert_eq!(story.state.living().count(), 0);
}

#[test]
fn a_service_deleted_before_its_slices() {
    let mut story = Story::standard(&[("s1", "d/dns", &[A, B]), ("s2", "d/other", &[B])]);
    story.service(0, "d/dns", &["dns=udp://10.96.0.10:53"]);
    story.at(100, Change::Gone(Kind::Services, "d/dns".into()));
    story.gone(570, "s1");
    assert_eq!(
        story.end(),
        [format!("570: {A} all destroy"), format!("570: {B} udp://10.96.0.10:53 destroy")]
    );
    assert!(!story.state.services.contains_key("d/dns"), "it is forgotten when its last backend is decided");
}

#[test]
fn a_service_made_anew_has_its_new_frontends() {
    let mut story = Story::standard(&[("s1", "d/dns", &[A]), ("s2", "d/other", &[A])]);
    story.service(0, "d/dns", &["dns=udp://10.96.0.10:53"]);
    story.at(100, Change::Gone(Kind::Services, "d/dns".into()));
    story.service(200, "d/dns", &["dns=udp://10.96.0.77:53"]).gone(300, "s1");
    assert_eq!(story.end(), [format!("300: {A} udp://10.96.0.77:53 destroy")]);
}

#[test]
fn actions_by_service() {
    let six = "udp://[fd00::1]:53";
    let mut story = Story::standard(&[
        ("s1", "d/a", &[A, six]),
        ("s2", "d/b", &[B]),
        ("s3", "d/c", &["tcp://10.1.0.1:8080 web"]),
        ("s4", "d/headless", &["udp://10.1.0.9:53"]),
    ]);
    story.put(0, "s5", "d/a", &["tcp://10.1.0.7:53 dns-tcp"]);
    let front = ["dns=udp://10.96.0.1:53", "dns=udp://192.0.2.1:53", "dns-tcp=tcp://10.96.0.1:53"];
    story.at(0, Change::Put("d/a".into(), service_of(&front, Some(Action::Revive))));
    story.at(0, Change::Put("d/b".into(), service_of(&[], Some(Action::None))));
    story.at(0, Change::Put("d/headless".into(), service_of(&[], Some(Action::Move))));
    ["s1", "s2", "s3", "s4", "s5"].iter().for_each(|slice| _ = story.gone(100, slice));
    assert_eq!(
        story.end(),
        [
            format!("100: {WEB} all destroy"),
            // A connection of TCP cannot be moved.
            "100: tcp://10.1.0.7:53 all destroy".to_owned(),
            format!("100: {A} all revive to udp://10.96.0.1:53"),
            // There is no frontend to connect to.
            "100: udp://10.1.0.9:53 all destroy".to_owned(),
            format!("100: {six} all destroy"),
        ]
    );
    assert_eq!(story.state.counts().action_none, 1);
}

#[test]
fn two_services_to_move_to_are_two_events() {
    let mut story = Story::standard(&[("s1", "d/a", &[A]), ("s2", "d/b", &[A])]);
    story.at(0, Change::Put("d/a".into(), service_of(&["dns=udp://10.96.0.1:53"], Some(Action::Move))));
    story.at(0, Change::Put("d/b".into(), service_of(&["dns=udp://10.96.0.2:53"], Some(Action::Move))));
    story.gone(100, "s1").gone(100, "s2");
    let moved = |to: &str| format!("100: {A} {to} move to {to}");
    assert_eq!(story.end(), [moved("udp://10.96.0.1:53"), moved("udp://10.96.0.2:53")]);
}

#[test]
fn services_that_want_different_things_get_them() {
    let mut story = Story::standard(&[("s1", "d/a", &[A]), ("s2", "d/b", &[A])]);
    story.at(0, Change::Put("d/a".into(), service_of(&["dns=udp://10.96.0.1:53"], Some(Action::None))));
    story.at(0, Change::Put("d/b".into(), service_of(&["dns=udp://10.96.0.2:53"], None)));
    story.gone(100, "s1").gone(100, "s2");
    assert_eq!(story.end(), [format!("100: {A} udp://10.96.0.2:53 destroy")]);
    assert_eq!(story.state.counts().action_none, 1);
}

#[test]
fn an_action_of_none_outlives_the_unready_state_before_the_end() {
    let mut story = Story::standard(&[("s1", "d/a", &["udp://10.1.0.1:53 dns TTF"])]);
    let none = service_of(&["dns=udp://10.96.0.1:53"], Some(Action::None));
    story.at(0, Change::Put("d/a".into(), none));
    story.put(100, "s1", "d/a", &["udp://10.1.0.1:53 dns FFF"]).put(600, "s1", "d/a", &[]);
    story.nothing();
    assert_eq!(story.state.counts().action_none, 2);
}

#[test]
fn only_the_clients_of_the_frontends_it_names() {
    let mut story = Story::standard(&[("k", "k", &["udp://10.1.0.1:53 "])]);
    let mut service = Service { only_its_clients: true, ..Service::default() };
    service.frontends.insert("".into(), vec![backend("udp://10.96.0.1:53")]);
    story.at(0, Change::Put("k".into(), Object::Service(service)));
    story.gone(100, "k").at(100, Change::Gone(Kind::Services, "k".into()));
    assert_eq!(story.end(), [format!("100: {A} udp://10.96.0.1:53 destroy")]);
    assert!(story.state.services.is_empty());
}

#[test]
fn a_decision_that_waited_is_made_again() {
    let gone = |clients: Clients| Decision {
        backend: backend(A),
        clients,
        action: Action::Destroy,
        to: None,
        service: None,
        since: Duration::ZERO,
    };
    let (front, other) = (backend("udp://10.96.0.1:53"), backend("udp://10.96.0.2:53"));
    let through = |frontends: &[Backend]| gone(Clients::Through(frontends.to_vec()));
    let mut story = Story::standard(&[("s1", "d/dns", &[B])]);
    story.service(0, "d/dns", &["dns=udp://10.96.0.1:53"]);
    assert_eq!(story.state.confirm(&gone(Clients::All)), Some(gone(Clients::All)));
    story.put(10, "s1", "d/dns", &[A]);
    assert_eq!(story.state.confirm(&gone(Clients::All)), None);
    assert_eq!(story.state.confirm(&through(&[front, other])), Some(through(&[other])));
    assert_eq!(story.state.confirm(&through(&[front])), None);
    // It is away again, and that is not settled: who waited for it may go on to wait, the decision is right.
    story.put(20, "s1", "d/dns", &[]);
    assert_eq!(story.state.confirm(&gone(Clients::All)), Some(gone(Clients::All)));
}

#[test]
fn without_a_settle_time_the_decision_is_there_with_the_change() {
    let policy = Policy { settle: Duration::ZERO, ..Policy::default() };
    let mut story = Story::listed(policy, &[("s1", "d/dns", &[A, B])]);
    story.put(100, "s1", "d/dns", &[B]).until(100);
    assert_eq!(story.decided, [format!("100: {A} all destroy")]);
}

#[test]
fn nothing_is_left_of_what_is_gone() {
    let mut story = Story::standard(&[]);
    for round in 0..100_u64 {
        let at = round * 10_000;
        let (name, service) = (format!("s{round}"), format!("d/{round}"));
        story.service(at, &service, &["dns=udp://10.96.0.1:53"]);
        story.put(at, &name, &service, &[A, B]);
        story.gone(at + 2_000, &name).at(at + 2_000, Change::Gone(Kind::Services, service.as_str().into()));
        story.until(at + 9_000);
    }
    let state = &story.state;
    let left = (state.slices.len(), state.services.len(), state.backends.len(), state.due.len());
    assert_eq!(left, (0, 0, 0, 0));
    assert_eq!(story.decided.len(), 200);
}
