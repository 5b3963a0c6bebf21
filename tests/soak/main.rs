//! The soak: processes and namespaces that churn at full speed, events all the time, `skreap serve` killed at random,
//! and at the end the question whether anything was missed, destroyed by mistake, or left behind.
//!
//! ```text
//!   this process ── events ──► skreap serve ──► index, hooks          every process of the soak knows from shared
//!    │  kills, starts again ──────┘                                   memory which events have begun and are done
//!    └─ spawns, kills ──► workers: sockets to 32 backends, a new netns every 20,000 steps
//! ```
//!
//! [`worker`] says how a worker knows of each of its sockets whether it must be destroyed. The soak stops at the first
//! thing that is wrong, and prints what happened to that socket.
//!
//! `make soak MINUTES=10`; run without arguments it does nothing. `SKREAP_COMMAND` is the `skreap` that is soaked, if not
//! the one that was built with it.

mod forms;
mod hold;
mod kept;
mod service;
mod shared;
mod sys;
mod totals;
mod worker;

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser as _;
use serde_json::{Value, json};
use skreap_testbed::bpf::{Witness, Witnessed};
use skreap_testbed::{self as testbed, Cgroup};

use forms::Form;
use kept::Kept;
use service::{PATIENCE, Service, Talk};
use shared::{GONE, Shared, WORKERS, phase};
use totals::{KernelLog, Totals};

/// Threads that send events; the backends are shared out among them.
const SENDERS: usize = 3;
/// From one event of a sender to the next.
const EVENT_PAUSE: Duration = Duration::from_millis(3);
/// A worker and the service are killed about that often.
const WORKER_LIFE_MS: u64 = 1_000;
const SERVICE_LIFE_MS: u64 = 4_000;

#[derive(Debug, clap::Parser)]
struct Args {
    /// How long sockets churn, minutes
    #[arg(long, default_value_t = 0.0)]
    minutes: f64,
    /// Workers [default: two for each CPU]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=WORKERS as u64))]
    workers: Option<u64>,
    /// Seed of what workers do [default: the time]
    #[arg(long)]
    seed: Option<u64>,
    /// What `skreap serve` is to destroy with, as it takes it
    #[arg(long, default_value = "auto")]
    engine: String,
    /// File for the totals as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Kill nobody
    #[arg(long)]
    no_kills: bool,
    /// Only open, connect and close sockets: several times as many of them
    #[arg(long)]
    plain: bool,
    /// This process is that worker
    #[arg(long, hide = true, num_args = 3, value_names = ["FD", "WORKER", "SEED"])]
    worker: Option<Vec<u64>>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = match &args.worker {
        Some(worker) => become_worker(worker),
        None if args.minutes <= 0.0 => {
            println!("soak: say --minutes N, or make soak MINUTES=N");
            Ok(true)
        }
        None => soak(&args),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn become_worker(words: &[u64]) -> Result<bool> {
    let [fd, worker, seed] = words else { bail!("a worker has three words") };
    let shared = shared::map(i32::try_from(*fd)?)?;
    worker::run(shared, usize::try_from(*worker)?, *seed)
}

/// All workers, and those who spawn them again.
struct Workers<'a> {
    shared: &'static Shared,
    fd: &'a OwnedFd,
    cgroup: &'a Cgroup,
    seed: u64,
    children: Vec<Child>,
    /// The processes, and when.
    killed: Vec<(u32, u64)>,
}

impl Workers<'_> {
    fn spawn(&mut self, worker: usize) -> Result<Child> {
        self.seed = self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(worker as u64 + 1);
        let door = fs::File::options().write(true).open(self.cgroup.path().join("cgroup.procs"))?;
        let mut command = Command::new("/proc/self/exe");
        command.arg("--worker").args([
            self.fd.as_raw_fd().to_string(),
            worker.to_string(),
            self.seed.to_string(),
        ]);
        let enter = move || {
            io::Write::write_all(&mut &door, b"0")?;
            // SAFETY: no pointers.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            Ok(())
        };
        // SAFETY: between fork and exec only system calls are made, on a descriptor opened before.
        unsafe { command.pre_exec(enter) };
        command.spawn().context("start a worker")
    }

    fn kill(&mut self, worker: usize) -> Result<()> {
        self.children[worker].kill()?;
        self.children[worker].wait()?;
        self.killed.push((self.children[worker].id(), sys::now_ns()));
        self.children[worker] = self.spawn(worker)?;
        Ok(())
    }

    /// Tells all what to do, and waits until they have done it.
    fn all(&mut self, phase: u64) -> Result<()> {
        self.shared.phase.store(phase, SeqCst);
        let deadline = Instant::now() + PATIENCE;
        if phase == phase::END {
            for child in &mut self.children {
                ensure!(child.wait()?.success(), "a worker has failed");
            }
            return Ok(());
        }
        for worker in 0..self.children.len() {
            while self.shared.workers[worker].phase.load(SeqCst) != phase {
                ensure!(Instant::now() < deadline, "worker {worker} does not come to phase {phase}");
                ensure!(self.children[worker].try_wait()?.is_none(), "worker {worker} has ended");
                thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }
}

impl Drop for Workers<'_> {
    fn drop(&mut self) {
        for child in &mut self.children {
            // Those that have ended cannot be killed.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What the senders of events have seen.
#[derive(Default)]
struct Seen {
    events: AtomicU64,
    /// Of these events.
    selected: AtomicU64,
    by_frontend: AtomicU64,
    healing: AtomicU64,
    destroyed: AtomicU64,
    stale: AtomicU64,
    stop: AtomicBool,
}

/// Has the sockets of one backend destroyed, and looks at the report.
fn delete(shared: &Shared, talk: &mut Talk, seen: &Seen, protocol: usize, backend: usize) -> Result<()> {
    let events = &shared.events[protocol][backend];
    let n = events.begun.load(SeqCst) + 1;
    let frontends = shared.frontends.load(SeqCst);
    let name = worker::backend_name(protocol, backend);
    if frontends && n % 8 == 2 {
        let report = talk.ask(&forms::of_nobody(&format!("{name}-{n}-nobody"), protocol, backend))?;
        let right = report["complete"] == true && report["victims"] == 0;
        ensure!(right, "an event that means nobody was not answered as it should: {report}");
        seen.by_frontend.fetch_add(1, Relaxed);
    }
    let form = Form::of(n, protocol, frontends);
    events.begun.store(n, SeqCst);
    let report = talk.ask(&form.request(&format!("{name}-{n}"), protocol, backend))?;
    let right = report["complete"] == true && report.get("error").is_none();
    ensure!(
        right && failed_are_held(shared, &report["failed"]),
        "an event was not answered as it should: {report}"
    );
    events.done.store(n, SeqCst);
    seen.events.fetch_add(1, Relaxed);
    seen.selected.fetch_add(form.selects().into(), Relaxed);
    seen.by_frontend.fetch_add((form == Form::Direct).into(), Relaxed);
    seen.healing.fetch_add(form.heals().into(), Relaxed);
    seen.destroyed.fetch_add(report["destroyed"].as_u64().unwrap_or_default(), Relaxed);
    seen.stale.fetch_add(report["skipped"]["stale"].as_u64().unwrap_or_default(), Relaxed);
    Ok(())
}

/// What has failed has timed out, and its lock was held.
fn failed_are_held(shared: &Shared, failed: &Value) -> bool {
    let listed = failed["sockets"].as_array().map_or(&[][..], Vec::as_slice);
    // No list is that long here: a worker holds one lock at a time.
    let all = failed["total"].as_u64() == Some(listed.len() as u64);
    all && listed.iter().all(|failure| {
        let cookie = failure["socket"]["cookie"].as_u64();
        failure["errno"] == libc::ETIMEDOUT && cookie.is_some_and(|cookie| shared.reported(cookie))
    })
}

/// Deletes its share of the backends, one after the other, until told to stop.
fn send_events(shared: &Shared, directory: &Path, seen: &Seen, sender: usize) -> Result<()> {
    let mut talk = Talk::new(directory);
    let mine: Vec<(usize, usize)> =
        (0..2 * GONE).filter(|i| i % SENDERS == sender).map(|i| (i / GONE, i % GONE)).collect();
    for (protocol, backend) in mine.iter().cycle() {
        if seen.stop.load(Relaxed) {
            break;
        }
        delete(shared, &mut talk, seen, *protocol, *backend)?;
        thread::sleep(EVENT_PAUSE);
    }
    Ok(())
}

fn soak(args: &Args) -> Result<bool> {
    let directory = tempfile::TempDir::new()?;
    let outcome = soak_in(args, directory.path());
    if !matches!(outcome, Ok(true)) {
        let log = fs::read_to_string(service::log(directory.path())).unwrap_or_default();
        eprintln!("soak: the log of skreap serve:\n{log}");
    }
    outcome
}

fn soak_in(args: &Args, directory: &Path) -> Result<bool> {
    testbed::sweep()?;
    testbed::raise_nofile_limit()?;
    let cpus = thread::available_parallelism()?.get() as u64;
    let workers = args.workers.unwrap_or(2 * cpus).min(WORKERS as u64) as usize;
    let seed = args.seed.unwrap_or(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64);
    let time = Duration::from_secs_f64(args.minutes * 60.0);
    // Every other run: the nodes of an index with frontends are others, and those without are what most have.
    let frontends = seed % 2 == 1 && forms::has_frontends();
    let with = if frontends { ", with frontends" } else { "" };
    eprintln!("soak: seed {seed}, {workers} workers, {:.0} s{with}", time.as_secs_f64());

    let cgroup = Cgroup::create("soak")?;
    let (fd, shared) = shared::create()?;
    shared.plain.store(args.plain, SeqCst);
    shared.frontends.store(frontends, SeqCst);
    let mut kernel_log = KernelLog::open();
    // Before the hooks, which want to be the last.
    let witness = Witness::attach(cgroup.open()?.as_fd())?;
    let mut service = Service::start(&cgroup, directory, &args.engine, frontends)?;
    let mut talk = Talk::new(directory);
    // Sockets that are opened before the hooks are there would be in no count.
    let status = talk.ask(&json!({"id": "there?", "type": "status"}))?;
    let engine = status["status"]["engine"].as_str().context("no engine in a status")?.to_owned();
    let mut all =
        Workers { shared, fd: &fd, cgroup: &cgroup, seed, children: Vec::new(), killed: Vec::new() };
    for worker in 0..workers {
        let child = all.spawn(worker)?;
        all.children.push(child);
    }

    let seen = Seen::default();
    let begin = Instant::now();
    let mut kept = Kept::default();
    let services_killed: Vec<u64> = thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| {
                let seen = &seen;
                scope.spawn(move || {
                    let sent = send_events(shared, directory, seen, sender);
                    if sent.is_err() {
                        seen.stop.store(true, Relaxed);
                    }
                    sent
                })
            })
            .collect();
        let killed = churn(&mut all, &mut service, &mut kept, &seen, begin + time, args.no_kills);
        seen.stop.store(true, Relaxed);
        for sender in senders {
            sender.join().map_err(|_| anyhow::anyhow!("a sender panicked"))??;
        }
        killed
    })?;
    let seconds = begin.elapsed().as_secs_f64();

    // What is open now must go with an event, and nothing else.
    all.all(phase::HOLD)?;
    for i in 0..2 * GONE {
        delete(shared, &mut talk, &seen, i / GONE, i % GONE)?;
    }
    all.all(phase::CHECK)?;
    let audit = talk.ask(&json!({"id": "audit", "type": "audit"}))?;
    all.all(phase::END)?;
    let index = empty_index(&mut talk)?;
    let counters = &index["index"]["counters"];
    let count = |name: &str| counters[name].as_u64().with_context(|| format!("no {name} in {index}"));
    let releases = count("releases")? + count("releases_without_node")? + count("releases_without_cookie")?;
    let witnessed = witness.counts()?;
    ensure!(witnessed.unseen == 0, "the witness had no room: {witnessed:?}");
    let open = witness.open()?;
    let (reported, late) = (shared.sum(|w| &w.reported), shared.sum(|w| &w.late));
    let orphaned = shared.sum(|w| &w.orphaned);
    let totals = Totals {
        kernel: totals::kernel()?,
        engine,
        cpus,
        seconds,
        workers: workers as u64,
        seed,
        socket_operations: shared.sum(|w| &w.operations),
        sockets: witnessed.made + witnessed.accepted,
        inserts: count("inserts")?,
        namespaces: shared.sum(|w| &w.netns),
        looks: shared.sum(|w| &w.looks),
        events: seen.events.load(Relaxed),
        selected: seen.selected.load(Relaxed),
        by_frontend: seen.by_frontend.load(Relaxed),
        healing: seen.healing.load(Relaxed),
        healed: shared.sum(|w| &w.healed),
        destroyed: seen.destroyed.load(Relaxed),
        overtaken: shared.sum(|w| &w.overtaken),
        held: shared.sum(|w| &w.held),
        reported_held: reported,
        late,
        orphaned,
        ended_namespaces: shared.sum(|w| &w.brief),
        services_killed: services_killed.len() as u64,
        workers_killed: all.killed.len() as u64,
        missed: shared.sum(|w| &w.missed),
        wrongly_destroyed: shared.sum(|w| &w.wrong),
        wrongly_connected: shared.sum(|w| &w.touched),
        held_without_end: reported.abs_diff(late + orphaned),
        kept_namespaces: kept.count,
        leaked_nodes: count("capacity")? - count("free_nodes")?,
        stale_nodes: count("stale")?,
        missed_releases: open.len() as u64 + witnessed.remade,
        uncounted_releases: (witnessed.released + witnessed.accepted).abs_diff(releases),
        kernel_complaints: 0,
    };
    let complaints = kernel_log.complaints();
    let totals = Totals { kernel_complaints: complaints.len() as u64, ..totals };
    print!("{totals}");
    if let Some(path) = &args.json {
        fs::write(path, format!("{}\n", serde_json::to_string_pretty(&totals)?))
            .with_context(|| format!("write {}", path.display()))?;
    }
    complaints.iter().for_each(|line| eprintln!("soak: kernel: {line}"));
    let mut good = true;
    for (what, n) in totals.faults().into_iter().filter(|(_, n)| *n > 0) {
        eprintln!("soak: {n} {what}");
        good = false;
    }
    if totals.inserts != count("removals")? {
        eprintln!("soak: inserts are not removals: {counters}");
        good = false;
    }
    for socket in &open {
        eprintln!("soak: made and never released: {socket:?}");
    }
    if witnessed.strange > 0 {
        eprintln!(
            "soak: {} UDP sockets released that were never made, the last is {}",
            witnessed.strange, witnessed.stranger
        );
        good = false;
    }
    for (socket, ns) in witness.lost()? {
        tell_lost(&socket, ns, &all.killed, &services_killed);
    }
    if audit["audit"]["agrees"] != true {
        eprintln!("soak: the audit differs: {audit}");
        good = false;
    }
    tell_suspects(shared, &audit, count("last_stale")?);
    Ok(good)
}

/// Kills workers and service now and then, until the time is over or something is wrong. Returns when the service was
/// killed.
fn churn(
    all: &mut Workers<'_>,
    service: &mut Service,
    kept: &mut Kept,
    seen: &Seen,
    end: Instant,
    no_kills: bool,
) -> Result<Vec<u64>> {
    let (mut services_killed, mut events_at_kill, mut killed_at_start) = (Vec::new(), 0, false);
    let mut random = all.seed | 1;
    let mut below = |n: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % n
    };
    let soon = |ms: u64| Instant::now() + Duration::from_millis(ms);
    let mut next_worker = soon(below(2 * WORKER_LIFE_MS));
    let mut next_service = soon(below(2 * SERVICE_LIFE_MS));
    while Instant::now() < end && !seen.stop.load(Relaxed) {
        thread::sleep(Duration::from_millis(20));
        service.check()?;
        kept.look(all.shared, service.pid());
        if all.shared.suspect.load(SeqCst) != 0 || seen.stale.load(Relaxed) > 0 {
            all.shared.phase.store(phase::HOLD, SeqCst);
            eprintln!("soak: stopped, something is wrong");
            break;
        }
        for (worker, child) in all.children.iter_mut().enumerate() {
            ensure!(child.try_wait()?.is_none(), "worker {worker} has ended by itself");
        }
        if !no_kills && Instant::now() > next_worker {
            let worker = below(all.children.len() as u64) as usize;
            all.kill(worker)?;
            next_worker = soon(below(2 * WORKER_LIFE_MS));
        }
        if !no_kills && Instant::now() > next_service {
            next_service = soon(below(2 * SERVICE_LIFE_MS));
            // Some are killed while they start; never two in a row, or on a busy machine none would ever be ready.
            let events = seen.events.load(Relaxed);
            let started = events > events_at_kill;
            if started || !killed_at_start && below(4) == 0 {
                (events_at_kill, killed_at_start) = (events, !started);
                service.kill()?;
                services_killed.push(sys::now_ns());
            }
        }
    }
    Ok(services_killed)
}

/// What the index holds when all sockets are closed: nothing, after a moment.
fn empty_index(talk: &mut Talk) -> Result<Value> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let index = talk.ask(&json!({"id": "index", "type": "index"}))?;
        if index["index"]["nodes"] == 0 || Instant::now() > deadline {
            return Ok(index);
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Prints what is known of a socket that was never released: it was closed between its making and `ns`, when another
/// was made in its place.
fn tell_lost(socket: &Witnessed, ns: u64, workers: &[(u32, u64)], services: &[u64]) {
    let ms = |at: u64| (i128::from(at) - i128::from(socket.ns)) as f64 / 1e6;
    eprintln!("soak: made and never released: {socket:?}; its place was taken {:.3} ms later", ms(ns));
    let near = |at: u64| ms(at).abs() < 1000.0;
    for (pid, at) in workers.iter().filter(|(pid, at)| near(*at) || *pid == socket.tgid) {
        eprintln!("  worker {pid} was gone {:.3} ms after it was made", ms(*at));
    }
    for at in services.iter().filter(|at| near(**at)) {
        eprintln!("  skreap serve was gone {:.3} ms after it was made", ms(*at));
    }
}

/// Prints the last operations of every socket with which something is wrong.
fn tell_suspects(shared: &Shared, audit: &Value, stale: u64) {
    let suspects = [shared.suspect.load(SeqCst), stale].into_iter().filter(|cookie| *cookie != 0);
    let differences = audit["audit"]["differences"].as_array().into_iter().flatten();
    let differing = differences.filter_map(|difference| difference["socket"]["cookie"].as_u64());
    for cookie in suspects.chain(differing) {
        eprintln!("soak: what happened to socket {cookie}:");
        shared.history(cookie).iter().for_each(|line| eprintln!("  {line}"));
    }
}
