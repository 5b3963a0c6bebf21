//! `skreap status`

use std::io::{self, Write};
use std::time::Duration;

use skreap::core::{HeldStatus, Request};
use skreap::status::{EventResult, Status};

use super::client::{self, ClientArgs};
use super::text::{age, counted, duration, grouped, plural};
use super::{Failure, print_json};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let request = Request::Status { id: client::id("status") };
    let status = args.client.ask(&request, "status")?;
    if args.client.json {
        print_json(&status)?;
    } else {
        print(&mut io::stdout().lock(), &client::read(&status)?)?;
    }
    Ok(())
}

/// A name, and what there is to say about it.
fn row(out: &mut impl Write, name: &str, text: String) -> io::Result<()> {
    writeln!(out, "{name:<9} {text}")
}

fn print(out: &mut impl Write, s: &Status) -> io::Result<()> {
    print_service(out, s)?;
    print_index(out, s)?;
    print_events(out, s)?;
    print_clients(out, s)?;
    print_hooks(out, s)?;
    print_audit(out, s)
}

fn print_service(out: &mut impl Write, s: &Status) -> io::Result<()> {
    let up = age(Duration::from_nanos(s.uptime_ns));
    row(out, "service", format!("version {}, process {}, up {up}", s.version, s.pid))?;
    row(out, "engine", format!("{}: {}", s.engine, s.engine_why))?;
    row(out, "cgroup", format!("{} (unconnected UDP sockets: {})", s.cgroup, s.unconnected))?;
    if let Some(not_seen) = &s.not_seen {
        row(out, "not seen", not_seen.clone())?;
    }
    Ok(())
}

fn print_index(out: &mut impl Write, s: &Status) -> io::Result<()> {
    let c = &s.index.counters;
    let mib = s.index.map_bytes as f64 / f64::from(1 << 20);
    row(
        out,
        "index",
        format!("{} of {} memberships, {mib:.1} MiB", grouped(s.index.nodes), grouped(c.capacity)),
    )?;
    row(
        out,
        "",
        format!(
            "dropped {}, incomplete backends {}{}, stale {}",
            grouped(c.dropped_full + c.dropped_chain),
            grouped(s.index.incomplete_backends),
            if s.index.incomplete_everything { " and EVERYTHING" } else { "" },
            grouped(c.stale)
        ),
    )?;
    row(out, "", format!("inserts {}, removals {}, releases {}", c.inserts, c.removals, c.releases))?;
    if let Some(sockets) = &s.sockets {
        row(out, "", sockets.to_string())?;
    }
    if let Some(f) = &s.index.frontends {
        let ways =
            s.sockets.and_then(|sockets| sockets.frontends).map_or_else(String::new, |f| format!("; {f}"));
        row(out, "frontends", format!("{} of {} known{ways}", grouped(f.known), grouped(f.room)))?;
        row(
            out,
            "",
            format!(
                "calls of unknown ones: {} not first, {} no note, {} table full",
                f.not_first, f.no_note, f.table_full
            ),
        )?;
    }
    Ok(())
}

fn print_events(out: &mut impl Write, s: &Status) -> io::Result<()> {
    let t = &s.totals;
    let results = EventResult::ALL.map(|result| (result.name(), t.results(result)));
    let results: Vec<String> =
        results.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{} {name}", grouped(*n))).collect();
    let results = if results.is_empty() { String::new() } else { format!(" ({})", results.join(", ")) };
    let unconfirmed = match s.unconfirmed {
        0 => String::new(),
        n => format!(", {} to be confirmed", grouped(n)),
    };
    row(out, "events", format!("{}{results}, {} waiting{unconfirmed}", grouped(t.all_events()), s.waiting))?;
    print_sockets(out, s)?;
    if s.latency.count > 0 {
        let l = &s.latency.total;
        row(
            out,
            "latency",
            format!(
                "of the last {}: p50 {}, p99 {}, max {}",
                match s.latency.count {
                    1 => "event".to_owned(),
                    n => counted(n, "event"),
                },
                duration(l.p50_ns),
                duration(l.p99_ns),
                duration(l.max_ns)
            ),
        )?;
    }
    Ok(())
}

fn print_sockets(out: &mut impl Write, s: &Status) -> io::Result<()> {
    let t = &s.totals;
    row(
        out,
        "sockets",
        format!(
            "{} destroyed, {} skipped, {} failed",
            grouped(t.all_destroyed()),
            grouped(t.skipped.total()),
            grouped(t.all_failed())
        ),
    )?;
    let h = &s.held;
    if *h != HeldStatus::default() {
        row(
            out,
            "held",
            format!(
                "{} still waited for, {} destroyed late, {} closed meanwhile, {} {}",
                counted(h.waiting, "failed socket"),
                grouped(h.late_destroyed),
                grouped(h.late_gone),
                counted(h.given_up, "thread"),
                plural(h.given_up, "waits", "wait")
            ),
        )?;
    }
    let (moved, revived) = (&t.moved, &t.revived);
    if moved.sockets + revived.sockets > 0 {
        row(
            out,
            "",
            format!(
                "{} of {} moved, {} of {} that were looked at again revived",
                grouped(moved.moved),
                grouped(moved.sockets),
                grouped(revived.revived),
                grouped(revived.sockets)
            ),
        )?;
    }
    for (rule, actions) in &t.rules {
        let actions: Vec<String> =
            actions.iter().map(|(action, n)| format!("{} {action}", grouped(*n))).collect();
        row(out, "rule", format!("{rule}: {}", actions.join(", ")))?;
    }
    Ok(())
}

fn print_clients(out: &mut impl Write, s: &Status) -> io::Result<()> {
    let k = &s.clients;
    row(
        out,
        "clients",
        format!(
            "{} connected, {} since the start, {} rejected, {} refused",
            k.connected,
            grouped(k.accepted),
            grouped(k.refused_uid + k.refused_full),
            counted(k.refused_lines, "line")
        ),
    )?;
    Ok(())
}

fn print_hooks(out: &mut impl Write, s: &Status) -> io::Result<()> {
    if s.hooks.iter().any(|hook| hook.runs > 0) {
        for hook in s.hooks.iter().filter(|hook| hook.runs > 0) {
            let each = hook.run_time_ns / hook.runs;
            row(out, "hook", format!("{}: {}, {each} ns each", hook.hook, counted(hook.runs, "run")))?;
        }
    } else {
        row(out, "hooks", "cost not known: sysctl kernel.bpf_stats_enabled is 0".to_owned())?;
    }
    if let Some(order) = &s.order {
        let place = if order.last { "last" } else { "NOT last: each event takes a pass over the index" };
        row(
            out,
            "order",
            format!(
                "our hooks are {place}; moved {}, held back {}, sockets re-keyed {}",
                order.moves, order.held_back, order.rekeyed
            ),
        )?;
        if order.detached > 0 {
            row(
                out,
                "DETACHED",
                format!(
                    "{} of our hooks {} taken away: start again",
                    order.detached,
                    plural(order.detached, "was", "were")
                ),
            )?;
        }
    }
    Ok(())
}

fn print_audit(out: &mut impl Write, s: &Status) -> io::Result<()> {
    if let Some(audit) = &s.audit {
        let ago = age(Duration::from_nanos(audit.age_ns));
        row(
            out,
            "audit",
            format!(
                "{} {ago} ago (missed {}, stale {}, wrong key {}; no room {}, pre-existing {}, undecided {}); \
                 {}",
                counted(audit.differences(), "difference"),
                audit.missed,
                audit.stale,
                audit.wrong_key,
                audit.incomplete,
                audit.preexisting,
                audit.undecided,
                counted(audit.runs, "run")
            ),
        )?;
    }
    Ok(())
}
