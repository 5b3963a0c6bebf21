//! `skreap status`: numbers that are known beforehand.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::commands::{TCP, Ten, UDP, good, good_json};
use crate::serve::{Serve, Talk, event};

crate::tests![status_counts_what_was_done, questions_keep_their_place, a_client_that_does_not_read_is_alone,];

fn status_counts_what_was_done() -> Result<()> {
    let serve = Serve::start("cli-status")?;
    let socket = serve.socket_arg()?;
    let socket = socket.as_str();
    let ten = Ten::new(&serve)?;

    let status = good_json(&["status", "--socket", socket, "--json"])?;
    ensure!(status["pid"] == serve.pid() && status["version"] == env!("CARGO_PKG_VERSION"), "{status}");
    // Why one was taken does not depend on what it would say if another were asked for.
    let why = status["engine_why"].as_str().context("no engine_why")?;
    ensure!(!why.is_empty() && !why.contains("another engine"), "{status}");
    ensure!(status["cgroup"] == serve.cgroup.path().to_str().context("not UTF-8")?, "{status}");
    ensure!(status["index"]["nodes"] == 10 && status["index"]["incomplete_backends"] == 0, "{status}");
    ensure!(status["totals"]["events"] == json!({}) && status["latency"]["count"] == 0, "{status}");
    ensure!(status["waiting"] == 0 && status["audit"].is_null() && status["recent"] == json!([]), "{status}");
    let clients = &status["clients"];
    ensure!(clients["accepted"] == 2 && clients["refused_lines"] == 0, "{status}");
    let hooks: Vec<_> = status["hooks"].as_array().context("no hooks")?.iter().map(|h| &h["hook"]).collect();
    ensure!(hooks == ["sock_release", "connect4", "connect6", "sendmsg4", "sendmsg6"], "{status}");

    good(&["reap", TCP, "--dry-run", "--socket", socket])?;
    good(&["reap", UDP, "--socket", socket])?;
    good(&["reap", UDP, "--socket", socket])?;
    let mut talk = serve.client()?;
    talk.send("nonsense\n")?;
    talk.answer()?;
    drop(talk);

    let status = good_json(&["status", "--socket", socket, "--json"])?;
    let totals = &status["totals"];
    ensure!(totals["events"] == json!({"backend-deleted": {"complete": 2, "dry-run": 1}}), "{status}");
    let engine = status["engine"].as_str().context("no engine")?;
    ensure!(totals["destroyed"] == json!({engine: {"udp": 6}}), "{status}");
    // The second event met the six that have no peer any more.
    ensure!(totals["skipped"]["no_peer"] == 6 && totals["failed"] == json!({}), "{status}");
    ensure!(status["latency"]["count"] == 2, "{status}");
    ensure!(status["latency"]["total"]["p50"].as_u64().is_some_and(|ns| ns > 0), "{status}");
    ensure!(status["clients"]["refused_lines"] == 1, "{status}");
    let recent = status["recent"].as_array().context("no events")?;
    let seen: Vec<Value> =
        recent.iter().map(|e| json!([e["backend"], e["result"], e["destroyed"]])).collect();
    ensure!(
        seen == [json!([UDP, "complete", 0]), json!([UDP, "complete", 6]), json!([TCP, "dry-run", 0])],
        "{status}"
    );

    let text = good(&["status", "--socket", socket])?;
    ensure!(text.contains("events    3 (2 complete, 1 dry-run), 0 waiting\n"), "{text}");
    ensure!(text.contains("sockets   6 destroyed, 6 skipped, 0 failed\n"), "{text}");
    ensure!(text.contains("index     10 of "), "{text}");
    ensure!(text.lines().all(|line| line.len() < 200), "{text}");
    drop(ten);
    serve.finish()
}

/// Questions are answered beside the reaper, but for one client all is in order.
fn questions_keep_their_place() -> Result<()> {
    let serve = Serve::start("cli-place")?;
    let mut talk = serve.client()?;
    let mut input = String::new();
    for i in 0..50 {
        input += &event(&format!("e{i}"));
        input += &format!("{{\"id\":\"q{i}\",\"type\":\"{}\"}}\n", ["status", "index", "top"][i % 3]);
    }
    talk.send(&input)?;
    for i in 0..50 {
        let report = talk.answer()?.context("closed")?;
        ensure!(report["id"] == format!("e{i}") && report["engine"].is_string(), "{report} is not e{i}");
        let answer = talk.answer()?.context("closed")?;
        ensure!(answer["id"] == format!("q{i}"), "{answer} is not q{i}");
        if i % 3 == 0 {
            let events = &answer["status"]["totals"]["events"];
            ensure!(*events == json!({"backend-deleted": {"complete": i + 1}}), "q{i}: {answer}");
        }
    }
    serve.finish()
}

/// Neither its events nor its questions hold up anyone else's.
fn a_client_that_does_not_read_is_alone() -> Result<()> {
    let serve = Serve::start("cli-deaf")?;
    let mut other = serve.client()?;
    let connected = |other: &mut Talk| -> Result<Value> {
        other.send("{\"id\":\"q\",\"type\":\"status\"}\n")?;
        let answer = other.answer()?.context("closed")?;
        Ok(answer["status"]["clients"]["connected"].clone())
    };
    // The start has asked whether anybody answers.
    crate::process::until("nobody else to be there", || {
        connected(&mut other).is_ok_and(|clients| clients == 1)
    })?;
    let mut deaf = serve.client()?;
    deaf.stream.set_nonblocking(true)?;
    let mut sent = 0;
    crate::process::until("the client to be stuck", || {
        let question = |i| format!("{{\"id\":\"q{i}\",\"type\":\"status\"}}\n{}", event(&format!("e{i}")));
        while deaf.send(&question(sent)).is_ok() {
            sent += 1;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
        deaf.send(&question(sent)).is_err()
    })?;
    for i in 0..20 {
        other.ask(&format!("o{i}"))?;
        let clients = connected(&mut other)?;
        ensure!(clients == 2, "{clients} clients");
    }
    drop(deaf);
    serve.finish()
}
