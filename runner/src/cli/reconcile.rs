//! `skreap reconcile`

use std::io::{self, BufRead as _, IsTerminal as _};

use anyhow::{Context as _, anyhow};
use skreap::core::{Action, ActionName, Backend, Event, Network, Report, Request, VictimAction};

use super::action::{ACTION, ActionArgs, ToArg};
use super::client::{self, ClientArgs, DryRunArg};
use super::selector::{self, ExceptArgs, MEANT, PlaceArgs};
use super::text::counted;
use super::{Failure, complete, reap};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The living backends; without any they are read from stdin, one a line
    #[arg(value_name = "BACKEND", add = complete::backends())]
    backends: Vec<Backend>,
    #[command(flatten)]
    mode: DryRunArg,
    /// Do nothing if more than N sockets would be destroyed
    #[arg(long, value_name = "N")]
    max_victims: Option<u64>,
    /// Do not ask. Without it the victims are counted and shown first, and a terminal is needed
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    client: ClientArgs,
    /// Consider only sockets that are connected to addresses in these networks, as 10.0.0.0/8,fd00::/8. Needed if the
    /// service indexes the whole machine, unless --max-victims is given
    #[arg(long, value_name = "NETWORKS", value_delimiter = ',', help_heading = MEANT)]
    within: Vec<Network>,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    except: ExceptArgs,
    #[command(flatten, next_help_heading = ACTION)]
    action: ActionArgs,
    #[command(flatten)]
    to: ToArg,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let from_stdin = args.backends.is_empty();
    let victim_action = args.action.action(&args.to)?;
    // What only counts needs no yes.
    let asks = !args.yes && !args.mode.dry_run && victim_action != Some(VictimAction::None);
    if asks && (from_stdin || !io::stdin().is_terminal()) {
        return Err(Failure::Misused(anyhow!(
            "reconcile ends every connection to what is not named; see whose with --dry-run, then say --yes, or name \
             the backends on a terminal to be asked"
        )));
    }
    let backends = reap::each_once(&if from_stdin { read()? } else { args.backends.clone() });
    if backends.is_empty() {
        // It would mean every socket in the index.
        return Err(Failure::Misused(anyhow!("no living backend is named; name at least one")));
    }
    let subject = format!("not among {}", counted(backends.len() as u64, "living backend"));
    let action = Action::Reconcile { backends, within: args.within.clone(), max_victims: args.max_victims };
    let mut event = Event::new(client::id("reconcile"), action).with_dry_run(args.mode.dry_run);
    event.victim_action = victim_action;
    event.check_links().map_err(|e| Failure::Misused(e.into()))?;
    selector::restrict(&mut event, args.place.selector(), &args.except)?;
    let subject = subject + &selector::words(&event);
    if asks {
        let Some(shown) = confirmed(args, &event, &subject)? else {
            return Err(Failure::Failed(anyhow!("nothing was destroyed")));
        };
        // The yes was to that many; others may have connected since.
        if let Action::Reconcile { max_victims, .. } = &mut event.action {
            *max_victims = Some(shown);
        }
    }
    reap::send(&args.client, event, &subject)
}

/// Shows what would be destroyed and asks for a yes. Returns the number of victims it was said to.
fn confirmed(args: &Args, event: &Event, subject: &str) -> Result<Option<u64>, Failure> {
    let dry_run = event.clone().with_dry_run(true);
    let answer = args.client.connect()?.ask(&Request::Event(dry_run))?;
    let mut report = client::read::<Report>(&answer)?;
    // How many of which backend is what the decision is about.
    report.sockets = None;
    // The report of what is done then is alone on stdout.
    if args.client.json {
        reap::print(&mut io::stderr(), subject, &report)?;
    } else {
        reap::print(&mut io::stdout().lock(), subject, &report)?;
    }
    if report.guard.is_some_and(|guard| guard.refused) || report.error.is_some() {
        return Err(Failure::Reported);
    }
    if report.victims == 0 {
        return Ok(Some(0));
    }
    let verb = if report.victim_action == Some(ActionName::Move) { "Move or destroy" } else { "Destroy" };
    Ok(client::confirmed(&format!("{verb} them?"))?.then_some(report.victims))
}

/// Blank lines and what follows a `#` say nothing.
fn read() -> Result<Vec<Backend>, Failure> {
    let mut backends = Vec::new();
    for (number, line) in (1..).zip(io::stdin().lock().lines()) {
        let line = line.context("cannot read stdin")?;
        let text = line.split('#').next().unwrap_or_default().trim();
        if !text.is_empty() {
            let backend = text.parse::<Backend>();
            backends.push(backend.map_err(|e| Failure::Misused(anyhow!("line {number}: {e}")))?);
        }
    }
    Ok(backends)
}
