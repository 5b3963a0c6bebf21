//! `index` and `reap` against a running `serve`, with real sockets.

use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use skreap::core::Protocol;
use skreap_testbed::{
    Cgroup, Client, Echo, Echoed, Family, Mode, Netns, Op, OpenMany, OpenSpec, Reply, Selection, SocketState,
    SpawnOptions,
};

use crate::process::{collect, run, skreap};
use crate::serve::Serve;

crate::tests![
    index_and_reap,
    index_lists_what_is_asked_for,
    clients_of_servers_are_no_backends,
    one_is_not_several,
    reap_fails_also_if_nobody_reads,
    nobody_serves,
];

const ADDR: &str = "10.96.7.1:53";
pub const UDP: &str = "udp://10.96.7.1:53";
pub const TCP: &str = "tcp://10.96.7.1:53";

/// Ten sockets of one process in one netns: handles 0 to 5 are UDP, 6 to 9 TCP.
pub struct Ten {
    pub client: Client,
    _servers: Vec<Echo>,
    pub netns: Netns,
}

impl Ten {
    pub fn new(serve: &Serve) -> Result<Self> {
        Self::inside(&serve.cgroup)
    }

    /// As [`Ten::new`], in a cgroup.
    pub fn inside(cgroup: &Cgroup) -> Result<Self> {
        Self::labelled("cli", cgroup)
    }

    /// As [`Ten::inside`], in a netns of another name.
    pub fn labelled(netns: &str, cgroup: &Cgroup) -> Result<Self> {
        let netns = Netns::create(netns)?;
        let addr: std::net::SocketAddr = ADDR.parse()?;
        netns.add_address(addr.ip())?;
        let mut servers = Vec::new();
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            servers.push(Echo::start(protocol, addr, &[&netns], Mode::Echo)?);
        }
        let options = SpawnOptions { label: "ten", cgroup: Some(cgroup), netns: Some(&netns) };
        let mut client = Client::spawn(&options)?;
        for (protocol, count, first) in [(Protocol::Udp, 6, 0), (Protocol::Tcp, 4, 6)] {
            let netns = skreap_testbed::NetnsRef::Own;
            let many = OpenMany { netns, protocol, count, connect: addr, timeout_ms: 10_000 };
            let Reply::OpenedMany(opened) = client.call(&Op::OpenMany(many))? else { bail!("no answer") };
            ensure!(opened.failed == 0 && opened.first == first, "{opened:?}");
        }
        Ok(Self { client, _servers: servers, netns })
    }

    /// Some more to one of the backends; gives the handle of the first.
    pub fn connect(&mut self, backend: &str, count: u32) -> Result<u32> {
        let backend: skreap::core::Backend = backend.parse()?;
        let opened = self.client.open_many(OpenMany {
            netns: skreap_testbed::NetnsRef::Own,
            protocol: backend.protocol(),
            count,
            connect: backend.socket_addr(),
            timeout_ms: 10_000,
        })?;
        ensure!(opened.failed == 0, "{opened:?}");
        Ok(opened.first)
    }

    pub fn states(&mut self) -> Result<Vec<SocketState>> {
        match self.client.call(&Op::States { sockets: Selection::All })? {
            Reply::States(states) => Ok(states),
            other => bail!("{other:?}"),
        }
    }

    pub fn echo(&mut self, first: u32, count: u32) -> Result<Echoed> {
        let sockets = Selection::Range { first, count };
        match self.client.call(&Op::EchoAll { sockets, timeout_ms: 10_000 })? {
            Reply::Echoed(echoed) => Ok(echoed),
            other => bail!("{other:?}"),
        }
    }
}

/// Runs a command that must succeed, and gives its stdout.
pub fn good(args: &[&str]) -> Result<String> {
    let ended = run(args)?;
    ensure!(ended.code == Some(0) && ended.err.is_empty(), "{args:?}: {ended:?}");
    Ok(ended.out)
}

pub fn good_json(args: &[&str]) -> Result<Value> {
    let out = good(args)?;
    ensure!(out.lines().count() == 1, "{args:?}: not one line: {out}");
    Ok(serde_json::from_str(&out)?)
}

fn index_and_reap() -> Result<()> {
    let serve = Serve::start("cli-ten")?;
    let socket = serve.socket_arg()?;
    let socket = socket.as_str();
    let mut ten = Ten::new(&serve)?;

    let index = good_json(&["index", "--socket", socket, "--json"])?;
    let entry = |n: u32| json!({"connected": n, "unconnected": 0, "netns": 1});
    ensure!(index["backends"] == json!({UDP: entry(6), TCP: entry(4)}), "{index}");
    ensure!(index["sockets"] == 10 && index["nodes"] == 10, "{index}");
    ensure!(index["counters"]["inserts"] == 10 && index["counters"]["removals"] == 0, "{index}");
    let text = good(&["index", "--socket", socket])?;
    let rows: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
    ensure!(rows[0] == ["BACKEND", "CONNECTED", "UNCONNECTED", "NETNS"], "{text}");
    ensure!(rows[1] == [UDP, "6", "0", "1"] && rows[2] == [TCP, "4", "0", "1"], "{text}");
    ensure!(text.contains("\nsockets 10, nodes 10 of "), "{text}");

    let audit = good_json(&["audit", "--socket", socket, "--json"])?;
    ensure!(audit["agrees"] == true && audit["complete"] == true, "{audit}");
    ensure!(audit["sockets"] == 10 && audit["backends"] == 2 && audit["nodes"] == 10, "{audit}");
    let text = good(&["audit", "--socket", socket])?;
    let verdict = "the index agrees with the sockets: 10 client sockets of 2 backends in ";
    ensure!(text.starts_with(verdict) && text.lines().count() == 1, "{text}");

    let text = good(&["reap", TCP, "--dry-run", "--socket", socket])?;
    ensure!(text.starts_with(&format!("{TCP}: 4 sockets would be destroyed\n")), "{text}");
    ensure!(text.lines().filter(|l| l.contains("10.96.7.1")).count() == 5, "{text}");
    let report = good_json(&["reap", UDP, "--dry-run", "--socket", socket, "--json"])?;
    ensure!(report["dry_run"] == true && report["victims"] == 6 && report["destroyed"] == 0, "{report}");
    ensure!(report["sockets"].as_array().map(Vec::len) == Some(6), "{report}");
    ensure!(ten.echo(0, 10)?.answered() == 10, "a dry run touched a socket");

    let report = good_json(&["reap", UDP, "--socket", socket, "--json"])?;
    ensure!(report["victims"] == 6 && report["destroyed"] == 6 && report["visited"] == 6, "{report}");
    ensure!(report["failed"]["total"] == 0 && report["complete"] == true, "{report}");
    let destroyed: Vec<u32> = ten.states()?.iter().filter(|s| s.destroyed()).map(|s| s.socket).collect();
    ensure!(destroyed == [0, 1, 2, 3, 4, 5], "{destroyed:?}");
    ensure!(ten.echo(6, 4)?.answered() == 4, "a TCP socket was touched");

    // There is nothing left to do, and the index says why.
    let text = good(&["reap", UDP, "--socket", socket])?;
    ensure!(text.starts_with(&format!("{UDP}: 0 of 0 sockets destroyed by engine ")), "{text}");
    ensure!(text.contains("\n  skipped 6: without a peer\n"), "{text}");
    let index = good_json(&["index", "--socket", socket, "--json"])?;
    ensure!(index["backends"] == json!({TCP: entry(4)}) && index["no_peer"] == 6, "{index}");

    let text = good(&["reap", TCP, "--socket", socket])?;
    ensure!(text.starts_with(&format!("{TCP}: 4 of 4 sockets destroyed by engine ")), "{text}");
    let destroyed: Vec<u32> = ten.states()?.iter().filter(|s| s.destroyed()).map(|s| s.socket).collect();
    ensure!(destroyed == [6, 7, 8, 9], "{destroyed:?}");

    drop(ten);
    let index = good_json(&["index", "--socket", socket, "--json"])?;
    ensure!(index["backends"] == json!({}) && index["nodes"] == 0, "{index}");
    let counters = &index["counters"];
    ensure!(counters["inserts"] == counters["removals"] && counters["stale"] == 0, "{index}");
    let text = good(&["index", "--socket", socket])?;
    ensure!(text.starts_with("sockets 0, nodes 0 of "), "{text}");
    serve.finish()
}

/// The rows of the table of backends, and what follows it up to the counters.
fn rows(text: &str) -> (Vec<Vec<&str>>, Vec<&str>) {
    let (table, rest) = text.split_once("\n\n").unwrap_or(("", text));
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    (rows, rest.lines().take_while(|line| !line.starts_with("sockets ")).collect())
}

/// An unconnected UDP socket of the client that has sent to these.
pub fn sender(ten: &mut Ten, bind: Option<&str>, to: &[&str]) -> Result<u32> {
    let bind = bind.map(str::parse).transpose()?;
    let socket = ten.client.open(OpenSpec { bind, ..OpenSpec::new(Protocol::Udp, Family::V4) })?;
    for to in to {
        ten.client.send_to(socket, to.parse()?, b"x")?;
    }
    Ok(socket)
}

/// Options, the rows that are listed, and what is said of those that are not.
type Asked<'a> = (&'a [&'a str], &'a [[&'a str; 4]], &'a [&'a str]);

fn index_lists_what_is_asked_for() -> Result<()> {
    let serve = Serve::start("cli-index")?;
    let socket = serve.socket_arg()?;
    let mut ten = Ten::new(&serve)?;
    // To a backend that nobody is connected to, from a port that the kernel gives.
    sender(&mut ten, None, &["10.96.7.1:54"])?;
    let sent = "udp://10.96.7.1:54";
    let none = "udp://10.96.7.9:1";
    let (udp, tcp) = ([UDP, "6", "0", "1"], [TCP, "4", "0", "1"]);
    let (sent_row, none_row) = ([sent, "0", "1", "1"], [none, "0", "0", "0"]);
    let left = "left out: 1 backend (--limit)";
    let lefts = "left out: 2 backends (--limit)";
    let cases: [Asked<'_>; 10] = [
        (&[], &[udp, tcp, sent_row], &[]),
        (&["--all"], &[udp, tcp, sent_row], &[]),
        (&["--connected"], &[udp, tcp], &[]),
        (&["--limit", "2"], &[udp, tcp], &[left]),
        (&["--limit", "1"], &[udp], &[lefts]),
        (&["--connected", "--limit", "1"], &[udp], &[left]),
        (&["--backend", TCP], &[tcp], &[]),
        (&["--backend", none, "--backend", sent], &[sent_row, none_row], &[]),
        // What is asked for by name is shown, connected or not.
        (&["--backend", sent, "--backend", UDP, "--connected"], &[udp, sent_row], &[]),
        (&["--backend", none, "--connected"], &[none_row], &[]),
    ];
    for (args, expected, notes) in cases {
        let text = good(&[&["index", "--socket", &socket], args].concat())?;
        let (rows, rest) = rows(&text);
        ensure!(rows == expected && rest == notes, "{args:?}: {text}");
        let json = good_json(&[&["index", "--json", "--socket", &socket], args].concat())?;
        let backends: Vec<&String> = json["backends"].as_object().context("no backends")?.keys().collect();
        let mut names: Vec<&str> = expected.iter().map(|row| row[0]).collect();
        names.sort_unstable();
        ensure!(backends == names && json["left_out"]["clients"] == 0, "{args:?}: {json}");
        ensure!(json["sockets"] == 11 && json["nodes"] == 11, "{args:?}: {json}");
    }
    let text = good(&["index", "--limit", "0", "--socket", &socket])?;
    ensure!(text.starts_with("left out: 3 backends (--limit)\nsockets 11, "), "{text}");
    drop(ten);
    serve.finish()
}

fn clients_of_servers_are_no_backends() -> Result<()> {
    let serve = Serve::start("cli-replies")?;
    let socket = serve.socket_arg()?;
    let mut ten = Ten::new(&serve)?;
    // A server that has replied to two clients, whose ports their kernels gave them.
    sender(&mut ten, Some("10.96.7.1:5300"), &["10.96.7.1:40001", "10.96.7.1:40002"])?;
    let index = ["index", "--socket", &socket];
    let text = good(&index)?;
    let (listed, rest) = rows(&text);
    ensure!(listed == [[UDP, "6", "0", "1"], [TCP, "4", "0", "1"]], "{text}");
    ensure!(rest == ["left out: 2 clients of UDP servers on this machine (--all lists them)"], "{text}");
    let text = good(&[&index[..], &["--all"]].concat())?;
    let (listed, rest) = rows(&text);
    ensure!(listed.len() == 4 && rest.is_empty(), "{text}");
    ensure!(listed[2..].iter().all(|row| row[1..] == ["0", "1", "1"]), "{text}");
    let json = good_json(&[&index[..], &["--json"]].concat())?;
    ensure!(json["left_out"] == json!({"clients": 2, "beyond_limit": 0}), "{json}");
    ensure!(json["backends"].as_object().map(serde_json::Map::len) == Some(2), "{json}");
    // One that is asked for is listed, whatever it is.
    let text = good(&[&index[..], &["--backend", "udp://10.96.7.1:40001"]].concat())?;
    ensure!(rows(&text).0 == [["udp://10.96.7.1:40001", "0", "1", "1"]], "{text}");
    let top = good(&["top", "--once", "--socket", &socket])?;
    ensure!(top.contains("index   11 sockets to 2 backends, 12 of ") && !top.contains(":40001"), "{top}");
    // One client that is connected there, and it is a backend.
    ten.connect("udp://10.96.7.1:40001", 1)?;
    let text = good(&index)?;
    let (listed, rest) = rows(&text);
    ensure!(listed.len() == 3 && listed[2] == ["udp://10.96.7.1:40001", "1", "1", "1"], "{text}");
    ensure!(rest == ["left out: 1 client of a UDP server on this machine (--all lists them)"], "{text}");
    drop(ten);
    serve.finish()
}

fn one_is_not_several() -> Result<()> {
    let serve = Serve::start("cli-one")?;
    let socket = serve.socket_arg()?;
    let mut ten = Ten::new(&serve)?;
    for socket in (1..6).chain(7..10) {
        ten.client.close(socket)?;
    }
    let text = good(&["audit", "--socket", &socket])?;
    ensure!(text.contains(": 2 client sockets of 2 backends in "), "{text}");
    ten.client.close(6)?;
    let text = good(&["audit", "--socket", &socket])?;
    ensure!(
        text.contains(": 1 client socket of 1 backend in ") && text.contains(" netns, 1 node ("),
        "{text}"
    );
    let text = good(&["reap", UDP, "--dry-run", "--socket", &socket])?;
    ensure!(text.starts_with(&format!("{UDP}: 1 socket would be destroyed\n")), "{text}");
    let text = good(&["reconcile", TCP, "--yes", "--socket", &socket])?;
    ensure!(text.starts_with("not among 1 living backend: 1 of 1 socket destroyed by engine "), "{text}");
    let text = good(&["status", "--socket", &socket])?;
    ensure!(text.contains("\nlatency   of the last event: p50 "), "{text}");
    ensure!(
        text.contains(" rejected, 0 lines refused\n")
            && text.contains("; 2 runs\n")
            && !text.contains("1 differences"),
        "{text}"
    );
    drop(ten);
    serve.finish()
}

/// The exit code of an event that went wrong does not depend on its reader.
fn reap_fails_also_if_nobody_reads() -> Result<()> {
    let serve = Serve::start_with("cli-unread", &["--max-victims", "1"])?;
    let socket = serve.socket_arg()?;
    let ten = Ten::new(&serve)?;
    for args in [&["reap", UDP, "--socket", &socket][..], &["reap", UDP, "--json", "--socket", &socket]] {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let mut child = skreap(args).stdout(writer).stderr(Stdio::piped()).spawn()?;
        let ended = collect(&mut child)?;
        ensure!(ended.code == Some(1) && ended.err.is_empty(), "{args:?}: {ended:?}");
    }
    drop(ten);
    serve.finish()
}

fn nobody_serves() -> Result<()> {
    let directory = tempfile::TempDir::new()?;
    let path = directory.path().join("socket");
    let path = path.to_str().context("not UTF-8")?;
    for args in [
        &["index", "--socket", path][..],
        &["status", "--socket", path],
        &["top", "--socket", path],
        &["reap", UDP, "--socket", path],
        &["reconcile", UDP, "--yes", "--socket", path],
        &["audit", "--socket", path],
    ] {
        let ended = run(args)?;
        ensure!(ended.code == Some(1) && ended.out.is_empty(), "{args:?}: {ended:?}");
        ensure!(ended.err.contains(&format!("skreap serve --source unix:{path}")), "{args:?}: {ended:?}");
        ensure!(ended.err.lines().count() == 1, "{args:?}: {ended:?}");
    }
    Ok(())
}
