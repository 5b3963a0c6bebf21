//! Events that come from many threads of one program.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Barrier;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use skreap::choice::EngineChoice;
use skreap::core::{Backend, EngineName, Event, Report};
use skreap::source::{Access, Source, Stop};
use skreap::supervisor::Supervisor;
use skreap::{Handle, HandleError, Queue, Reaper, ReaperThread, daemon};
use skreap_testbed::{Client, Selection};

use crate::case::{Case, case};
use crate::preexisting::{expect_empty, small};
use crate::sockets::*;
use crate::world::World;

const THREADS: u16 = 8;
/// Backends of each thread alone.
const OWN: u16 = 3;
/// Sockets of the backend that all threads say is gone.
const SHARED: u32 = 16;

pub fn cases() -> Vec<Case> {
    vec![
        case!(eight_threads_share_a_reaper).index_only(),
        case!(a_handle_works_beside_a_source).only(EngineName::Netlink),
    ]
}

/// The `n`th backend of a thread, which has `thread + n + 1` sockets.
fn own(thread: u16, n: u16) -> (Backend, u32) {
    let number = 1 + thread * OWN + n;
    (if n.is_multiple_of(2) { udp(number) } else { udp6(number) }, u32::from(thread + n + 1))
}

fn connect(world: &mut World, client: &mut Client, backend: Backend, count: u32) -> Result<Vec<u64>> {
    world.add_address(backend.addr())?;
    Ok(connect_many(client, Default::default(), backend, count)?.cookies)
}

/// A second reaper on the cgroup of the world.
fn second(world: &World) -> Result<Reaper> {
    let engine = EngineChoice::Named(world.reaper().engine());
    Ok(Reaper::builder()
        .cgroup(world.cgroup().path())
        .config(small())
        .engine(engine)
        .bootstrap(false)
        .build()?)
}

fn eight_threads_share_a_reaper(world: &mut World) -> Result<()> {
    // A queue that is smaller than the number of threads: some wait for room.
    let reaper = ReaperThread::start(second(world)?, 2)?;
    let mut client = world.client("client")?;
    let (shared, kept) = (udp(200), udp(201));
    let mut gone = connect(world, &mut client, shared, SHARED)?;
    for (backend, count) in (0..THREADS).flat_map(|thread| (0..OWN).map(move |n| own(thread, n))) {
        gone.extend(connect(world, &mut client, backend, count)?);
    }
    connect(world, &mut client, kept, 5)?;

    let together = Barrier::new(usize::from(THREADS));
    let all = thread::scope(|scope| {
        let thread = |number| {
            let (handle, together) = (reaper.handle(), &together);
            scope.spawn(move || reap_own_and_shared(&handle, number, shared, together))
        };
        let threads: Vec<_> = (0..THREADS).map(thread).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect::<Result<Vec<_>>>()
    })?;

    let ids: BTreeSet<&str> = all.iter().flatten().map(|report| report.id.as_str()).collect();
    ensure!(ids.len() == usize::from(THREADS * (OWN + 1)), "every event has an id of its own: {ids:?}");
    for (thread, reports) in (0..THREADS).zip(&all) {
        for (n, report) in (0..OWN).zip(reports) {
            let (backend, count) = own(thread, n);
            let said = (report.action.gone(), report.destroyed, report.victims, report.complete);
            ensure!(said == (&[backend][..], count.into(), count.into(), true), "{report:?}");
        }
    }
    let of_shared: Vec<&Report> = all.iter().filter_map(|reports| reports.last()).collect();
    let destroyed: u64 = of_shared.iter().map(|report| report.destroyed).sum();
    ensure!(
        destroyed == u64::from(SHARED) && of_shared.iter().all(|report| report.complete),
        "{of_shared:?}"
    );
    ensure!(of_shared.iter().filter(|report| report.destroyed > 0).count() == 1, "{of_shared:?}");
    expect_died(&mut client, gone.clone())?;

    let status = reaper.monitor().status()?;
    let events: u64 = status.totals.events.values().flat_map(|results| results.values()).sum();
    ensure!(events == u64::from(THREADS * (OWN + 1)) && status.waiting == 0, "{status:?}");
    let handle = reaper.handle();
    let back = reaper.stop().ok().context("the reaper's thread panicked")?;
    let refused = handle.reap(Event::deleted(kept).with_id("late"));
    ensure!(matches!(&refused, Err(HandleError::Stopped(event)) if event.id == "late"), "{refused:?}");
    // A destroyed socket leaves the index when it is closed.
    ensure!(back.counters()?.live() == gone.len() as u64 + 5, "{:?}", back.counters()?);
    drop(client);
    world.wait_for_nodes(0)?;
    expect_empty(back.index())
}

/// Says that these sockets of the client have the error of a destroyed one, and no others.
fn expect_died(client: &mut Client, mut cookies: Vec<u64>) -> Result<()> {
    let mut died = client.destroyed(Selection::All)?;
    died.sort_unstable();
    cookies.sort_unstable();
    ensure!(died == cookies, "destroyed were {died:?}, not {cookies:?}");
    Ok(())
}

/// One thread: its own backends in one go, then, with all others, the shared one.
fn reap_own_and_shared(
    handle: &Handle,
    number: u16,
    shared: Backend,
    together: &Barrier,
) -> Result<Vec<Report>> {
    let send = |n| handle.send(Event::deleted(own(number, n).0));
    let sent = (0..OWN).map(send).collect::<Result<Vec<_>, _>>()?;
    let mut reports = sent.into_iter().map(|pending| pending.report()).collect::<Result<Vec<_>, _>>()?;
    together.wait();
    reports.push(handle.reap(Event::deleted(shared))?);
    Ok(reports)
}

fn a_handle_works_beside_a_source(world: &mut World) -> Result<()> {
    let directory = tempfile::TempDir::new()?;
    let path = directory.path().join("socket");
    let mut client = world.client("client")?;
    let (by_handle, by_line) = (udp(1), udp(2));
    let mut gone = connect(world, &mut client, by_handle, 4)?;
    gone.extend(connect(world, &mut client, by_line, 3)?);

    let (queue, stop) = (Queue::bounded(8), Stop::new()?);
    let handle = queue.handle();
    let sources = [Source::Unix(path.clone(), Access::default())];
    let reaper = world.reaper_mut();
    thread::scope(|scope| -> Result<()> {
        let given = stop.clone();
        let serving = scope.spawn(move || {
            daemon::serve_queue(reaper, &queue, &sources, &given, &Supervisor::of_this_process())
        });
        let talked = talk(&handle, &path, by_handle, by_line);
        stop.give();
        serving.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        talked
    })?;
    ensure!(handle.is_stopped());
    expect_died(&mut client, gone)
}

fn talk(handle: &Handle, path: &Path, by_handle: Backend, by_line: Backend) -> Result<()> {
    let report = handle.reap(Event::deleted(by_handle).with_id("handle"))?;
    ensure!((report.id.as_str(), report.destroyed) == ("handle", 4), "{report:?}");
    // It listens by now: the handle was answered by the loop that begins when all sources listen.
    let mut stream = UnixStream::connect(path)?;
    writeln!(stream, r#"{{"id":"line","type":"backend-deleted","backend":"{by_line}"}}"#)?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    let report: Report = serde_json::from_str(&line).context(line)?;
    ensure!((report.id.as_str(), report.destroyed) == ("line", 3), "{report:?}");
    Ok(())
}
