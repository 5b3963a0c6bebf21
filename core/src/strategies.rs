//! Values for tests: one fixed socket, and generators for proptest.

use std::net::IpAddr;

use proptest::prelude::*;

use crate::{
    Action, Backend, CgroupName, Destinations, EngineName, Event, Frontend, Incomplete, Instead, Move,
    NetnsName, Network, NetworkError, Outcome, Phases, PortRange, Prefix, PrefixError, Protocol,
    REVIVE_AFTER_MAX_MS, Report, Request, Revive, Selector, Skipped, SocketTuple, Spread, Through,
    UnknownFrontend, VictimAction, Zone, check_id, state_name,
};

pub(crate) fn a_socket(cookie: u64) -> SocketTuple {
    SocketTuple {
        protocol: Protocol::Udp,
        saddr: IpAddr::from([10, 0, 0, 2]),
        sport: 4000,
        daddr: IpAddr::from([10, 0, 0, 1]),
        dport: 53,
        ifindex: 0,
        cookie,
        netns: 12,
        netns_inum: 4_026_531_840,
        state: state_name(1).into(),
        attribution: None,
        frontend: None,
    }
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop::sample::select(&Protocol::ALL[..])
}

/// Any valid backend, now and then given as an IPv4-mapped address.
pub(crate) fn backend() -> impl Strategy<Value = Backend> {
    let addr =
        prop_oneof![any::<IpAddr>(), any::<std::net::Ipv4Addr>().prop_map(|v4| v4.to_ipv6_mapped().into()),];
    (protocol(), addr, any::<u16>())
        .prop_filter_map("not a backend", |(protocol, addr, port)| Backend::new(protocol, addr, port).ok())
}

pub(crate) fn id() -> impl Strategy<Value = String> {
    "\\PC{1,64}".prop_filter("not an id", |id| check_id(id).is_ok())
}

fn action() -> impl Strategy<Value = Action> {
    let list = || prop::collection::vec(backend(), 1..8);
    prop_oneof![
        backend().prop_map(|backend| Action::BackendDeleted { backend }),
        backend().prop_map(|backend| Action::BackendAdded { backend }),
        list().prop_map(|backends| Action::BackendsDeleted { backends }),
        (list(), prop::collection::vec(network(), 0..4), any::<Option<u64>>())
            .prop_map(|(backends, within, max_victims)| Action::Reconcile { backends, within, max_victims }),
    ]
}

fn prefix() -> impl Strategy<Value = Prefix> {
    (any::<IpAddr>(), 0..=128_u8).prop_filter_map("not a prefix", |(addr, length)| {
        match Prefix::new(addr, length) {
            Err(PrefixError::Network(NetworkError::HostBits(network))) => network.to_string().parse().ok(),
            made => made.ok(),
        }
    })
}

/// Any selector that is accepted.
pub(crate) fn selector() -> impl Strategy<Value = Selector> {
    let ports = any::<[u16; 2]>().prop_filter_map("not a range", |[a, b]| PortRange::new(a, b).ok());
    let place = (
        prop::option::of(prop_oneof![
            (1..=u64::MAX).prop_map(CgroupName::Id),
            "/[^\\pC]{0,40}".prop_map(CgroupName::Path)
        ]),
        prop::option::of(prop_oneof![
            (1..=u64::MAX).prop_map(NetnsName::Cookie),
            (1..=u32::MAX).prop_map(NetnsName::Pid),
            "[a-z]{1,10}".prop_map(NetnsName::Name),
            "/[^\\pC]{0,40}".prop_map(NetnsName::Path)
        ]),
        prop::option::of(0..u32::MAX),
        prop::option::of("[a-z0-9.-]{1,15}".prop_filter_map("not a zone", |text| Zone::read(&text).ok())),
    );
    (
        prop::option::of(protocol()),
        prop::collection::vec(prefix(), 0..4),
        prop::collection::vec(ports, 0..4),
        place,
    )
        .prop_map(|(protocol, to, ports, (cgroup, netns, uid, interface))| Selector {
            protocol,
            to,
            ports,
            cgroup,
            netns,
            uid,
            interface,
        })
        .prop_filter("not a selector", |selector| selector.check().is_ok())
}

fn network() -> impl Strategy<Value = Network> {
    (any::<IpAddr>(), 1..=128_u8).prop_filter_map("not a network", |(addr, prefix)| {
        match Network::new(addr, prefix) {
            Err(NetworkError::HostBits(network)) => Some(network),
            made => made.ok(),
        }
    })
}

fn victim_action() -> impl Strategy<Value = VictimAction> {
    let instead = || prop::sample::select(&[Instead::Destroy, Instead::Spare][..]);
    let spread = prop::sample::select(&[Spread::Even, Spread::Cookie][..]);
    let to = (prop::collection::vec(backend(), 1..4), spread, any::<bool>())
        .prop_filter_map("not a destination", |(backends, spread, force)| {
            Some(Destinations::new(backends, spread).ok()?.forced(force))
        });
    prop_oneof![
        4 => Just(VictimAction::Destroy),
        4 => Just(VictimAction::None),
        1 => (to, 0..=REVIVE_AFTER_MAX_MS, instead(), instead(), any::<bool>()).prop_map(
            |(to, after_ms, tcp, otherwise, revive)| match revive {
                true => VictimAction::Revive(Revive { to, after_ms }),
                false => VictimAction::Move(Move { to, tcp, otherwise }),
            }
        ),
    ]
}

fn frontend() -> impl Strategy<Value = Frontend> {
    prop_oneof![Just(Frontend::Direct), backend().prop_map(Frontend::Address)]
}

/// A link-local backend with its link.
fn on_a_link() -> impl Strategy<Value = Backend> {
    (protocol(), any::<u64>(), 1..=u16::MAX, "[a-z0-9.-]{1,15}").prop_filter_map(
        "not a zone",
        |(protocol, host, port, zone)| {
            let addr = std::net::Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(host));
            format!("{protocol}://[{addr}%{zone}]:{port}").parse().ok()
        },
    )
}

pub(crate) fn event() -> impl Strategy<Value = Event> {
    let plain = || {
        (id(), action(), any::<bool>(), prop::option::of(victim_action()))
            .prop_map(|(id, action, dry_run, victim_action)| Event {
                dry_run,
                victim_action,
                ..Event::new(id, action)
            })
            .prop_filter("a link-local backend without its link", |event| event.check_links().is_ok())
            .prop_filter("victims that have nowhere to go", |event| event.check_action().is_ok())
            .prop_map(|event| match event.action {
                // It takes nothing but the backend.
                Action::BackendAdded { .. } => Event { dry_run: false, victim_action: None, ..event },
                _ => event,
            })
    };
    let allow = prop::collection::vec(
        selector()
            .prop_map(|s| Selector { protocol: s.protocol, to: s.to, ports: s.ports, ..Selector::default() })
            .prop_filter("allows all, or one link-local address", |s| s.check_allowed().is_ok()),
        1..4,
    );
    let intents =
        (id(), allow, selector(), prop::option::of(selector()), any::<Option<u64>>(), any::<bool>())
            .prop_map(|(id, allow, selector, except, max_victims, policy)| Event {
                selector: Some(Box::new(selector)),
                except: except.map(Box::new),
                ..Event::new(
                    id,
                    if policy {
                        Action::Policy { allow, max_victims }
                    } else {
                        Action::Terminate { max_victims }
                    },
                )
            });
    let selected = (plain(), selector())
        .prop_filter("takes nothing but the backend", |(event, _)| {
            !matches!(event.action, Action::BackendAdded { .. })
        })
        .prop_map(|(event, selector)| Event { selector: Some(Box::new(selector)), ..event });
    let on_links = (id(), prop::collection::vec(on_a_link(), 1..4), "/[^\\pC]{0,40}").prop_map(
        |(id, backends, netns)| Event {
            netns: Some(netns),
            ..Event::new(id, Action::BackendsDeleted { backends })
        },
    );
    let restricted =
        (plain(), prop::collection::vec(frontend(), 1..4), prop::sample::select(&UnknownFrontend::ALL[..]))
            .prop_map(|(event, frontends, unknown)| Event {
                through: Through { frontends, unknown },
                ..event
            })
            .prop_filter("a frontend that does not fit", |event| event.check_through().is_ok());
    // Boxed: the trees of values would be too large for the stack of a test.
    prop_oneof![
        6 => plain().boxed(),
        2 => intents.boxed(),
        1 => selected.boxed(),
        1 => on_links.boxed(),
        1 => restricted.boxed(),
    ]
    .boxed()
}

pub(crate) fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        event().prop_map(Request::Event),
        id().prop_map(|id| Request::Index { id }),
        id().prop_map(|id| Request::Status { id }),
        id().prop_map(|id| Request::Top { id }),
        id().prop_map(|id| Request::Audit { id }),
    ]
}

pub(crate) fn phases() -> impl Strategy<Value = Phases> {
    any::<[u64; 6]>().prop_map(|[queue_ns, order_ns, pending_ns, walk_ns, destroy_ns, total_ns]| {
        Phases { queue_ns, order_ns, pending_ns, walk_ns, destroy_ns, ..Phases::default() }.closed(total_ns)
    })
}

fn socket() -> impl Strategy<Value = SocketTuple> {
    // A socket between its hook and its connect() has no port: as likely here as any other.
    let ports = || prop_oneof![Just(0), any::<u16>()];
    (protocol(), any::<[IpAddr; 2]>(), (ports(), ports()), any::<[u32; 2]>(), any::<[u64; 2]>(), any::<u8>())
        .prop_map(|(protocol, addrs, ports, numbers, cookies, state)| SocketTuple {
            protocol,
            saddr: addrs[0],
            sport: ports.0,
            daddr: addrs[1],
            dport: ports.1,
            ifindex: numbers[0],
            cookie: cookies[0],
            netns: cookies[1],
            netns_inum: numbers[1],
            state: state_name(state).into(),
            attribution: None,
            frontend: None,
        })
}

fn outcome() -> impl Strategy<Value = Outcome> {
    (
        prop::sample::select(&EngineName::ALL[..]),
        any::<[u64; 16]>(),
        prop::collection::vec((socket(), any::<i32>()), 0..80),
        prop::collection::btree_set(prop::sample::select(&Incomplete::ALL[..]), 0..3),
        prop::option::of(prop::collection::vec(socket(), 0..4)),
    )
        .prop_map(|(engine, counts, failures, incomplete, victims_listed)| {
            let mut outcome = Outcome {
                visited: counts[0],
                victims: counts[1],
                destroyed: counts[2],
                skipped: Skipped {
                    unconnected: counts[3],
                    moved_on: counts[4],
                    no_peer: counts[5],
                    state: counts[6],
                    stale: counts[7],
                    gone: counts[8],
                    other_link: counts[9],
                    kernel: counts[10],
                    accepted: counts[11],
                    frontend: counts[12],
                    frontend_unknown: counts[13],
                    not_selected: counts[14],
                    spared: counts[15],
                },
                incomplete,
                victims_listed,
                ..Outcome::new(engine)
            };
            for (socket, errno) in failures {
                outcome.add_failure(socket, errno);
            }
            outcome
        })
}

pub(crate) fn report() -> impl Strategy<Value = Report> {
    (event(), outcome(), phases(), prop::option::of(any::<String>())).prop_map(
        |(event, outcome, phases, error)| match error {
            None => Report::new(&event, outcome, phases),
            Some(message) => {
                let mut nothing = Outcome::new(outcome.engine);
                nothing.incomplete.insert(Incomplete::EngineFailed);
                Report { error: Some(message), ..Report::new(&event, nothing, phases) }
            }
        },
    )
}
