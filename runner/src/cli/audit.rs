//! `skreap audit`

use std::io::{self, Write as _};

use skreap::audit::{Audit, Kind};
use skreap::core::Request;

use super::client::{self, ClientArgs};
use super::text::{counted, plural};
use super::{Failure, print_json};

pub(super) const EXIT_CODES: &str = "\
The index lives in the running `serve`, so an audit needs one. The recorded sockets are compared with the sockets that \
sock_diag shows. A difference is reported only if it holds in repeated scans, so sockets that open or close meanwhile do \
not count. Sockets for which the index had no room are listed as incomplete; they are not differences, because reports \
mention them too.

Exit codes: 0 done, 1 failed or the index is not right, 2 wrong usage, 3 not possible on this kernel or with these privileges.";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let request = Request::Audit { id: client::id("audit") };
    let value = args.client.ask(&request, "audit")?;
    let audit: Audit = client::read(&value)?;
    let printed = if args.client.json { print_json(&value) } else { print(&audit).map_err(Into::into) };
    // Also if nobody reads it: the exit code is for scripts.
    if audit.agrees && audit.complete { Ok(printed?) } else { Err(Failure::Reported) }
}

fn print(audit: &Audit) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let verdict = if audit.agrees { "the index agrees with the sockets" } else { "the index is NOT RIGHT" };
    writeln!(
        out,
        "{verdict}: {} of {} in {} netns, {} ({:.1} ms, {})",
        counted(audit.sockets, "client socket"),
        counted(audit.backends, "backend"),
        audit.netns,
        counted(audit.nodes, "node"),
        audit.ns as f64 / 1e6,
        counted(audit.looks.into(), "look")
    )?;
    for kind in Kind::ALL {
        let (n, what) = (audit.count(kind), meaning(kind));
        if n > 0 {
            writeln!(out, "{n} {kind}: {what}")?;
            for difference in audit.differences.iter().filter(|d| d.kind == kind) {
                write!(out, "  {}", difference.socket)?;
                if kind == Kind::WrongKey {
                    write!(out, ", recorded under {}", difference.recorded_list())?;
                }
                writeln!(out)?;
            }
        }
    }
    if audit.left_out > 0 {
        writeln!(out, "{} more {} not listed", audit.left_out, plural(audit.left_out, "is", "are"))?;
    }
    if !audit.complete {
        writeln!(
            out,
            "{} netns could not be checked; the log of the service says why",
            audit.unreachable_netns
        )?;
    }
    if let Some(frontends) = &audit.frontends {
        writeln!(out, "frontends: {frontends}")?;
    }
    for (n, what) in [
        (audit.accepted, "TCP # accepted by a listener, not counted as clients"),
        (audit.preexisting, "# pre-existing"),
        (audit.kernel, "# of the kernel's own"),
        (audit.undecided, "# whose membership in the index is undecided"),
    ] {
        if n > 0 {
            let what = what.replace('#', plural(n, "socket", "sockets"));
            writeln!(out, "not compared: {n} {what}")?;
        }
    }
    Ok(())
}

fn meaning(kind: Kind) -> &'static str {
    match kind {
        Kind::Missed => "not in the index; an event on their backend would not reach them",
        Kind::WrongKey => {
            "in the index under another backend only; check whether a load balancer runs after the hooks"
        }
        Kind::Stale => "in the index without a socket",
        Kind::Incomplete => {
            "not in the index because it was full; events on their backend are reported as incomplete"
        }
    }
}
