//! `skreap replay`

mod log;

use std::collections::HashSet;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;

use anyhow::anyhow;
use skreap::core::{ActionName, Report, Request};

use super::client::{self, ClientArgs};
use super::reap::print_later;
use super::text::{counted, grouped};
use super::{Failure, print_json};
use log::{Log, Past};

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
    client: ClientArgs,
}

/// Sockets that events would destroy.
#[derive(Debug, Default)]
struct Victims {
    cookies: HashSet<u64>,
    /// Those that no report lists.
    unlisted: u64,
    /// Some of them would be moved.
    moves: bool,
}

impl Victims {
    /// A socket is one, however many events name it.
    fn add(&mut self, report: &Report) {
        if report.victim_action == Some(ActionName::None) {
            return;
        }
        let listed = report.sockets.as_deref().unwrap_or_default();
        self.cookies.extend(listed.iter().map(|socket| socket.cookie));
        self.unlisted += report.victims.saturating_sub(listed.len() as u64);
        self.moves |= report.victim_action == Some(ActionName::Move);
    }

    fn count(&self) -> u64 {
        self.cookies.len() as u64 + self.unlisted
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let asks = !args.yes && !args.dry_run;
    if asks && !io::stdin().is_terminal() {
        return Err(Failure::Misused(anyhow!(
            "replay destroys sockets; see which with --dry-run, then say --yes, or use a terminal to be asked"
        )));
    }
    let log = log::read(&args.file, args.event.as_deref())?;
    if log.dropped > 0 {
        let lines = counted(log.dropped, "line");
        writeln!(io::stderr(), "skreap: {lines} of the log were dropped when it was written")?;
    }
    say_left_out(&log)?;
    if log.past.is_empty() {
        let why = if log.found { "nothing is left to be done again" } else { "no such event" };
        return Err(Failure::Failed(anyhow!("{}: {why}", args.file.display())));
    }
    if !asks {
        return send(args, &log.past, args.dry_run, args.client.json).map(drop);
    }
    let victims = send(args, &log.past, true, false)?;
    if victims.count() > 0 {
        let verb = if victims.moves { "Move or destroy" } else { "Destroy" };
        if !client::confirmed(&format!("{verb} {}?", counted(victims.count(), "socket")))? {
            return Err(Failure::Failed(anyhow!("nothing was destroyed")));
        }
    }
    send(args, &log.past, false, args.client.json).map(drop)
}

/// Says which events are not sent again, and why.
fn say_left_out(log: &Log) -> io::Result<()> {
    let unreadable = match &log.first_unreadable {
        Some((number, why)) => format!(": # that cannot be read, first line {number}: {why}"),
        None => String::new(),
    };
    let mut err = io::stderr().lock();
    for (n, thing, what) in [
        (log.unreadable, "line", unreadable.as_str()),
        (log.cancelled, "deletion", ": # taken back before the confirmation"),
        (log.partly_cancelled, "event", " of #: the backends that were added again before the confirmation"),
        (log.added, "event", ": # of type backend-added, which would take back what waits now"),
    ] {
        if n > 0 {
            writeln!(err, "skreap: left out{}", what.replacen('#', &counted(n, thing), 1))?;
        }
    }
    Ok(())
}

/// Sends the events, one after the other; returns their victims.
fn send(args: &Args, past: &[Past], dry_run: bool, json: bool) -> Result<Victims, Failure> {
    let mut session = args.client.connect()?;
    let (mut victims, mut bad, mut reviving) = (Victims::default(), false, 0_usize);
    for Past { event, destroyed } in past {
        let event = event.clone().with_dry_run(dry_run);
        let answer = session.ask(&Request::Event(event))?;
        let report = client::read::<Report>(&answer)?;
        victims.add(&report);
        bad |= report.error.is_some() || !report.complete || report.failed.total() > 0;
        reviving += usize::from(report.reviving.is_some());
        if json {
            print_json(&answer)?;
        } else {
            print(&report, *destroyed)?;
        }
    }
    for _ in 0..reviving {
        let later = session.later()?;
        print_later(&later, later["id"].as_str().unwrap_or_default(), json)?;
    }
    if bad { Err(Failure::Reported) } else { Ok(victims) }
}

fn print(report: &Report, then: u64) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let Report { id, victims, destroyed, dry_run, .. } = report;
    let now = if report.victim_action == Some(ActionName::None) {
        format!("{} counted now", grouped(*victims))
    } else if *dry_run {
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
