//! `skreap demo`

mod heal;
mod plan;
mod play;
mod round;
mod step;
mod tally;
mod world;

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::value_parser;
use skreap::choice::EngineChoice;
use skreap::core::{ActionName, PhaseSummary, REVIVE_AFTER_MS};
use skreap::source::Stop;

use heal::{Healing, Healings, Seen};
use play::{Findings, MIN_SOCKETS};
use step::{Options, Step};

use super::text::{counted, duration, grouped, plural};
use super::{Failure, print_json, serve};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Client sockets, spread evenly over namespaces, servers, protocols and families
    #[arg(long, value_name = "N", default_value_t = 2400,
        value_parser = value_parser!(u32).range(i64::from(MIN_SOCKETS)..=1_000_000))]
    sockets: u32,
    /// Network namespaces; they are removed at the end
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = value_parser!(u32).range(1..=1000))]
    netns: u32,
    /// Number of times that server B is deleted
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = value_parser!(u32).range(1..=100_000))]
    rounds: u32,
    /// Client processes
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = value_parser!(u32).range(1..=256))]
    clients: u32,
    /// auto, or the engine that must be used
    #[arg(long, value_name = "ENGINE", default_value_t = EngineChoice::Auto)]
    engine: EngineChoice,
    /// Show instead what becomes of three kinds of clients with each of these actions, separated by commas: destroy, revive,
    /// move. The options about size have no effect then
    #[arg(long, value_name = "ACTIONS", value_delimiter = ',', value_parser = action())]
    action: Vec<ActionName>,
    /// Milliseconds from the destroy to the second look of revive
    #[arg(long, value_name = "MS", requires = "action", default_value_t = REVIVE_AFTER_MS,
        value_parser = value_parser!(u32).range(..=60_000))]
    after_ms: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let stop = Stop::new().context("cannot make a pipe")?;
    serve::stop_on_signal(&stop)?;
    if !args.action.is_empty() {
        let seen = heal::run(&args.action, args.after_ms, args.engine, &stop).map_err(cannot_or_failed)?;
        return if args.json { Ok(print_json(&seen)?) } else { Ok(print_healings(&seen)?) };
    }
    let options = Options {
        sockets: args.sockets,
        netns: args.netns,
        clients: args.clients,
        rounds: args.rounds,
        engine: args.engine,
    };
    let mut progress = Progress::new();
    let result = play::run(&options, &stop, &mut |step| progress.show(step));
    progress.clear();
    let findings = result.map_err(cannot_or_failed)?;
    if args.json {
        print_json(&findings)?;
    } else {
        print(&findings)?;
    }
    if findings.passed() { Ok(()) } else { Err(Failure::Reported) }
}

fn action() -> impl TypedValueParser<Value = ActionName> {
    let names = [ActionName::Destroy, ActionName::Revive, ActionName::Move].map(ActionName::name);
    PossibleValuesParser::new(names).try_map(|name| name.parse::<ActionName>())
}

/// Missing privileges appear as errors of system calls here.
fn cannot_or_failed(error: anyhow::Error) -> Failure {
    let denied = error
        .chain()
        .filter_map(|e| e.downcast_ref::<io::Error>())
        .any(|e| e.kind() == io::ErrorKind::PermissionDenied);
    if denied {
        return Failure::Cannot(
            error.context("the demo needs root outside of a container; run it with sudo on the host"),
        );
    }
    error.into()
}

/// One temporary line on stderr; nothing if stderr is not a terminal.
struct Progress {
    shown: bool,
    terminal: bool,
}

impl Progress {
    fn new() -> Self {
        Self { shown: false, terminal: io::stderr().is_terminal() }
    }

    fn show(&mut self, step: Step) {
        if !self.terminal {
            return;
        }
        let text = match step {
            Step::Netns { done, of } => format!("creating network namespaces: {done} of {of}"),
            Step::Processes => "starting servers and clients".to_owned(),
            Step::Sockets => "connecting sockets".to_owned(),
            Step::Round { number, of } => format!("deleting server B: round {number} of {of}"),
        };
        self.shown = true;
        let _ = write!(io::stderr(), "\r\x1b[K{text}");
    }

    fn clear(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

fn print(f: &Findings) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let sockets = grouped(u64::from(f.sockets));
    writeln!(out, "kernel {}, engine {}\n", f.kernel, f.engine)?;
    writeln!(out, "{:>9}  network namespaces", f.netns)?;
    writeln!(out, "{:>9}  servers, in all of them: A, B and C, each udp and tcp, IPv4 and IPv6", f.servers)?;
    let processes = plural(u64::from(f.clients), "process", "processes");
    writeln!(out, "{sockets:>9}  sockets of {} client {processes}, connected to the servers\n", f.clients)?;
    let backends = f.events / u64::from(f.rounds);
    writeln!(
        out,
        "Server B stopped answering, and its {} {} deleted, {}:\n",
        counted(backends, "backend"),
        plural(backends, "was", "were"),
        times(f.rounds)
    )?;
    for (count, what) in [
        (f.victims, "sockets were connected to B"),
        (f.victims - f.missed, "of them got ECONNABORTED"),
        (f.reconnected, "of them were connected to A or C by their owners, and got an answer"),
        (f.bystanders, "sockets were connected to A or C"),
        (
            f.bystanders.saturating_sub(f.wrongly_destroyed + f.unanswered),
            "of them were not touched, and got an answer",
        ),
    ] {
        writeln!(out, "{:>9}  {what}", grouped(count))?;
    }
    for odd in &f.oddities {
        writeln!(out, "           {odd}")?;
    }
    writeln!(out)?;
    print_times(&mut out, f)?;
    writeln!(out)?;
    if f.passed() {
        return writeln!(out, "PASS: exactly the sockets of the deleted backends were destroyed");
    }
    writeln!(
        out,
        "FAIL: {} missed, {} wrongly destroyed, {} of {} reconnected, {} unanswered",
        f.missed, f.wrongly_destroyed, f.reconnected, f.victims, f.unanswered
    )
}

/// One column for each action.
fn print_healings(seen: &Healings) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "kernel {}, engine {}\n", seen.kernel, seen.engine)?;
    writeln!(out, "The server of each client stopped answering, and was deleted. Another one was there.\n")?;
    let row = |out: &mut io::StdoutLock<'_>, what: &str, cell: &dyn Fn(&Healing) -> String| {
        let cells: String = seen.actions.iter().map(|one| format!("{:>12}", cell(one))).collect();
        writeln!(out, "{what:<52}{cells}")
    };
    row(&mut out, "", &|one| one.action.to_string())?;
    type Of = fn(&Healing) -> Seen;
    let kinds: [(&str, Of); 3] = [
        ("asks: again at once after an error, else after 2 s", |one| one.asks),
        ("tells: each 20 ms, and never connects again", |one| one.tells),
        ("waits: to be told; says each 3 s that it is there", |one| one.waits),
    ];
    for (what, of) in kinds {
        writeln!(out, "{what}")?;
        row(&mut out, "  errors seen", &|one| grouped(of(one).errors))?;
        row(&mut out, "  messages lost after the deletion", &|one| grouped(of(one).lost))?;
        row(&mut out, "  works again after", &|one| of(one).well_ns.map_or("never".to_owned(), duration))?;
    }
    if seen.actions.iter().any(|one| one.action == ActionName::Revive) {
        writeln!(
            out,
            "\nrevive looks again {} ms after the destroy (--after-ms)",
            grouped(seen.after_ms.into())
        )?;
    }
    Ok(())
}

fn print_times(out: &mut impl io::Write, f: &Findings) -> io::Result<()> {
    writeln!(out, "{:<30}{:>11}{:>11}{:>11}{:>11}", counted(f.events, "event"), "p50", "p90", "p99", "max")?;
    let rows: [(&str, &PhaseSummary); 6] = [
        ("  queue", &f.ns.queue),
        ("  walk", &f.ns.walk),
        ("  destroy", &f.ns.destroy),
        ("  total", &f.ns.total),
        ("  until the owner has the error", &f.owner_ns.error),
        ("  until another server answers", &f.owner_ns.answer),
    ];
    for (name, p) in rows {
        let [p50, p90, p99, max] = [p.p50_ns, p.p90_ns, p.p99_ns, p.max_ns].map(duration);
        writeln!(out, "{name:<31}{p50:>10}{p90:>11}{p99:>11}{max:>11}")?;
    }
    Ok(())
}

fn times(n: u32) -> String {
    if n == 1 { "once".to_owned() } else { format!("{n} times") }
}
