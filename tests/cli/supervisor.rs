//! What the service manager hears: ready when it is, alive while the reaper moves on, ending.

use std::io;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use skreap_testbed::{Cgroup, Holding, Selection};
use tempfile::TempDir;

use crate::commands::{Ten, UDP, good_json};
use crate::hooks;
use crate::process::{self, Ended, PATIENCE, run, run_with, until};
use crate::serve::command;

crate::tests![
    ready_means_that_it_listens,
    the_watchdog_hears_of_it_in_time,
    waiting_for_the_rate_is_no_standstill,
    waiting_for_an_owner_is_no_standstill,
    a_reaper_that_is_stuck_is_not_hidden,
    the_end_is_told,
    nobody_at_the_socket,
];

/// The datagrams that a service sends.
struct Manager {
    socket: UnixDatagram,
    directory: TempDir,
}

impl Manager {
    fn new() -> Result<Self> {
        let directory = TempDir::new()?;
        let socket = UnixDatagram::bind(directory.path().join("notify"))?;
        Ok(Self { socket, directory })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The lines of the next datagram, if there is one by then.
    fn hear(&self, patience: Duration) -> Result<Option<Vec<String>>> {
        self.socket.set_read_timeout(Some(patience.max(Duration::from_millis(1))))?;
        let mut bytes = [0; 4096];
        match self.socket.recv(&mut bytes) {
            Ok(n) => Ok(Some(String::from_utf8(bytes[..n].to_vec())?.lines().map(str::to_owned).collect())),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The next datagram with such a line, whatever else is told before.
    fn wait_for(&self, start: &str) -> Result<Vec<String>> {
        let deadline = Instant::now() + PATIENCE;
        while let Some(lines) = self.hear(deadline.saturating_duration_since(Instant::now()))? {
            if lines.iter().any(|line| line.starts_with(start)) {
                return Ok(lines);
            }
        }
        bail!("never told: {start}");
    }
}

/// A service with a manager, killed on drop.
struct Managed {
    manager: Manager,
    cgroup: Cgroup,
    child: Child,
}

impl Managed {
    /// Started, and whatever it tells is still to be heard.
    fn start(label: &str, watchdog: Option<Duration>, args: &[&str]) -> Result<Self> {
        let manager = Manager::new()?;
        let cgroup = Cgroup::create(label)?;
        let source = format!("unix:{}", manager.path("socket").display());
        let mut command = command(&cgroup, &[&source]);
        command.args(["--max-sockets", "2000"]).args(args).env("NOTIFY_SOCKET", manager.path("notify"));
        if let Some(watchdog) = watchdog {
            command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        }
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        Ok(Self { manager, cgroup, child })
    }

    fn socket(&self) -> Result<String> {
        Ok(self.manager.path("socket").to_str().context("not UTF-8")?.to_owned())
    }

    fn finish(mut self) -> Result<Ended> {
        process::signal(&self.child, libc::SIGTERM)?;
        let ended = process::collect(&mut self.child)?;
        ensure!(ended.code == Some(0), "{ended:?}");
        ensure!(hooks::attached(&self.cgroup)? == 0, "hooks are still attached");
        let cgroup = self.cgroup.path().to_owned();
        drop(self);
        ensure!(!cgroup.exists(), "the cgroup has members: drop them first");
        Ok(ended)
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// At the moment of READY=1 the hooks are attached and the socket takes clients, with no second attempt.
fn ready_means_that_it_listens() -> Result<()> {
    let managed = Managed::start("cli-ready", None, &[])?;
    let first = managed.manager.hear(PATIENCE)?.context("nothing was told")?;
    UnixStream::connect(managed.manager.path("socket")).context("ready, and does not listen")?;
    ensure!(hooks::attached(&managed.cgroup)? == 5, "ready, and not all hooks are attached");
    let [ready, status] = &first[..] else { bail!("{first:?}") };
    ensure!(ready == "READY=1" && status.starts_with("STATUS=engine "), "{first:?}");
    ensure!(status.ends_with("; 0 of 2000 memberships; 0 events, 0 sockets destroyed"), "{first:?}");
    let ten = Ten::inside(&managed.cgroup)?;
    let socket = managed.socket()?;
    let report = good_json(&["reap", UDP, "--socket", &socket, "--json"])?;
    ensure!(report["destroyed"] == 6, "{report}");
    // Nothing but a status is told without a watchdog.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let told = managed.manager.hear(PATIENCE)?.context("the status is not told again")?;
        let [status] = &told[..] else { bail!("{told:?}") };
        if status.ends_with("; 10 of 2000 memberships; 1 event, 6 sockets destroyed") {
            break;
        }
        ensure!(status.starts_with("STATUS=") && Instant::now() < deadline, "{told:?}");
    }
    drop(ten);
    managed.finish()?;
    Ok(())
}

/// At least twice in the time that is granted, as sd_watchdog_enabled(3) asks for.
fn the_watchdog_hears_of_it_in_time() -> Result<()> {
    const GRANTED: Duration = Duration::from_millis(1600);
    let managed = Managed::start("cli-watchdog", Some(GRANTED), &[])?;
    managed.manager.wait_for("READY=1")?;
    let mut last = Instant::now();
    for i in 0..4 {
        managed.manager.wait_for("WATCHDOG=1")?;
        ensure!(last.elapsed() <= GRANTED / 2, "sign {i} came after {:?}", last.elapsed());
        last = Instant::now();
    }
    managed.finish()?;
    Ok(())
}

/// An event that takes twice as long as is granted, because that is what was asked for.
fn waiting_for_the_rate_is_no_standstill() -> Result<()> {
    const GRANTED: Duration = Duration::from_millis(600);
    let managed = Managed::start("cli-slow", Some(GRANTED), &["--max-rate", "5"])?;
    managed.manager.wait_for("READY=1")?;
    let ten = Ten::inside(&managed.cgroup)?;
    let socket = managed.socket()?;
    let reap = std::thread::spawn(move || good_json(&["reap", UDP, "--socket", &socket, "--json"]));
    let mut signs = 0;
    while !reap.is_finished() {
        managed.manager.wait_for("WATCHDOG=1")?;
        signs += 1;
    }
    let report = reap.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    ensure!(report["destroyed"] == 6, "{report}");
    let total = report["ns"]["total"].as_u64().context("no total")?;
    ensure!(Duration::from_nanos(total) > GRANTED, "too fast to show anything: {report}");
    ensure!(signs >= 4, "{signs} signs of life in {total} ns");
    drop(ten);
    let ended = managed.finish()?;
    ensure!(!ended.err.contains("makes no progress"), "{ended:?}");
    Ok(())
}

/// An event that waits twice as long as is granted for a socket whose owner holds its lock.
fn waiting_for_an_owner_is_no_standstill() -> Result<()> {
    const GRANTED: Duration = Duration::from_millis(1500);
    let managed = Managed::start("cli-held-watchdog", Some(GRANTED), &["--victim-timeout-ms", "3000"])?;
    managed.manager.wait_for("READY=1")?;
    let mut ten = Ten::inside(&managed.cgroup)?;
    ten.client.start_hold(0, Holding::Memory)?;
    let socket = managed.socket()?;
    let start = Instant::now();
    let reap = std::thread::spawn(move || run(&["reap", UDP, "--socket", &socket, "--json"]));
    let (mut signs, mut last) = (0, Instant::now());
    while !reap.is_finished() {
        managed.manager.wait_for("WATCHDOG=1")?;
        ensure!(last.elapsed() < GRANTED, "sign {signs} came after {:?}", last.elapsed());
        (signs, last) = (signs + 1, Instant::now());
    }
    ensure!(start.elapsed() >= GRANTED * 2, "too fast to show anything: {:?}", start.elapsed());
    ensure!(signs >= 4, "{signs} signs of life");
    let ended = reap.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    let report = ended.json()?.pop().context("no report")?;
    ensure!(ended.code == Some(1) && report["destroyed"] == 5, "{report}");
    ensure!(report["failed"]["by_errno"]["ETIMEDOUT"] == 1, "{report}");
    ten.client.end_hold(0)?;
    let dead =
        |ten: &mut Ten| ten.client.destroyed(Selection::List(vec![0])).is_ok_and(|dead| dead.len() == 1);
    until("the socket to be destroyed", || dead(&mut ten))?;
    drop(ten);
    let ended = managed.finish()?;
    ensure!(!ended.err.contains("makes no progress"), "{ended:?}");
    Ok(())
}

/// The thread of the reaper is held by a debugger, and no other: questions are answered, and yet there is no sign of
/// life until it goes on.
fn a_reaper_that_is_stuck_is_not_hidden() -> Result<()> {
    const GRANTED: Duration = Duration::from_millis(600);
    let managed = Managed::start("cli-stuck-reaper", Some(GRANTED), &[])?;
    managed.manager.wait_for("READY=1")?;
    managed.manager.wait_for("WATCHDOG=1")?;
    let held = Held::hold(i32::try_from(managed.child.id())?)?;
    // Its last beat may have been just now, and be good for half of the time.
    std::thread::sleep(GRANTED);
    while managed.manager.hear(Duration::ZERO)?.is_some() {}
    let status = good_json(&["status", "--socket", &managed.socket()?, "--json"])?;
    ensure!(status["pid"] == managed.child.id(), "{status}");
    let told = managed.manager.hear(GRANTED)?;
    ensure!(told.is_none(), "the reaper stands still, and this is told: {told:?}");
    drop(held);
    managed.manager.wait_for("WATCHDOG=1")?;
    let ended = managed.finish()?;
    let lines = ended.err.lines().filter(|line| line.contains("the reaper makes no progress")).count();
    ensure!(lines == 1, "{ended:?}");
    Ok(())
}

/// A thread that a tracer has stopped; it goes on when this is dropped.
struct Held(libc::pid_t);

impl Held {
    fn hold(thread: libc::pid_t) -> Result<Self> {
        let null = std::ptr::null_mut::<libc::c_void>();
        for request in [libc::PTRACE_SEIZE, libc::PTRACE_INTERRUPT] {
            // SAFETY: neither request takes memory of this process.
            ensure!(unsafe { libc::ptrace(request, thread, null, null) } == 0, io::Error::last_os_error());
        }
        let mut status = 0;
        // SAFETY: `status` is written by the call.
        let stopped = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) };
        ensure!(stopped == thread && libc::WIFSTOPPED(status), "not stopped: {status:#x}");
        Ok(Self(thread))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let null = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: takes no memory of this process.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, null, null) };
    }
}

/// By a signal, and at the end of input.
fn the_end_is_told() -> Result<()> {
    let mut managed = Managed::start("cli-stopping", None, &[])?;
    managed.manager.wait_for("READY=1")?;
    process::signal(&managed.child, libc::SIGTERM)?;
    let ended = process::collect(&mut managed.child)?;
    ensure!(ended.code == Some(0), "{ended:?}");
    expect_end(&managed.manager)?;

    let manager = Manager::new()?;
    let mut command = command(&managed.cgroup, &[]);
    command.env("NOTIFY_SOCKET", manager.path("notify"));
    let ended = run_with(command, Vec::new())?;
    ensure!(ended.code == Some(0) && ended.err.is_empty(), "{ended:?}");
    manager.wait_for("READY=1")?;
    expect_end(&manager)
}

/// Told once, as the last thing.
fn expect_end(manager: &Manager) -> Result<()> {
    let told = manager.wait_for("STOPPING=1")?;
    ensure!(told.len() == 2 && told[1].starts_with("STATUS="), "{told:?}");
    let more = manager.hear(Duration::ZERO)?;
    ensure!(more.is_none(), "{more:?}");
    Ok(())
}

fn nobody_at_the_socket() -> Result<()> {
    let cgroup = Cgroup::create("cli-nobody")?;
    let directory = TempDir::new()?;
    let nowhere = directory.path().join("nowhere");
    let mut command = command(&cgroup, &[]);
    command.env("NOTIFY_SOCKET", &nowhere);
    let ended = run_with(command, Vec::new())?;
    ensure!(ended.code == Some(1) && ended.err.lines().count() == 1, "{ended:?}");
    let says = format!("cannot notify the service manager at {}: No such file", nowhere.display());
    ensure!(ended.err.contains(&says), "{ended:?}");
    ensure!(hooks::attached(&cgroup)? == 0, "hooks are still attached");
    Ok(())
}
