//! `skreap-bench experiment unreachable-route`: the alternative in the SOCKHASH RFC's discussion;
//! `experiment notify`: an ICMP port unreachable to each client of UDP ([`notify`]).
//!
//! ```text
//!  ┌─ netns of the clients ─┐          ┌─ netns of the backend ─┐
//!  │ 10.97.0.2/24 on veth ──┼──────────┼── veth on 10.97.0.1/24 │
//!  └────────────────────────┘          └────────────────────────┘
//! ```
//!
//! Four clients talk to the backend: one that sends all the time and one that waits for a response,
//! over TCP and over UDP. The backend falls silent. Then the remedy is tried: an unreachable route to the backend
//! in the clients' netns, or the messages. In a second world like the first the clients are reaped.

mod notify;
mod watch;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use skreap::bpf::hooks::Hooks;
use skreap::bpf::{Config, Index};
use skreap::choice::{self, EngineChoice};
use skreap::core::{Backend, EngineName, Protocol, Target, Unconnected};
use skreap::engine::{Chosen, EngineOptions};
use skreap_testbed::{
    Cgroup, Client, Echo, Family, Mode, Netns, Op, OpenSpec, Reply, Selection, SocketState, SpawnOptions,
};

use crate::machine::Machine;
use crate::stop::Stop;

use watch::{Habit, Seen};

const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 97, 0, 2);
const BACKEND: Ipv4Addr = Ipv4Addr::new(10, 97, 0, 1);
const PORT: u16 = 5353;
/// How long an exchange may take while the backend is well.
const GREETING_MS: u64 = 5_000;

/// Options of the command.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// How long the clients are watched.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=120))]
    seconds: u32,
}

/// The remedy for the silent backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Remedy {
    /// `ip route add unreachable BACKEND`.
    UnreachableRoute,
    /// An ICMP port unreachable to each client of UDP, as if from the backend. One for TCP would have to name a sequence
    /// number that its client has under way.
    Notify,
    /// A reap by engine netlink.
    Reap,
}

/// The errors that one client saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The remedy.
    pub remedy: Remedy,
    /// The client's protocol.
    pub protocol: Protocol,
    /// The client's activity.
    pub habit: Habit,
    /// Its first error of a send; `None` if it saw none.
    pub send: Option<Seen>,
    /// Its first error, or end of stream, of a receive; `None` if it saw none.
    pub receive: Option<Seen>,
    /// Whether its socket is connected to the backend in the end.
    pub connected: bool,
}

/// The JSON output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Where it was run.
    pub machine: Machine,
    /// How long the clients were watched after the remedy.
    pub watched_s: u32,
    /// Client by client.
    pub cases: Vec<Row>,
}

/// Tries this remedy and a reap, and prints.
///
/// # Errors
/// When a world cannot be built, or the user stops.
pub fn run(remedy: Remedy, options: &Options, stop: &Stop) -> Result<()> {
    let watch = Duration::from_secs(options.seconds.into());
    let mut cases = Vec::new();
    for remedy in [remedy, Remedy::Reap] {
        stop.check()?;
        cases.extend(try_out(remedy, watch)?);
    }
    let report = Report { machine: Machine::here(), watched_s: options.seconds, cases };
    if options.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", text(&report));
    }
    Ok(())
}

fn try_out(remedy: Remedy, watch: Duration) -> Result<Vec<Row>> {
    let (near, far) = (Netns::create("clients")?, Netns::create("backend")?);
    near.join("veth0", CLIENTS.into(), &far, BACKEND.into(), 24)?;
    let cgroup = Cgroup::create("experiment")?;
    let index = Index::load(&Config::default().max_sockets(64))?;
    let _hooks = Hooks::attach(&index, cgroup.open()?.as_fd())?;
    let addr = SocketAddr::new(IpAddr::V4(BACKEND), PORT);
    let backends = [Protocol::Tcp, Protocol::Udp]
        .into_iter()
        .map(|protocol| Echo::start(protocol, addr, &[&far], Mode::Echo))
        .collect::<Result<Vec<_>>>()?;

    let mut clients = clients(&cgroup, &near, addr)?;
    backends.iter().for_each(|backend| backend.set_mode(Mode::Silent));

    let mut to_notify = Vec::new();
    for (protocol, _, client, socket) in &mut clients {
        let local = state(client, *socket)?.local;
        to_notify.extend(local.filter(|_| *protocol == Protocol::Udp));
    }
    let watched = thread::scope(|scope| {
        let watchers: Vec<_> = clients
            .iter_mut()
            .map(|(_, habit, client, socket)| {
                let (habit, socket) = (*habit, *socket);
                // Those that wait are in their receive when it happens.
                scope.spawn(move || watch::watch(client, socket, habit, watch))
            })
            .collect();
        thread::sleep(watch::LEAD);
        let done = Instant::now();
        let remedied = match remedy {
            Remedy::UnreachableRoute => near.make_unreachable(BACKEND),
            Remedy::Notify => far.run(|| notify::port_unreachable(addr, &to_notify)).and_then(|sent| sent),
            Remedy::Reap => reap(&index, addr),
        };
        let seen: Vec<_> = watchers
            .into_iter()
            .map(|watcher| watcher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect();
        remedied?;
        seen.into_iter().map(|watched| Ok((watched?, done))).collect::<Result<Vec<_>>>()
    })?;
    let ends = clients.iter_mut().zip(watched);
    ends.map(|((protocol, _, client, socket), (watched, done))| {
        Ok(Row {
            remedy,
            protocol: *protocol,
            habit: watched.habit,
            send: watched.send.map(|error| error.after(done)),
            receive: watched.receive.map(|error| error.after(done)),
            connected: state(client, *socket)?.peer == Some(addr),
        })
    })
    .collect()
}

fn state(client: &mut Client, socket: u32) -> Result<SocketState> {
    match client.call(&Op::States { sockets: Selection::List(vec![socket]) })? {
        Reply::States(mut states) if states.len() == 1 => Ok(states.remove(0)),
        other => bail!("the client does not know its socket: {other:?}"),
    }
}

/// One for each protocol and activity, with the number of its socket, which is connected to the backend.
fn clients(
    cgroup: &Cgroup,
    netns: &Netns,
    backend: SocketAddr,
) -> Result<Vec<(Protocol, Habit, Client, u32)>> {
    let mut clients = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for habit in [Habit::Sends, Habit::Waits] {
            let options = SpawnOptions { label: "client", cgroup: Some(cgroup), netns: Some(netns) };
            let mut client = Client::spawn(&options)?;
            let socket = greet(&mut client, protocol, backend)?;
            clients.push((protocol, habit, client, socket));
        }
    }
    Ok(clients)
}

/// Opens a socket to the backend and exchanges a message.
fn greet(client: &mut Client, protocol: Protocol, addr: SocketAddr) -> Result<u32> {
    let Reply::Opened { socket } = client.call(&Op::Open(OpenSpec::new(protocol, Family::V4)))? else {
        bail!("the client did not open a socket");
    };
    client.call(&Op::Connect { socket, addr })?;
    client.call(&Op::Send { socket, payload: b"hello".to_vec() })?;
    match client.call(&Op::Recv { socket, timeout_ms: GREETING_MS })? {
        Reply::Received { payload, .. } if !payload.is_empty() => Ok(socket),
        other => bail!("the backend did not answer: {other:?}"),
    }
}

fn reap(index: &Index, addr: SocketAddr) -> Result<()> {
    let wanted = EngineChoice::Named(EngineName::Netlink);
    let mut engine = choice::start(wanted, index, &EngineOptions::default())?;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let backend = Backend::new(protocol, addr.ip(), addr.port())?;
        let target = Target { backend, unconnected: Unconnected::Preserve, dry_run: false };
        let outcome = engine.run(&target, &mut Chosen::default()).context("reap")?;
        if outcome.destroyed != 2 {
            bail!("the reap destroyed {} {protocol} sockets in place of 2", outcome.destroyed);
        }
    }
    Ok(())
}

fn text(report: &Report) -> String {
    let mut text = format!(
        "A backend falls silent; what its clients see within {} s of\n\n{:<18} {:<5} {:<6} {:<28} {:<28} {}\n",
        report.watched_s, "", "", "client", "send", "receive", "in the end"
    );
    let show = |seen: &Option<Seen>| {
        seen.as_ref()
            .map_or_else(|| "nothing".to_owned(), |s| format!("{} after {:.1} ms", s.what, s.after_ms))
    };
    for row in &report.cases {
        let remedy = match row.remedy {
            Remedy::UnreachableRoute => "unreachable route",
            Remedy::Notify => "port unreachable",
            Remedy::Reap => "reap",
        };
        let send = match row.habit {
            Habit::Sends => show(&row.send),
            Habit::Waits => "(does not send)".to_owned(),
        };
        let line = format!(
            "{remedy:<18} {:<5} {:<6} {send:<28} {:<28} {}\n",
            row.protocol,
            row.habit.name(),
            show(&row.receive),
            if row.connected { "still connected" } else { "no peer" }
        );
        text.push_str(&line);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed() {
        let row = Row {
            remedy: Remedy::Reap,
            protocol: Protocol::Tcp,
            habit: Habit::Waits,
            send: None,
            receive: Some(Seen { what: "ECONNABORTED".to_owned(), after_ms: 0.25 }),
            connected: false,
        };
        assert_eq!(
            serde_json::to_string(&row).unwrap(),
            concat!(
                r#"{"remedy":"reap","protocol":"tcp","habit":"waits","send":null,"#,
                r#""receive":{"what":"ECONNABORTED","after_ms":0.25},"connected":false}"#,
            )
        );
        let report = Report { machine: Machine::default(), watched_s: 5, cases: vec![row] };
        let text = text(&report);
        let last = text.lines().last().unwrap();
        assert_eq!(
            last,
            "reap               tcp   waits  (does not send)              ECONNABORTED after 0.2 ms    no peer"
        );
    }
}
