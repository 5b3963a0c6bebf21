//! `skreap replay`: which events of a log are sent again, and what is said of the others.

use std::fs;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use skreap_testbed::Selection;
use tempfile::TempDir;

use crate::audit_log::{ask, serve_to, so_many};
use crate::commands::{TCP, Ten, UDP};
use crate::process::{Ended, PATIENCE, run, skreap, wait};
use crate::pty::Pty;
use crate::serve::{Serve, event_for};

crate::tests![
    replayed,
    what_was_taken_back_is_left_out,
    what_comes_of_sockets_is_no_answer,
    a_cut_line_is_left_out,
    it_asks_with_each_socket_once,
];

fn replayed() -> Result<()> {
    let directory = TempDir::new()?;
    let log = directory.path().join("log");
    let serve = serve_to("cli-log-replay", &log, &[])?;
    let mut ten = Ten::new(&serve)?;
    let mut client = serve.client()?;
    for (id, backend) in [("p1", UDP), ("p2", TCP)] {
        ask(&mut client, &event_for(id, backend))?;
    }
    so_many(&log, 12)?;
    // Those who came back.
    ten.connect(UDP, 3)?;
    let (log, socket) = (log.display().to_string(), serve.socket_arg()?);
    let replay = |more: &[&str]| run(&[&["replay", &log, "--socket", &socket], more].concat());
    let ended = replay(&["--dry-run", "--json"])?;
    let reports = ended.json()?;
    let said: Vec<_> =
        reports.iter().map(|r| (r["id"].as_str(), r["victims"].as_u64(), r["dry_run"].as_bool())).collect();
    ensure!(said == [(Some("p1"), Some(3), Some(true)), (Some("p2"), Some(0), Some(true))], "{ended:?}");
    let ended = replay(&["--dry-run"])?;
    ensure!(ended.code == Some(0), "{ended:?}");
    ensure!(
        ended.out.contains("p1 (backend-deleted): 6 sockets destroyed then, 3 would be now"),
        "{ended:?}"
    );
    ensure!(
        ended.out.contains("p2 (backend-deleted): 4 sockets destroyed then, 0 would be now"),
        "{ended:?}"
    );
    let ended = replay(&[])?;
    ensure!(ended.code == Some(2) && ended.err.contains("--dry-run"), "{ended:?}");
    let ended = replay(&["--yes", "--event", "p1"])?;
    ensure!(ended.code == Some(0), "{ended:?}");
    ensure!(ended.out == "p1 (backend-deleted): 6 sockets destroyed then, 3 of 3 now\n", "{ended:?}");
    let ended = replay(&["--yes", "--event", "p3"])?;
    ensure!(ended.code == Some(1) && ended.err.contains("no such event"), "{ended:?}");
    drop((ten, client));
    serve.finish()
}

fn replay(log: &str, serve: &Serve, more: &[&str]) -> Result<Ended> {
    run(&[&["replay", log, "--socket", &serve.socket_arg()?], more].concat())
}

fn what_was_taken_back_is_left_out() -> Result<()> {
    let directory = TempDir::new()?;
    let log = directory.path().join("log");
    let serve = serve_to("cli-replay-back", &log, &[])?;
    let mut ten = Ten::new(&serve)?;
    let (mut client, mut other) = (serve.client()?, serve.client()?);
    let waits = |id: &str, backends: &[&str], ms: u32| {
        let event =
            json!({"id": id, "type": "backends-deleted", "backends": backends, "confirm_after_ms": ms});
        format!("{event}\n")
    };
    client.send(&waits("d1", &[UDP, TCP], 3_600_000))?;
    client.send(&waits("d2", &[TCP, "udp://10.96.7.1:54"], 1))?;
    ensure!(client.answer()?.context("closed")?["destroyed"] == 4, "{}", client.last);
    for backend in [UDP, TCP] {
        ask(&mut other, &format!("{}\n", json!({"id": "a", "type": "backend-added", "backend": backend})))?;
    }
    ensure!(
        client.answer()?.context("closed")?["cancelled"] == json!({UDP: "a", TCP: "a"}),
        "{}",
        client.last
    );
    // d2 with its four sockets, two of a, and d1.
    so_many(&log, 8)?;
    ten.connect(TCP, 2)?;
    let log = log.display().to_string();
    for more in [&["--dry-run"][..], &["--yes"]] {
        let ended = replay(&log, &serve, more)?;
        let now = if more == ["--yes"] { "2 of 2 now" } else { "2 would be now" };
        ensure!(ended.code == Some(0), "{ended:?}");
        ensure!(
            ended.out.starts_with(&format!("d2 (backends-deleted): 4 sockets destroyed then, {now}\n"))
                && !ended.out.contains("d1")
                && !ended.out.contains("backend-added"),
            "{ended:?}"
        );
        ensure!(
            ended.err
                == "skreap: left out: 1 deletion taken back before the confirmation\n\
                    skreap: left out: 2 events of type backend-added, which would take back what waits now\n",
            "{ended:?}"
        );
    }
    let ended = replay(&log, &serve, &["--yes", "--event", "d1"])?;
    ensure!(ended.code == Some(1) && ended.err.contains("nothing is left to be done again"), "{ended:?}");
    ensure!(ten.echo(0, 6)?.answered() == 6, "what was taken back was carried out");
    drop((ten, client, other));
    serve.finish()
}

fn what_comes_of_sockets_is_no_answer() -> Result<()> {
    let directory = TempDir::new()?;
    let log = directory.path().join("log");
    let serve = serve_to("cli-replay-revive", &log, &[])?;
    let mut ten = Ten::new(&serve)?;
    let mut client = serve.client()?;
    let revive = |id: &str| {
        let event = json!({"id": id, "type": "backend-deleted", "backend": UDP, "action": "revive",
                           "to": "udp://10.96.7.1:54", "after_ms": 1});
        format!("{event}\n")
    };
    for id in ["r1", "r2"] {
        // Nobody is connected there when the second comes.
        client.send(&revive(id))?;
        client.answer()?.context("closed")?;
    }
    ensure!(client.answer()?.context("closed")?["revived"]["revived"] == 6, "{}", client.last);
    ask(&mut client, &event_for("d1", TCP))?;
    // Three events, six sockets destroyed and revived, four destroyed.
    so_many(&log, 20)?;
    ten.connect(UDP, 3)?;
    let log = log.display().to_string();
    let ended = replay(&log, &serve, &["--yes"])?;
    ensure!(ended.code == Some(0) && ended.err.is_empty(), "{ended:?}");
    ensure!(
        ended.out
            == "r1 (backend-deleted): 6 sockets destroyed then, 3 of 3 now\n\
                r2 (backend-deleted): 0 sockets destroyed then, 0 of 0 now\n\
                d1 (backend-deleted): 4 sockets destroyed then, 0 of 0 now\n\
                r1: 3 of 3 sockets revived\n",
        "{ended:?}"
    );
    drop((ten, client));
    serve.finish()
}

fn a_cut_line_is_left_out() -> Result<()> {
    let directory = TempDir::new()?;
    let log = directory.path().join("log");
    let serve = serve_to("cli-replay-cut", &log, &[])?;
    ask(&mut serve.client()?, &event_for("c1", UDP))?;
    ask(&mut serve.client()?, &event_for("c2", UDP))?;
    so_many(&log, 2)?;
    let text = fs::read_to_string(&log)?;
    let cut = directory.path().join("cut");
    fs::write(&cut, &text[..text.len() - 20])?;
    let ended = replay(&cut.display().to_string(), &serve, &["--dry-run"])?;
    ensure!(
        ended.code == Some(0) && ended.out.starts_with("c1 (backend-deleted): ") && !ended.out.contains("c2")
    );
    ensure!(
        ended
            .err
            .starts_with("skreap: left out: 1 line that cannot be read, first line 2: EOF while parsing"),
        "{ended:?}"
    );
    fs::write(&cut, "hello\n")?;
    let ended = replay(&cut.display().to_string(), &serve, &["--dry-run"])?;
    ensure!(ended.code == Some(1) && ended.err.contains("no line of an audit log; line 1: "), "{ended:?}");
    serve.finish()
}

fn it_asks_with_each_socket_once() -> Result<()> {
    let directory = TempDir::new()?;
    let log = directory.path().join("log");
    let serve = serve_to("cli-replay-asks", &log, &[])?;
    let mut ten = Ten::new(&serve)?;
    for id in ["q1", "q2", "q3"] {
        ask(&mut serve.client()?, &event_for(id, UDP))?;
    }
    so_many(&log, 9)?;
    ten.connect(UDP, 5)?;
    let mut pty = Pty::sized(200, 24)?;
    let mut command = skreap(&["replay", &log.display().to_string(), "--socket", &serve.socket_arg()?]);
    command.stdin(pty.slave.try_clone()?).stdout(Stdio::null()).stderr(pty.slave.try_clone()?);
    let mut child = command.spawn()?;
    pty.read_until(&["Destroy 5 sockets? [y/N] "])?;
    std::io::Write::write_all(&mut pty.master, b"n\n")?;
    ensure!(wait(&mut child, PATIENCE)?.code() == Some(1));
    ensure!(ten.client.destroyed(Selection::All)?.len() == 6, "not only those of the log");
    drop(ten);
    serve.finish()
}
