//! Random scripts.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::Union;
use skreap::core::Protocol;
use skreap_testbed::Family;

use crate::chosen::{Chosen, Span};
use crate::frontends::Way;
use crate::script::{CLIENTS, Link, NETNS, Named, Op, Open, Place, SLOTS, STANDING, Script, To};
use crate::world::MODULE;

/// Most operations of one script.
const LONGEST: usize = 60;

fn slot() -> impl Strategy<Value = u8> {
    0..SLOTS
}

fn client() -> impl Strategy<Value = u8> {
    0..CLIENTS
}

/// Mostly one that is always there.
fn netns() -> impl Strategy<Value = u8> {
    prop_oneof![4 => 0..STANDING, 1 => STANDING..NETNS]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![3 => Just(Protocol::Udp), 2 => Just(Protocol::Tcp)]
}

/// Mostly two of them, so that many sockets are at one backend.
fn place() -> impl Strategy<Value = Place> {
    prop_oneof![
        5 => Just(Place::A),
        2 => Just(Place::D),
        2 => select(Place::SERVED.to_vec()),
        1 => Just(Place::Own),
        1 => Just(Place::Multi),
        1 => Just(Place::Nowhere),
    ]
}

fn to() -> impl Strategy<Value = To> {
    let place = prop_oneof![
        22 => place(),
        2 => select(vec![Place::Zero, Place::Zero6]),
        2 => select(vec![Place::Vip, Place::Vip2]),
    ];
    (place, prop::bool::weighted(0.1)).prop_map(|(place, raw)| To { place, raw })
}

fn one_backend() -> impl Strategy<Value = Named> {
    let place = place().prop_map(|place| if place == Place::Nowhere { Place::B } else { place });
    (protocol(), place).prop_map(|(protocol, place)| Named { protocol, place })
}

fn backends() -> impl Strategy<Value = Vec<Named>> {
    prop_oneof![4 => vec(one_backend(), 1), 1 => vec(one_backend(), 2..4)]
}

fn span() -> impl Strategy<Value = Span> {
    let one = place().prop_map(|place| Span::One(if place == Place::Nowhere { Place::B } else { place }));
    prop_oneof![2 => one, 1 => select(Span::WIDE.to_vec())]
}

fn chosen() -> impl Strategy<Value = Chosen> {
    let port = prop::bool::weighted(0.3);
    (prop::option::of(protocol()), vec(span(), 0..4), port, prop::option::of(0..STANDING))
        .prop_map(|(protocol, spans, port, netns)| Chosen { protocol, spans, port, netns })
        .prop_filter("an empty selector", |chosen| {
            chosen.protocol.is_some() || chosen.netns.is_some() || chosen.port || !chosen.spans.is_empty()
        })
}

/// Mostly those where many sockets are, and others of their families.
fn served() -> impl Strategy<Value = Place> {
    prop_oneof![3 => Just(Place::A), 2 => Just(Place::B), 2 => select(Place::SERVED.to_vec())]
}

fn link() -> impl Strategy<Value = Link> {
    select(Link::ALL.to_vec())
}

fn open() -> impl Strategy<Value = Op> {
    let family = select(vec![Family::V4, Family::V6]);
    let rare = || prop::bool::weighted(0.2);
    (slot(), client(), protocol(), family, netns(), rare(), rare(), rare()).prop_map(
        |(slot, client, protocol, family, netns, bound, nonblocking, mptcp)| {
            let mptcp = mptcp && protocol == Protocol::Tcp;
            Op::Open(Open { slot, client, protocol, family, netns, bound, nonblocking, mptcp })
        },
    )
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        14 => open(),
        2 => (slot(), client(), netns()).prop_map(|(slot, client, netns)| Op::Serve { slot, client, netns }),
        2 => (slot(), slot()).prop_map(|(listener, slot)| Op::Accept { listener, slot }),
        18 => (slot(), to()).prop_map(|(slot, to)| Op::Connect { slot, to }),
        3 => slot().prop_map(|slot| Op::Disconnect { slot }),
        1 => (slot(), to(), to()).prop_map(|(slot, a, b)| Op::Race { slot, a, b }),
        2 => slot().prop_map(|slot| Op::Send { slot }),
        6 => (slot(), to()).prop_map(|(slot, to)| Op::SendTo { slot, to }),
        2 => (slot(), vec(to(), 1..5)).prop_map(|(slot, to)| Op::SendMany { slot, to }),
        2 => slot().prop_map(|slot| Op::SendMarked { slot }),
        2 => slot().prop_map(|slot| Op::Hold { slot }),
        2 => slot().prop_map(|slot| Op::LetGo { slot }),
        1 => (slot(), link()).prop_map(|(slot, link)| Op::ConnectLink { slot, link }),
        2 => slot().prop_map(|slot| Op::Shutdown { slot }),
        2 => slot().prop_map(|slot| Op::Dup { slot }),
        2 => slot().prop_map(|slot| Op::Fly { slot }),
        2 => slot().prop_map(|slot| Op::Land { slot }),
        6 => slot().prop_map(|slot| Op::Close { slot }),
        1 => client().prop_map(|client| Op::Fork { client }),
        1 => client().prop_map(|client| Op::EndFork { client }),
        1 => client().prop_map(|client| Op::Kill { client }),
        1 => (STANDING..NETNS).prop_map(|netns| Op::NewNetns { netns }),
        1 => (STANDING..NETNS).prop_map(|netns| Op::Unname { netns }),
        1 => (STANDING..NETNS, one_backend()).prop_map(|(netns, gone)| Op::EndNetns { netns, gone }),
        2 => (link(), 0..STANDING).prop_map(|(link, netns)| Op::GoneLink { link, netns }),
        8 => backends().prop_map(Op::Gone),
        2 => (select(Way::ALL.to_vec()), one_backend()).prop_map(|(way, gone)| Op::GoneBy { way, gone }),
        2 => backends().prop_map(Op::DryRun),
        3 => (served(), served()).prop_map(|(gone, to)| Op::Move { gone, to }),
        3 => (served(), served()).prop_map(|(gone, to)| Op::Revive { gone, to }),
        2 => backends().prop_map(Op::Living),
        3 => chosen().prop_map(Op::Terminate),
        1 => (0..STANDING, backends()).prop_map(|(netns, allowed)| Op::Policy { netns, allowed }),
    ]
}

/// An open socket that is connected: most scripts should have some.
fn established() -> impl Strategy<Value = Vec<Op>> {
    (open(), select(vec![Place::A, Place::A, Place::A, Place::B]), prop::bool::weighted(0.3)).prop_map(
        |(open, place, other)| {
            let Op::Open(Open { slot, family, .. }) = open else { return vec![open] };
            let place = if other && family == Family::V6 { Place::D } else { place };
            vec![open, Op::Connect { slot, to: To { place, raw: false } }]
        },
    )
}

/// As [`established`], to the host on a link.
fn linked() -> impl Strategy<Value = Vec<Op>> {
    (slot(), client(), 0..STANDING, link()).prop_map(|(slot, client, netns, link)| {
        let (protocol, family) = (Protocol::Udp, Family::V6);
        let open =
            Open { slot, client, protocol, family, netns, bound: false, nonblocking: false, mptcp: false };
        vec![Op::Open(open), Op::ConnectLink { slot, link }]
    })
}

/// A script for one of these worlds, which come with weights.
pub fn script(worlds: Vec<(u32, &'static str)>) -> impl Strategy<Value = Script> {
    let worlds =
        Union::new_weighted(worlds.into_iter().map(|(weight, world)| (weight, Just(world))).collect());
    let one = || op().prop_map(|op| vec![op]);
    let mixed = vec(prop_oneof![16 => one(), 4 => established(), 1 => linked()], 1..LONGEST);
    // To start anew takes longest.
    let reapers = |ops| select(ops).prop_map(|op| vec![op]);
    let restart = reapers(vec![Op::Restart, Op::Anew]);
    let restarting = vec(prop_oneof![20 => one(), 5 => established(), 1 => restart], 1..LONGEST);
    let with_module = reapers(vec![Op::Insmod, Op::Rmmod, Op::Restart, Op::Anew]);
    let with_module = vec(prop_oneof![16 => one(), 4 => established(), 3 => with_module], 1..LONGEST);
    (worlds, vec(established(), 0..8), prop_oneof![9 => mixed, 1 => restarting], with_module).prop_map(
        |(world, first, then, with_module)| {
            let then = if world == MODULE { with_module } else { then };
            let mut ops: Vec<Op> = first.into_iter().chain(then).flatten().collect();
            // No script is for nothing.
            ops.push(Op::Gone(vec![Named { protocol: Protocol::Udp, place: Place::A }]));
            Script { world: world.to_owned(), ops }
        },
    )
}
