//! Events that say by a selector which sockets are meant: exactly those, whatever finds them.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use skreap::core::{EngineName, Event, Incomplete, Limit, Protocol, Report, Request};
use skreap_testbed::{Cgroup, Client, Family, Netns, NetnsRef, OpenSpec, Selection, SpawnOptions};

use crate::case::{Case, case};
use crate::sockets::*;
use crate::unconnected::sender;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let two = WorldOptions { netns: 2, ..WorldOptions::default() };
    let limited = WorldOptions { max_victims: Some(4), ..WorldOptions::default() };
    vec![
        case!(by_prefix_in_both_families),
        case!(by_protocol_and_ports),
        case!(every_family_only_if_asked),
        case!(a_thousand_prefixes),
        case!(by_netns).with(two),
        case!(by_interface).with(two),
        case!(by_user),
        case!(by_cgroup),
        case!(what_is_excepted_stays),
        case!(what_is_allowed_stays),
        case!(backends_are_restricted).with(two),
        case!(a_selector_and_exact_events_at_once).with(two),
        case!(a_reconcile_is_restricted).with(two),
        case!(what_is_gone_is_an_error),
        case!(limits_hold).with(limited).only(EngineName::Netlink).and(EngineName::Iter),
        case!(more_than_one_call_lists).index_only(),
        case!(senders_only_if_asked).only(EngineName::Netlink),
    ]
}

/// An event as it is sent.
pub fn event(json: &Value, dry_run: bool) -> Result<Event> {
    let mut json = json.clone();
    json["id"] = json!("s1");
    json["dry_run"] = json!(dry_run);
    match Request::parse(json.to_string().as_bytes(), 1) {
        Ok(Request::Event(event)) => Ok(event),
        other => bail!("{json}: {other:?}"),
    }
}

/// Has the event handled, after a dry run that must have listed the same sockets; these must be all that are destroyed.
pub fn expect(world: &mut World, json: &Value, clients: &mut [&mut Client], cookies: &[u64]) -> Result<()> {
    report_of(world, json, clients, cookies).map(drop)
}

/// As [`expect`], and what was reported.
pub fn report_of(
    world: &mut World,
    json: &Value,
    clients: &mut [&mut Client],
    cookies: &[u64],
) -> Result<Report> {
    let mut expected = cookies.to_vec();
    expected.sort_unstable();
    let listed = world.tell_event(&event(json, true)?)?;
    let mut shown: Vec<u64> = listed.sockets.iter().flatten().map(|socket| socket.cookie).collect();
    shown.sort_unstable();
    ensure!(shown == expected, "{json}: {shown:?} are listed, not {expected:?}: {listed:?}");
    let report = world.tell_event(&event(json, false)?)?;
    expect_destroyed(&report, clients, &expected).with_context(|| json.to_string())?;
    let again = world.tell_event(&event(json, false)?)?;
    ensure!(again.victims == 0 && again.complete, "{again:?}");
    Ok(report)
}

pub fn terminate(selector: Value) -> Value {
    json!({"type": "terminate", "where": selector})
}

/// A connected IPv6 socket with an IPv4-mapped peer.
fn mapped_client(client: &mut Client, n: u16) -> Result<u64> {
    Ok(open_to(client, OpenSpec::new(Protocol::Udp, Family::V6), mapped(udp(n)))?.cookie)
}

fn by_prefix_in_both_families(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2), udp(9), udp6(1), udp6(9), tcp(1), tcp6(1)])?;
    let mut client = world.client("client")?;
    let mut low = Vec::new();
    for backend in [udp(1), udp(2), tcp(1)] {
        low.push(connect(&mut client, backend)?.cookie);
    }
    low.push(mapped_client(&mut client, 1)?);
    let six = [connect(&mut client, udp6(1))?.cookie, connect(&mut client, tcp6(1))?.cookie];
    for backend in [udp(9), udp6(9)] {
        connect(&mut client, backend)?;
    }
    mapped_client(&mut client, 9)?;
    // Overlapping, and one of them a single address.
    let event = terminate(json!({"to": ["10.177.0.0/30", "10.177.0.2", "10.177.0.0/29"]}));
    expect(world, &event, &mut [&mut client], &low)?;
    expect(world, &terminate(json!({"to": ["fd77::/125"]})), &mut [&mut client], &six)?;
    ensure!(expect_answers(&mut client)? == 3);
    Ok(())
}

fn by_protocol_and_ports(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), tcp(1), udp6(1), tcp6(1)])?;
    let mut client = world.client("client")?;
    let udp_sockets = [connect(&mut client, udp(1))?.cookie, connect(&mut client, udp6(1))?.cookie];
    let tcp_sockets = [connect(&mut client, tcp(1))?.cookie, connect(&mut client, tcp6(1))?.cookie];
    let all = json!(["10.177.0.0/16", "fd77::/16"]);
    for nothing in [
        json!({"to": all, "ports": ["1-52", "54-79", "81-65535"]}),
        json!({"to": all, "protocol": "tcp", "ports": ["53"]}),
        json!({"to": ["10.177.0.2"], "ports": ["53"]}),
    ] {
        expect(world, &terminate(nothing), &mut [&mut client], &[])?;
    }
    let event = terminate(json!({"to": all, "ports": ["50-60", "7-9"]}));
    expect(world, &event, &mut [&mut client], &udp_sockets)?;
    let event = terminate(json!({"to": all, "protocol": "tcp"}));
    expect(world, &event, &mut [&mut client], &tcp_sockets)?;
    Ok(())
}

fn every_family_only_if_asked(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp6(1)])?;
    let mut client = world.client("client")?;
    let four = [connect(&mut client, udp(1))?.cookie, mapped_client(&mut client, 1)?];
    let six = [connect(&mut client, udp6(1))?.cookie];
    expect(world, &terminate(json!({"to": ["::/0"]})), &mut [&mut client], &six)?;
    expect(world, &terminate(json!({"to": ["0.0.0.0/0"]})), &mut [&mut client], &four)?;
    let four = [connect(&mut client, udp(1))?.cookie, mapped_client(&mut client, 1)?];
    expect(world, &terminate(json!({"to": ["::ffff:0:0/96"]})), &mut [&mut client], &four)?;
    Ok(())
}

fn a_thousand_prefixes(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2), udp(3), udp(8)])?;
    let mut client = world.client("client")?;
    let mut victims = Vec::new();
    for n in [1, 3] {
        victims.push(connect(&mut client, udp(n))?.cookie);
    }
    connect(&mut client, udp(2))?;
    connect(&mut client, udp(8))?;
    let mut prefixes: Vec<String> =
        (0..1022).map(|n| format!("10.178.{}.{}", n / 128, n % 128 * 2)).collect();
    prefixes.extend(["10.177.0.1".to_owned(), "10.177.0.3/32".to_owned()]);
    expect(world, &terminate(json!({"to": prefixes})), &mut [&mut client], &victims)?;
    ensure!(expect_answers(&mut client)? == 2);
    Ok(())
}

/// Two tenants use one address.
fn by_netns(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let [mut here, mut there] = [world.client_in("here", 0)?, world.client_in("there", 1)?];
    let names = |world: &World, client: &Client, netns: usize| {
        let netns = world.netns(netns);
        [
            netns.name().to_owned(),
            format!("/run/netns/{}", netns.name()),
            client.pid().to_string(),
            format!("cookie:{}", netns.cookie()),
        ]
    };
    connect(&mut there, udp(1))?;
    for name in names(world, &here, 0) {
        let mine = connect(&mut here, udp(1))?.cookie;
        expect(world, &terminate(json!({"netns": name})), &mut [&mut here, &mut there], &[mine])?;
        // The same by a bucket: protocol, address and port are exact.
        let mine = connect(&mut here, udp(1))?.cookie;
        let exact = json!({"protocol": "udp", "to": ["10.177.0.1"], "ports": ["53"], "netns": name});
        expect(world, &terminate(exact), &mut [&mut here, &mut there], &[mine])?;
    }
    ensure!(expect_answers(&mut there)? == 1);
    Ok(())
}

/// Each of two links has a host of one address.
fn by_interface(world: &mut World) -> Result<()> {
    let [left, right, other] =
        [Netns::create("sel-left")?, Netns::create("sel-right")?, Netns::create("sel-other")?];
    let join = |here: &Netns, far: &Netns, device: &str| {
        here.join(device, "fe80::a".parse()?, far, "fe80::1".parse()?, 64)
    };
    join(world.netns(0), &left, "left")?;
    join(world.netns(0), &right, "right")?;
    join(world.netns(1), &other, "left")?;
    let [mut here, mut there] = [world.client_in("here", 0)?, world.client_in("there", 1)?];
    let index = |netns: &Netns, device: &str| -> Result<u32> {
        let name = std::ffi::CString::new(device)?;
        // SAFETY: a string that ends with a zero.
        let index = netns.run(|| unsafe { libc::if_nametoindex(name.as_ptr()) })?;
        ensure!(index > 0, "no {device} in netns {}", netns.name());
        Ok(index)
    };
    let spec = || OpenSpec::new(Protocol::Udp, Family::V6);
    let peer = |ifindex: u32| -> Result<_> { Ok(format!("[fe80::1%{ifindex}]:53").parse()?) };
    let on_left = open_to(&mut here, spec(), peer(index(world.netns(0), "left")?)?)?.cookie;
    let on_right = open_to(&mut here, spec(), peer(index(world.netns(0), "right")?)?)?.cookie;
    let elsewhere = open_to(&mut there, spec(), peer(index(world.netns(1), "left")?)?)?.cookie;
    let name = world.netns(0).name().to_owned();
    let event = terminate(json!({"to": ["fe80::1"], "netns": name, "interface": "left"}));
    expect(world, &event, &mut [&mut here, &mut there], &[on_left])?;
    let number = index(world.netns(0), "right")?.to_string();
    let event = terminate(json!({"to": ["fe80::/10"], "netns": name, "interface": number}));
    expect(world, &event, &mut [&mut here, &mut there], &[on_right])?;
    expect(world, &terminate(json!({"to": ["fe80::/10"]})), &mut [&mut here, &mut there], &[elsewhere])?;
    Ok(())
}

/// The descriptors of a process that are sockets.
pub fn descriptors(client: &Client) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(format!("/proc/{}/fd", client.pid()))?;
    let mut sockets: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    sockets.retain(|path| fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("socket:")));
    sockets.sort();
    Ok(sockets)
}

/// Whose a socket is is said by its inode: `fchown()` gives it away, a fork or a descriptor that is passed on does not.
fn by_user(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), tcp(1)])?;
    let mut client = world.client("client")?;
    connect(&mut client, udp(1))?;
    for backend in [udp(1), tcp(1)] {
        let before = descriptors(&client)?;
        let given = connect(&mut client, backend)?.cookie;
        let new: Vec<PathBuf> = descriptors(&client)?.into_iter().filter(|fd| !before.contains(fd)).collect();
        let [fd] = &new[..] else { bail!("new descriptors: {new:?}") };
        expect(world, &terminate(json!({"uid": 4711})), &mut [&mut client], &[])?;
        chown(fd, Some(4711), None)?;
        let fork = client.fork()?;
        expect(world, &terminate(json!({"uid": 4711})), &mut [&mut client], &[given])?;
        client.reap_fork(fork)?;
    }
    ensure!(expect_answers(&mut client)? == 1);
    Ok(())
}

/// A cgroup covers those below it, also one that was removed meanwhile.
fn by_cgroup(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let service = world.cgroup().child("service")?;
    let beside = world.cgroup().child("beside")?;
    let inner = service.child("inner")?;
    let deep = inner.child("deep")?;
    let spawn = |world: &World, label, cgroup| {
        Client::spawn(&SpawnOptions { label, cgroup: Some(cgroup), netns: Some(world.netns(0)) })
    };
    let mut outer = spawn(world, "outer", &service)?;
    let mut middle = spawn(world, "middle", &inner)?;
    let mut innermost = spawn(world, "innermost", &deep)?;
    let mut neighbour = spawn(world, "neighbour", &beside)?;
    connect(&mut neighbour, udp(1))?;
    let id = fs::metadata(service.path())?.ino();
    let names = [service.path().display().to_string(), format!("id:{id}")];
    for name in &names {
        let mut victims = Vec::new();
        for client in [&mut outer, &mut middle, &mut innermost] {
            victims.push(connect(client, udp(1))?.cookie);
        }
        let mut clients = [&mut outer, &mut middle, &mut innermost, &mut neighbour];
        expect(world, &terminate(json!({"cgroup": name})), &mut clients, &victims)?;
    }
    // The process moves on, its cgroup is removed, its socket belongs there still.
    let kept = connect(&mut innermost, udp(1))?.cookie;
    beside.add(innermost.pid())?;
    drop(deep);
    let mut clients = [&mut outer, &mut middle, &mut innermost, &mut neighbour];
    expect(world, &terminate(json!({"cgroup": names[0]})), &mut clients, &[kept])?;
    ensure!(expect_answers(&mut neighbour)? == 1);
    Ok(())
}

fn what_is_excepted_stays(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2), tcp(2), udp6(1)])?;
    let mut client = world.client("client")?;
    let mut victims = Vec::new();
    for backend in [udp(1), tcp(2)] {
        victims.push(connect(&mut client, backend)?.cookie);
    }
    connect(&mut client, udp(2))?;
    connect(&mut client, udp6(1))?;
    let mut event = terminate(json!({"to": ["10.177.0.0/16", "fd77::/16"]}));
    event["except"] = json!({"protocol": "udp", "to": ["10.177.0.2", "fd77::/16"]});
    expect(world, &event, &mut [&mut client], &victims)?;
    // All conditions of an exception must hold for a socket to be spared.
    event["except"] = json!({"to": ["10.177.0.2"], "uid": 4711});
    let rest: Vec<u64> =
        client.states(Selection::All)?.iter().filter(|s| s.peer.is_some()).map(|s| s.cookie).collect();
    ensure!(rest.len() == 2, "{rest:?}");
    expect(world, &event, &mut [&mut client], &rest)?;
    Ok(())
}

fn what_is_allowed_stays(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2), tcp(1), tcp(2), udp6(1)])?;
    let [mut client, mut other] = [world.client("client")?, world.outsider("other")?];
    let _ = connect(&mut other, udp(2))?;
    let mut victims = Vec::new();
    for backend in [udp(2), tcp(2), udp6(1)] {
        victims.push(connect(&mut client, backend)?.cookie);
    }
    for backend in [udp(1), tcp(1)] {
        connect(&mut client, backend)?;
    }
    let event = json!({
        "type": "policy", "where": {"cgroup": world.cgroup().path()},
        "allow": [{"to": ["10.177.0.1"], "ports": ["53"]}, {"to": ["10.177.0.0/31"], "protocol": "tcp"}],
    });
    expect(world, &event, &mut [&mut client, &mut other], &victims)?;
    ensure!(expect_answers(&mut client)? == 2 && expect_answers(&mut other)? == 1);
    Ok(())
}

/// What an event on backends says besides is asked of the sockets in their buckets.
fn backends_are_restricted(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), tcp(1), udp(2)])?;
    let [mut here, mut there] = [world.client_in("here", 0)?, world.client_in("there", 1)?];
    let name = world.netns(0).name().to_owned();
    let mut mine = Vec::new();
    for backend in [udp(1), tcp(1)] {
        mine.push(connect(&mut here, backend)?.cookie);
        connect(&mut there, backend)?;
        connect(&mut there, backend)?;
    }
    connect(&mut here, udp(2))?;
    let event = json!({"type": "backends-deleted", "backends": [udp(1), tcp(1)], "where": {"netns": name}});
    let report = report_of(world, &event, &mut [&mut here, &mut there], &mine)?;
    let not_selected = if world.uses_index() { 4 } else { 0 };
    ensure!(report.skipped.not_selected == not_selected, "{report:?}");
    let by_backend: Vec<(u64, u64)> = report.by_backend.iter().map(|b| (b.victims, b.destroyed)).collect();
    ensure!(by_backend == [(1, 1), (1, 1)], "{report:?}");
    // A selector that excludes the backend.
    let event = json!({"type": "backend-deleted", "backend": udp(1), "where": {"protocol": "tcp"}});
    expect(world, &event, &mut [&mut here, &mut there], &[])?;
    let event =
        json!({"type": "backend-deleted", "backend": udp(1), "except": {"netns": world.netns(1).name()}});
    expect(world, &event, &mut [&mut here, &mut there], &[])?;
    // A selector and an exact event, and the exact one has the rest.
    let report = world.reap(tcp(1))?;
    expect_complete(&report, 2)?;
    ensure!(expect_answers(&mut here)? == 1 && expect_answers(&mut there)? == 2);
    Ok(())
}

/// Events that waited together: one that is restricted has not done the work of those that are not.
fn a_selector_and_exact_events_at_once(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let [mut here, mut there] = [world.client_in("here", 0)?, world.client_in("there", 1)?];
    let name = world.netns(0).name().to_owned();
    let mine = connect_many(&mut here, NetnsRef::Own, udp(1), 3)?.cookies;
    let theirs = connect_many(&mut there, NetnsRef::Own, udp(1), 2)?.cookies;
    let restricted = json!({"type": "backend-deleted", "backend": udp(1), "where": {"netns": name}});
    let exact = json!({"type": "backend-deleted", "backend": udp(1)});
    let mut events = [event(&restricted, false)?, event(&exact, false)?, event(&exact, false)?];
    for (event, id) in events.iter_mut().zip(["restricted", "exact", "again"]) {
        event.id = id.to_owned();
    }
    let reports = world.tell_events_together(&events)?;
    let destroyed: Vec<u64> = reports.iter().map(|report| report.destroyed).collect();
    ensure!(destroyed == [3, 2, 0], "{reports:?}");
    ensure!(reports.iter().all(|report| report.complete && report.merged.is_empty()), "{reports:?}");
    ensure!(here.destroyed(Selection::All)? == mine && there.destroyed(Selection::All)? == theirs);
    Ok(())
}

fn a_reconcile_is_restricted(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2), udp(3)])?;
    let [mut here, mut there] = [world.client_in("here", 0)?, world.client_in("there", 1)?];
    let mut mine = Vec::new();
    for n in [1, 2] {
        connect(&mut there, udp(n))?;
        mine.push(connect(&mut here, udp(n))?.cookie);
    }
    connect(&mut here, udp(3))?;
    let event = json!({"type": "reconcile", "backends": [udp(3)], "where": {"netns": world.netns(0).name()}});
    let report = report_of(world, &event, &mut [&mut here, &mut there], &mine)?;
    ensure!(report.by_backend.len() == 2, "{report:?}");
    ensure!(expect_answers(&mut here)? == 1 && expect_answers(&mut there)? == 2);
    Ok(())
}

/// The kernel takes a netns down some time after the last reference to it, and others may look into it meanwhile.
fn wait_until_gone(cookie: u64) -> Result<()> {
    let deadline = Instant::now() + Duration::from_millis(PATIENCE_MS);
    while skreap::netns::everywhere()?.netns.iter().any(|id| id.cookie == cookie) {
        ensure!(Instant::now() < deadline, "netns {cookie} is still there");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// What names nothing any more is an error, and no success without victims.
fn what_is_gone_is_an_error(world: &mut World) -> Result<()> {
    let gone = Netns::create("sel-gone")?;
    let (name, cookie) = (gone.name().to_owned(), gone.cookie());
    drop(gone);
    wait_until_gone(cookie)?;
    let removed = world.cgroup().child("removed")?;
    let (path, id) = (removed.path().to_owned(), fs::metadata(removed.path())?.ino());
    drop(removed);
    let outside = Cgroup::create("sel-outside")?;
    let outside_id = fs::metadata(outside.path())?.ino();
    let outside = outside.path();
    let covers = format!("this service covers the sockets of {} only;", world.cgroup().path().display());
    for (selector, message) in [
        (json!({"netns": name}), format!("netns {name}: No such file or directory")),
        (
            json!({"netns": format!("cookie:{cookie}")}),
            format!("netns cookie:{cookie}: it is gone, or was never"),
        ),
        (json!({"netns": "4194303"}), "netns 4194303: No such file or directory".to_owned()),
        (json!({"cgroup": path}), format!("cgroup {}: it is gone, or was never there;", path.display())),
        (json!({"cgroup": outside}), format!("cgroup {}: {covers}", outside.display())),
        (json!({"cgroup": format!("id:{outside_id}")}), format!("cgroup id:{outside_id}: {covers}")),
        (json!({"cgroup": format!("id:{id}")}), format!("cgroup id:{id}: it is gone, or was never there;")),
        (
            json!({"netns": world.netns(0).name(), "interface": "nope"}),
            "the netns has no interface nope;".to_owned(),
        ),
    ] {
        let report = world.reaper_mut().handle(&event(&terminate(selector.clone()), false)?);
        let error = report.error.clone().unwrap_or_default();
        ensure!(error.starts_with(&message), "{selector}: {error:?}, not {message:?}");
        let failed = report.incomplete_because.contains(&Incomplete::EngineFailed);
        ensure!(failed && !report.complete && report.victims == 0, "{report:?}");
    }
    Ok(())
}

fn limits_hold(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let mut client = world.client("client")?;
    let opened = connect_many(&mut client, Default::default(), udp(1), 5)?;
    let all = terminate(json!({"to": ["10.177.0.0/16"]}));
    let refused = world.reaper_mut().handle(&event(&all, false)?);
    let guard = refused.guard.context("no guard")?;
    ensure!(guard.refused && guard.found == Some(5) && guard.limit == Some(Limit::MaxVictims), "{guard:?}");
    ensure!(
        refused.destroyed == 0 && refused.incomplete_because.contains(&Incomplete::Refused),
        "{refused:?}"
    );
    let dry = world.tell_event(&event(&all, true)?)?;
    ensure!(dry.guard.is_some_and(|guard| guard.refused) && dry.victims == 5, "{dry:?}");
    ensure!(expect_answers(&mut client)? == 5);
    client.close(opened.first)?;
    let mut own = all.clone();
    own["max_victims"] = json!(3);
    let refused = world.reaper_mut().handle(&event(&own, false)?);
    ensure!(refused.guard.is_some_and(|g| g.refused && g.limit == Some(Limit::OfTheEvent)), "{refused:?}");
    expect(world, &all, &mut [&mut client], &opened.cookies[1..])?;
    Ok(())
}

/// One call lists 2,048 sockets.
fn more_than_one_call_lists(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let victims = connect_many(&mut client, Default::default(), udp(1), 5000)?.cookies;
    connect_many(&mut client, Default::default(), udp(2), 100)?;
    expect(world, &terminate(json!({"to": ["10.177.0.0/31"]})), &mut [&mut client], &victims)?;
    ensure!(expect_answers(&mut client)? == 100);
    Ok(())
}

/// Sockets without a peer are left alone by default, and counted.
fn senders_only_if_asked(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    sender(&mut client, &[udp(1)])?;
    let connected = connect(&mut client, udp(1))?.cookie;
    let report =
        report_of(world, &terminate(json!({"to": ["10.177.0.1"]})), &mut [&mut client], &[connected])?;
    ensure!(report.skipped.unconnected == 1 && report.visited == 2, "{report:?}");
    Ok(())
}
