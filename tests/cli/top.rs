//! `skreap top`: one frame as text, and the screen of a real terminal, which is left as it was.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};

use crate::commands::{TCP, Ten, UDP, good};
use crate::process::{self, PATIENCE, run, skreap};
use crate::serve::Serve;

crate::tests![one_frame_as_text, a_terminal_is_left_as_it_was];

fn one_frame_as_text() -> Result<()> {
    let serve = Serve::start("cli-top")?;
    let socket = serve.socket_arg()?;
    let socket = socket.as_str();
    let ten = Ten::new(&serve)?;
    // Piped, it is the same without being told.
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
    ensure!(text.contains("LATENCY (1 event)") && text.contains(" complete   6 of 6 "), "{text}");
    ensure!(text.contains("health  failed 0, incomplete 0, errors 0, dropped 0, stale 0"), "{text}");
    drop(ten);
    let ended = run(&["top", "--interval", "0"])?;
    ensure!(ended.code == Some(2), "{ended:?}");
    let ended = run(&["top", "--socket", "/nowhere/socket"])?;
    ensure!(ended.code == Some(1) && ended.err.contains("no service listens there"), "{ended:?}");
    serve.finish()
}

/// A pseudo-terminal of 80 by 24.
fn terminal() -> Result<(File, OwnedFd)> {
    let size = libc::winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    let (mut master, mut slave) = (-1, -1);
    // SAFETY: both numbers are written, the size is only read, and no name or settings are asked for.
    let result = unsafe {
        libc::openpty(
            &raw mut master,
            &raw mut slave,
            std::ptr::null_mut(),
            std::ptr::null(),
            &raw const size,
        )
    };
    ensure!(result == 0, "openpty: {}", std::io::Error::last_os_error());
    // SAFETY: fresh descriptors that nobody else owns.
    Ok(unsafe { (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) })
}

/// The local flags of a terminal: whether it echoes and edits lines.
fn local_flags(terminal: &OwnedFd) -> Result<u32> {
    // SAFETY: termios is integers only, for which 0 is a value.
    let mut settings: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, and the settings are written whole.
    let result = unsafe { libc::tcgetattr(std::os::fd::AsRawFd::as_raw_fd(terminal), &raw mut settings) };
    ensure!(result == 0, "tcgetattr: {}", std::io::Error::last_os_error());
    Ok(settings.c_lflag)
}

fn a_terminal_is_left_as_it_was() -> Result<()> {
    let serve = Serve::start("cli-tty")?;
    let socket = serve.socket_arg()?;
    for end in ["q", "SIGTERM"] {
        let (mut master, slave) = terminal()?;
        let before = local_flags(&slave)?;
        let mut command = skreap(&["top", "--interval", "0.1", "--socket", &socket]);
        command
            .env("TERM", "xterm")
            .stdin(slave.try_clone()?)
            .stdout(slave.try_clone()?)
            .stderr(Stdio::piped());
        let mut child = command.spawn()?;
        drop(command);
        process::until("raw mode", || local_flags(&slave).is_ok_and(|flags| flags & libc::ICANON == 0))?;
        let mut screen = Vec::new();
        let mut buffer = [0; 4096];
        while !String::from_utf8_lossy(&screen).contains("LATENCY") {
            let n = master.read(&mut buffer)?;
            screen.extend_from_slice(buffer.get(..n).unwrap_or_default());
        }
        if end == "q" {
            master.write_all(b"q")?;
        } else {
            process::signal(&child, libc::SIGTERM)?;
        }
        let status = process::wait(&mut child, PATIENCE)?;
        ensure!(status.success(), "{end}: {status}");
        ensure!(local_flags(&slave)? == before, "{end}: the terminal is not as it was");
        drop(slave);
        // Up to the end of the terminal, which is an error when its last user has gone.
        while let Ok(n @ 1..) = master.read(&mut buffer) {
            screen.extend_from_slice(buffer.get(..n).unwrap_or_default());
        }
        let screen = String::from_utf8_lossy(&screen);
        ensure!(screen.contains("\x1b[?1049h") && screen.contains("\x1b[?1049l"), "{end}: {screen:?}");
    }
    serve.finish()
}
