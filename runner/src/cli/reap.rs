//! `skreap reap`

use std::io::{self, Write as _};

use anyhow::Context as _;
use serde::Deserialize as _;
use skreap::core::{Action, Backend, Event, Report, Request};

use super::{Failure, SocketArg, client, print_json};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The deleted backend, as udp://10.0.0.1:53 or tcp://[fd00::1]:80
    backend: Backend,
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
    let event = Event {
        id: client::id("reap"),
        action: Action::BackendDeleted { backend: args.backend },
        dry_run: args.dry_run,
    };
    let answer = client::ask(&args.socket.path(), &Request::Event(event))?;
    let report = Report::deserialize(&answer).context("cannot read the report")?;
    if args.json {
        print_json(&answer)?;
    } else {
        print(args.backend, &report)?;
    }
    if report.error.is_some() || report.failed.total() > 0 || !report.complete {
        return Err(Failure::Reported);
    }
    Ok(())
}

fn print(backend: Backend, report: &Report) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if let Some(error) = &report.error {
        return writeln!(out, "{backend}: {error}");
    }
    let ms = |ns: u64| ns as f64 / 1e6;
    if report.dry_run {
        writeln!(out, "{backend}: {} sockets would be destroyed", report.victims)?;
        for socket in report.sockets.iter().flatten() {
            writeln!(out, "  {socket}")?;
        }
    } else {
        writeln!(
            out,
            "{backend}: {} of {} sockets destroyed by engine {} in {:.3} ms (walk {:.3}, destroy {:.3})",
            report.destroyed,
            report.victims,
            report.engine,
            ms(report.ns.total_ns),
            ms(report.ns.walk_ns),
            ms(report.ns.destroy_ns),
        )?;
    }
    let s = &report.skipped;
    for (n, why) in [
        (s.unconnected, "unconnected, preserved"),
        (s.moved_on, "connected to another peer by now"),
        (s.no_peer, "without a peer"),
        (s.state, "in a TCP state that cannot be destroyed"),
        (s.stale, "STALE: the index missed a close"),
        (s.gone, "closed by their owner meanwhile"),
    ] {
        if n > 0 {
            writeln!(out, "  skipped {n}: {why}")?;
        }
    }
    for failure in report.failed.sockets() {
        writeln!(out, "  FAILED {failure}")?;
    }
    if report.failed.left_out() > 0 {
        writeln!(out, "  FAILED {} more", report.failed.left_out())?;
    }
    for why in &report.incomplete_because {
        writeln!(out, "  INCOMPLETE: {why}; sockets of this backend may have been missed")?;
    }
    Ok(())
}
