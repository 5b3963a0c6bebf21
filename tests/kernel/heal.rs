//! An index that lacks sockets, and gets to know them again. What may be missing is said until that is so.

use std::os::fd::AsFd as _;
use std::panic::resume_unwind;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use skreap::bpf::{Config, IncompleteBits, IncompleteWriter};
use skreap::choice::EngineChoice;
use skreap::core::{Backend, EngineName, FallbackReason, Incomplete, Report, Unconnected};
use skreap::{Healed, Reaper};
use skreap_testbed::bpf::detach_connect4;
use skreap_testbed::{Client, Selection, with};

use crate::case::{Case, case};
use crate::full::expect_scanned;
use crate::preexisting::{expect_empty, reap};
use crate::sockets::*;
use crate::unconnected::sender;
use crate::world::{World, WorldOptions};

pub fn cases() -> Vec<Case> {
    let tiny = WorldOptions { max_sockets: 16, buckets: 4, netns: 2, ..WorldOptions::default() };
    let small = WorldOptions { max_sockets: 200, buckets: 16, ..WorldOptions::default() };
    let destroy = WorldOptions { unconnected: Unconnected::Destroy, ..tiny };
    vec![
        case!(healed_when_there_is_room).index_only().with(tiny),
        case!(not_healed_without_room).index_only().with(tiny),
        case!(lost_while_it_heals).index_only().with(tiny),
        case!(senders_are_not_healed).index_only().with(destroy),
        case!(heals_by_itself).only(EngineName::Netlink),
        case!(heals_under_churn).index_only().with(small),
        case!(everything_is_unsure).index_only(),
        case!(hook_that_was_detached).index_only(),
        case!(hook_that_was_detached_and_a_scan).only(EngineName::Iter),
    ]
}

/// Heals without the time that a connect may be pending: here none is.
fn heal(world: &World) -> Result<Healed> {
    Ok(world.reaper().healer()?.connect_delay(Duration::ZERO).run()?)
}

fn bits(backends: u64, sent: u64) -> IncompleteBits {
    with(|bits: &mut IncompleteBits| (bits.backends, bits.sent) = (backends, sent))
}

fn incomplete(world: &World) -> Result<IncompleteBits> {
    Ok(world.reaper().index().incomplete()?)
}

fn writer(world: &World) -> Result<IncompleteWriter> {
    Ok(world.reaper().index().incomplete_writer()?)
}

fn healed_when_there_is_room(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2), tcp(1)])?;
    let mut client = world.client("client")?;
    let first = connect_many(&mut client, Default::default(), udp(1), 16)?;
    let place = world.place(1)?;
    let lost_udp = connect_many(&mut client, place.clone(), udp(2), 5)?;
    let lost_tcp = connect_many(&mut client, place, tcp(1), 3)?;
    ensure!(incomplete(world)? == bits(2, 0), "{:?}", incomplete(world)?);
    for handle in first.first..first.first + 12 {
        client.close(handle)?;
    }
    // Room alone does not help those that had none.
    let report = world.dry_run(udp(2))?;
    ensure!(report.fallbacks.len() == 1 && report.fallbacks[0].victims == 5, "{report:?}");

    let healed = heal(world)?;
    ensure!(healed.before.backends == 2 && !healed.after.any() && healed.found.whole(), "{healed:?}");
    ensure!((healed.found.udp.indexed, healed.found.udp.known) == (5, 4), "{healed:?}");
    ensure!((healed.found.tcp.indexed, healed.found.tcp.known) == (3, 0), "{healed:?}");
    ensure!(world.counters()?.live() == 12);

    for (backend, lost) in [(udp(2), &lost_udp), (tcp(1), &lost_tcp)] {
        let report = world.reap(backend)?;
        ensure!(report.fallbacks.is_empty(), "{report:?}");
        expect_exactly(&report, &mut [&mut client], &lost.cookies)?;
    }
    let report = world.tell(living(vec![udp(1)]), false)?;
    ensure!(report.complete && report.victims == 0, "{report:?}");
    ensure!(expect_answers(&mut client)? == 4);
    Ok(())
}

fn not_healed_without_room(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2), udp(3)])?;
    let mut client = world.client("client")?;
    connect_many(&mut client, Default::default(), udp(1), 16)?;
    let gone = connect_many(&mut client, Default::default(), udp(3), 2)?;
    let lost = connect_many(&mut client, Default::default(), udp(2), 5)?;
    for handle in gone.first..gone.first + 2 {
        client.close(handle)?;
    }
    ensure!(incomplete(world)?.backends == 2);
    let healed = heal(world)?;
    // One of the two has no sockets any more.
    ensure!(healed.after == bits(1, 0), "{healed:?}");
    ensure!((healed.found.udp.indexed, healed.found.udp.dropped) == (0, 5), "{healed:?}");
    ensure!(world.dry_run(udp(3))?.fallbacks.is_empty());
    let report = world.reap(udp(2))?;
    expect_scanned(&report, 5)?;
    expect_exactly(&report, &mut [&mut client], &lost.cookies)
}

/// What is lost after the flip is not forgiven with the rest, and a healing that failed forgives nothing.
fn lost_while_it_heals(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2), udp(3)])?;
    let writer = writer(world)?;
    let mut client = world.client("client")?;
    connect_many(&mut client, Default::default(), udp(1), 16)?;
    let before = connect(&mut client, udp(2))?;
    // This one does not come to its end.
    writer.flip()?;
    ensure!(incomplete(world)?.backends == 1);
    let between = connect(&mut client, udp(3))?;
    writer.flip()?;
    ensure!(incomplete(world)?.backends == 2);
    client.close(before.handle)?;
    client.close(between.handle)?;
    let after = connect(&mut client, udp(3))?;
    ensure!(incomplete(world)?.backends == 2);
    writer.clear()?;
    // udp(3) is incomplete again, and still: the bit of the current generation.
    ensure!(incomplete(world)? == bits(1, 0), "{:?}", incomplete(world)?);
    ensure!(world.dry_run(udp(2))?.fallbacks.is_empty());
    let report = world.reap(udp(3))?;
    expect_scanned(&report, 1)?;
    expect_exactly(&report, &mut [&mut client], &[after.cookie])?;
    writer.everything()?;
    writer.flip()?;
    ensure!(incomplete(world)?.everything);
    writer.clear()?;
    ensure!(!incomplete(world)?.any());
    Ok(())
}

/// Whom an unconnected socket has sent to, no search tells.
fn senders_are_not_healed(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let recorded = connect_many(&mut client, Default::default(), udp(1), 16)?;
    let lost = sender(&mut client, &[udp(2)])?;
    let connected = connect(&mut client, udp(2))?;
    for handle in recorded.first..recorded.first + 8 {
        client.close(handle)?;
    }
    let healed = heal(world)?;
    ensure!(healed.after == bits(0, 1), "{healed:?}");
    ensure!(healed.found.udp.indexed == 1, "{healed:?}");
    let report = world.reap(udp(2))?;
    ensure!(report.incomplete_because == [Incomplete::WildcardUnconnected].into(), "{report:?}");
    ensure!(report.destroyed == 1 && report.fallbacks.is_empty(), "{report:?}");
    ensure!(client.state(connected.handle)?.destroyed() && client.state(lost.handle)?.errno == 0);
    let report = world.tell(living(vec![udp(1), udp(2)]), true)?;
    ensure!(report.incomplete_because == [Incomplete::WildcardUnconnected].into(), "{report:?}");
    Ok(())
}

/// What `serve` does: nobody asks for it.
fn heals_by_itself(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2)])?;
    let mut second = Reaper::builder()
        .cgroup(world.cgroup().path())
        .config(Config::default().max_sockets(16).buckets(4))
        .engine(EngineChoice::Named(EngineName::Netlink))
        .bootstrap(false)
        .heal_after(Duration::from_millis(10))
        .build()?;
    let mut client = world.client("client")?;
    let first = connect_many(&mut client, Default::default(), udp(1), 16)?;
    let lost = connect_many(&mut client, Default::default(), udp(2), 5)?;
    for handle in first.first..first.first + 5 {
        client.close(handle)?;
    }
    ensure!(second.monitor().status()?.index.incomplete_backends == 1);
    second.start_audits(None, false)?;
    let deadline = Instant::now() + Duration::from_millis(PATIENCE_MS);
    while second.index().incomplete()?.any() {
        ensure!(Instant::now() < deadline, "it does not heal: {:?}", second.counters()?);
        thread::sleep(Duration::from_millis(5));
    }
    ensure!(second.counters()?.live() == 16);
    let report = reap(&mut second, udp(2));
    ensure!(report.fallbacks.is_empty(), "{report:?}");
    expect_exactly(&report, &mut [&mut client], &lost.cookies)?;
    drop(client);
    world.wait_for_nodes(0)?;
    expect_empty(second.index())
}

/// Sockets come and go, sometimes more than fit, while the index is healed again and again: whatever is open at the
/// end is reaped, and nothing said to be complete is not.
fn heals_under_churn(world: &mut World) -> Result<()> {
    const ROUNDS: u32 = 20;
    const CONNECT_DELAY: Duration = Duration::from_millis(20);
    let backends = [udp(1), tcp(1), udp(2)];
    world.serve(&backends)?;
    let mut clients = [world.client("first")?, world.client("second")?];
    let mut healer = world.reaper().healer()?.connect_delay(CONNECT_DELAY);
    let (mut healed, mut left) = (0, 0);
    thread::scope(|scope| -> Result<()> {
        let churn = clients.each_mut().map(|client| {
            scope.spawn(move || -> Result<()> {
                for round in 0..ROUNDS {
                    // Fits, and in every third round does not.
                    let count = if round % 3 == 2 { 60 } else { 20 };
                    for backend in backends {
                        connect_many(client, Default::default(), backend, count)?;
                    }
                    thread::sleep(CONNECT_DELAY);
                    if round + 1 < ROUNDS {
                        client.close_all()?;
                    }
                }
                Ok(())
            })
        });
        while churn.iter().any(|churn| !churn.is_finished()) {
            let after = healer.run()?.after;
            if after.any() { left += 1 } else { healed += 1 }
        }
        churn.into_iter().try_for_each(|churn| churn.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })?;
    ensure!(world.counters()?.dropped_full > 0 && healed + left > 1, "{healed} {left}: no churn");
    let [first, second] = &mut clients;
    for backend in backends {
        let expected = connected_to(first, backend)?.into_iter().chain(connected_to(second, backend)?);
        let expected: Vec<u64> = expected.collect();
        ensure!(expected.len() == 40, "{} sockets to {backend}", expected.len());
        expect_destroyed(&world.reap(backend)?, &mut [first, second], &expected)?;
    }
    Ok(())
}

/// Cookies of the sockets that are connected to the backend.
fn connected_to(client: &mut Client, backend: Backend) -> Result<Vec<u64>> {
    let states = client.states(Selection::All)?;
    let connected = states.iter().filter(|state| state.peer == Some(backend.socket_addr()));
    connected.map(|state| Ok(client.cookie(state.socket)?)).collect()
}

fn expect_fallback(report: &Report, because: FallbackReason, destroyed: u64) -> Result<()> {
    let [fallback] = report.fallbacks[..] else {
        anyhow::bail!("no fallback to one scan: {report:?}");
    };
    ensure!(fallback.because == because && fallback.destroyed == destroyed && report.complete, "{report:?}");
    Ok(())
}

/// Every event has a fallback scan until the index is known to be whole again.
fn everything_is_unsure(world: &mut World) -> Result<()> {
    world.serve(&[udp(1), udp(2), tcp(1)])?;
    let mut client = world.client("client")?;
    writer(world)?.everything()?;
    for backend in [udp(1), tcp(1)] {
        let opened = connect_many(&mut client, Default::default(), backend, 3)?;
        let report = world.reap(backend)?;
        expect_fallback(&report, FallbackReason::IndexUnsure, 0)?;
        expect_exactly(&report, &mut [&mut client], &opened.cookies)?;
    }
    let report = world.tell(living(vec![udp(2)]), true)?;
    ensure!(report.incomplete_because == [Incomplete::IndexUnsure].into(), "{report:?}");

    let healed = heal(world)?;
    ensure!(healed.before.everything && !healed.after.any(), "{healed:?}");
    let opened = connect_many(&mut client, Default::default(), udp(1), 3)?;
    let report = world.reap(udp(1))?;
    ensure!(report.fallbacks.is_empty(), "{report:?}");
    expect_exactly(&report, &mut [&mut client], &opened.cookies)
}

/// Somebody takes a hook away: what connects from then on is found by a scan, and that is said.
fn hook_that_was_detached(world: &mut World) -> Result<()> {
    let (sockets, report) = detach_and_reap(world)?;
    expect_fallback(&report, FallbackReason::HookOrder, 4)?;
    ensure!(report.destroyed == 7 && sockets == 7, "{report:?}");
    // What was lost may belong to anybody, also when the order can be read again.
    ensure!(incomplete(world)?.everything);
    world.tidy();
    let order = world.reaper().order();
    ensure!(order.detached == 1 && !order.last, "{order:?}");
    let report = world.tell(living(vec![udp(2)]), true)?;
    ensure!(
        report.incomplete_because == [Incomplete::HookOrder, Incomplete::IndexUnsure].into(),
        "{report:?}"
    );
    Ok(())
}

/// A scan needs no hooks.
fn hook_that_was_detached_and_a_scan(world: &mut World) -> Result<()> {
    let (sockets, report) = detach_and_reap(world)?;
    ensure!(report.fallbacks.is_empty() && report.destroyed == 7 && sockets == 7, "{report:?}");
    Ok(())
}

fn detach_and_reap(world: &mut World) -> Result<(usize, Report)> {
    world.serve(&[udp(1), udp(2)])?;
    let mut client = world.client("client")?;
    let mut cookies = connect_many(&mut client, Default::default(), udp(1), 3)?.cookies;
    ensure!(detach_connect4(world.cgroup().open()?.as_fd())? == 1);
    cookies.extend(connect_many(&mut client, Default::default(), udp(1), 4)?.cookies);
    ensure!(world.counters()?.live() == 3);
    let report = world.reap(udp(1))?;
    expect_exactly(&report, &mut [&mut client], &cookies)?;
    Ok((cookies.len(), report))
}
