//! `skreap reap`

use std::collections::HashSet;
use std::io::{self, Write};
use std::net::SocketAddr;

use anyhow::{Context as _, anyhow};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Deserialize as _;
use serde_json::Value;
use skreap::core::{
    Action, ActionName, Backend, CgroupName, Event, FallbackReason, Frontend, Radius, Report, Request,
    Revived, RuleCount, SocketTuple, Through, UnknownFrontend, VictimAction,
};

use super::action::{ACTION, ActionArgs, ToArg};
use super::client::{self, ClientArgs, DryRunArg};
use super::once::{self, OnceArgs};
use super::selector::{self, ExceptArgs, PlaceArgs};
use super::text::{counted, grouped};
use super::{Failure, complete, netns, print_json};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The deleted backends, as udp://10.0.0.1:53 or tcp://[fd00::1]:80
    #[arg(required = true, value_name = "BACKEND", add = complete::backends())]
    backends: Vec<Backend>,
    #[command(flatten)]
    mode: DryRunArg,
    #[command(flatten)]
    client: ClientArgs,
    #[command(flatten)]
    place: PlaceArgs,
    /// Only clients that named this address, which a load balancer has translated, as udp://10.96.0.10:53; or `direct`:
    /// those that named the backend itself. May be given more than once. Needs `serve --frontends`
    #[arg(long, value_name = "FRONTEND", conflicts_with = "once")]
    frontend: Vec<Frontend>,
    /// What is done with clients of which it is not known what they named
    #[arg(long, value_name = "POLICY", requires = "frontend", default_value_t = UnknownFrontend::Preserve,
          value_parser = unknown_frontend())]
    unknown_frontend: UnknownFrontend,
    #[command(flatten)]
    except: ExceptArgs,
    #[command(flatten, next_help_heading = ACTION)]
    action: ActionArgs,
    #[command(flatten)]
    to: ToArg,
    #[command(flatten)]
    once: OnceArgs,
}

fn unknown_frontend() -> impl TypedValueParser<Value = UnknownFrontend> {
    let names = UnknownFrontend::ALL.map(UnknownFrontend::name);
    PossibleValuesParser::new(names).try_map(|name| name.parse::<UnknownFrontend>())
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let backends = each_once(&args.backends);
    let (action, subject) = match backends[..] {
        [backend] => (Action::BackendDeleted { backend }, backend.to_string()),
        _ => {
            let subject = counted(backends.len() as u64, "backend");
            (Action::BackendsDeleted { backends }, subject)
        }
    };
    let mut event = Event::new(client::id("reap"), action).with_dry_run(args.mode.dry_run);
    restrict(args, &mut event)?;
    let subject = subject + &selector::words(&event);
    event.victim_action = args.action.action(&args.to)?;
    event.check_action().map_err(|e| Failure::Misused(e.into()))?;
    if args.once.once && matches!(event.victim_action, Some(VictimAction::Revive(_))) {
        let message = "--once ends before sockets are looked at again; use a service, or leave --action out";
        return Err(Failure::Misused(anyhow!(message)));
    }
    event.through = Through { frontends: args.frontend.clone(), unknown: args.unknown_frontend };
    event.check_links().map_err(|e| Failure::Misused(e.into()))?;
    event.check_through().map_err(|e| Failure::Misused(e.into()))?;
    if args.once.once {
        return match once::run(&args.once, args.place.cgroup.as_ref(), &event)? {
            Some(report) => conclude(&report, &subject, args.client.json),
            None => Ok(()),
        };
    }
    send(&args.client, event, &subject)
}

/// Says of which sockets of its backends the event is. The netns of a link-local backend belongs to its link; and without a
/// service the path of a cgroup says which sockets are indexed at all.
fn restrict(args: &Args, event: &mut Event) -> Result<(), Failure> {
    let mut wanted = args.place.selector();
    let gone = event.action.gone();
    if let Some(on_link) = gone.iter().find(|backend| backend.is_link_local()) {
        if let Some(plain) = gone.iter().find(|backend| !backend.is_link_local() && wanted.netns.is_some()) {
            return Err(Failure::Misused(anyhow!(
                "--netns says where the link of {on_link} is, and which sockets of {plain} are meant: reap the two one after \
                 the other"
            )));
        }
        let file = wanted.netns.take().map(|netns| netns::file_of(&netns)).transpose();
        event.netns = file.map_err(Failure::Misused)?;
    }
    if args.once.once && matches!(wanted.cgroup, Some(CgroupName::Path(_))) {
        wanted.cgroup = None;
    }
    selector::restrict(event, wanted, &args.except)
}

/// The backends in their order, without those that were named before.
pub(super) fn each_once(backends: &[Backend]) -> Vec<Backend> {
    let mut seen = HashSet::new();
    backends.iter().copied().filter(|backend| seen.insert(*backend)).collect()
}

/// Sends an event and prints its report.
pub(super) fn send(client: &ClientArgs, event: Event, subject: &str) -> Result<(), Failure> {
    let mut session = client.connect()?;
    let answer = session.ask(&Request::Event(event))?;
    let concluded = conclude(&answer, subject, client.json);
    if answer.get("reviving").is_some() {
        print_later(&session.later()?, subject, client.json)?;
    }
    concluded
}

/// Prints what came of destroyed sockets some seconds later.
pub(super) fn print_later(later: &Value, subject: &str, json: bool) -> anyhow::Result<()> {
    if json { print_json(later) } else { print_revived(&mut io::stdout().lock(), subject, later) }
}

/// Prints a report; what went wrong is a failure.
fn conclude(answer: &Value, subject: &str, json: bool) -> Result<(), Failure> {
    let report = client::read::<Report>(answer)?;
    let printed = if json {
        print_json(answer)
    } else {
        print(&mut io::stdout().lock(), subject, &report).map_err(Into::into)
    };
    let refused = report.guard.is_some_and(|guard| guard.refused);
    // Also if nobody reads it: the exit code is for scripts.
    if refused || report.error.is_some() || report.failed.total() > 0 || !report.complete {
        return Err(Failure::Reported);
    }
    Ok(printed?)
}

pub(super) fn print(out: &mut impl Write, subject: &str, report: &Report) -> io::Result<()> {
    if let Some(error) = &report.error {
        return writeln!(out, "{subject}: {error}");
    }
    print_result(out, subject, report)?;
    for b in &report.by_backend {
        if report.dry_run {
            writeln!(out, "  {}: {} {}", b.backend, b.victims, would_be(report))?;
        } else {
            writeln!(out, "  {}: {} of {} destroyed", b.backend, b.destroyed, b.victims)?;
        }
    }
    for (backend, id) in &report.merged {
        writeln!(out, "  {backend}: done with event {id}")?;
    }
    if let Some(radius) = report.radius.as_ref().filter(|_| report.victims > 0) {
        print_radius(out, radius)?;
    }
    if let Some(sockets) = report.sockets.as_ref().filter(|sockets| !sockets.is_empty()) {
        writeln!(out, "{}", table(sockets).trim_fmt())?;
    }
    print_fallbacks(out, report)?;
    for RuleCount { rule, action, sockets, .. } in &report.rules {
        let rule = rule.as_ref().map_or_else(|| "no rule".to_owned(), |name| format!("rule {name:?}"));
        writeln!(out, "  {rule}: {action} {}", counted(*sockets, "socket"))?;
    }
    for backend in &report.stateful {
        writeln!(out, "  {backend}: destroyed, as its port is of a protocol whose two ends share state")?;
    }
    if let Some(moved) = &report.moved {
        writeln!(out, "  {} of {} moved", moved.moved, counted(moved.sockets, "UDP socket"))?;
        for (reason, n) in &moved.not_moved {
            writeln!(out, "    {n} not: {reason}")?;
        }
    }
    print_skipped(out, report)?;
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

/// The words for the victims of a dry run, or of an event that only counts them.
const fn would_be(report: &Report) -> &'static str {
    match report.victim_action {
        Some(ActionName::None) => "counted",
        Some(ActionName::Move) => "would be moved or destroyed",
        Some(ActionName::Revive) => "would be destroyed and revived",
        _ => "would be destroyed",
    }
}

fn print_result(out: &mut impl Write, subject: &str, report: &Report) -> io::Result<()> {
    let ms = |ns: u64| ns as f64 / 1e6;
    if report.dry_run {
        writeln!(out, "{subject}: {} {}", counted(report.victims, "socket"), would_be(report))?;
        if let Some(guard) = report.guard.filter(|guard| guard.refused) {
            let refusal = guard.refusal(guard.found.unwrap_or(report.victims)).unwrap_or_default();
            writeln!(out, "  WOULD BE {refusal}")?;
        }
    } else {
        writeln!(
            out,
            "{subject}: {} of {} destroyed by engine {} in {:.3} ms (walk {:.3}, destroy {:.3})",
            grouped(report.destroyed),
            counted(report.victims, "socket"),
            report.engine,
            ms(report.ns.total_ns),
            ms(report.ns.walk_ns),
            ms(report.ns.destroy_ns),
        )?;
    }
    Ok(())
}

/// How many sockets of what, those with the most first.
fn print_radius(out: &mut impl Write, radius: &Radius) -> io::Result<()> {
    const NAMED: usize = 5;
    for (what, by) in [
        ("cgroup", &radius.cgroup),
        ("netns", &radius.netns),
        ("backend", &radius.backend),
        ("process", &radius.command),
        ("what is not allowed", &radius.not_allowed),
    ] {
        let mut largest: Vec<(&String, &u64)> = by.iter().collect();
        largest.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
        let named: Vec<String> =
            largest.iter().take(NAMED).map(|(name, n)| format!("{name} ({n})")).collect();
        let more = by.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        if !named.is_empty() {
            writeln!(out, "  by {what}: {}{more}", named.join(", "))?;
        }
    }
    Ok(())
}

/// What another engine had to do, and what nobody can do yet.
fn print_fallbacks(out: &mut impl Write, report: &Report) -> io::Result<()> {
    for f in &report.fallbacks {
        let why = match f.because {
            FallbackReason::IndexFull => "the index had no room for them",
            FallbackReason::IndexUnsure => "the index may lack sockets of any backend",
            FallbackReason::HookOrder => "they may be recorded under a virtual address",
            FallbackReason::NoExactId => "they have no exact id",
            FallbackReason::KernelSockets => "the kernel has opened them, for MPTCP sockets of programs",
            _ => "the first engine could not",
        };
        writeln!(out, "  {} of these by engine {}: {why}", f.victims, f.engine)?;
    }
    if report.frontend_unknown > 0 {
        writeln!(out, "  {} of these not known through which frontend", report.frontend_unknown)?;
    }
    if report.pending_elsewhere > 0 {
        writeln!(
            out,
            "  {} connected to another peer: moved there, or a connect() to this backend has failed",
            report.pending_elsewhere
        )?;
    }
    let pending = report.pending.saturating_sub(report.pending_elsewhere);
    if pending > 0 {
        writeln!(out, "  {} not connected yet, or never: a connect() of theirs has had no effect", pending)?;
    }
    Ok(())
}

fn print_revived(out: &mut impl Write, subject: &str, later: &Value) -> anyhow::Result<()> {
    let revived = later.get("revived").context("not what came of destroyed sockets")?;
    let revived = Revived::deserialize(revived).context("cannot read what came of destroyed sockets")?;
    writeln!(out, "{subject}: {} of {} revived", revived.revived, counted(revived.sockets, "socket"))?;
    for (n, what) in [
        (revived.healed, "connected again by their owners"),
        (revived.overtaken, "connected by their owners at the same moment"),
        (revived.closed, "closed"),
        (revived.changed, "used without a peer by their owners"),
        (revived.unreachable, "open in no process"),
        (revived.nowhere, "without a destination of their address family"),
        (revived.lost, "not looked at, as the service ended or too many were waiting"),
    ] {
        if n > 0 {
            writeln!(out, "  {n} {what}")?;
        }
    }
    for (errno, n) in &revived.failed {
        writeln!(out, "  {n} failed: {errno}")?;
    }
    Ok(())
}

fn print_skipped(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let s = &report.skipped;
    for (n, why) in [
        (s.unconnected, "unconnected, preserved"),
        (s.moved_on, "connected to another peer by now"),
        (s.no_peer, "without a peer"),
        (s.state, "in a TCP state that cannot be destroyed"),
        (s.stale, "STALE: the index missed a close"),
        (s.gone, "closed by their owner meanwhile"),
        (s.other_link, "on another link"),
        (s.frontend, "came through another frontend"),
        (s.frontend_unknown, "not known through which frontend, preserved"),
        (s.not_selected, "not selected, or excepted"),
        (s.spared, "spared by a rule"),
        (s.kernel, "the kernel's own"),
        (s.accepted, "the server's side of a connection"),
    ] {
        if n > 0 {
            writeln!(out, "  skipped {n}: {why}")?;
        }
    }
    Ok(())
}

/// Victims, and whose they are as far as it was found; with their frontends where those are recorded.
fn table(sockets: &[SocketTuple]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    let frontends = sockets.iter().any(|socket| socket.frontend.is_some());
    let mut head = vec!["  SOCKET", "PEER", "STATE", "NETNS", "CGROUP", "UID", "PID", "COMMAND"];
    if frontends {
        head.insert(2, "FRONTEND");
    }
    table.set_header(head);
    for socket in sockets {
        let whose = socket.attribution.as_deref().cloned().unwrap_or_default();
        let known = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let mut row = vec![
            format!("  {} {}", socket.protocol, SocketAddr::new(socket.saddr, socket.sport)),
            SocketAddr::new(socket.daddr, socket.dport).to_string(),
            socket.state.to_string(),
            whose.netns_name.unwrap_or_else(|| socket.netns_inum.to_string()),
            known(whose.cgroup),
            known(whose.uid.map(|uid| uid.to_string())),
            known(whose.pid.map(|pid| pid.to_string())),
            known(whose.command),
        ];
        if frontends {
            row.insert(2, known(socket.frontend.clone()));
        }
        table.add_row(row);
    }
    table
}
