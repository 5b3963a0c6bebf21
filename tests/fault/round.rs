//! One fault, and what must hold after it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsFd as _;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use skreap::bpf::Config;
use skreap::bpf::attach_order::{Hook, Order};
use skreap::bpf::fault::{Armed, Point};
use skreap::choice::EngineChoice;
use skreap::core::{Action, Backend, Event, Report, errno_name};
use skreap::{Builder, Reaper};
use skreap_testbed::{Client, Selection};

use crate::sockets::*;
use crate::world::World;

/// Out of memory, and the one that netlink has a meaning of its own for.
pub const ERRNOS: [i32; 2] = [libc::ENOMEM, libc::ENOBUFS];

static FAILED: Mutex<BTreeSet<Point>> = Mutex::new(BTreeSet::new());

/// What is to fail in a round.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub point: Point,
    pub after: u64,
    pub errno: i32,
}

impl Fault {
    pub fn arm(self) -> Armed {
        Armed::new(self.point, self.after, self.errno)
    }

    /// To be called when the round is over: remembers that it has happened, if it has.
    pub fn disarm(self, armed: Armed) -> bool {
        let happened = armed.happened();
        if happened {
            FAILED.lock().unwrap_or_else(PoisonError::into_inner).insert(self.point);
        }
        happened
    }
}

/// Points that have not failed in any round of this process.
pub fn never_failed() -> Vec<Point> {
    let failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner);
    Point::ALL.iter().copied().filter(|point| !failed.contains(point)).collect()
}

/// Runs the round once for every fault that it can meet at these points: what it passes is found out with nothing
/// failing. Where a point is passed often, it fails the first time, or the last.
pub fn for_each_fault(
    errnos: &[i32],
    passes: &[Pass],
    points: impl Fn(Point) -> bool,
    mut round: impl FnMut(Option<Fault>) -> Result<()>,
) -> Result<()> {
    let counting = Armed::nothing();
    round(None).context("with nothing failing")?;
    let passed: BTreeMap<Point, u64> = counting.passed();
    drop(counting);
    for (point, times) in passed.into_iter().filter(|(point, _)| points(*point)) {
        let afters = passes.iter().map(|pass| match pass {
            Pass::First => 0,
            Pass::Last => times - 1,
        });
        for after in afters.collect::<BTreeSet<u64>>() {
            for &errno in errnos {
                let fault = Fault { point, after, errno };
                round(Some(fault)).with_context(|| format!("{fault:?}, passed {times} times"))?;
            }
        }
    }
    Ok(())
}

/// Which pass of a point fails.
#[derive(Clone, Copy, Debug)]
pub enum Pass {
    First,
    Last,
}

pub const BOTH: [Pass; 2] = [Pass::First, Pass::Last];

pub fn any(_: Point) -> bool {
    true
}

/// Sockets of one round.
#[derive(Debug)]
pub struct Opened {
    pub handles: Vec<Vec<u32>>,
    pub cookies: Vec<u64>,
}

/// Opens this many connected sockets in each client, in the netns it lives in.
pub fn open_each(clients: &mut [Client], to: Backend, each: u32) -> Result<Opened> {
    let mut opened = Opened { handles: Vec::new(), cookies: Vec::new() };
    for client in clients {
        let many = connect_many(client, Default::default(), to, each)?;
        opened.handles.push((many.first..many.first + each).collect());
        opened.cookies.extend(many.cookies);
    }
    opened.cookies.sort_unstable();
    Ok(opened)
}

impl Opened {
    pub fn len(&self) -> u64 {
        self.cookies.len() as u64
    }

    /// How many of them have died since it was last asked; no other may have.
    pub fn died(&self, clients: &mut [Client]) -> Result<u64> {
        let mut died = Vec::new();
        for client in clients {
            died.extend(client.destroyed(Selection::All)?);
        }
        ensure!(
            died.iter().all(|cookie| self.cookies.binary_search(cookie).is_ok()),
            "others died: {died:?}"
        );
        Ok(died.len() as u64)
    }

    pub fn close(self, clients: &mut [Client]) -> Result<()> {
        for (client, handles) in clients.iter_mut().zip(self.handles) {
            handles.into_iter().try_for_each(|handle| client.close(handle))?;
        }
        Ok(())
    }
}

/// The report of an event in which something may have failed, held against what became of the sockets.
pub fn judge(report: &Report, fault: Option<Fault>, opened: u64, died: u64) -> Result<()> {
    let (left, failed) = (opened - died, report.failed.total());
    ensure!(report.complete == report.incomplete_because.is_empty(), "{report:?}");
    ensure!(report.skipped.gone == 0, "nobody has closed a socket: {report:?}");
    ensure!(failed <= left, "{failed} failed, {left} are left: {report:?}");
    // Where the engine has failed, or the count of a scan cannot be read, fewer are known to have died than have.
    let known = report.error.is_none() && fault.is_none_or(|fault| fault.point != Point::ScanCounts);
    ensure!(report.destroyed == died || !known && report.destroyed < died, "{died} died: {report:?}");
    // Spared, and counted: where the order of the programs is not known, neither are frontends.
    let told = failed + report.skipped.frontend_unknown;
    ensure!(told == left || !report.complete, "{left} are left, and the report is complete: {report:?}");
    match fault {
        None => ensure!(left == 0 && report.complete && report.error.is_none(), "{report:?}"),
        Some(fault) => {
            let name = errno_name(fault.errno);
            let known = |errno: &String| *errno == name;
            ensure!(report.failed.by_errno().keys().all(known), "failed with {name}: {report:?}");
        }
    }
    Ok(())
}

/// One event with the fault, and one without, which must destroy what is left.
pub fn two_events(
    fault: Option<Fault>,
    clients: &mut [Client],
    opened: &Opened,
    backend: Backend,
    mut reap: impl FnMut(Backend) -> Report,
) -> Result<()> {
    let armed = fault.map(Fault::arm);
    let report = reap(backend);
    match (fault, armed) {
        (Some(fault), Some(armed)) => {
            fault.disarm(armed);
        }
        _ => Armed::end_count(),
    }
    two_events_after(fault, clients, opened, backend, &report, reap)
}

/// As [`two_events`], when the first has been.
pub fn two_events_after(
    fault: Option<Fault>,
    clients: &mut [Client],
    opened: &Opened,
    backend: Backend,
    first: &Report,
    mut reap: impl FnMut(Backend) -> Report,
) -> Result<()> {
    let died = opened.died(clients)?;
    judge(first, fault, opened.len(), died)?;
    let second = reap(backend);
    expect_complete(&second, opened.len() - died).with_context(|| format!("after {first:?}"))?;
    ensure!(opened.died(clients)? == opened.len() - died, "after {first:?}: {second:?}");
    Ok(())
}

/// What a process must not leave behind.
#[derive(Debug, PartialEq, Eq)]
pub struct Held {
    descriptors: usize,
    programs: [usize; Hook::ALL.len()],
}

impl Held {
    /// After what a process loads once and keeps.
    pub fn from_the_second_start_on(world: &World) -> Result<Self> {
        drop(beside(world).bootstrap(true).build()?);
        thread::sleep(Duration::from_millis(10));
        Self::now(world)
    }

    fn now(world: &World) -> Result<Self> {
        let cgroup = world.cgroup().open()?;
        let mut programs = [0; Hook::ALL.len()];
        for (hook, count) in Hook::ALL.into_iter().zip(&mut programs) {
            *count = Order::read(cgroup.as_fd(), hook, 0)?.before.len();
        }
        drop(cgroup);
        Ok(Self { descriptors: fs::read_dir("/proc/self/fd")?.count(), programs })
    }

    /// Waits a moment: the kernel may close what was the last of its kind a little later.
    pub fn expect(&self, world: &World) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(2);
        loop {
            let now = Self::now(world)?;
            if now == *self {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{now:?} is left, not {self:?}");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Settings of a reaper beside that of the world, on the same cgroup.
pub fn beside(world: &World) -> Builder {
    Reaper::builder()
        .cgroup(world.cgroup().path())
        .config(Config::default().max_sockets(1024).buckets(64))
        .engine(EngineChoice::Named(world.reaper().engine()))
        .pending_wait(Duration::from_millis(1))
}

pub fn reap_with(reaper: &mut Reaper, backend: Backend) -> Report {
    let action = Action::BackendDeleted { backend };
    reaper.handle(&Event::new("beside", action))
}
