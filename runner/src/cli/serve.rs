//! `skreap serve`

use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use skreap::audit_log::{self, AuditLog, Destination};
use skreap::bpf::{BUCKETS, Config, MAX_SOCKETS};
use skreap::cgroup;
use skreap::choice::EngineChoice;
use skreap::core::{ReconcileMax, Unconnected};
use skreap::engine::StateMask;
use skreap::metrics::{self, DEFAULT_ADDRESS};
use skreap::privileges;
use skreap::source::{Access, Source, Stop};
use skreap::supervisor::Supervisor;
use skreap::{Builder, Queue, Reaper, daemon};

use super::action::{ActionArgs, ToArg};
use super::ready::Ready;
use super::rules;
use super::socket::{AccessArgs, REQUESTS, SocketArg, SourceArg};
use super::{Failure, PINS, engine};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where requests come from, one JSON object a line: stdin; unix, the socket at the usual path; or unix:PATH.
    /// May be given more than once [default: stdin]
    #[arg(long, value_name = "SOURCE", help_heading = REQUESTS)]
    source: Vec<SourceArg>,
    #[command(flatten)]
    access: AccessArgs,
    /// Serve metrics for Prometheus over HTTP, at /metrics of an address and port, a port of loopback, or unix:PATH
    /// [default when given without: 127.0.0.1:9745]
    #[arg(long, value_name = "ADDRESS", help_heading = WATCHING, num_args = 0..=1, default_missing_value = DEFAULT_ADDRESS)]
    metrics: Option<metrics::Address>,
    /// Let hooks and index outlive this process, pinned in a directory on a bpf filesystem; the next `serve
    /// --pin` with the same settings takes them over without a gap, `unload` removes them
    #[arg(long, value_name = "DIR", help_heading = INDEX, num_args = 0..=1, default_missing_value = PINS)]
    pin: Option<PathBuf>,
    /// Seconds from one self-check of the index (see `skreap audit`) to the next; without it, only on request
    #[arg(long, value_name = "SECONDS", help_heading = WATCHING, value_parser = clap::value_parser!(u64).range(1..))]
    audit_interval: Option<u64>,
    /// Write one JSON line for each event, and one for each socket that was destroyed, refused or failed, with its owner:
    /// to a file, to the listener of unix:PATH, or to journald
    #[arg(long, value_name = "WHERE", help_heading = WATCHING)]
    audit_log: Option<Destination>,
    /// Bytes of audit lines that may wait to be written; lines that find no room are dropped and counted
    #[arg(long, value_name = "BYTES", help_heading = WATCHING, default_value_t = audit_log::BUFFER)]
    audit_log_buffer: usize,
    /// Leave sockets alone that connected before the hooks were attached; otherwise every netns is searched
    /// for them once
    #[arg(long, help_heading = INDEX)]
    no_bootstrap: bool,
    #[command(flatten, next_help_heading = REAPING)]
    action: ActionArgs,
    #[command(flatten)]
    to: ToArg,
    /// Rules (TOML) that say what is done with the victims of events that do not: by port, cgroup, command and user; see
    /// `skreap check-rules`
    #[arg(long, value_name = "FILE", help_heading = REAPING, conflicts_with = "action")]
    rules: Option<PathBuf>,
    /// Never connect a socket of another process: events that have sockets revived are refused
    #[arg(long, help_heading = REAPING)]
    no_revive: bool,
    #[command(flatten)]
    reaper: ReaperArgs,
}

const VICTIM_TIMEOUT_MS: u64 = skreap::VICTIM_TIMEOUT.as_millis() as u64;
const PENDING_WAIT_MS: u64 = skreap::PENDING_WAIT.as_millis() as u64;

/// Headings of the options, beside [`REQUESTS`].
const INDEX: &str = "Index";
const REAPING: &str = "Reaping";
const WATCHING: &str = "Watching it";

/// Settings of the reaper, for every command that makes one.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = REAPING)]
pub(super) struct ReaperArgs {
    /// cgroup2 directory whose sockets are indexed [default: the root of cgroup2]
    #[arg(long, value_name = "DIR", help_heading = INDEX)]
    cgroup: Option<PathBuf>,
    /// The best that works here, or the engine that must be used
    #[arg(long, value_name = "ENGINE", default_value_t = EngineChoice::Auto, value_parser = engine())]
    engine: EngineChoice,
    /// What is done with UDP sockets that only ever sent to the backend
    #[arg(long, value_name = "POLICY", default_value_t = Unconnected::Preserve, value_parser = policy())]
    unconnected: Unconnected,
    /// TCP states whose sockets are destroyed, separated by commas [default: all that can be: ESTABLISHED, SYN_SENT,
    /// SYN_RECV, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING]
    #[arg(long, value_name = "STATES", default_value_t = StateMask::default(), hide_default_value = true)]
    states: StateMask,
    /// Which netns an engine that scans visits: all, or those in which the index knows sockets of the backend
    #[arg(long, value_enum, default_value_t = ScopeArg::All)]
    scope: ScopeArg,
    /// Refuse an event that would destroy more than N sockets, and do nothing about it [default: no limit]
    #[arg(long, value_name = "N")]
    max_victims: Option<u64>,
    /// Refuse a reconcile that would destroy more than N sockets, and say what it would have destroyed [default: a
    /// tenth of the connected sockets that it selects, 100 at least]
    #[arg(long, value_name = "N")]
    reconcile_max: Option<u64>,
    /// List the victims of every event in its report, and whose they are; otherwise only those of dry runs and failures
    #[arg(long)]
    attribute: bool,
    /// Destroy at most N sockets per second, spread over the second [default: no limit]
    #[arg(long, value_name = "N", value_parser = at_least_1)]
    max_rate: Option<NonZeroU64>,
    /// How long an event waits for sockets whose connect() to the backend is pending, at most; 0: not at all
    #[arg(long, value_name = "MS", default_value_t = PENDING_WAIT_MS, value_parser = clap::value_parser!(u64).range(..=10_000))]
    pending_wait_ms: u64,
    /// How long an event waits for a socket whose owner holds its lock; then it is reported as failed, and destroyed when
    /// the owner lets go
    #[arg(long, value_name = "MS", default_value_t = VICTIM_TIMEOUT_MS, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    victim_timeout_ms: u64,
    /// Let an RCU grace period pass before events are handled: for load balancers that do not between the change
    /// of their map and the event
    #[arg(long)]
    grace: bool,
    /// Record the address that each client named before a load balancer translated it, so that an event can mean only the
    /// clients of one service (`reap --frontend`). Needs Linux 6.15; 8 bytes for each of --max-sockets
    #[arg(long, help_heading = INDEX)]
    frontends: bool,
    /// Memberships (a socket under one backend) that always find room in the index, 1 to 67108864
    #[arg(long, value_name = "N", help_heading = INDEX, default_value_t = Config::default().max_sockets,
          value_parser = within(MAX_SOCKETS))]
    max_sockets: u32,
    /// Buckets in each shard of the index, 1 to 1048576, rounded up to a power of two, 4 bytes each. There are 16 shards per CPU,
    /// rounded up likewise, 256 at most; one if --max-sockets is below 16384
    #[arg(long, value_name = "N", help_heading = INDEX, default_value_t = Config::default().buckets,
          value_parser = within(BUCKETS))]
    buckets: u32,
}

/// A number in a range that the error names as the help does.
fn within(range: RangeInclusive<u32>) -> impl Fn(&str) -> Result<u32, String> + Clone {
    move |text| match text.parse() {
        Ok(n) if range.contains(&n) => Ok(n),
        _ => Err(format!("write a number from {} to {}", range.start(), range.end())),
    }
}

fn at_least_1(text: &str) -> Result<NonZeroU64, String> {
    text.parse().map_err(|_| "write at least 1".to_owned())
}

fn policy() -> impl TypedValueParser<Value = Unconnected> {
    let names = [Unconnected::Preserve, Unconnected::Destroy].map(|policy| policy.to_string());
    PossibleValuesParser::new(names).try_map(|name| name.parse::<Unconnected>())
}

/// Which netns are scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum ScopeArg {
    All,
    Known,
}

impl ReaperArgs {
    fn builder(&self) -> Result<Builder, Failure> {
        let mut builder = Reaper::builder()
            .engine(self.engine)
            .unconnected(self.unconnected)
            .states(self.states)
            .scan_known(self.scope == ScopeArg::Known)
            .max_victims(self.max_victims)
            .reconcile_max(self.reconcile_max.map_or_else(ReconcileMax::default, ReconcileMax::Fixed))
            .attribute(self.attribute)
            .max_rate(self.max_rate)
            .pending_wait(Duration::from_millis(self.pending_wait_ms))
            .victim_timeout(Duration::from_millis(self.victim_timeout_ms))
            .grace(self.grace)
            .frontends(self.frontends)
            .config(Config::default().max_sockets(self.max_sockets).buckets(self.buckets));
        if let Some(path) = &self.cgroup {
            // A wrong name is a mistake (1); only a system without any cgroup2 is one that cannot (3).
            cgroup::open(path).with_context(|| format!("--cgroup {}", path.display()))?;
            builder = builder.cgroup(path);
        }
        Ok(builder)
    }
}

impl Args {
    fn audit_log(&self) -> anyhow::Result<Option<AuditLog>> {
        let start = |to| AuditLog::start(to, self.audit_log_buffer);
        let log = self.audit_log.as_ref().map(start).transpose();
        log.context("cannot write the audit log; name another place with --audit-log")
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let access = args.access.access();
    // Before there is any other thread: capabilities belong to threads.
    match privileges::lower(access.owner.is_some() || access.group.is_some()) {
        Err(e @ privileges::Error::Missing(_)) => return Err(Failure::Cannot(e.into())),
        lowered => lowered?,
    }
    // It has some seventy itself, one for each netns of the last seconds, and two for each client.
    if let Err(e) = raise_nofile_limit() {
        tracing::warn!("cannot have more descriptors: {e}");
    }
    let stop = Stop::new().context("cannot make a pipe")?;
    stop_on_signal(&stop)?;
    let mut sources: Vec<Source> =
        args.source.iter().map(|source| source.source(&access)).collect::<anyhow::Result<_>>()?;
    if sources.is_empty() {
        sources.push(Source::Stdin);
    }
    let mut builder = args.reaper.builder()?.bootstrap(!args.no_bootstrap).revive(!args.no_revive);
    // The service goes on for long, and the first event with a selector shall not wait.
    builder = builder.ready_for_selectors(true);
    if let Some(action) = args.action.action(&args.to)? {
        if args.no_revive && action.to().is_some() {
            let name = action.name();
            return Err(Failure::Misused(anyhow!(
                "--no-revive: --action {name} has sockets connected; leave one of the two out"
            )));
        }
        builder = builder.victim_action(action);
    }
    if let Some(path) = &args.rules {
        builder = builder.action_rules(Some(rules::read_for_service(path, args.no_revive)?));
    }
    if let Some(directory) = &args.pin {
        builder = builder.pin(directory);
    }
    let audit_log = args.audit_log()?;
    // What must fail fails before anything is attached.
    for source in &sources {
        source.check().context(CANNOT_SERVE)?;
    }
    if let Some(address) = &args.metrics {
        address.check().context(NO_METRICS)?;
    }
    let mut reaper = builder.results(audit_log.is_some()).build()?;
    if let Err(e) = serve(args, &access, &mut reaper, &sources, audit_log, &stop) {
        reaper.abandon();
        return Err(e);
    }
    let counters = reaper.counters().context("cannot read the counters")?;
    tracing::info!(?counters, "done");
    Ok(())
}

const CANNOT_SERVE: &str = "cannot serve";
const NO_METRICS: &str = "cannot serve metrics; name another address with --metrics";

/// Everything from the attached hooks to the end of the service. It fails only if it never was ready.
fn serve(
    args: &Args,
    access: &Access,
    reaper: &mut Reaper,
    sources: &[Source],
    audit_log: Option<AuditLog>,
    stop: &Stop,
) -> Result<(), Failure> {
    let mut queue = Queue::bounded(daemon::QUEUE);
    if let Some(log) = audit_log {
        reaper.monitor().watch_audit_log(log.watch());
        queue = queue.recorded_by(Box::new(log));
    }
    // What was searched for has to be in the index; what was not is nobody's mistake.
    let forgive_preexisting = !reaper.index().is_bootstrapped().context("cannot read the index")?;
    reaper
        .start_audits(args.audit_interval.map(Duration::from_secs), forgive_preexisting)
        .context("cannot start the self-check")?;
    let server = match &args.metrics {
        Some(address) => {
            Some(metrics::Server::start(address, access, reaper.monitor(), stop).context(NO_METRICS)?)
        }
        None => None,
    };
    let mut supervisor = Supervisor::of_this_process();
    if let Some(mut ready) = Ready::new(reaper.engine().name(), reaper.cgroup()) {
        if let Some(server) = &server {
            ready.metrics(server.address());
        }
        ready.sources(sources, &SocketArg::usual());
        supervisor = supervisor.on_ready(move || ready.say());
    }
    let served = daemon::serve_queue(reaper, &queue, sources, stop, &supervisor).context(CANNOT_SERVE);
    if let Some(server) = server {
        server.wait();
    }
    Ok(served?)
}

/// Raises the soft limit of open files to the hard one.
pub(super) fn raise_nofile_limit() -> nix::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
}

/// Gives `stop` on the first SIGINT, SIGTERM or SIGHUP; a second one ends the process at once. There is no
/// configuration file that SIGHUP could mean, so it is what it is to every program whose terminal goes away;
/// whoever had it ignored before (nohup) keeps it so.
pub(super) fn stop_on_signal(stop: &Stop) -> anyhow::Result<()> {
    let hangup = (!is_ignored(SIGHUP)).then_some(SIGHUP);
    let mut signals =
        Signals::new([SIGINT, SIGTERM].into_iter().chain(hangup)).context("cannot handle signals")?;
    let stop = stop.clone();
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for (i, signal) in signals.forever().enumerate() {
                tracing::info!(signal, "asked to end");
                stop.give();
                if i > 0 {
                    let _ = signal_hook::low_level::emulate_default_handler(signal);
                }
            }
        })
        .context("cannot start the signal thread")?;
    Ok(())
}

/// True if the parent of this process has it ignore the signal.
pub(super) fn is_ignored(signal: libc::c_int) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}
