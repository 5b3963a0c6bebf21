//! The audit stream: its lines, a reader that is slow, rotation, and replaying it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use skreap_testbed::{Holding, Selection};
use tempfile::TempDir;

use crate::commands::{TCP, Ten, UDP, good_json};
use crate::intents::has_frontends;
use crate::process::{run, until};
use crate::serve::{Serve, Talk, event, event_for};

crate::tests![
    each_socket_has_a_line,
    selected_sockets_have_their_frontends,
    what_was_held_is_said_again_when_it_is_destroyed,
    refused_sockets_have_lines,
    a_reader_that_does_not_read_delays_nothing,
    a_renamed_file_is_left_alone,
    a_collector_may_come_later,
    the_place_must_be_there,
];

fn lines(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path)?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// Whether the file has that many lines, the last one with its end: a line may be there in part.
pub fn complete(path: &Path, count: usize) -> bool {
    fs::read(path).is_ok_and(|text| text.iter().filter(|byte| **byte == b'\n').count() >= count)
}

/// The lines, once there are that many.
pub fn so_many(path: &Path, count: usize) -> Result<Vec<Value>> {
    until("the lines to be written", || complete(path, count))?;
    let lines = lines(path)?;
    ensure!(lines.len() == count, "not {count} lines: {lines:?}");
    Ok(lines)
}

pub fn serve_to(label: &str, to: &Path, more: &[&str]) -> Result<Serve> {
    let to = to.to_str().context("the path is not UTF-8")?;
    Serve::start_with(label, &[&["--audit-log", to], more].concat())
}

pub fn ask(client: &mut Talk, event: &str) -> Result<Value> {
    client.send(event)?;
    client.answer()?.context("closed")
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().into_iter().flat_map(|object| object.keys()).map(String::as_str).collect()
}

fn cookies(ten: &mut Ten, handles: std::ops::Range<u32>) -> Result<BTreeSet<u64>> {
    handles.map(|handle| Ok(ten.client.cookie(handle)?)).collect()
}

/// Checks everything that is the same in the lines of all sockets of an event.
fn check_socket(line: &Value, ten: &Ten, serve: &Serve, event: &str, backend: &str) -> Result<u64> {
    let me = json!({"source": "socket", "uid": 0, "pid": std::process::id()});
    ensure!(
        line["kind"] == "socket" && line["event"] == event && line["by"] == me && line["backend"] == backend,
        "{line}"
    );
    let socket = &line["socket"];
    let peer =
        format!("{}://{}:{}", socket["protocol"].as_str().unwrap_or_default(), "10.96.7.1", socket["dport"]);
    ensure!(socket["daddr"] == "10.96.7.1" && peer == backend, "{line}");
    let cgroup = serve.cgroup.path().file_name().and_then(|name| name.to_str()).context("no name")?;
    let whose = &socket["attribution"];
    ensure!(whose["uid"] == 0 && whose["pid"] == ten.client.pid() && whose["command"].is_string(), "{line}");
    ensure!(whose["cgroup"].as_str().is_some_and(|path| path.contains(cgroup)), "{line}");
    ensure!(socket["netns"].is_u64() && socket["netns_inum"].is_u64(), "{line}");
    for time in ["received", "at"] {
        let text = line[time].as_str().context("no time")?;
        ensure!(text.len() == "2026-11-30T11:00:05.000000007Z".len() && text.ends_with('Z'), "{line}");
    }
    ensure!(line["received"].as_str() < line["at"].as_str(), "{line}");
    socket["cookie"].as_u64().context("no cookie")
}

fn each_socket_has_a_line() -> Result<()> {
    let directory = TempDir::new()?;
    let log = directory.path().join("log");
    let serve = serve_to("cli-log", &log, &[])?;
    let mut ten = Ten::new(&serve)?;
    let mut client = serve.client()?;
    let report = ask(&mut client, &event_for("a1", UDP))?;
    // What a report has does not change.
    ensure!(
        report["destroyed"] == 6 && report.get("sockets").is_none() && report.get("results").is_none(),
        "{report}"
    );
    ask(&mut client, &event_for("dry", TCP).replace('}', r#","dry_run":true}"#))?;
    let lines = so_many(&log, 7)?;
    let head = &lines[0];
    let said = [
        "kind",
        "event",
        "victims",
        "destroyed",
        "failed",
        "gone",
        "refused",
        "complete",
        "sockets",
        "request",
    ]
    .map(|field| &head[field]);
    let request = json!({"id": "a1", "type": "backend-deleted", "backend": UDP});
    let expected = [
        &json!("event"),
        &json!("a1"),
        &json!(6),
        &json!(6),
        &json!(0),
        &json!(0),
        &json!(false),
        &json!(true),
        &json!(6),
        &request,
    ];
    ensure!(said == expected, "{head}");
    let mut found = BTreeSet::new();
    for line in &lines[1..] {
        found.insert(check_socket(line, &ten, &serve, "a1", UDP)?);
        ensure!(line["result"] == "destroyed" && line["type"] == "backend-deleted", "{line}");
        let fields =
            ["after_ns", "at", "backend", "by", "event", "kind", "received", "result", "socket", "type"];
        ensure!(keys(line) == fields.into(), "{line}");
        ensure!(line["after_ns"].as_u64() <= head["total_ns"].as_u64(), "{line} {head}");
    }
    ensure!(found == cookies(&mut ten, 0..6)?, "{found:?}");
    let status = good_json(&["status", "--socket", &serve.socket_arg()?, "--json"])?;
    ensure!(status["audit_log"] == json!({"written": 7, "dropped": 0, "waiting": 0}), "{status}");
    drop((ten, client));
    serve.finish()
}

/// Also where no backend is named, and where a frontend is none of what the event asks.
fn selected_sockets_have_their_frontends() -> Result<()> {
    if !has_frontends() {
        eprintln!("this kernel cannot record frontends (Linux 6.15)");
        return Ok(());
    }
    let directory = TempDir::new()?;
    let log = directory.path().join("log");
    let serve = serve_to("cli-log-frontends", &log, &["--frontends"])?;
    let ten = Ten::new(&serve)?;
    let mut client = serve.client()?;
    let exact = json!({"protocol": "udp", "to": ["10.96.7.1"], "ports": ["53"]});
    let by_pass = json!({"to": ["10.96.7.0/24"]});
    for (id, selector) in [("exact", exact), ("pass", by_pass)] {
        let event = json!({"id": id, "type": "terminate", "where": selector});
        ask(&mut client, &format!("{event}\n"))?;
    }
    let lines = so_many(&log, 12)?;
    let sockets: Vec<&Value> = lines.iter().filter(|line| line["kind"] == "socket").collect();
    let of =
        |id: &str| sockets.iter().filter(|line| line["event"] == id && line["result"] == "destroyed").count();
    ensure!((of("exact"), of("pass")) == (6, 4), "{lines:?}");
    ensure!(sockets.iter().all(|line| line["socket"]["frontend"] == "direct"), "{lines:?}");
    drop((ten, client));
    serve.finish()
}

fn what_was_held_is_said_again_when_it_is_destroyed() -> Result<()> {
    let directory = TempDir::new()?;
    let log = directory.path().join("log");
    let serve = serve_to("cli-log-held", &log, &["--victim-timeout-ms", "200"])?;
    let mut ten = Ten::new(&serve)?;
    ten.client.start_hold(0, Holding::Memory)?;
    let mut client = serve.client()?;
    ask(&mut client, &event_for("h1", UDP))?;
    let lines = so_many(&log, 7)?;
    let results = |result: &str| lines.iter().filter(|line| line["result"] == result).count();
    ensure!((results("destroyed"), results("failed")) == (5, 1), "{lines:?}");
    let failed = lines.iter().find(|line| line["result"] == "failed").context("no failure")?;
    ensure!(failed["errno"] == "ETIMEDOUT", "{failed}");
    let held = check_socket(failed, &ten, &serve, "h1", UDP)?;
    ten.client.end_hold(0)?;
    let lines = so_many(&log, 8)?;
    let late = &lines[7];
    ensure!(
        late["result"] == "destroyed" && late["event"] == "h1" && late["socket"]["cookie"] == held,
        "{late}"
    );
    ensure!(
        late["late_ns"].as_u64().is_some_and(|ns| ns >= 200_000_000) && late["by"] == failed["by"],
        "{late}"
    );
    ensure!(cookies(&mut ten, 0..1)? == [held].into());
    drop((ten, client));
    serve.finish()
}

fn refused_sockets_have_lines() -> Result<()> {
    let directory = TempDir::new()?;
    let log = directory.path().join("log");
    let serve = serve_to("cli-log-refused", &log, &["--max-victims", "5"])?;
    let mut ten = Ten::new(&serve)?;
    let mut client = serve.client()?;
    ask(&mut client, &event_for("r1", UDP))?;
    let lines = so_many(&log, 7)?;
    ensure!(
        lines[0]["refused"] == true && lines[0]["error"].is_string() && lines[0]["destroyed"] == 0,
        "{lines:?}"
    );
    let mut found = BTreeSet::new();
    for line in &lines[1..] {
        found.insert(check_socket(line, &ten, &serve, "r1", UDP)?);
        ensure!(line["result"] == "refused" && line.get("errno").is_none(), "{line}");
    }
    ensure!(found == cookies(&mut ten, 0..6)?, "{found:?}");
    ensure!(ten.client.destroyed(Selection::All)?.is_empty());
    drop((ten, client));
    serve.finish()
}

/// Nobody reads the pipe: events are answered all the same, and what is lost is counted and said.
fn a_reader_that_does_not_read_delays_nothing() -> Result<()> {
    const EVENTS: u64 = 2000;
    let directory = TempDir::new()?;
    let pipe = directory.path().join("pipe");
    ensure!(Command::new("mkfifo").arg(&pipe).status()?.success());
    let serve = serve_to("cli-log-slow", &pipe, &["--audit-log-buffer", "4096"])?;
    let mut client = serve.client()?;
    let start = Instant::now();
    for n in 0..EVENTS {
        let report = ask(&mut client, &event(&format!("s{n}")))?;
        ensure!(
            report["complete"] == true && report["ns"]["total"].as_u64() < Some(1_000_000_000),
            "{report}"
        );
    }
    ensure!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    let status = good_json(&["status", "--socket", &serve.socket_arg()?, "--json"])?;
    let count = |field: &str| status["audit_log"][field].as_u64().unwrap_or_default();
    ensure!(count("dropped") > 0, "{status}");
    let reader = thread::spawn(move || -> Result<Vec<Value>> {
        let lines = BufReader::new(File::open(pipe)?).lines();
        lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect()
    });
    // There is room again as soon as something was read.
    until("all lines to be written", || {
        good_json(&["status", "--socket", &serve.socket_arg().unwrap_or_default(), "--json"])
            .is_ok_and(|status| status["audit_log"]["waiting"] == 0)
    })?;
    ask(&mut client, &event("last"))?;
    drop(client);
    serve.finish()?;
    let lines = reader.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    let (gaps, events): (Vec<&Value>, Vec<&Value>) = lines.iter().partition(|line| line["kind"] == "dropped");
    let missing: u64 = gaps.iter().filter_map(|gap| gap["lines"].as_u64()).sum();
    ensure!(missing == count("dropped"), "{missing} said, {} dropped", count("dropped"));
    ensure!(events.len() as u64 + missing == EVENTS + 1, "{} events and {missing} missing", events.len());
    // A line that says what is missing is a line too: one is written while nobody reads where the pipe had room again.
    let until_then = usize::try_from(count("written") + count("waiting"))?;
    let told = lines[..until_then].iter().filter(|line| line["kind"] != "dropped").count() as u64;
    ensure!(told + count("dropped") == EVENTS, "{told} of {until_then} lines are of events: {status}");
    ensure!(events.last().is_some_and(|event| event["event"] == "last"), "{:?}", events.last());
    Ok(())
}

fn a_renamed_file_is_left_alone() -> Result<()> {
    let directory = TempDir::new()?;
    let (log, old) = (directory.path().join("log"), directory.path().join("log.1"));
    let serve = serve_to("cli-log-rotate", &log, &[])?;
    let mut client = serve.client()?;
    ask(&mut client, &event("before"))?;
    so_many(&log, 1)?;
    fs::rename(&log, &old)?;
    ask(&mut client, &event("after"))?;
    until("a new file", || log.exists())?;
    ensure!(so_many(&log, 1)?[0]["event"] == "after" && so_many(&old, 1)?[0]["event"] == "before");
    drop(client);
    serve.finish()
}

fn a_collector_may_come_later() -> Result<()> {
    let directory = TempDir::new()?;
    let path = directory.path().join("collector");
    let serve = Serve::start_with("cli-log-unix", &["--audit-log", &format!("unix:{}", path.display())])?;
    let mut client = serve.client()?;
    ask(&mut client, &event("early"))?;
    let listener = UnixListener::bind(&path)?;
    let (stream, _) = listener.accept()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    ensure!(serde_json::from_str::<Value>(&line)?["event"] == "early", "{line}");
    drop(client);
    serve.finish()
}

fn the_place_must_be_there() -> Result<()> {
    let ended = run(&["serve", "--audit-log", "audit.log"])?;
    ensure!(ended.code == Some(2) && ended.err.contains("absolute path, unix:PATH or journald"), "{ended:?}");
    let ended = run(&["serve", "--audit-log", "/nonexistent/log"])?;
    ensure!(ended.code == Some(1) && ended.err.contains("/nonexistent/log"), "{ended:?}");
    Ok(())
}
