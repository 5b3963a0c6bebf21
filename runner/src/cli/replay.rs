//! `skreap replay`

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use serde::Deserialize;
use serde_json::value::RawValue;
use skreap::core::{Event, Report, Request};

use super::text::{counted, grouped};
use super::{Failure, SocketArg, client, print_json};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A file that `serve --audit-log` has written
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Only the event of this id
    #[arg(long, value_name = "ID")]
    event: Option<String>,
    /// Show what the events would destroy now, and destroy nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask. Without it the victims are counted and shown first, and a terminal is needed
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    socket: SocketArg,
    /// Print the reports as JSON objects, one a line
    #[arg(long)]
    json: bool,
}

/// A line of the log, as far as it is read back.
#[derive(Deserialize)]
struct Line<'a> {
    kind: String,
    #[serde(default)]
    destroyed: u64,
    #[serde(default)]
    lines: u64,
    #[serde(default, borrow)]
    request: Option<&'a RawValue>,
}

/// An event of the log.
struct Past {
    event: Event,
    /// Sockets that it destroyed then.
    destroyed: u64,
}

/// What a log has.
#[derive(Default)]
struct Log {
    past: Vec<Past>,
    /// Lines that it says are missing: events may be among them.
    dropped: u64,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let asks = !args.yes && !args.dry_run;
    if asks && !io::stdin().is_terminal() {
        return Err(Failure::Misused(anyhow!(
            "replay destroys sockets; see which with --dry-run, then say --yes, or use a terminal to be asked"
        )));
    }
    let log = read(&args.file, args.event.as_deref())?;
    if log.dropped > 0 {
        writeln!(
            io::stderr(),
            "skreap: {} of the log were dropped when it was written",
            counted(log.dropped, "line")
        )?;
    }
    if log.past.is_empty() {
        return Err(Failure::Failed(anyhow!("{}: no such event", args.file.display())));
    }
    if !asks {
        return send(args, &log.past, args.dry_run, args.json).map(drop);
    }
    let victims = send(args, &log.past, true, false)?;
    if victims > 0 {
        write!(io::stderr(), "Destroy {}? [y/N] ", counted(victims, "socket"))?;
        io::stderr().flush()?;
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).context("cannot read the terminal")?;
        if !matches!(line.trim(), "y" | "Y" | "yes") {
            return Err(Failure::Failed(anyhow!("nothing was destroyed")));
        }
    }
    send(args, &log.past, false, args.json).map(drop)
}

/// Sends the events, one after the other; returns the number of victims.
fn send(args: &Args, past: &[Past], dry_run: bool, json: bool) -> Result<u64, Failure> {
    let mut session = client::Session::connect(&args.socket.path())?;
    let (mut victims, mut bad) = (0, false);
    for Past { event, destroyed } in past {
        let event = event.clone().with_dry_run(dry_run);
        let answer = session.ask(&Request::Event(event.clone()))?;
        let report = Report::deserialize(&answer).context("cannot read the report")?;
        victims += report.victims;
        bad |= report.error.is_some() || !report.complete || report.failed.total() > 0;
        if json {
            print_json(&answer)?;
        } else {
            print(&report, *destroyed)?;
        }
    }
    if bad { Err(Failure::Reported) } else { Ok(victims) }
}

fn print(report: &Report, then: u64) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let Report { id, victims, destroyed, dry_run, .. } = report;
    let now = if *dry_run {
        format!("{} would be now", grouped(*victims))
    } else {
        format!("{} of {} now", grouped(*destroyed), grouped(*victims))
    };
    writeln!(out, "{id} ({}): {} destroyed then, {now}", report.action.name(), counted(then, "socket"))?;
    if let Some(error) = &report.error {
        writeln!(out, "  {error}")?;
    }
    for socket in report.sockets.iter().flatten() {
        writeln!(out, "  {socket}")?;
    }
    for failure in report.failed.sockets() {
        writeln!(out, "  FAILED {failure}")?;
    }
    for why in &report.incomplete_because {
        writeln!(out, "  INCOMPLETE: {why}")?;
    }
    Ok(())
}

fn read(path: &Path, only: Option<&str>) -> Result<Log, Failure> {
    let name = path.display();
    let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
    let mut log = Log::default();
    for (number, text) in (1..).zip(BufReader::new(file).lines()) {
        let text = text.with_context(|| format!("cannot read {name}"))?;
        let line: Line<'_> = serde_json::from_str(&text)
            .with_context(|| format!("{name}, line {number}: no line of an audit log"))?;
        log.dropped += line.lines;
        let Some(request) = line.request.filter(|_| line.kind == "event") else { continue };
        let request = Request::parse(request.get().as_bytes(), number);
        let Request::Event(event) = request.map_err(|e| anyhow!("{name}, line {number}: {}", e.message))?
        else {
            continue;
        };
        if only.is_none_or(|id| id == event.id) {
            log.past.push(Past { event, destroyed: line.destroyed });
        }
    }
    Ok(log)
}
