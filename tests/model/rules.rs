//! Tests of the model itself, which need no kernel.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use libtest_mimic::{Failed, Trial};
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use skreap::core::{Protocol, Unconnected};
use skreap_testbed::Family;

use crate::script::{Link, Named, Place, Script};
use crate::strategy;
use crate::truth::{Gone, On, Role, Truth};

pub fn trials() -> Vec<Trial> {
    let trial = |name: &str, run: fn() -> Result<()>| {
        Trial::test(format!("rules::{name}"), move || run().map_err(|e| Failed::from(format!("{e:?}"))))
    };
    vec![
        trial("a_failed_udp_connect_changes_nothing", a_failed_udp_connect_changes_nothing),
        trial("a_tcp_socket_keeps_its_first_peer", a_tcp_socket_keeps_its_first_peer),
        trial("a_socket_lives_as_long_as_a_holder", a_socket_lives_as_long_as_a_holder),
        trial("a_destroyed_socket_may_come_back", a_destroyed_socket_may_come_back),
        trial("servers_are_no_victims", servers_are_no_victims),
        trial("senders_are_victims_if_wanted", senders_are_victims_if_wanted),
        trial("a_send_of_ipv6_to_an_ipv4_peer_is_by_name", a_send_of_ipv6_to_an_ipv4_peer_is_by_name),
        trial("mapped_addresses_are_ipv4", mapped_addresses_are_ipv4),
        trial("a_zero_address_stands_for_another", a_zero_address_stands_for_another),
        trial("a_link_local_address_is_a_host_on_each_link", a_link_local_address_is_a_host_on_each_link),
        trial("a_script_is_its_text", a_script_is_its_text),
        trial("bad_lines_are_refused", bad_lines_are_refused),
    ]
}

const SOCKET: u64 = 7;

fn victims(truth: &Truth, protocol: Protocol, place: Place) -> Result<Vec<u64>> {
    Ok(truth.victims(Gone::These(&[Named { protocol, place }.backend()?])).into_iter().collect())
}

fn with_one(protocol: Protocol) -> Truth {
    let mut truth = Truth::new(Unconnected::Preserve);
    truth.opened(SOCKET, protocol, Role::Client, false);
    truth
}

fn a_failed_udp_connect_changes_nothing() -> Result<()> {
    let mut truth = with_one(Protocol::Udp);
    truth.connected(SOCKET, Place::A.addr(), 0);
    truth.connected(SOCKET, Place::B.addr(), libc::ENETUNREACH);
    ensure!(victims(&truth, Protocol::Udp, Place::A)? == [SOCKET]);
    truth.connected(SOCKET, Place::B.addr(), 0);
    ensure!(victims(&truth, Protocol::Udp, Place::A)?.is_empty());
    ensure!(victims(&truth, Protocol::Udp, Place::B)? == [SOCKET]);
    ensure!(victims(&truth, Protocol::Tcp, Place::B)?.is_empty());
    truth.disconnected(SOCKET, 0);
    ensure!(victims(&truth, Protocol::Udp, Place::B)?.is_empty());
    Ok(())
}

fn a_tcp_socket_keeps_its_first_peer() -> Result<()> {
    let mut truth = with_one(Protocol::Tcp);
    truth.connected(SOCKET, Place::A.addr(), libc::ECONNREFUSED);
    ensure!(truth.peer(SOCKET).is_none());
    truth.connected(SOCKET, Place::A.addr(), 0);
    truth.connected(SOCKET, Place::B.addr(), 0);
    ensure!(truth.peer(SOCKET) == Some(Place::A.addr()));
    truth.ended(SOCKET);
    ensure!(victims(&truth, Protocol::Tcp, Place::A)?.is_empty());
    Ok(())
}

fn a_socket_lives_as_long_as_a_holder() -> Result<()> {
    let mut truth = with_one(Protocol::Udp);
    truth.connected(SOCKET, Place::A.addr(), 0);
    truth.held(SOCKET);
    truth.released(SOCKET);
    ensure!(victims(&truth, Protocol::Udp, Place::A)? == [SOCKET] && truth.closed == 0);
    truth.released(SOCKET);
    ensure!(victims(&truth, Protocol::Udp, Place::A)?.is_empty() && truth.closed == 1);
    Ok(())
}

fn a_destroyed_socket_may_come_back() -> Result<()> {
    let mut truth = with_one(Protocol::Udp);
    truth.connected(SOCKET, Place::A.addr(), 0);
    truth.destroyed(SOCKET);
    ensure!(victims(&truth, Protocol::Udp, Place::A)?.is_empty());
    truth.connected(SOCKET, Place::A.addr(), 0);
    ensure!(victims(&truth, Protocol::Udp, Place::A)? == [SOCKET]);
    Ok(())
}

fn servers_are_no_victims() -> Result<()> {
    let mut truth = Truth::new(Unconnected::Destroy);
    truth.opened(SOCKET, Protocol::Tcp, Role::Server, true);
    truth.connected(SOCKET, Place::A.addr(), 0);
    ensure!(victims(&truth, Protocol::Tcp, Place::A)?.is_empty());
    Ok(())
}

fn senders_are_victims_if_wanted() -> Result<()> {
    for (policy, wanted) in [(Unconnected::Preserve, 0), (Unconnected::Destroy, 1)] {
        let mut truth = Truth::new(policy);
        truth.opened(SOCKET, Protocol::Udp, Role::Client, false);
        truth.sent_to(SOCKET, Family::V4, Place::A.addr(), libc::EPIPE);
        truth.sent_to(SOCKET, Family::V4, Place::B.addr(), libc::EAFNOSUPPORT);
        ensure!(victims(&truth, Protocol::Udp, Place::A)?.len() == wanted);
        ensure!(victims(&truth, Protocol::Udp, Place::B)?.is_empty(), "never left");
        truth.sent_to(SOCKET, Family::V6, Place::D.addr(), libc::EAFNOSUPPORT);
        ensure!(victims(&truth, Protocol::Udp, Place::D)?.len() == wanted, "found out too late");
        truth.connected(SOCKET, Place::B.addr(), 0);
        ensure!(victims(&truth, Protocol::Udp, Place::A)?.is_empty(), "connected elsewhere");
        truth.disconnected(SOCKET, 0);
        ensure!(victims(&truth, Protocol::Udp, Place::A)?.is_empty(), "has no port");
        truth.sent_to(SOCKET, Family::V4, Place::C.addr(), 0);
        ensure!(victims(&truth, Protocol::Udp, Place::A)?.len() == wanted, "has a port again");
    }
    Ok(())
}

fn a_send_of_ipv6_to_an_ipv4_peer_is_by_name() -> Result<()> {
    for (family, peer, wanted) in [
        (Family::V4, Place::A, 0),
        (Family::V6, Place::A, 1),
        // Its address is one of IPv6.
        (Family::V6, Place::D, 0),
    ] {
        let mut truth = Truth::new(Unconnected::Destroy);
        truth.opened(SOCKET, Protocol::Udp, Role::Client, true);
        truth.connected(SOCKET, peer.addr(), 0);
        truth.sent(SOCKET, family);
        truth.disconnected(SOCKET, 0);
        ensure!(victims(&truth, Protocol::Udp, peer)?.len() == wanted, "{family:?} {peer:?}");
    }
    Ok(())
}

fn mapped_addresses_are_ipv4() -> Result<()> {
    let mut truth = with_one(Protocol::Udp);
    let mapped: SocketAddr = "[::ffff:10.179.0.1]:53".parse()?;
    truth.connected(SOCKET, mapped, 0);
    ensure!(victims(&truth, Protocol::Udp, Place::A)? == [SOCKET]);
    let possible = [mapped, Place::D.addr()];
    ensure!(truth.raced(SOCKET, &possible, Some(Place::D.addr())));
    ensure!(truth.raced(SOCKET, &possible, Some(mapped)));
    ensure!(!truth.raced(SOCKET, &possible, Some(Place::B.addr())), "nobody connected there");
    Ok(())
}

fn a_zero_address_stands_for_another() -> Result<()> {
    let mut truth = with_one(Protocol::Udp);
    let mapped_zero: SocketAddr = "[::ffff:0.0.0.0]:53".parse()?;
    let expect = |truth: &Truth, expected: [Place; 2]| {
        let leads = [Place::Zero, Place::Zero6].map(|zero| truth.leads_to(SOCKET, zero.addr()));
        ensure!(leads == expected.map(|place| Some(place.addr())), "{leads:?} is not {expected:?}");
        ensure!(truth.leads_to(SOCKET, mapped_zero) == leads[0], "mapped");
        ensure!(truth.leads_to(SOCKET, Place::B.addr()) == Some(Place::B.addr()), "not zero");
        Ok(())
    };
    expect(&truth, [Place::Lo, Place::Lo6])?;
    truth.connected(SOCKET, Place::C.addr(), libc::ENETUNREACH);
    expect(&truth, [Place::Lo, Place::Lo6])?;
    truth.connected(SOCKET, Place::D.addr(), 0);
    expect(&truth, [Place::Lo, Place::Lo6])?;
    // It is IPv4's own address from now on; that of IPv6 it has already.
    truth.connected(SOCKET, Place::A.addr(), 0);
    truth.connected(SOCKET, Place::B.addr(), 0);
    expect(&truth, [Place::A, Place::Lo6])?;
    truth.disconnected(SOCKET, 0);
    truth.connected(SOCKET, Place::B.addr(), 0);
    expect(&truth, [Place::B, Place::Lo])?;
    ensure!(truth.raced(SOCKET, &[Place::A.addr(), Place::C.addr()], Some(Place::C.addr())));
    ensure!(truth.leads_to(SOCKET, Place::Zero.addr()).is_none(), "nobody knows who was first");
    truth.destroyed(SOCKET);
    expect(&truth, [Place::Lo, Place::Lo6])
}

fn a_link_local_address_is_a_host_on_each_link() -> Result<()> {
    let mut truth = with_one(Protocol::Udp);
    let here = On { netns: 0, link: Link::Left };
    let (right, there) = (On { link: Link::Right, ..here }, On { netns: 1, ..here });
    truth.connected_on(SOCKET, here, 0);
    truth.connected_on(SOCKET, right, libc::EINVAL);
    let found = |truth: &Truth, on| truth.victims(Gone::OnLink(on)).into_iter().collect::<Vec<u64>>();
    ensure!(found(&truth, here) == [SOCKET] && found(&truth, right).is_empty());
    ensure!(found(&truth, there).is_empty());
    ensure!(truth.victims(Gone::AllBut(&[])).is_empty(), "a reconcile passes over links");
    truth.connected(SOCKET, Place::D.addr(), 0);
    ensure!(found(&truth, here).is_empty());
    ensure!(truth.victims(Gone::AllBut(&[])).len() == 1);
    Ok(())
}

fn a_script_is_its_text() -> Result<()> {
    let strategy = strategy::script(vec![(2, "plain"), (1, "full")]);
    let mut runner = TestRunner::deterministic();
    for _ in 0..200 {
        let tree = strategy.new_tree(&mut runner).map_err(|why| anyhow::anyhow!("no script: {why}"))?;
        let script = tree.current();
        let again: Script = script.to_string().parse()?;
        ensure!(again == script, "{script}\nis not\n{again}");
    }
    Ok(())
}

fn bad_lines_are_refused() -> Result<()> {
    for (text, why) in [
        ("", "empty"),
        ("plain", "first line"),
        ("world plain\nclose", "too short"),
        ("world plain\nclose 99", "not below"),
        ("world plain\nclose 1 2", "too many"),
        ("world plain\nconnect 1 x", "no place"),
        ("world plain\nlink 1 up", "no link"),
        ("world plain\ngone udp zero6", "no backend"),
        ("world plain\nterminate", "empty"),
        ("world plain\nterminate to", "too short"),
        ("world plain\nterminate udp to there", "no place"),
        ("world plain\npolicy 2 allow udp a", "not below"),
        ("world plain\n\nexplode", "line 3"),
    ] {
        let error = text.parse::<Script>().map_or_else(|e| format!("{e:#}"), |script| script.to_string());
        ensure!(error.contains(why), "{text:?}: {error}");
    }
    Ok(())
}
