//! Who did it, and whose they were: one line of log for each event that did something, and owners
//! in reports.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use skreap_testbed::Cgroup;

use crate::commands::{TCP, Ten, UDP, sender};
use crate::process::{run, run_with, until};
use crate::serve::{Serve, command, event_for};

crate::tests![
    one_line_for_what_was_done,
    stdin_is_named,
    a_dry_run_shows_owners_in_columns,
    a_dry_run_says_what_would_be_refused,
    two_asked_two_answered,
    what_reconcile_needs,
    reconcile_asks_on_a_terminal,
];

fn one_line_for_what_was_done() -> Result<()> {
    let mut serve = Serve::start_with("cli-who", &["--log", "info", "--max-victims", "5"])?;
    let ten = Ten::new(&serve)?;
    let mut client = serve.client()?;
    let me = format!("by=uid 0 pid {}", std::process::id());
    for (id, backend) in [("refused", UDP), ("done", TCP), ("nothing", "udp://10.96.0.9:53")] {
        client.send(&event_for(id, backend))?;
        client.answer()?.context("closed")?;
    }
    drop(client);
    drop(ten);
    serve.signal(libc::SIGTERM)?;
    let ended = serve.ended()?;
    let lines: Vec<&str> = ended.err.lines().filter(|line| line.contains(" event: ")).collect();
    let [refused, done] = lines[..] else { anyhow::bail!("not two lines: {ended:?}") };
    for text in [
        " INFO ",
        "event: refused id=refused",
        &me,
        &format!(
            "backends={UDP} victims=0 destroyed=0 failed=0 complete=false found=6 ceiling=5 reason=\"refused: "
        ),
        "6 victims are more than the 5 that one event may have, and nothing was destroyed; if it is right, raise \
         --max-victims\" ms=",
    ] {
        ensure!(refused.contains(text), "{refused:?} has no {text:?}");
    }
    let counts = format!("backends={TCP} victims=4 destroyed=4 failed=0 complete=true ms=");
    for text in [" INFO ", "event: complete id=done", &me, &counts] {
        ensure!(done.contains(text), "{done:?} has no {text:?}");
    }
    Ok(())
}

fn stdin_is_named() -> Result<()> {
    let cgroup = Cgroup::create("cli-who-stdin")?;
    let mut serve = command(&cgroup, &[]);
    serve.args(["--log", "skreap=debug"]).stderr(Stdio::piped());
    let ended = run_with(serve, event_for("idle", UDP).into_bytes())?;
    let line = ended.err.lines().find(|line| line.contains("event: complete")).context("no line")?;
    ensure!(line.contains("DEBUG") && line.contains("id=idle by=stdin"), "{line}");
    Ok(())
}

fn a_dry_run_shows_owners_in_columns() -> Result<()> {
    let serve = Serve::start("cli-owners")?;
    let mut ten = Ten::new(&serve)?;
    let (name, inum) = (ten.netns.name().to_owned(), ten.netns.inum().to_string());
    expect_columns(&serve, &ten, &name)?;
    // Without a name, it is its inode number.
    ten.netns.forget_name()?;
    expect_columns(&serve, &ten, &inum)?;
    drop(ten);
    serve.finish()
}

fn expect_columns(serve: &Serve, ten: &Ten, netns: &str) -> Result<()> {
    let ended = run(&["reap", TCP, "--dry-run", "--socket", &serve.socket_arg()?])?;
    ensure!(ended.code == Some(0), "{ended:?}");
    let lines: Vec<&str> = ended.out.lines().collect();
    ensure!(lines.len() == 6 && lines[0] == format!("{TCP}: 4 sockets would be destroyed"), "{ended:?}");
    let header: Vec<&str> = lines[1].split_whitespace().collect();
    let columns = ["SOCKET", "PEER", "STATE", "NETNS", "CGROUP", "UID", "PID", "COMMAND"];
    ensure!(header == columns, "{ended:?}");
    let cgroup = serve.cgroup.path().strip_prefix(skreap::cgroup::root()?)?.display().to_string();
    for line in &lines[2..] {
        let cells: Vec<&str> = line.split_whitespace().collect();
        let [protocol, _, peer, state, space, path, uid, pid, ..] = cells[..] else {
            anyhow::bail!("{line}")
        };
        ensure!(
            [protocol, peer, state, space] == ["tcp", TCP.trim_start_matches("tcp://"), "ESTABLISHED", netns],
            "{line}"
        );
        ensure!([path, uid, pid] == [&format!("/{cgroup}"), "0", &ten.client.pid().to_string()], "{line}");
    }
    Ok(())
}

fn a_dry_run_says_what_would_be_refused() -> Result<()> {
    let serve = Serve::start_with("cli-would", &["--max-victims", "5"])?;
    let mut ten = Ten::new(&serve)?;
    let socket = serve.socket_arg()?;
    let ended = run(&["reap", UDP, "--dry-run", "--socket", &socket])?;
    ensure!(ended.code == Some(1), "{ended:?}");
    let begin = format!(
        "{UDP}: 6 sockets would be destroyed\n  WOULD BE refused: 6 victims are more than the 5 that one event may \
         have, and nothing was destroyed; if it is right, raise --max-victims\n"
    );
    ensure!(ended.out.starts_with(&begin), "{ended:?}");
    let status = run(&["status", "--socket", &socket, "--json"])?.json()?;
    let events = &status[0]["totals"]["events"];
    ensure!(*events == serde_json::json!({"backend-deleted": {"dry-run": 1}}), "{events}");
    ensure!(ten.echo(0, 10)?.answered() == 10);
    drop(ten);
    serve.finish()
}

fn two_asked_two_answered() -> Result<()> {
    let serve = Serve::start("cli-two")?;
    let mut ten = Ten::new(&serve)?;
    let socket = serve.socket_arg()?;
    let nobody = ["udp://10.96.0.9:53", "tcp://10.96.0.9:80"];
    let ended = run(&["reap", nobody[0], nobody[1], "--socket", &socket])?;
    ensure!(ended.code == Some(0), "{ended:?}");
    let lines: Vec<&str> = ended.out.lines().collect();
    ensure!(lines.len() == 3 && lines[0].starts_with("2 backends: 0 of 0 sockets destroyed"), "{ended:?}");
    ensure!(lines[1..] == nobody.map(|b| format!("  {b}: 0 of 0 destroyed")), "{ended:?}");
    expect_census(&serve, [10, 0, 0, 0])?;
    // Six that were destroyed, and one that has sent and is connected to nobody.
    let ended = run(&["reap", UDP, "--socket", &socket])?;
    ensure!(ended.code == Some(0) && ended.out.contains("6 of 6 sockets destroyed"), "{ended:?}");
    sender(&mut ten, None, &["10.96.7.1:53"])?;
    expect_census(&serve, [4, 1, 6, 0])?;
    drop(ten);
    serve.finish()
}

/// What the index holds is said alike by all.
fn expect_census(serve: &Serve, expected: [u64; 4]) -> Result<()> {
    let [connected, unconnected, no_peer, moved_on] = expected;
    let census = format!(
        "{connected} connected, {unconnected} unconnected, {no_peer} without a peer, {moved_on} moved on"
    );
    let says = |command| run(&[command, "--socket", &serve.socket_arg()?]).map(|ended| ended.out);
    let index = says("index")?;
    ensure!(index.contains(&census), "not {census}: {index}");
    // These share what a walk has found for half a second or more.
    until(&format!("the status to say {census}"), || says("status").is_ok_and(|out| out.contains(&census)))?;
    let expected = serde_json::json!({
        "connected": connected, "unconnected": unconnected, "no_peer": no_peer, "moved_on": moved_on
    });
    let mut client = serve.client()?;
    client.send("{\"id\":\"t\",\"type\":\"top\"}\n")?;
    let top = client.answer()?.context("closed")?;
    ensure!(top["top"]["status"]["sockets"] == expected, "not {expected}: {top}");
    Ok(())
}

fn what_reconcile_needs() -> Result<()> {
    let serve = Serve::start_with("cli-needs", &["--reconcile-max", "5"])?;
    let mut ten = Ten::new(&serve)?;
    let socket = serve.socket_arg()?;
    // No terminal to be asked on.
    let ended = run(&["reconcile", TCP, "--socket", &socket])?;
    ensure!(ended.code == Some(2) && ended.err.contains("then say --yes"), "{ended:?}");
    let ended = run(&["reconcile", TCP, "--yes", "--socket", &socket])?;
    let begin = format!(
        "not among 1 living backend: refused: 6 victims are more than the 5 that one reconcile may have, and nothing \
         was destroyed; if it is right, raise --reconcile-max of the service; it would have destroyed 6 sockets of 1 \
         backend: {UDP} (6)\n"
    );
    ensure!(ended.code == Some(1) && ended.out == begin, "{ended:?}");
    let ended = run(&["reconcile", TCP, "--dry-run", "--socket", &socket])?;
    ensure!(ended.code == Some(1) && ended.out.contains("\n  WOULD BE refused: 6 victims"), "{ended:?}");
    // Another network, and nothing of it is meant.
    let ended = run(&["reconcile", TCP, "--within", "192.0.2.0/24,fd00::/8", "--yes", "--socket", &socket])?;
    ensure!(ended.code == Some(0) && ended.out.contains(": 0 of 0 sockets destroyed"), "{ended:?}");
    let ended = run(&["reconcile", TCP, "--within", "0.0.0.0/0", "--yes", "--socket", &socket])?;
    ensure!(ended.code == Some(2) && ended.err.contains("restricts nothing"), "{ended:?}");
    ensure!(ten.echo(0, 10)?.answered() == 10);
    drop(ten);
    serve.finish()
}

fn reconcile_asks_on_a_terminal() -> Result<()> {
    let serve = Serve::start("cli-asks")?;
    let mut ten = Ten::new(&serve)?;
    let command =
        format!("{} reconcile {TCP} --socket {}", env!("CARGO_BIN_EXE_skreap"), serve.socket_arg()?);
    let on_terminal = |answer: &str| {
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &command, "/dev/null"]);
        run_with(script, answer.as_bytes().to_vec())
    };
    let shown = format!("not among 1 living backend: 6 sockets would be destroyed\r\n  {UDP}: 6 would be");
    let ended = on_terminal("n\n")?;
    ensure!(ended.code == Some(1) && ended.out.contains(&shown), "{ended:?}");
    ensure!(ended.out.contains("Destroy them? [y/N]"), "{ended:?}");
    ensure!(ended.out.contains("skreap: nothing was destroyed"), "{ended:?}");
    ensure!(ten.echo(0, 10)?.answered() == 10);
    let ended = on_terminal("y\n")?;
    ensure!(ended.code == Some(0) && ended.out.contains(": 6 of 6 sockets destroyed"), "{ended:?}");
    ensure!(ten.echo(6, 4)?.answered() == 4);
    drop(ten);
    serve.finish()
}
