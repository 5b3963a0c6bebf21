//! `skreap reconcile`

use std::io::{self, BufRead as _};

use anyhow::{Context as _, anyhow};
use skreap::core::{Action, Backend, Event};

use super::{Failure, SocketArg, client, reap};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The living backends; without any they are read from stdin, one a line
    #[arg(value_name = "BACKEND")]
    backends: Vec<Backend>,
    /// List the victims and destroy nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    socket: SocketArg,
    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let backends = if args.backends.is_empty() { read()? } else { args.backends.clone() };
    if backends.is_empty() {
        // It would mean every socket in the index.
        return Err(Failure::Misused(anyhow!("no living backend is named; name at least one")));
    }
    let subject = format!("not among {} living backends", backends.len());
    let action = Action::Reconcile { backends };
    let event = Event { id: client::id("reconcile"), action, dry_run: args.dry_run };
    reap::tell(&args.socket, event, &subject, args.json)
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
