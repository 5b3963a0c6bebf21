//! Selectors at their limits, and beside what else happens at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use skreap::Reaper;
use skreap::bpf::Config;
use skreap::choice::EngineChoice;
use skreap::core::{EngineName, Incomplete, Request, VictimAction};
use skreap_testbed::{Cgroup, Client, NetnsRef, Selection, SpawnOptions};

use crate::case::{Case, case};
use crate::frontends::{
    A, A6, B, B6, DIRECT, POD, POD6, V4, V6, backend, expect_skips, listed, many_to, reap_through,
};
use crate::pending::{begin_connect, end_connect};
use crate::rules::{rule, set};
use crate::selectors::{event, expect, terminate};
use crate::sockets::*;
use crate::unconnected::sender;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let plain = WorldOptions::default();
    let two = WorldOptions { netns: 2, ..plain };
    // What holds up a connect is attached behind the hooks, and moving them behind it would wait for its end.
    let held_up = WorldOptions { leave_order: true, pending_wait: Duration::from_secs(5), ..plain };
    let senders = WorldOptions { unconnected: skreap::core::Unconnected::Destroy, balancer: V4, ..plain };
    vec![
        case!(a_thousand_prefixes_overlap),
        case!(a_number_is_a_name_before_a_process).with(two),
        case!(sockets_that_cannot_be_named_are_missing).only(EngineName::Diag).and(EngineName::DiagFilter),
        case!(more_than_the_limits_is_refused).only(EngineName::Netlink),
        case!(events_that_select_wait_beside_exact_ones).with(two),
        case!(events_of_several_threads_have_each_socket_once).with(two).only(EngineName::Netlink),
        case!(senders_through_a_virtual_address_if_asked).with(senders).index_only(),
        case!(senders_over_ipv6_have_frontends)
            .with(WorldOptions { frontends: 64, balancer: V6, ..senders })
            .index_only(),
        case!(a_pending_connect_is_spared_by_its_rule).with(held_up).index_only(),
        case!(a_pending_connect_is_not_selected).with(held_up).index_only(),
        case!(a_pending_connect_of_another_frontend)
            .with(WorldOptions { frontends: 64, ..held_up })
            .index_only(),
        case!(the_program_is_there_before_the_first_selector).only(EngineName::Netlink),
    ]
}

/// Nested, equal, side by side, and with a hole: 1,024 in all.
fn a_thousand_prefixes_overlap(world: &mut World) -> Result<()> {
    let hosts = 1..=32_u16;
    world.serve(&hosts.clone().map(udp).chain([udp6(1), udp6(2)]).collect::<Vec<_>>())?;
    let mut client = world.client("client")?;
    let mut cookies = Vec::new();
    for n in hosts.clone() {
        cookies.push(connect(&mut client, udp(n))?.cookie);
    }
    let six = connect(&mut client, udp6(1))?.cookie;
    connect(&mut client, udp6(2))?;
    // Of each four addresses the first three: as a pair, and each alone; the last one again and again.
    let mut to: Vec<String> = (0..=32).step_by(4).map(|n| format!("10.177.0.{n}/31")).collect();
    to.extend((1..=32).filter(|n| n % 4 != 3).map(|n| format!("10.177.0.{n}/32")));
    to.push("fd77::1/128".to_owned());
    // Around other networks, from a /1 on that holds none of the addresses above.
    let four = u32::from(std::net::Ipv4Addr::new(192, 0, 2, 1));
    to.extend((1..=32_u32).map(|length| {
        let network = std::net::Ipv4Addr::from(four & u32::MAX << (32 - length));
        format!("{network}/{length}")
    }));
    let six_bits = u128::from("fd78::1".parse::<std::net::Ipv6Addr>()?);
    to.extend((16..=128_u32).map(|length| {
        let network = std::net::Ipv6Addr::from(six_bits & u128::MAX << (128 - length));
        format!("{network}/{length}")
    }));
    let rest = 1022 - to.len();
    to.extend((0..rest).map(|n| format!("192.0.{}.0/{}", n % 256, 24 + n / 256)));
    let mut json = terminate(json!({"to": to}));
    // Around one another, too.
    json["except"] = json!({"to": ["10.177.0.8/29", "10.177.0.12/30"]});
    let is_victim = |n: &u16| n % 4 != 3 && !(8..16).contains(n);
    let victims: Vec<u64> =
        hosts.zip(&cookies).filter(|(n, _)| is_victim(n)).map(|(_, cookie)| *cookie).chain([six]).collect();
    ensure!(victims.len() == 19, "{} victims", victims.len());
    expect(world, &json, &mut [&mut client], &victims)?;
    ensure!(expect_answers(&mut client)? == 15);
    // Everything, and what is in it.
    let json = terminate(json!({"to": ["0.0.0.0/0", "10.177.0.3", "10.0.0.0/8"]}));
    let rest: Vec<u64> = cookies.iter().copied().filter(|cookie| !victims.contains(cookie)).collect();
    ensure!(rest.len() == 14, "{} are left", rest.len());
    expect(world, &json, &mut [&mut client], &rest)?;
    ensure!(expect_answers(&mut client)? == 1);
    Ok(())
}

/// As for ip(8): a file of that name tells, and where there is none the process.
fn a_number_is_a_name_before_a_process(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let [mut here, mut there] = [world.client_in("here", 0)?, world.client_in("there", 1)?];
    let [mine, theirs] = [connect(&mut here, udp(1))?.cookie, connect(&mut there, udp(1))?.cookie];
    let json = terminate(json!({"netns": there.pid().to_string()}));
    let name = format!("/run/netns/{}", there.pid());
    symlink(format!("/run/netns/{}", world.netns(0).name()), &name)?;
    let by_name = expect(world, &json, &mut [&mut here, &mut there], &[mine]);
    fs::remove_file(&name)?;
    by_name?;
    expect(world, &json, &mut [&mut here, &mut there], &[theirs])
}

/// A dump asks for the cookies of sockets of which nobody has asked for them; there is none of those that are connected to
/// a group.
fn sockets_that_cannot_be_named_are_missing(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let cgroup = Cgroup::create("unnamed")?;
    let options = SpawnOptions { label: "unnamed", cgroup: Some(&cgroup), netns: Some(world.netns(0)) };
    let mut client = Client::spawn(&options)?;
    let group = SocketAddr::from(([239, 177, 0, 1], 53));
    // A route that leads there.
    world.netns(0).add_secondary("lo", [192, 0, 2, 9].into(), 1)?;
    let mut handles = Vec::new();
    for to in [udp(1).socket_addr(), group] {
        let handle = client.open(spec_for(udp(1)))?;
        client.connect(handle, to)?;
        handles.push(handle);
    }
    let engine = EngineChoice::Named(world.reaper().engine());
    let config = Config::default().max_sockets(256).buckets(16);
    let builder = Reaper::builder().cgroup(cgroup.path()).config(config).engine(engine).bootstrap(false);
    let mut reaper = builder.build()?;
    for (to, victims, complete) in [("239.0.0.0/8", 0, false), ("10.0.0.0/8", 1, true)] {
        let report = reaper.handle(&event(&terminate(json!({"to": [to]})), false)?);
        ensure!(
            (report.victims, report.destroyed, report.complete) == (victims, victims, complete),
            "{report:?}"
        );
        let missed: &[Incomplete] = if complete { &[] } else { &[Incomplete::DumpInterrupted] };
        ensure!(report.incomplete_because.iter().eq(missed), "{report:?}");
    }
    ensure!(client.state(handles[0])?.destroyed() && !client.state(handles[1])?.destroyed());
    // Its owner has asked.
    let cookie = client.cookie(handles[1])?;
    let report = reaper.handle(&event(&terminate(json!({"to": ["239.0.0.0/8"]})), false)?);
    ensure!((report.victims, report.destroyed, report.complete) == (1, 1, true), "{report:?}");
    ensure!(client.destroyed(Selection::All)?.contains(&cookie), "{report:?}");
    drop((client, reaper));
    Ok(())
}

/// With the number, and before anything is touched.
fn more_than_the_limits_is_refused(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let mut client = world.client("client")?;
    connect(&mut client, udp(1))?;
    let networks = |n: u32| (0..n).map(|i| format!("10.{}.{}.0/24", i / 256, i % 256)).collect::<Vec<_>>();
    let ports = |n: u32| (1..=n).map(|i| (2 * i).to_string()).collect::<Vec<_>>();
    let mut both = terminate(json!({"to": networks(1000)}));
    both["except"] = json!({"to": networks(25)});
    for (json, says) in [
        (terminate(json!({"to": networks(1025)})), "it has 1025 entries; write at most 1024"),
        (both, "the event has 1025 prefixes in all; write at most 1024"),
        (terminate(json!({"ports": ports(257)})), "it has 257 entries; write at most 256"),
        (terminate(json!({"ports": ["0"]})), "port 0 is that of sockets without a peer"),
        (terminate(json!({"ports": ["0-53"]})), "port 0 is that of sockets without a peer"),
        (terminate(json!({"ports": ["54-53"]})), "the range 54-53 ends before it begins; write 53-54"),
        (terminate(json!({"to": ["0.0.0.0"]})), "the address of sockets without a peer"),
        (terminate(json!({})), "it has no condition, and would select every socket"),
    ] {
        let refusal = refused(json)?;
        ensure!(refusal.contains(says), "{refusal:?} does not say {says:?}");
    }
    ensure!(expect_answers(&mut client)? == 1);
    Ok(())
}

fn refused(mut json: Value) -> Result<String> {
    json["id"] = json!("r1");
    match Request::parse(json.to_string().as_bytes(), 1) {
        Err(refusal) => Ok(refusal.to_string()),
        Ok(request) => bail!("{json} was accepted: {request:?}"),
    }
}

/// Received together: one has not done the work of the other, and each has what the one before has left.
fn events_that_select_wait_beside_exact_ones(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2), tcp(1)])?;
    let [mut here, mut there] = [world.client_in("here", 0)?, world.client_in("there", 1)?];
    let name = world.netns(0).name().to_owned();
    for (to, mine, theirs) in [(udp(1), 3, 2), (udp(2), 1, 4), (tcp(1), 2, 1)] {
        connect_many(&mut here, NetnsRef::Own, to, mine)?;
        connect_many(&mut there, NetnsRef::Own, to, theirs)?;
    }
    let all = [
        terminate(json!({"to": ["10.177.0.0/31"], "netns": name, "protocol": "udp"})),
        json!({"type": "backend-deleted", "backend": udp(1)}),
        json!({"type": "policy", "where": {"netns": name}, "allow": [{"to": ["10.177.0.2"]}]}),
        json!({"type": "backend-deleted", "backend": udp(1)}),
        terminate(json!({"to": ["10.177.0.0/24"]})),
    ];
    let mut events = all.iter().map(|json| event(json, false)).collect::<Result<Vec<_>>>()?;
    for (i, event) in events.iter_mut().enumerate() {
        event.id = format!("together-{i}");
    }
    let reports = world.tell_events_together(&events)?;
    let destroyed: Vec<u64> = reports.iter().map(|report| report.destroyed).collect();
    ensure!(destroyed == [3, 2, 2, 0, 6], "{reports:?}");
    ensure!(reports.iter().all(|report| report.complete && report.error.is_none()), "{reports:?}");
    let died = here.destroyed(Selection::All)?.len() + there.destroyed(Selection::All)?.len();
    ensure!(died == 13, "{died} have died");
    Ok(())
}

/// From two threads into one queue: whatever the order, every socket is the victim of one event.
fn events_of_several_threads_have_each_socket_once(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let [mut here, mut there] = [world.client_in("here", 0)?, world.client_in("there", 1)?];
    let reaper = Reaper::builder()
        .cgroup(world.cgroup().path())
        .config(Config::default().max_sockets(4096).buckets(1024))
        .engine(EngineChoice::Named(world.reaper().engine()))
        .build()?;
    let reaper = skreap::ReaperThread::start(reaper, 64)?;
    let exact = json!({"type": "backend-deleted", "backend": udp(1)});
    let selects = terminate(json!({"to": ["10.177.0.0/31"], "netns": world.netns(1).name()}));
    for round in 0..20 {
        for client in [&mut here, &mut there] {
            connect_many(client, NetnsRef::Own, udp(1), 10)?;
            connect_many(client, NetnsRef::Own, udp(2), 5)?;
        }
        let reports = thread::scope(|scope| {
            let tell = |json: &Value| -> Result<_> { Ok(reaper.handle().reap(event(json, false)?)?) };
            let all = [&exact, &selects].map(|json| scope.spawn(move || tell(json)));
            all.into_iter()
                .map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect::<Result<Vec<_>>>()
        })?;
        let destroyed: Vec<u64> = reports.iter().map(|report| report.destroyed).collect();
        // Those of both are had by whichever comes first.
        ensure!(destroyed == [20, 0] || destroyed == [10, 10], "round {round}: {reports:?}");
        ensure!(reports.iter().all(|report| report.complete), "round {round}: {reports:?}");
        for client in [&mut here, &mut there] {
            ensure!(client.destroyed(Selection::All)?.len() == 10, "round {round}");
            ensure!(expect_answers(client)? == 5, "round {round}");
            client.close_all()?;
        }
    }
    Ok(())
}

/// What is sent through a virtual address is sent to the backend behind it.
fn senders_through_a_virtual_address_if_asked(world: &mut World) -> Result<()> {
    world.serve(&[backend(POD), udp(2)])?;
    let mut client = world.client("client")?;
    let through = [sender(&mut client, &[backend(A)])?, sender(&mut client, &[backend(B)])?];
    let direct = sender(&mut client, &[backend(POD)])?;
    let elsewhere = sender(&mut client, &[udp(2)])?;
    let connected = many_to(&mut client, A, 2)?;
    // Nobody is connected to the virtual addresses, and nobody has sent there.
    expect(world, &terminate(json!({"to": ["10.177.9.0/24"]})), &mut [&mut client], &[])?;
    let mut victims = connected;
    victims.extend(through.iter().chain([&direct]).map(|socket| socket.cookie));
    expect(world, &terminate(json!({"to": ["10.177.0.0/31"]})), &mut [&mut client], &victims)?;
    let json = terminate(json!({"to": ["10.177.0.2/31"]}));
    expect(world, &json, &mut [&mut client], &[elsewhere.cookie])
}

fn senders_over_ipv6_have_frontends(world: &mut World) -> Result<()> {
    world.serve(&[backend(POD6)])?;
    let mut client = world.client("client")?;
    let mut expected = BTreeMap::new();
    for (to, frontend) in [(A6, A6), (B6, B6), (POD6, DIRECT)] {
        expected.insert(sender(&mut client, &[backend(to)])?.cookie, frontend.to_owned());
    }
    ensure!(listed(world, POD6)? == expected, "not {expected:?}");
    for (others, (cookie, frontend)) in (0..3).rev().zip(&expected) {
        let report = reap_through(world, POD6, frontend)?;
        expect_destroyed(&report, &mut [&mut client], &[*cookie])?;
        expect_skips(&report, others, 0)?;
    }
    Ok(())
}

/// One is connected already, and one connects while the event waits: a rule leaves both alone, and each is counted once.
fn a_pending_connect_is_spared_by_its_rule(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let [mut client, mut other] = [world.client("client")?, world.client("other")?];
    set(world, vec![rule("all", VictimAction::None)])?;
    connect(&mut other, udp(1))?;
    let socket = open(&mut client, spec_for(udp(1)))?;
    let delay = begin_connect(world, &mut client, socket, udp(1))?;
    let report = world.reap(udp(1))?;
    end_connect(&mut client, delay)?;
    ensure!(report.pending_walks == 1 && report.pending == 0, "{report:?}");
    ensure!(report.skipped.spared == 2, "not two are spared: {report:?}");
    expect_exactly(&report, &mut [&mut client, &mut other], &[])
}

fn a_pending_connect_is_not_selected(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let [mut client, mut other] = [world.client("client")?, world.client("other")?];
    connect(&mut other, udp(1))?;
    let socket = open(&mut client, spec_for(udp(1)))?;
    let delay = begin_connect(world, &mut client, socket, udp(1))?;
    let json = json!({"type": "backend-deleted", "backend": udp(1), "where": {"uid": 4711}});
    let report = world.tell_event(&event(&json, false)?)?;
    end_connect(&mut client, delay)?;
    ensure!(report.pending_walks == 1 && report.skipped.not_selected == 2, "{report:?}");
    expect_exactly(&report, &mut [&mut client, &mut other], &[])
}

fn a_pending_connect_of_another_frontend(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let [mut client, mut other] = [world.client("client")?, world.client("other")?];
    connect(&mut other, udp(1))?;
    let socket = open(&mut client, spec_for(udp(1)))?;
    let delay = begin_connect(world, &mut client, socket, udp(1))?;
    let json = json!({"type": "backend-deleted", "backend": udp(1), "frontend": A});
    let report = world.tell_event(&event(&json, false)?)?;
    end_connect(&mut client, delay)?;
    ensure!(report.pending_walks == 1 && report.skipped.frontend == 2, "{report:?}");
    expect_exactly(&report, &mut [&mut client, &mut other], &[])
}

/// The programs that this process has descriptors of, by their ids.
fn programs() -> Result<BTreeSet<u32>> {
    let mut ids = BTreeSet::new();
    for entry in fs::read_dir("/proc/self/fdinfo")? {
        // The descriptor of the listing itself is gone by now.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        let id = text.lines().find_map(|line| line.strip_prefix("prog_id:"));
        ids.extend(id.map(|id| id.trim().parse::<u32>()).transpose()?);
    }
    Ok(ids)
}

/// Waits until there are so many: threads of a reaper that is gone may end a moment later.
fn wait_for_programs(count: usize) -> Result<()> {
    let deadline = Instant::now() + Duration::from_millis(PATIENCE_MS);
    while programs()?.len() != count {
        ensure!(Instant::now() < deadline, "there are {} programs, not {count}", programs()?.len());
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// If it is to be loaded ahead, the first event with a selector loads nothing.
fn the_program_is_there_before_the_first_selector(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let mut client = world.client("client")?;
    let json = event(&terminate(json!({"to": ["10.177.0.0/31"]})), false)?;
    let engine = EngineChoice::Named(world.reaper().engine());
    let build = |ready: bool| {
        let builder = Reaper::builder().cgroup(world.cgroup().path()).engine(engine);
        let config = Config::default().max_sockets(1000);
        builder.config(config).ready_for_selectors(ready).build()
    };
    // What is loaded once for a whole process.
    drop(build(false)?);
    let before = programs()?.len();
    let mut late = build(false)?;
    let without = programs()?.len();
    expect_complete(&late.handle(&json), 0)?;
    let with = programs()?.len();
    ensure!(before < without && without < with, "{before}, {without}, {with} programs");
    drop(late);
    wait_for_programs(before)?;

    let mut ready = build(true)?;
    wait_for_programs(with)?;
    let loaded = programs()?;
    let opened = connect_many(&mut client, NetnsRef::Own, udp(1), 3)?;
    expect_exactly(&ready.handle(&json), &mut [&mut client], &opened.cookies)?;
    ensure!(programs()? == loaded, "the first event has loaded programs");
    drop(ready);
    wait_for_programs(before)?;
    // And one that has not had the time yet.
    drop(build(true)?);
    wait_for_programs(before)
}
