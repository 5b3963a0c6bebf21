//! What is only said to somebody who looks: `serve` on a terminal, colors, and output of any width.

use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use skreap_testbed::Cgroup;
use tempfile::TempDir;

use crate::commands::{TCP, Ten, UDP, good};
use crate::process::{self, PATIENCE, collect, run, run_with, skreap};
use crate::pty::Pty;
use crate::serve::{Serve, command};

crate::tests![
    serve_says_when_it_is_ready,
    serve_on_stdin_says_what_it_waits_for,
    nothing_is_said_to_a_pipe,
    colors_are_for_who_wants_them,
    a_narrow_terminal_breaks_nothing,
];

/// Its stderr is the terminal.
fn on(pty: &Pty, mut command: Command) -> Result<Child> {
    command.env_remove("NO_COLOR").stdout(Stdio::null()).stderr(pty.slave.try_clone()?);
    Ok(command.spawn()?)
}

/// The lines that it said, after its end.
fn said(pty: Pty) -> Vec<String> {
    pty.read_to_end().lines().map(|line| line.trim_end_matches('\r').to_owned()).collect()
}

fn serve_says_when_it_is_ready() -> Result<()> {
    let cgroup = Cgroup::create("cli-ready")?;
    let directory = TempDir::new()?;
    let path = directory.path().join("socket").display().to_string();
    let mut pty = Pty::sized(500, 24)?;
    let mut serve = command(&cgroup, &[&format!("unix:{path}")]);
    serve.args([
        "--metrics",
        "127.0.0.1:0",
        "--engine",
        "netlink",
        "--max-sockets",
        "2000",
        "--no-bootstrap",
    ]);
    let mut child = on(&pty, serve)?;
    let first = pty.read_until(&["^C ends it\r\n"]);
    // It is true: requests are answered from now on.
    let asked = run(&["status", "--socket", &path]);
    process::signal(&child, libc::SIGTERM)?;
    ensure!(process::wait(&mut child, PATIENCE)?.success());
    let asked = asked?;
    ensure!(asked.code == Some(0), "{asked:?}");
    let first = first?;
    let lines: Vec<&str> = first.split("\r\n").collect();
    let [ready, metrics, listening, ends, ""] = lines[..] else { anyhow::bail!("{first:?}") };
    ensure!(
        ready == format!("skreap: ready: engine netlink, sockets of {}", cgroup.path().display()),
        "{first}"
    );
    let port = metrics.strip_prefix("skreap: metrics at http://127.0.0.1:").context("no metrics")?;
    let port: u16 = port.strip_suffix("/metrics").context("no path")?.parse()?;
    ensure!(port != 0, "{first}");
    ensure!(
        listening
            == format!(
                "skreap: listening at {path}; from another terminal: skreap top --socket {path}, or skreap reap BACKEND \
                 --socket {path}"
            ),
        "{first}"
    );
    ensure!(ends == "skreap: ^C ends it" && said(pty).is_empty(), "{first}");
    Ok(())
}

fn serve_on_stdin_says_what_it_waits_for() -> Result<()> {
    let cgroup = Cgroup::create("cli-ready-stdin")?;
    let mut pty = Pty::sized(500, 24)?;
    let mut serve = command(&cgroup, &[]);
    serve.args(["--engine", "netlink", "--max-sockets", "2000", "--no-bootstrap"]).stdin(Stdio::piped());
    let mut child = on(&pty, serve)?;
    let said = pty.read_until(&["ends it\r\n"]);
    drop(child.stdin.take());
    ensure!(process::wait(&mut child, PATIENCE)?.success());
    let expected = format!(
        "skreap: ready: engine netlink, sockets of {}\r\nskreap: waiting for events on stdin, one JSON object a line, such \
         as {{\"id\":\"1\",\"type\":\"backend-deleted\",\"backend\":\"udp://10.0.0.1:53\"}}\r\nskreap: ^D or ^C ends it\r\n",
        cgroup.path().display()
    );
    let said = said?;
    ensure!(said == expected, "{said:?}");
    Ok(())
}

/// Also while its output goes to a terminal: that is for reports.
fn nothing_is_said_to_a_pipe() -> Result<()> {
    let cgroup = Cgroup::create("cli-ready-pipe")?;
    let pty = Pty::new()?;
    let mut serve = command(&cgroup, &[]);
    serve
        .args(["--max-sockets", "2000", "--no-bootstrap"])
        .stdout(pty.slave.try_clone()?)
        .stderr(Stdio::piped());
    let mut child = serve.spawn()?;
    drop(serve);
    let ended = collect(&mut child)?;
    ensure!(ended.code == Some(0) && ended.err.is_empty(), "{ended:?}");
    ensure!(said(pty).is_empty());
    Ok(())
}

/// Log lines have colors on a terminal that can show them, unless `NO_COLOR` is set.
fn colors_are_for_who_wants_them() -> Result<()> {
    let cgroup = Cgroup::create("cli-colors")?;
    for (term, no_color, colors) in [("xterm", "", true), ("xterm", "1", false), ("dumb", "", false)] {
        let pty = Pty::sized(500, 24)?;
        let mut serve = command(&cgroup, &[]);
        serve.args(["--max-sockets", "2000", "--no-bootstrap", "--log", "info"]).env("TERM", term);
        serve.stdout(Stdio::null()).stderr(pty.slave.try_clone()?).env("NO_COLOR", no_color);
        let mut child = serve.spawn()?;
        drop(serve);
        ensure!(process::wait(&mut child, PATIENCE)?.success(), "{term} {no_color}");
        let lines = said(pty);
        ensure!(lines.iter().any(|line| line.contains("attached")), "{lines:?}");
        ensure!(lines.iter().any(|line| line.contains('\x1b')) == colors, "{term} {no_color:?}: {lines:?}");
    }
    Ok(())
}

/// 40 columns: every command prints the same as into a pipe, and no help is lost.
fn a_narrow_terminal_breaks_nothing() -> Result<()> {
    let serve = Serve::start("cli-narrow")?;
    let socket = serve.socket_arg()?;
    let ten = Ten::new(&serve)?;
    for args in [
        &["index", "--socket", &socket][..],
        &["reap", TCP, "--dry-run", "--socket", &socket],
        &["reap", UDP, TCP, "--dry-run", "--socket", &socket],
    ] {
        let piped = good(args)?;
        for no_color in ["", "1"] {
            let pty = Pty::sized(40, 24)?;
            let mut narrow = skreap(args);
            narrow.env("NO_COLOR", no_color).stdout(pty.slave.try_clone()?).stderr(pty.slave.try_clone()?);
            let mut child = narrow.spawn()?;
            drop(narrow);
            ensure!(process::wait(&mut child, PATIENCE)?.success(), "{args:?}");
            let lines = said(pty);
            // Times and the ids of events differ.
            ensure!(lines.len() == piped.lines().count(), "{args:?}: {lines:?} and not {piped}");
            ensure!(
                lines[0] == piped.lines().next().unwrap_or_default(),
                "{args:?}: {lines:?} and not {piped}"
            );
        }
    }
    let mut help = skreap(&["serve", "--help"]);
    help.env("COLUMNS", "40");
    let ended = run_with(help, Vec::new())?;
    ensure!(ended.code == Some(0) && ended.out.contains("--pending-wait-ms"), "{ended:?}");
    drop(ten);
    serve.finish()
}
