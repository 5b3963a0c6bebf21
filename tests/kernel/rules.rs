//! Rules that say what is done with each victim.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use skreap::core::{
    Action, ActionName, ActionRule, ActionRules, Backend, Destinations, EngineName, Event, Instead, Move,
    Protocol, Report, Revive, RuleCount, Spread, VictimAction,
};
use skreap_testbed::{Client, OpenSpec, Selection, SpawnOptions};

use crate::case::{Case, case};
use crate::owners::need_mptcp;
use crate::revive::end;
use crate::sockets::*;
use crate::world::{World, WorldOptions};

/// Longer than any second look takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn cases() -> Vec<Case> {
    let limited = WorldOptions { max_victims: Some(3), ..WorldOptions::default() };
    let tiny = WorldOptions { max_sockets: 16, buckets: 4, ..WorldOptions::default() };
    vec![
        case!(each_process_has_its_rule),
        case!(by_the_cgroup_and_user_of_the_socket).only(EngineName::Netlink),
        case!(a_shared_socket_has_the_rule_of_any_owner).only(EngineName::Netlink),
        case!(what_a_rule_moves_is_not_destroyed).only(EngineName::Netlink),
        case!(two_rules_look_again_at_their_own_time).only(EngineName::Netlink),
        case!(an_event_that_says_what_is_done_needs_no_rule).only(EngineName::Netlink),
        case!(state_is_not_moved_unless_forced).only(EngineName::Netlink),
        case!(a_thousand_sockets_of_twenty_processes_have_their_rules).only(EngineName::Netlink),
        case!(rules_hold_for_subflows).only(EngineName::Netlink).and(EngineName::Diag),
        case!(what_is_spared_is_no_victim_of_a_limit).with(limited).only(EngineName::Netlink),
        case!(what_an_action_spares_is_no_victim_of_a_limit).with(limited).only(EngineName::Netlink),
        case!(a_full_index_counts_all_that_is_spared).with(tiny).index_only(),
    ]
}

fn to(backend: Backend) -> Result<Destinations> {
    Ok(Destinations::new(vec![backend], Spread::Even)?)
}

fn revive(backend: Backend) -> Result<VictimAction> {
    Ok(VictimAction::Revive(Revive { to: to(backend)?, after_ms: 0 }))
}

pub fn moves(backend: Backend, instead: Instead) -> Result<VictimAction> {
    Ok(VictimAction::Move(Move { to: to(backend)?, tcp: instead, otherwise: instead }))
}

pub fn rule(name: &str, action: VictimAction) -> ActionRule {
    ActionRule {
        name: name.to_owned(),
        protocol: None,
        ports: Vec::new(),
        cgroup: None,
        uid: None,
        commands: Vec::new(),
        action,
    }
}

fn of_command(command: &str, action: VictimAction) -> Result<ActionRule> {
    Ok(ActionRule { commands: vec![command.parse()?], ..rule(command, action) })
}

pub fn set(world: &mut World, rules: Vec<ActionRule>) -> Result<()> {
    let rules = ActionRules::new(rules).map_err(|(i, e)| anyhow::anyhow!("rule {i}: {e}"))?;
    world.reaper_mut().set_action_rules(Some(rules));
    Ok(())
}

fn named(world: &World, name: &str) -> Result<Client> {
    let mut client = world.client(name)?;
    client.rename(name)?;
    Ok(client)
}

fn gone(world: &mut World, backends: &[Backend]) -> Result<Report> {
    world.tell(Action::BackendsDeleted { backends: backends.to_vec() }, false)
}

fn count(rule: Option<&str>, action: ActionName, sockets: u64) -> RuleCount {
    RuleCount::new(rule.map(str::to_owned), action, sockets)
}

fn peer(client: &mut Client, handle: u32) -> Result<Option<SocketAddr>> {
    let peer = client.state(handle)?.peer;
    Ok(peer.map(|peer| SocketAddr::new(peer.ip().to_canonical(), peer.port())))
}

/// Every engine: one process asks, one tells, one is left alone.
fn each_process_has_its_rule(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2), tcp(1)])?;
    let (mut asks, mut tells, mut left) =
        (named(world, "asks")?, named(world, "tells")?, named(world, "left")?);
    set(world, vec![of_command("tells", revive(udp(2))?)?, of_command("left", VictimAction::None)?])?;
    let mut sockets = Vec::new();
    for client in [&mut asks, &mut tells, &mut left] {
        sockets.push([connect(client, udp(1))?, connect(client, tcp(1))?, connect(client, udp(2))?]);
    }
    let report = gone(world, &[udp(1), tcp(1)])?;
    ensure!((report.destroyed, report.skipped.spared) == (4, 2) && report.complete, "{report:?}");
    let mut rules = report.rules.clone();
    rules.sort_by_key(|count| (count.rule.clone(), count.action));
    let expected = [
        count(None, ActionName::Destroy, 2),
        count(Some("left"), ActionName::None, 2),
        count(Some("tells"), ActionName::Destroy, 1),
        count(Some("tells"), ActionName::Revive, 1),
    ];
    ensure!(rules == expected, "{rules:?}");
    ensure!(report.reviving.is_some_and(|reviving| reviving.sockets == 1), "{report:?}");
    let revived = end(world)?;
    ensure!((revived.sockets, revived.revived) == (1, 1), "{revived:?}");
    let [[asked, ..], [told, told_tcp, _], _] = [sockets[0], sockets[1], sockets[2]];
    ensure!(peer(&mut asks, asked.handle)?.is_none());
    ensure!(peer(&mut tells, told.handle)? == Some(udp(2).socket_addr()));
    ensure!(peer(&mut tells, told_tcp.handle)?.is_none());
    ensure!(left.destroyed(Selection::All)?.is_empty());
    expect_answers_on(&mut left, Selection::All, 3)
}

/// The descriptors of its sockets.
fn sockets_of(client: &Client) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(format!("/proc/{}/fd", client.pid()))?;
    let mut sockets: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    sockets.retain(|path| fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("socket:")));
    Ok(sockets)
}

/// Gives the last socket that the client has opened to a user. `before`: those that it had before.
fn give(client: &Client, before: &[PathBuf], uid: u32) -> Result<()> {
    let fd = sockets_of(client)?.into_iter().find(|fd| !before.contains(fd)).context("no new socket")?;
    Ok(chown(fd, Some(uid), None)?)
}

fn by_the_cgroup_and_user_of_the_socket(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let service = world.cgroup().child("service")?;
    let spawn = |label, cgroup| {
        Client::spawn(&SpawnOptions { label, cgroup: Some(cgroup), netns: Some(world.netns(0)) })
    };
    let (mut inside, mut beside) = (spawn("inside", &service)?, spawn("beside", world.cgroup())?);
    let kept = connect(&mut inside, udp(1))?;
    let plain = connect(&mut beside, udp(1))?;
    let before = sockets_of(&beside)?;
    let given = connect(&mut beside, udp(1))?;
    give(&beside, &before, 4711)?;
    let of_cgroup = |cgroup: &str, name: &str| -> Result<ActionRule> {
        Ok(ActionRule { cgroup: Some(cgroup.parse()?), ..rule(name, VictimAction::None) })
    };
    let path = service.path().display().to_string();
    let user = ActionRule { uid: Some(4711), ..rule("user", revive(udp(2))?) };
    // One that is not there holds for nothing.
    set(world, vec![of_cgroup("/sys/fs/cgroup/no-such", "gone")?, of_cgroup(&path, "service")?, user])?;
    let report = gone(world, &[udp(1)])?;
    ensure!((report.destroyed, report.skipped.spared) == (2, 1), "{report:?}");
    let revived = end(world)?;
    ensure!((revived.sockets, revived.revived) == (1, 1), "{revived:?}");
    ensure!(peer(&mut inside, kept.handle)? == Some(udp(1).socket_addr()));
    ensure!(peer(&mut beside, plain.handle)?.is_none());
    ensure!(peer(&mut beside, given.handle)? == Some(udp(2).socket_addr()));
    Ok(())
}

fn a_shared_socket_has_the_rule_of_any_owner(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = named(world, "first")?;
    let socket = connect(&mut client, udp(1))?;
    let fork = client.fork()?;
    client.rename("second")?;
    // The fork is called so still.
    set(world, vec![of_command("first", VictimAction::None)?])?;
    let report = gone(world, &[udp(1)])?;
    ensure!((report.destroyed, report.skipped.spared) == (0, 1), "{report:?}");
    client.reap_fork(fork)?;
    let report = gone(world, &[udp(1)])?;
    expect_exactly(&report, &mut [&mut client], &[socket.cookie])
}

fn what_a_rule_moves_is_not_destroyed(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2), udp(3), tcp(1)])?;
    let (mut moved, mut flies) = (named(world, "moved")?, named(world, "flies")?);
    let socket = connect(&mut moved, udp(1))?;
    let spared = connect(&mut moved, tcp(1))?;
    let other = connect(&mut flies, udp(1))?;
    flies.start_flight(other.handle)?;
    set(
        world,
        vec![
            of_command("moved", moves(udp(2), Instead::Spare)?)?,
            // The deleted backend itself: there is nowhere to go.
            ActionRule { ports: vec!["53".parse()?], ..rule("rest", moves(udp(1), Instead::Destroy)?) },
        ],
    )?;
    let report = gone(world, &[udp(1), tcp(1)])?;
    let all = report.moved.clone().context("nothing was to be moved")?;
    ensure!((all.sockets, all.moved, all.not_moved.get("nowhere")) == (2, 1, Some(&1)), "{report:?}");
    ensure!((report.destroyed, report.skipped.spared) == (1, 1), "{report:?}");
    ensure!(peer(&mut moved, socket.handle)? == Some(udp(2).socket_addr()));
    ensure!(moved.destroyed(Selection::All)?.is_empty() && moved.state(spared.handle)?.peer.is_some());
    let landed = flies.land_flight(other.handle)?;
    ensure!(flies.state(landed)?.destroyed());
    Ok(())
}

fn two_rules_look_again_at_their_own_time(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2), udp(3)])?;
    let (mut early, mut late) = (named(world, "early")?, named(world, "late")?);
    let first = connect(&mut early, udp(1))?;
    let second = connect(&mut late, udp(1))?;
    let after = |backend, after_ms| -> Result<VictimAction> {
        Ok(VictimAction::Revive(Revive { to: to(backend)?, after_ms }))
    };
    set(world, vec![of_command("early", after(udp(2), 0)?)?, of_command("late", after(udp(3), 1500)?)?])?;
    let report = gone(world, &[udp(1)])?;
    ensure!(
        report.reviving.is_some_and(|reviving| (reviving.sockets, reviving.after_ms) == (2, 1500)),
        "{report:?}"
    );
    let begun = Instant::now();
    while peer(&mut early, first.handle)? != Some(udp(2).socket_addr()) {
        ensure!(begun.elapsed() < PATIENCE, "never revived");
        thread::sleep(Duration::from_millis(1));
    }
    ensure!(begun.elapsed() > Duration::from_millis(1200) || peer(&mut late, second.handle)?.is_none());
    let revived = end(world)?;
    ensure!((revived.sockets, revived.revived) == (2, 2), "{revived:?}");
    ensure!(peer(&mut late, second.handle)? == Some(udp(3).socket_addr()));
    Ok(())
}

fn an_event_that_says_what_is_done_needs_no_rule(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, udp(1))?;
    set(world, vec![rule("all", VictimAction::None)])?;
    let listed = world.dry_run(udp(1))?;
    ensure!((listed.victims, listed.skipped.spared) == (0, 1), "{listed:?}");
    let report = world.tell_to(Action::BackendDeleted { backend: udp(1) }, VictimAction::Destroy)?;
    ensure!(report.rules.is_empty(), "{report:?}");
    expect_exactly(&report, &mut [&mut client], &[socket.cookie])?;
    world.reaper_mut().set_action_rules(None);
    let socket = connect(&mut client, udp(2))?;
    let report = world.reap(udp(2))?;
    expect_exactly(&report, &mut [&mut client], &[socket.cookie])
}

fn state_is_not_moved_unless_forced(world: &mut World) -> Result<()> {
    let quic = |n: u8| Backend::new(Protocol::Udp, [10, 177, 0, n].into(), 443);
    let (first, second) = (quic(1)?, quic(2)?);
    world.serve(&[first, second, udp(1)])?;
    let mut client = world.client("client")?;
    let socket = connect(&mut client, first)?;
    // An event that asks for it is refused.
    let mut event = Event::deleted(first);
    event.victim_action = Some(moves(second, Instead::Destroy)?);
    let refused = world.reaper_mut().handle(&event);
    ensure!(refused.error.as_deref().is_some_and(|error| error.contains("force")), "{refused:?}");
    ensure!(refused.destroyed == 0 && !refused.complete);
    // A rule for all ports leaves those out, and so does a reconcile.
    set(world, vec![rule("all", moves(udp(1), Instead::Destroy)?)])?;
    let report = gone(world, &[first])?;
    ensure!(report.moved.is_none(), "{report:?}");
    expect_exactly(&report, &mut [&mut client], &[socket.cookie])?;
    client.connect(socket.handle, first.socket_addr())?;
    let mut event = Event::reconcile([second], ["10.177.0.0/16".parse()?]);
    event.victim_action = Some(moves(udp(1), Instead::Destroy)?);
    let report = world.tell_event(&event)?;
    ensure!(report.stateful == [first] && report.moved.is_none(), "{report:?}");
    expect_exactly(&report, &mut [&mut client], &[socket.cookie])?;
    // With force it is done.
    client.connect(socket.handle, first.socket_addr())?;
    let forced = Move { to: to(second)?.forced(true), tcp: Instead::Destroy, otherwise: Instead::Destroy };
    let report = world.tell_to(Action::BackendDeleted { backend: first }, VictimAction::Move(forced))?;
    ensure!(report.moved.as_ref().is_some_and(|moved| moved.moved == 1), "{report:?}");
    ensure!(peer(&mut client, socket.handle)? == Some(second.socket_addr()));
    Ok(())
}

fn a_thousand_sockets_of_twenty_processes_have_their_rules(world: &mut World) -> Result<()> {
    const EACH: u32 = 50;
    world.serve(&[udp(1), udp(2), udp(3)])?;
    let mut clients: Vec<(Client, &str)> = Vec::new();
    for i in 0..20 {
        let name = ["moved", "revived", "left", "destroyed"][i % 4];
        clients.push((named(world, name)?, name));
    }
    set(
        world,
        vec![
            of_command("moved", moves(udp(2), Instead::Destroy)?)?,
            of_command("revived", revive(udp(3))?)?,
            of_command("left", VictimAction::None)?,
        ],
    )?;
    for (client, _) in &mut clients {
        connect_many(client, Default::default(), udp(1), EACH)?;
    }
    let report = gone(world, &[udp(1)])?;
    ensure!((report.destroyed, report.skipped.spared) == (500, 250), "{report:?}");
    ensure!(report.moved.as_ref().is_some_and(|moved| moved.moved == 250), "{report:?}");
    let revived = end(world)?;
    ensure!((revived.sockets, revived.revived) == (250, 250), "{revived:?}");
    for (client, name) in &mut clients {
        let wanted = match *name {
            "moved" => Some(udp(2)),
            "revived" => Some(udp(3)),
            "left" => Some(udp(1)),
            _ => None,
        };
        for state in client.states(Selection::All)? {
            ensure!(state.peer == wanted.map(|backend| backend.socket_addr()), "{name}: {state:?}");
        }
    }
    Ok(())
}

/// The index has none of them, and they have no descriptor: what is known of them is that of their MPTCP socket.
fn rules_hold_for_subflows(world: &mut World) -> Result<()> {
    need_mptcp()?;
    world.serve(&[tcp(1), tcp(2)])?;
    let spec = OpenSpec { mptcp: true, ..spec_for(tcp(1)) };
    let service = world.cgroup().child("service")?;
    let options = SpawnOptions { label: "inside", cgroup: Some(&service), netns: Some(world.netns(0)) };
    let (mut inside, mut left, mut rest) =
        (Client::spawn(&options)?, named(world, "left")?, named(world, "rest")?);
    let open = |client: &mut Client| open_to(client, spec.clone(), tcp(1).socket_addr());
    let spared = [open(&mut left)?, open(&mut left)?];
    let of_service = open(&mut inside)?;
    let plain = open(&mut rest)?;
    let before = sockets_of(&rest)?;
    let given = open(&mut rest)?;
    give(&rest, &before, 4711)?;
    let path = service.path().display().to_string();
    let none = |name| rule(name, VictimAction::None);
    let by_socket = vec![
        ActionRule { cgroup: Some(path.parse()?), ..none("service") },
        ActionRule { uid: Some(4711), ..none("user") },
        ActionRule { commands: vec!["left".parse()?], ..none("left") },
        ActionRule { commands: vec!["nobody".parse()?], ..none("nobody") },
    ];
    let of_port = ActionRule { ports: vec!["80".parse()?], protocol: Some(Protocol::Tcp), ..none("port") };
    set(world, vec![of_port])?;
    let report = gone(world, &[tcp(1)])?;
    ensure!((report.victims, report.skipped.spared) == (0, 5) && report.complete, "{report:?}");
    ensure!(report.rules == [count(Some("port"), ActionName::None, 5)], "{report:?}");
    set(world, by_socket)?;
    let listed = world.dry_run(tcp(1))?;
    ensure!((listed.victims, listed.skipped.spared) == (1, 4) && listed.complete, "{listed:?}");
    let report = gone(world, &[tcp(1)])?;
    ensure!((report.destroyed, report.skipped.spared) == (1, 4) && report.complete, "{report:?}");
    let expected = [
        count(Some("service"), ActionName::None, 1),
        count(Some("user"), ActionName::None, 1),
        count(Some("left"), ActionName::None, 2),
        count(None, ActionName::Destroy, 1),
    ];
    ensure!(report.rules == expected, "{report:?}");
    ensure!(errno(rest.recv(plain.handle, PATIENCE_MS))? == libc::ECONNABORTED);
    expect_answers_on(&mut rest, Selection::List(vec![given.handle]), 1)?;
    expect_answers_on(&mut inside, Selection::List(vec![of_service.handle]), 1)?;
    let spared = spared.map(|socket| socket.handle).to_vec();
    expect_answers_on(&mut left, Selection::List(spared), 2)
}

fn guard_of(report: &Report) -> Result<(Option<u64>, bool)> {
    let guard = report.guard.as_ref().context("no guard")?;
    Ok((guard.found, guard.refused))
}

/// Three are allowed: of six one rule spares four, and another moves two.
fn what_is_spared_is_no_victim_of_a_limit(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let (mut left, mut moved) = (named(world, "left")?, named(world, "moved")?);
    connect_many(&mut left, Default::default(), udp(1), 4)?;
    let two = connect_many(&mut moved, Default::default(), udp(1), 2)?;
    set(
        world,
        vec![of_command("left", VictimAction::None)?, of_command("moved", moves(udp(2), Instead::Spare)?)?],
    )?;
    let listed = world.dry_run(udp(1))?;
    ensure!((listed.victims, listed.skipped.spared) == (2, 4), "{listed:?}");
    ensure!(guard_of(&listed)? == (Some(2), false), "{listed:?}");
    // With two more that nothing spares it is one too many.
    let mut rest = named(world, "rest")?;
    let more = connect_many(&mut rest, Default::default(), udp(1), 2)?;
    let refused = world.attempt(Action::BackendDeleted { backend: udp(1) }, false);
    ensure!(guard_of(&refused)? == (Some(4), true) && refused.moved.is_none(), "{refused:?}");
    ensure!(refused.error.as_deref().is_some_and(|error| error.contains("4 victims")), "{refused:?}");
    rest.close(more.first)?;
    let report = gone(world, &[udp(1)])?;
    ensure!(guard_of(&report)? == (Some(3), false), "{report:?}");
    ensure!(report.moved.as_ref().is_some_and(|all| all.moved == 2), "{report:?}");
    ensure!((report.destroyed, report.skipped.spared) == (1, 4), "{report:?}");
    for state in moved.states(two.selection())? {
        ensure!(state.peer == Some(udp(2).socket_addr()), "{state:?}");
    }
    ensure!(left.destroyed(Selection::All)?.is_empty() && rest.destroyed(Selection::All)?.len() == 1);
    Ok(())
}

fn what_an_action_spares_is_no_victim_of_a_limit(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2), tcp(1)])?;
    let mut client = world.client("client")?;
    connect_many(&mut client, Default::default(), tcp(1), 4)?;
    connect_many(&mut client, Default::default(), udp(1), 2)?;
    let gone = || Action::BackendsDeleted { backends: vec![udp(1), tcp(1)] };
    // Nothing is touched.
    let counted = world.tell_to(gone(), VictimAction::None)?;
    ensure!(counted.victims == 6 && guard_of(&counted)? == (None, false), "{counted:?}");
    let mut event = Event::all_deleted([udp(1), tcp(1)]).with_dry_run(true);
    event.victim_action = Some(moves(udp(2), Instead::Spare)?);
    let listed = world.tell_event(&event)?;
    ensure!((listed.victims, listed.skipped.spared) == (2, 4), "{listed:?}");
    ensure!(guard_of(&listed)? == (Some(2), false), "{listed:?}");
    let report = world.tell_to(gone(), moves(udp(2), Instead::Spare)?)?;
    ensure!(guard_of(&report)? == (Some(2), false), "{report:?}");
    ensure!(report.moved.as_ref().is_some_and(|all| all.moved == 2) && report.destroyed == 0, "{report:?}");
    ensure!(client.destroyed(Selection::All)?.is_empty());
    Ok(())
}

/// The walk meets 16 of 40 sockets, and a scan the others.
fn a_full_index_counts_all_that_is_spared(world: &mut World) -> Result<()> {
    world.serve(&[udp(1)])?;
    let (mut left, mut rest) = (named(world, "left")?, named(world, "rest")?);
    for _ in 0..2 {
        connect_many(&mut left, Default::default(), udp(1), 10)?;
        connect_many(&mut rest, Default::default(), udp(1), 10)?;
    }
    set(world, vec![of_command("left", VictimAction::None)?])?;
    let listed = world.dry_run(udp(1))?;
    ensure!((listed.victims, listed.skipped.spared) == (20, 20) && listed.complete, "{listed:?}");
    let report = gone(world, &[udp(1)])?;
    ensure!((report.destroyed, report.skipped.spared) == (20, 20) && report.complete, "{report:?}");
    let rules = [count(Some("left"), ActionName::None, 20), count(None, ActionName::Destroy, 20)];
    ensure!(report.rules == rules, "{report:?}");
    expect_answers_on(&mut left, Selection::All, 20)?;
    ensure!(rest.destroyed(Selection::All)?.len() == 20);
    Ok(())
}
