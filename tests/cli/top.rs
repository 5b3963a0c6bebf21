//! `skreap top`: one frame as text, and the screen of a real terminal, which is left as it was.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::commands::{TCP, Ten, UDP, good};
use crate::process::{self, PATIENCE, run, skreap};
use crate::pty::{Hangup, Pty, in_session};
use crate::serve::Serve;

crate::tests![
    one_frame_as_text,
    a_terminal_is_left_as_it_was,
    a_terminal_that_goes_away_ends_it,
    a_terminal_that_takes_no_output_ends_with_a_signal,
    keys_change_the_screen,
];

fn one_frame_as_text() -> Result<()> {
    let serve = Serve::start("cli-top")?;
    let socket = serve.socket_arg()?;
    let socket = socket.as_str();
    let ten = Ten::new(&serve)?;
    // Piped, it is the same without being told; so it is on a terminal that cannot move its cursor.
    let pty = Pty::new()?;
    let mut dumb = top(socket, &pty)?;
    let mut child = dumb.env("TERM", "dumb").spawn()?;
    drop(dumb);
    ensure!(process::wait(&mut child, PATIENCE)?.success(), "TERM=dumb");
    let text = pty.read_to_end();
    ensure!(text.lines().count() == 24 && !text.contains('\x1b'), "{text:?}");
    for args in [&["top", "--once", "--socket", socket][..], &["top", "--socket", socket]] {
        let text = good(args)?;
        ensure!(text.lines().count() == 24 && text.lines().all(|l| l.chars().count() <= 80), "{text}");
        ensure!(text.contains("index   10 sockets to 2 backends, 10 of "), "{text}");
        ensure!(text.contains("events  0, 0 waiting; 0 sockets destroyed"), "{text}");
        let row = |backend: &str| -> Result<Vec<&str>> {
            let line = text.lines().find(|l| l.trim_start().starts_with(backend)).context("no such row")?;
            Ok(line.split_whitespace().skip(1).collect())
        };
        ensure!(row(UDP)? == ["6", "0", "1"] && row(TCP)? == ["4", "0", "1"], "{text}");
    }
    good(&["reap", UDP, "--socket", socket])?;
    let text = good(&["top", "--once", "--socket", socket])?;
    ensure!(text.contains("events  1, 0 waiting; 6 sockets destroyed"), "{text}");
    let latency = text.lines().find(|line| line.starts_with("latency p50 ")).context("no latency")?;
    ensure!(latency.ends_with("(1 event)") && text.contains(" complete   6 of 6 "), "{text}");
    ensure!(text.contains("health  failed 0, incomplete 0, errors 0, dropped 0, stale 0"), "{text}");
    drop(ten);
    let ended = run(&["top", "--interval", "0"])?;
    ensure!(ended.code == Some(2), "{ended:?}");
    let ended = run(&["top", "--socket", "/nowhere/socket"])?;
    ensure!(ended.code == Some(1) && ended.err.contains("no service listens there"), "{ended:?}");
    serve.finish()
}

/// `skreap top` on a terminal.
fn top(socket: &str, pty: &Pty) -> Result<Command> {
    let mut command = skreap(&["top", "--interval", "0.1", "--socket", socket]);
    command
        .env("TERM", "xterm")
        .stdin(pty.slave.try_clone()?)
        .stdout(pty.slave.try_clone()?)
        .stderr(Stdio::piped());
    Ok(command)
}

/// Starts it, and waits for its first screen.
fn started(mut command: Command, pty: &mut Pty) -> Result<(Child, String)> {
    let child = command.spawn()?;
    drop(command);
    let screen = pty.read_until(&["\x1b[?1049h", "LAST EVENTS"])?;
    ensure!(pty.local_flags()? & libc::ICANON == 0, "not in raw mode");
    Ok((child, screen))
}

fn a_terminal_is_left_as_it_was() -> Result<()> {
    let serve = Serve::start("cli-tty")?;
    let socket = serve.socket_arg()?;
    for end in ["q", "SIGTERM", "SIGINT", "SIGHUP"] {
        let mut pty = Pty::new()?;
        let before = pty.local_flags()?;
        let (mut child, _) = started(top(&socket, &pty)?, &mut pty)?;
        match end {
            "q" => pty.master.write_all(b"q")?,
            "SIGTERM" => process::signal(&child, libc::SIGTERM)?,
            "SIGINT" => process::signal(&child, libc::SIGINT)?,
            _ => process::signal(&child, libc::SIGHUP)?,
        }
        let status = process::wait(&mut child, PATIENCE)?;
        ensure!(status.success(), "{end}: {status}");
        ensure!(pty.local_flags()? == before, "{end}: the terminal is not as it was");
        let screen = pty.read_to_end();
        ensure!(screen.contains("\x1b[?1049l"), "{end}: {screen:?}");
    }
    serve.finish()
}

/// Whether it is told by a signal or not. It used to read on, at 60 % of a CPU, and to hear no signal any more.
fn a_terminal_that_goes_away_ends_it() -> Result<()> {
    let serve = Serve::start("cli-hung-up")?;
    let socket = serve.socket_arg()?;
    for hangup in [Hangup::Sent, Hangup::Ignored, Hangup::NotSent] {
        let mut pty = Pty::new()?;
        let mut command = top(&socket, &pty)?;
        in_session(&mut command, hangup);
        let (mut child, _) = started(command, &mut pty)?;
        drop(pty);
        let status =
            process::wait(&mut child, Duration::from_secs(20)).with_context(|| format!("{hangup:?}"))?;
        ensure!(status.code() == Some(0), "{hangup:?}: {status}");
        let ended = process::collect(&mut child)?;
        ensure!(ended.err.is_empty(), "{hangup:?}: {ended:?}");
    }
    serve.finish()
}

/// It is blocked in the middle of a screen.
fn a_terminal_that_takes_no_output_ends_with_a_signal() -> Result<()> {
    let serve = Serve::start("cli-stopped")?;
    let socket = serve.socket_arg()?;
    let mut pty = Pty::new()?;
    let before = pty.local_flags()?;
    let (mut child, _) = started(top(&socket, &pty)?, &mut pty)?;
    pty.stop_output()?;
    // Long enough for the next screen to be under way.
    std::thread::sleep(Duration::from_millis(300));
    process::signal(&child, libc::SIGTERM)?;
    let status = process::wait(&mut child, Duration::from_secs(20))?;
    ensure!(status.code() == Some(0), "{status}");
    ensure!(pty.local_flags()? == before, "the terminal is not as it was");
    serve.finish()
}

fn keys_change_the_screen() -> Result<()> {
    let serve = Serve::start("cli-keys")?;
    let socket = serve.socket_arg()?;
    let ten = Ten::new(&serve)?;
    let mut pty = Pty::sized(200, 50)?;
    let (mut child, screen) = started(top(&socket, &pty)?, &mut pty)?;
    ensure!(screen.contains(UDP) && screen.contains(TCP) && screen.contains("LATENCY"), "{screen:?}");
    pty.master.write_all(b"?")?;
    // Only cells that change are sent, so only words that were nowhere before are whole.
    pty.read_until(&["Keys", "Health:"])?;
    // Any key leaves it; then only what has `tcp` in its name.
    pty.master.write_all(b"x/TCP\r")?;
    pty.read_until(&["Enter", "p\")"])?;
    pty.master.write_all(b"q")?;
    ensure!(process::wait(&mut child, PATIENCE)?.success());
    drop(ten);
    serve.finish()
}
