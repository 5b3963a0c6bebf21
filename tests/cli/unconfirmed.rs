//! `confirm_after_ms`: deletions that wait, and what takes them back.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use skreap_testbed::{Cgroup, Netns};
use tempfile::TempDir;

use crate::audit_log::so_many;
use crate::commands::{TCP, Ten, UDP, good, good_json};
use crate::hooks;
use crate::process::{collect, until};
use crate::serve::{Serve, command, event, event_for};

crate::tests![
    a_backend_that_comes_back_keeps_its_sockets,
    a_deletion_is_confirmed_by_time,
    an_unconfirmed_deletion_is_not_carried_out_at_the_end,
    nothing_waits_for_what_waits,
    what_was_received_in_time_takes_it_back,
    it_is_refused_at_the_end_of_input,
    the_audit_log_counts_from_its_arrival,
    a_link_local_backend_is_that_of_one_netns,
];

fn unconfirmed(id: &str, confirm_after_ms: u32) -> String {
    let event = json!({
        "id": id, "type": "backends-deleted", "backends": [UDP, TCP], "confirm_after_ms": confirm_after_ms,
    });
    format!("{event}\n")
}

fn added(id: &str, backend: &str) -> String {
    format!("{}\n", json!({"id": id, "type": "backend-added", "backend": backend}))
}

fn a_backend_that_comes_back_keeps_its_sockets() -> Result<()> {
    let serve = Serve::start("cli-unconfirmed")?;
    let mut ten = Ten::new(&serve)?;
    let (mut client, mut other) = (serve.client()?, serve.client()?);
    client.send(&unconfirmed("d1", 3_600_000))?;
    // Events of others are handled meanwhile.
    other.ask("between")?;
    other.send(&(added("a1", UDP) + &added("a2", TCP)))?;
    for id in ["a1", "a2"] {
        let report = other.answer()?.context("closed")?;
        ensure!(report["id"] == id && report["complete"] == true && report["victims"] == 0, "{report}");
    }
    let report = client.answer()?.context("closed")?;
    ensure!(report["id"] == "d1" && report["victims"] == 0 && report["complete"] == true, "{report}");
    ensure!(report["cancelled"] == json!({UDP: "a1", TCP: "a2"}), "{report}");
    ensure!(ten.client.destroyed(skreap_testbed::Selection::All)?.is_empty(), "a socket was destroyed");
    drop(ten);
    serve.finish()
}

fn a_deletion_is_confirmed_by_time() -> Result<()> {
    let serve = Serve::start("cli-confirmed")?;
    let ten = Ten::new(&serve)?;
    let mut client = serve.client()?;
    let start = Instant::now();
    client.send(&(unconfirmed("d1", 400) + &added("a1", TCP)))?;
    // Nothing waits for what waits.
    ensure!(
        client.answer()?.context("closed")?["id"] == "a1" && start.elapsed() < Duration::from_millis(400)
    );
    let report = client.answer()?.context("closed")?;
    ensure!(start.elapsed() >= Duration::from_millis(400), "after {:?}", start.elapsed());
    ensure!(report["id"] == "d1" && report["destroyed"] == 6, "{report}");
    ensure!(report["cancelled"] == json!({TCP: "a1"}), "{report}");
    drop(ten);
    serve.finish()
}

fn an_unconfirmed_deletion_is_not_carried_out_at_the_end() -> Result<()> {
    let serve = Serve::start("cli-unconfirmed-end")?;
    let ten = Ten::new(&serve)?;
    let mut client = serve.client()?;
    client.send(&unconfirmed("d1", 3_600_000))?;
    serve.client()?.ask("it has been read")?;
    drop(ten);
    serve.finish()?;
    let refusal = client.answer()?.context("closed")?;
    ensure!(refusal["id"] == "d1" && refusal["error"]["line"] == 1, "{refusal}");
    ensure!(
        refusal["error"]["message"].as_str().is_some_and(|m| m.contains("nothing was done")),
        "{refusal}"
    );
    Ok(())
}

/// As many as could not be unanswered, with questions and dry runs between them, on one connection.
fn nothing_waits_for_what_waits() -> Result<()> {
    const WAITING: u64 = 300;
    let mut serve = Serve::start("cli-unconfirmed-many")?;
    let socket = serve.socket_arg()?;
    let mut ten = Ten::new(&serve)?;
    let (mut client, mut other) = (serve.client()?, serve.client()?);
    let deleted = |n: u64| {
        let backend = if n == WAITING { UDP.to_owned() } else { format!("udp://10.96.8.1:{n}") };
        let event = json!({
            "id": format!("d{n}"), "type": "backend-deleted", "backend": backend, "confirm_after_ms": 3_600_000,
        });
        format!("{event}\n")
    };
    client.send(&deleted(1))?;
    // Each of these is answered, and what comes behind it is read.
    let status = "{\"id\":\"q1\",\"type\":\"status\"}\n";
    let dry_run = event_for("q2", UDP).replace('}', r#","dry_run":true}"#);
    client.send(&format!("{status}{dry_run}"))?;
    ensure!(client.answer()?.context("closed")?["id"] == "q1", "{}", client.last);
    ensure!(client.answer()?.context("closed")?["victims"] == 6, "{}", client.last);
    client.send(&(2..=WAITING).map(deleted).collect::<String>())?;
    client.ask("after")?;
    let status = || good_json(&["status", "--socket", &socket, "--json"]);
    until("all of them to wait", || status().is_ok_and(|status| status["unconfirmed"] == WAITING))?;
    ensure!(status()?["waiting"] == 0);
    let text = good(&["status", "--socket", &socket])?;
    ensure!(text.contains(", 0 waiting, 300 to be confirmed\n"), "{text}");
    // The last one is taken back by another client.
    other.send(&added("a1", UDP))?;
    ensure!(other.answer()?.context("closed")?["id"] == "a1", "{}", other.last);
    let report = client.answer()?.context("closed")?;
    ensure!(report["id"] == "d300" && report["cancelled"] == json!({UDP: "a1"}), "{report}");
    until("it to wait no more", || status().is_ok_and(|status| status["unconfirmed"] == WAITING - 1))?;
    ensure!(ten.client.destroyed(skreap_testbed::Selection::All)?.is_empty(), "a socket was destroyed");
    drop(ten);
    serve.signal(libc::SIGTERM)?;
    // Each is refused with its own line: that of the first is 1, and the two questions are lines 2 and 3.
    for n in 1..WAITING {
        let refusal = client.answer()?.context("closed")?;
        let line = if n == 1 { 1 } else { n + 2 };
        ensure!(refusal["id"] == format!("d{n}") && refusal["error"]["line"] == line, "{refusal}");
    }
    let ended = serve.ended()?;
    ensure!(ended.code == Some(0) && ended.err.is_empty(), "{ended:?}");
    serve.nothing_left()
}

/// The reaper is busy with another event when the time is over, and the backend came back before that.
fn what_was_received_in_time_takes_it_back() -> Result<()> {
    let serve = Serve::start_with("cli-unconfirmed-busy", &["--max-rate", "2"])?;
    let mut ten = Ten::new(&serve)?;
    let (mut client, mut other) = (serve.client()?, serve.client()?);
    let waits = json!({"id": "d1", "type": "backend-deleted", "backend": UDP, "confirm_after_ms": 500});
    client.send(&format!("{waits}\n"))?;
    client.ask("it has been read")?;
    // Four sockets, two a second.
    other.send(&event_for("slow", TCP))?;
    thread::sleep(Duration::from_millis(100));
    client.send(&added("a1", UDP))?;
    let start = Instant::now();
    let slow = other.answer()?.context("closed")?;
    ensure!(slow["destroyed"] == 4 && start.elapsed() > Duration::from_millis(500), "{slow}");
    let mut reports = vec![client.answer()?.context("closed")?, client.answer()?.context("closed")?];
    reports.sort_by_key(|report| report["id"].as_str().map(str::to_owned));
    ensure!(reports[0]["id"] == "a1" && reports[1]["cancelled"] == json!({UDP: "a1"}), "{reports:?}");
    ensure!(ten.echo(0, 6)?.answered() == 6, "a socket was destroyed");
    drop(ten);
    serve.finish()
}

fn it_is_refused_at_the_end_of_input() -> Result<()> {
    let cgroup = Cgroup::create("cli-unconfirmed-eof")?;
    let mut child = command(&cgroup, &[]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().context("no stdin")?;
    // What takes it back comes with the same input.
    let lines = [event("e1"), unconfirmed("d1", 3_600_000), unconfirmed("d2", 3_600_000), added("a1", UDP)];
    input.write_all(lines.concat().as_bytes())?;
    input.write_all(b"{\"id\":\"a2\",\"type\":\"backend-added\",\"backend\":\"tcp://10.96.7.1:53\"}\n")?;
    input.write_all(unconfirmed("d3", 3_600_000).as_bytes())?;
    drop(input);
    let start = Instant::now();
    let ended = collect(&mut child)?;
    ensure!(ended.code == Some(0) && start.elapsed() < Duration::from_secs(50), "{ended:?}");
    let answers = ended.json()?;
    let of = |id: &str| answers.iter().find(|answer| answer["id"] == id).context("no answer");
    for id in ["d1", "d2"] {
        ensure!(of(id)?["cancelled"] == json!({UDP: "a1", TCP: "a2"}), "{ended:?}");
    }
    let refusal = of("d3")?;
    ensure!(refusal["error"]["line"] == 6 && answers.len() == 6, "{ended:?}");
    let message = refusal["error"]["message"].as_str().unwrap_or_default();
    ensure!(message.contains("before the event was confirmed, and nothing was done"), "{ended:?}");
    ensure!(hooks::attached(&cgroup)? == 0, "hooks are still attached");
    Ok(())
}

fn the_audit_log_counts_from_its_arrival() -> Result<()> {
    let directory = TempDir::new()?;
    let log = directory.path().join("log");
    let path = log.to_str().context("the path is not UTF-8")?;
    let serve = Serve::start_with("cli-unconfirmed-log", &["--audit-log", path])?;
    let ten = Ten::new(&serve)?;
    let mut client = serve.client()?;
    client.send(&unconfirmed("d1", 600))?;
    thread::sleep(Duration::from_millis(100));
    client.send(&added("a1", TCP))?;
    ensure!(client.answer()?.context("closed")?["id"] == "a1", "{}", client.last);
    let report = client.answer()?.context("closed")?;
    // It has not waited for us.
    ensure!(report["ns"]["total"].as_u64() < Some(600_000_000), "{report}");
    let lines = so_many(&log, 8)?;
    let text = fs::read_to_string(&log)?;
    ensure!(lines[0]["event"] == "a1" && lines[0].get("cancelled").is_none(), "{text}");
    let head = &lines[1];
    ensure!(head["event"] == "d1" && head["cancelled"] == json!({TCP: "a1"}), "{text}");
    let total = head["total_ns"].as_u64().context("no time")?;
    ensure!(total >= 600_000_000 && total > report["ns"]["total"].as_u64().unwrap_or_default(), "{head}");
    ensure!(head["received"].as_str() < lines[0]["received"].as_str(), "{text}");
    for line in &lines[2..] {
        let after = line["after_ns"].as_u64().context("no time")?;
        ensure!(line["kind"] == "socket" && (600_000_000..=total).contains(&after), "{line} {head}");
        ensure!(line["received"] == head["received"] && line["at"].as_str() <= head["reported"].as_str());
    }
    drop((ten, client));
    serve.finish()
}

fn a_link_local_backend_is_that_of_one_netns() -> Result<()> {
    let serve = Serve::start("cli-unconfirmed-link")?;
    let socket = serve.socket_arg()?;
    let names = ["cli-un-here", "cli-un-there"];
    let (here, there) = (Netns::create(names[0])?, Netns::create(names[1])?);
    let backend = "udp://[fe80::1%lo]:53";
    let file = |netns: &Netns| format!("/run/netns/{}", netns.name());
    let request = |id: &str, kind: &str, netns: &Netns, wait: u32| {
        let mut request = json!({"id": id, "type": kind, "backend": backend, "netns": file(netns)});
        if wait > 0 {
            request["confirm_after_ms"] = json!(wait);
        }
        format!("{request}\n")
    };
    let mut client = serve.client()?;
    client.send(&request("here", "backend-deleted", &here, 3_600_000))?;
    client.send(&request("there", "backend-deleted", &there, 3_600_000))?;
    client.send(&request("a1", "backend-added", &here, 0))?;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let report = client.answer()?.context("closed")?;
        ensure!(report["complete"] == true, "{report}");
        if report["id"] == "here" {
            ensure!(report["cancelled"] == json!({backend: "a1"}), "{report}");
        }
        ids.push(report["id"].as_str().unwrap_or_default().to_owned());
    }
    ids.sort();
    ensure!(ids == ["a1", "here"], "{ids:?}");
    let status = || good_json(&["status", "--socket", &socket, "--json"]);
    until("the other to wait alone", || status().is_ok_and(|status| status["unconfirmed"] == 1))?;
    // Without its netns it names nothing.
    client.send(&format!("{}\n", json!({"id": "a2", "type": "backend-added", "backend": backend})))?;
    let refusal = client.answer()?.context("closed")?;
    ensure!(refusal["error"]["field"] == "netns", "{refusal}");
    // The netns may be gone by then.
    let gone = there.name().to_owned();
    client.send(&request("a3", "backend-added", &there, 0))?;
    drop(there);
    let ids = [client.answer()?.context("closed")?, client.answer()?.context("closed")?];
    ensure!(ids.iter().all(|report| report.get("error").is_none()), "{gone}: {ids:?}");
    drop(here);
    serve.finish()
}
