//! Link-local backends: one address, a host on each link.

use anyhow::{Context as _, Result, ensure};
use skreap::core::{Action, Backend, Incomplete, Protocol};
use skreap_testbed::{Client, Family, Mode, Netns, NetnsRef, Op, OpenSpec, Reply, SpawnOptions};

use crate::case::{Case, case};
use crate::sockets::*;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let two = WorldOptions { netns: 2, ..WorldOptions::default() };
    vec![
        case!(only_the_sockets_on_the_link).with(two),
        case!(connections_on_another_link_go_on),
        case!(a_link_that_is_not_there),
        case!(reconcile_passes_over_links).index_only(),
    ]
}

/// A link from this netns to another one, where a host has the address.
fn join(here: &Netns, far: &Netns, device: &str) -> Result<()> {
    here.join(device, "fe80::a".parse()?, far, "fe80::1".parse()?, 64)
}

fn ifindex(netns: &Netns, device: &'static std::ffi::CStr) -> Result<u32> {
    // SAFETY: a string that ends with a zero.
    let index = netns.run(|| unsafe { libc::if_nametoindex(device.as_ptr()) })?;
    ensure!(index > 0, "no {device:?} in netns {}", netns.name());
    Ok(index)
}

fn backend(zone: &str) -> Result<Backend> {
    Ok(format!("udp://[fe80::1%{zone}]:53").parse()?)
}

fn only_the_sockets_on_the_link(world: &mut World) -> Result<()> {
    let far_left = Netns::create("far-left")?;
    let far_right = Netns::create("far-right")?;
    let far_other = Netns::create("far-other")?;
    join(world.netns(0), &far_left, "left")?;
    join(world.netns(0), &far_right, "right")?;
    join(world.netns(1), &far_other, "left")?;
    let (left, right) = (ifindex(world.netns(0), c"left")?, ifindex(world.netns(0), c"right")?);
    let other = ifindex(world.netns(1), c"left")?;
    let [mut here, mut there] = [world.client_in("here", 0)?, world.client_in("there", 1)?];
    let spec = || OpenSpec::new(Protocol::Udp, Family::V6);
    let peer = |ifindex: u32| format!("[fe80::1%{ifindex}]:53").parse();
    let on_left = [(); 2].map(|()| open_to(&mut here, spec(), peer(left)?));
    let mut on_left: Vec<u64> = on_left.into_iter().map(|s| Ok(s?.cookie)).collect::<Result<_>>()?;
    // Each CPU gives out cookies of its own.
    on_left.sort_unstable();
    let on_right = open_to(&mut here, spec(), peer(right)?)?.cookie;
    let elsewhere = open_to(&mut there, spec(), peer(other)?)?.cookie;
    let place = format!("/run/netns/{}", world.netns(0).name());
    let deleted = |zone: &str| Ok::<_, anyhow::Error>(Action::BackendDeleted { backend: backend(zone)? });

    let listed = world.tell_in(deleted("left")?, &place, true)?;
    let mut cookies: Vec<u64> = listed.sockets.iter().flatten().map(|s| s.cookie).collect();
    cookies.sort_unstable();
    ensure!(cookies == on_left, "{listed:?}");
    let report = world.tell_in(deleted("left")?, &place, false)?;
    expect_destroyed(&report, &mut [&mut here, &mut there], &on_left)?;
    // A scan looks into the one netns only.
    let passed_over = if world.uses_index() { 2 } else { 1 };
    ensure!(report.skipped.other_link == passed_over, "{report:?}");
    // By the number of the interface.
    let report = world.tell_in(deleted(&right.to_string())?, &place, false)?;
    expect_destroyed(&report, &mut [&mut here, &mut there], &[on_right])?;
    let place = format!("/run/netns/{}", world.netns(1).name());
    let both = Action::BackendsDeleted { backends: vec![backend("left")?, backend("lo")?] };
    let report = world.tell_in(both, &place, false)?;
    expect_destroyed(&report, &mut [&mut here, &mut there], &[elsewhere])?;
    let by_backend: Vec<_> = report.by_backend.iter().map(|b| (b.backend, b.destroyed)).collect();
    ensure!(by_backend == [(backend("left")?, 1), (backend("lo")?, 0)], "{report:?}");
    Ok(())
}

/// Both links have a host of that address that answers.
fn connections_on_another_link_go_on(world: &mut World) -> Result<()> {
    let far = [Netns::create("far-tcp-left")?, Netns::create("far-tcp-right")?];
    let devices = [c"left", c"right"];
    let mut hosts = Vec::new();
    for (far, device) in far.iter().zip(devices) {
        join(world.netns(0), far, device.to_str()?)?;
        let mut host = Client::spawn(&SpawnOptions { label: "host", cgroup: None, netns: Some(far) })?;
        let addr = format!("[fe80::1%{}]:80", ifindex(far, device)?).parse()?;
        let netns = vec![NetnsRef::Own];
        let echo = Op::StartEcho { protocol: Protocol::Tcp, addr, netns, mode: Mode::Echo };
        let started = host.call(&echo)?;
        ensure!(matches!(started, Reply::EchoStarted { .. }), "{started:?}");
        hosts.push(host);
    }
    let mut client = world.client("client")?;
    let mut cookies = Vec::new();
    for device in [c"left", c"left", c"right"] {
        let peer = format!("[fe80::1%{}]:80", ifindex(world.netns(0), device)?).parse()?;
        cookies.push(open_to(&mut client, OpenSpec::new(Protocol::Tcp, Family::V6), peer)?.cookie);
    }
    let place = format!("/run/netns/{}", world.netns(0).name());
    let action = Action::BackendDeleted { backend: "tcp://[fe80::1%left]:80".parse()? };
    let report = world.tell_in(action, &place, false)?;
    expect_exactly(&report, &mut [&mut client], &cookies[..2])?;
    ensure!(report.skipped.other_link == 1 && expect_answers(&mut client)? == 1, "{report:?}");
    Ok(())
}

/// Nothing is done, and the report says what to write.
fn a_link_that_is_not_there(world: &mut World) -> Result<()> {
    let place = format!("/run/netns/{}", world.netns(0).name());
    let one = |zone: &str| Ok::<_, anyhow::Error>(Action::BackendDeleted { backend: backend(zone)? });
    let bare = Action::BackendDeleted { backend: "udp://[fe80::1]:53".parse()? };
    let long = format!("/{}", "x".repeat(5000));
    for (action, netns, error) in [
        (bare, None, "udp://[fe80::1]:53 is link-local, and every link may have".to_owned()),
        (one("eth0")?, None, "udp://[fe80::1%eth0]:53 names a link, and every network".to_owned()),
        (one("nosuch")?, Some(place.as_str()), format!("netns {place:?} has no interface nosuch; name one")),
        (one("4711")?, Some(place.as_str()), format!("netns {place:?} has no interface 4711; name one")),
        (one("lo")?, Some("/run/netns/no such"), "netns \"/run/netns/no such\": No such file".to_owned()),
        (one("lo")?, Some("/proc/self/comm"), "netns \"/proc/self/comm\": this is no namespace;".to_owned()),
        (one("lo")?, Some("/dev/zero"), "netns \"/dev/zero\": this is no namespace;".to_owned()),
        // A namespace, but of another kind.
        (one("lo")?, Some("/proc/self/ns/uts"), "netns \"/proc/self/ns/uts\": Invalid argument".to_owned()),
        (
            one("lo")?,
            Some(long.as_str()),
            format!("netns {:?}: File name too long", format!("{}…", &long[..64])),
        ),
    ] {
        let report = world.attempt_in(action, netns, false);
        let text = report.error.as_deref().context("no error")?;
        ensure!(text.starts_with(&error), "{text:?} is not {error:?}");
        ensure!(report.incomplete_because == [Incomplete::EngineFailed].into(), "{report:?}");
    }
    Ok(())
}

fn reconcile_passes_over_links(world: &mut World) -> Result<()> {
    let far = Netns::create("far-living")?;
    join(world.netns(0), &far, "left")?;
    let left = ifindex(world.netns(0), c"left")?;
    let mut client = world.client("client")?;
    let peer = format!("[fe80::1%{left}]:53").parse()?;
    open_to(&mut client, OpenSpec::new(Protocol::Udp, Family::V6), peer)?;
    let report = world.tell(living(vec![udp(1)]), false)?;
    expect_destroyed(&report, &mut [&mut client], &[])?;
    ensure!(report.by_backend.is_empty(), "{report:?}");
    // It is listed, under the address that sockets of all links share.
    let listing = world.listing()?;
    ensure!(listing.backends.contains_key(&"udp://[fe80::1]:53".parse()?), "{listing:?}");
    Ok(())
}
