//! A service while an owner holds the lock of a socket that is to be destroyed: it answers, ends, is killed and replaced.

use std::fs;
use std::io::Write as _;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use skreap_testbed::{Bpffs, Cgroup, Holding, Selection};

use crate::commands::{TCP, Ten, UDP, good, good_json};
use crate::hooks;
use crate::process::{Ended, collect, run, until};
use crate::serve::{Serve, command, event_for};

crate::tests![
    others_are_answered,
    the_failure_is_shown_and_taken_back,
    the_end_does_not_wait,
    the_end_of_input_does_not_wait,
    killed_and_taken_over,
];

/// What does not wait takes less than this on a busy machine; locks are held until they are let go.
const AT_ONCE: Duration = Duration::from_secs(5);

/// What the log says of one held socket at the end.
const END: &str = "the end comes before 1 socket was destroyed: its owner holds its lock; the kernel destroys it when the \
                   owner lets go, and nobody logs that";

/// The sockets of one backend, of which one is held.
struct Of {
    backend: &'static str,
    /// The one that is held, and another.
    held: u32,
    other: u32,
    /// How many there are, with that one.
    all: u64,
}

const OF_UDP: Of = Of { backend: UDP, held: 0, other: 5, all: 6 };
const OF_TCP: Of = Of { backend: TCP, held: 6, other: 9, all: 4 };

/// Asks for the death of the backend, from a thread.
fn reap(serve: &Serve, backend: &'static str) -> Result<thread::JoinHandle<Result<Ended>>> {
    let socket = serve.socket_arg()?;
    Ok(thread::spawn(move || run(&["reap", backend, "--socket", &socket, "--json"])))
}

fn report(reap: thread::JoinHandle<Result<Ended>>, code: i32) -> Result<Value> {
    let ended = reap.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    ensure!(ended.code == Some(code), "{ended:?}");
    ended.json()?.pop().context("no report")
}

fn is_destroyed(ten: &mut Ten, handle: u32) -> Result<bool> {
    Ok(!ten.client.destroyed(Selection::List(vec![handle]))?.is_empty())
}

/// True once nothing is left of a process but the threads that cannot end.
fn is_zombie(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
}

/// An event on another backend has its report while the first still waits for an owner.
fn others_are_answered() -> Result<()> {
    let serve = Serve::start_with("cli-held-others", &["--victim-timeout-ms", "60000"])?;
    let mut ten = Ten::new(&serve)?;
    ten.client.start_hold(0, Holding::Memory)?;
    let waiting = reap(&serve, UDP)?;
    until("another socket of the backend to be destroyed", || is_destroyed(&mut ten, 5).unwrap_or(false))?;
    let start = Instant::now();
    let other = good_json(&["reap", TCP, "--socket", &serve.socket_arg()?, "--json"])?;
    ensure!(other["destroyed"] == 4 && other["complete"] == true, "{other}");
    ensure!(start.elapsed() < AT_ONCE, "another backend has waited for {:?}", start.elapsed());
    ensure!(!waiting.is_finished(), "the held socket was not waited for");
    ten.client.end_hold(0)?;
    let report = report(waiting, 0)?;
    ensure!(report["destroyed"] == 6 && report["failed"]["total"] == 0, "{report}");
    drop(ten);
    serve.finish()
}

fn the_failure_is_shown_and_taken_back() -> Result<()> {
    let mut serve = Serve::start_with("cli-held-shown", &["--log", "info", "--victim-timeout-ms", "200"])?;
    let mut ten = Ten::new(&serve)?;
    let socket = serve.socket_arg()?;
    ten.client.start_hold(0, Holding::Memory)?;
    let ended = run(&["reap", UDP, "--socket", &socket])?;
    ensure!(ended.code == Some(1) && ended.out.contains("5 of 6 sockets destroyed"), "{ended:?}");
    ensure!(ended.out.contains("ETIMEDOUT: its owner holds its lock"), "{ended:?}");
    let status = good_json(&["status", "--socket", &socket, "--json"])?;
    ensure!(status["totals"]["failed"]["ETIMEDOUT"] == 1 && status["held"]["waiting"] == 1, "{status}");
    let text = good(&["status", "--socket", &socket])?;
    ensure!(text.contains("1 failed socket still waited for, 0 destroyed late"), "{text}");
    // Asked again, it fails again, and says whose it is.
    let again = report(reap(&serve, UDP)?, 1)?;
    ensure!(again["victims"] == 1 && again["failed"]["by_errno"]["ETIMEDOUT"] == 1, "{again}");
    let failed = &again["failed"]["sockets"][0]["socket"];
    ensure!(failed["attribution"]["pid"] == ten.client.pid(), "{again}");
    let late = format!("destroyed late, as its owner held its lock: {}", tuple(failed)?);
    ten.client.end_hold(0)?;
    until("the socket to be destroyed", || is_destroyed(&mut ten, 0).unwrap_or(false))?;
    let mut status = Value::Null;
    until("the status to say so", || {
        status = good_json(&["status", "--socket", &socket, "--json"]).unwrap_or_default();
        status["held"]["given_up"] == 0
    })?;
    ensure!(status["held"]["late_destroyed"] == 1 && status["held"]["waiting"] == 0, "{status}");
    ensure!(status["totals"]["failed"].as_object().is_some_and(serde_json::Map::is_empty), "{status}");
    drop(ten);
    serve.signal(libc::SIGTERM)?;
    let ended = serve.ended()?;
    let lines: Vec<&str> = ended.err.lines().filter(|line| line.contains("destroyed late")).collect();
    let [line] = lines[..] else { bail!("not one line: {ended:?}") };
    ensure!(line.contains(" INFO ") && line.contains(&late) && line.contains(" waited_ms="), "{line}");
    serve.nothing_left()
}

/// A socket of a report, as the log names it.
fn tuple(socket: &Value) -> Result<String> {
    let text = |field: &str| socket[field].as_str().with_context(|| format!("no {field}: {socket}"));
    Ok(format!(
        "{} {}:{} -> {}:{} cookie {} netns {}",
        text("protocol")?,
        text("saddr")?,
        socket["sport"],
        text("daddr")?,
        socket["dport"],
        socket["cookie"],
        socket["netns"]
    ))
}

/// Asked to end, it reports what it waits for as failed, and lets go of everything but its pid.
fn the_end_does_not_wait() -> Result<()> {
    [OF_UDP, OF_TCP].iter().try_for_each(|of| the_end_does_not_wait_for(of).context(of.backend))
}

fn the_end_does_not_wait_for(of: &Of) -> Result<()> {
    let mut serve = Serve::start_with("cli-held-end", &["--victim-timeout-ms", "60000"])?;
    let mut ten = Ten::new(&serve)?;
    ten.client.start_hold(of.held, Holding::Memory)?;
    let waiting = reap(&serve, of.backend)?;
    until("another socket of the backend to be destroyed", || {
        is_destroyed(&mut ten, of.other).unwrap_or(false)
    })?;
    let start = Instant::now();
    serve.signal(libc::SIGTERM)?;
    let report = report(waiting, 1)?;
    ensure!(report["destroyed"] == of.all - 1 && report["failed"]["by_errno"]["ETIMEDOUT"] == 1, "{report}");
    let pid = serve.pid();
    until("the service to end", || is_zombie(pid))?;
    ensure!(start.elapsed() < AT_ONCE, "the end has waited for {:?}", start.elapsed());
    serve.nothing_left()?;
    ten.client.end_hold(of.held)?;
    until("the socket to be destroyed", || is_destroyed(&mut ten, of.held).unwrap_or(false))?;
    let ended = serve.ended()?;
    ensure!(ended.code == Some(0) && !ended.err.contains("panicked"), "{ended:?}");
    ensure!(ended.err.contains(END), "{ended:?}");
    Ok(())
}

/// No more events are to come: the last one is waited for no longer than is asked for, and reported.
fn the_end_of_input_does_not_wait() -> Result<()> {
    let cgroup = Cgroup::create("cli-held-stdin")?;
    let mut command = command(&cgroup, &["stdin"]);
    command.args(["--max-sockets", "2000", "--victim-timeout-ms", "300"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut serve = Killed(command.spawn()?);
    until("the hooks to be attached", || hooks::attached(&cgroup).is_ok_and(|hooks| hooks == 5))?;
    let mut ten = Ten::inside(&cgroup)?;
    ten.client.start_hold(0, Holding::Memory)?;
    let start = Instant::now();
    let mut input = serve.0.stdin.take().context("no stdin")?;
    input.write_all(event_for("last", UDP).as_bytes())?;
    drop(input);
    let pid = serve.0.id();
    until("the service to end", || is_zombie(pid))?;
    ensure!(start.elapsed() < AT_ONCE, "the end has waited for {:?}", start.elapsed());
    ensure!(hooks::attached(&cgroup)? == 0, "hooks are still attached");
    ten.client.end_hold(0)?;
    until("the socket to be destroyed", || is_destroyed(&mut ten, 0).unwrap_or(false))?;
    let ended = collect(&mut serve.0)?;
    ensure!(ended.code == Some(0) && !ended.err.contains("panicked"), "{ended:?}");
    ensure!(ended.err.contains(END), "{ended:?}");
    let [report] = &ended.json()?[..] else { bail!("not one report: {ended:?}") };
    ensure!(report["id"] == "last" && report["destroyed"] == 5 && report["victims"] == 6, "{report}");
    ensure!(report["failed"]["total"] == 1 && report["failed"]["by_errno"]["ETIMEDOUT"] == 1, "{report}");
    Ok(())
}

/// A process that is killed on drop.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a killed service cannot let go of is its pid: the next one takes over at once.
fn killed_and_taken_over() -> Result<()> {
    let both = [(OF_UDP, OF_TCP), (OF_TCP, OF_UDP)];
    both.iter().try_for_each(|(of, other)| killed_while_it_waits_for(of, other).context(of.backend))
}

fn killed_while_it_waits_for(of: &Of, other: &Of) -> Result<()> {
    let bpffs = Bpffs::create()?;
    let pins = bpffs.path("skreap").to_str().context("not UTF-8")?.to_owned();
    let args = ["--log", "info", "--max-sockets", "2000", "--pin", &pins, "--victim-timeout-ms", "200"];
    let mut serve = Serve::start_with("cli-held-kill", &args)?;
    let mut ten = Ten::new(&serve)?;
    ten.client.start_hold(of.held, Holding::Memory)?;
    let first = report(reap(&serve, of.backend)?, 1)?;
    ensure!(first["destroyed"] == of.all - 1, "{first}");
    let old = serve.pid();
    serve.signal(libc::SIGKILL)?;
    until("the service to die", || is_zombie(old))?;
    let start = Instant::now();
    serve.restart()?;
    ensure!(start.elapsed() < AT_ONCE, "the next one has waited for {:?}", start.elapsed());
    ensure!(is_zombie(old), "the old one did not wait for anything");
    // It waits for the same socket, and is not held up by it either.
    let second = report(reap(&serve, of.backend)?, 1)?;
    ensure!(second["victims"] == 1 && second["failed"]["by_errno"]["ETIMEDOUT"] == 1, "{second}");
    let untouched = good_json(&["reap", other.backend, "--socket", &serve.socket_arg()?, "--json"])?;
    ensure!(untouched["destroyed"] == other.all, "{untouched}");
    ten.client.end_hold(of.held)?;
    until("the socket to be destroyed", || is_destroyed(&mut ten, of.held).unwrap_or(false))?;
    let mut status = 0;
    // SAFETY: the status is writable, and the process is a child of this one that nobody else waits for.
    let reaped = unsafe { libc::waitpid(old.cast_signed(), &raw mut status, 0) };
    ensure!(reaped == old.cast_signed() && libc::WIFSIGNALED(status), "{reaped} {status}");
    drop(ten);
    serve.signal(libc::SIGTERM)?;
    let ended = serve.ended()?;
    ensure!(ended.code == Some(0) && ended.err.contains("taken over, with all sockets"), "{ended:?}");
    ensure!(ended.err.contains("reason=\"1 socket failed with ETIMEDOUT\" ms="), "{ended:?}");
    ensure!(hooks::attached(&serve.cgroup)? == 5, "the hooks did not stay");
    good(&["unload", "--pin", &pins])?;
    serve.nothing_left()
}
