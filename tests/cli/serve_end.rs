//! How `serve` ends: what it has accepted is answered, and nothing stays attached.

use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use skreap_testbed::Cgroup;

use crate::hooks;
use crate::process::{self, collect};
use crate::serve::{Serve, command, event, report_ids};

crate::tests![
    sigterm_on_stdin,
    sigint_on_stdin,
    sigterm_on_a_socket,
    sigint_on_a_socket,
    a_client_that_never_reads_does_not_hold_it_up,
];

fn sigterm_on_stdin() -> Result<()> {
    on_stdin(libc::SIGTERM)
}

fn sigint_on_stdin() -> Result<()> {
    on_stdin(libc::SIGINT)
}

/// What was accepted is what was read from the pipe: exactly so many reports there must be.
fn on_stdin(signal: i32) -> Result<()> {
    const EVENTS: usize = 5000;
    let cgroup = Cgroup::create("cli-end")?;
    let (reader, mut writer) = std::io::pipe()?;
    let mut rest = reader.try_clone()?;
    // SAFETY: F_SETPIPE_SZ takes no pointer.
    let room = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, 1 << 20) };
    let input: String = (0..EVENTS).map(|i| event(&format!("e{i}"))).collect();
    ensure!(usize::try_from(room)? >= input.len(), "the pipe holds {room} bytes only");
    let (stdout, pipe) = std::io::pipe()?;
    let mut serve = command(&cgroup, &[]);
    let mut child = serve.stdin(reader).stdout(pipe).stderr(Stdio::piped()).spawn()?;
    // Or the pipes would never end.
    drop(serve);
    process::until("the hooks", || hooks::attached(&cgroup).is_ok_and(|n| n == 5))?;
    writer.write_all(input.as_bytes())?;
    // It is in the middle of them: some are answered, and it can answer 256 more before it must wait for us.
    let mut stdout = std::io::BufReader::new(stdout);
    let mut answers = String::new();
    std::io::BufRead::read_line(&mut stdout, &mut answers)?;
    process::signal(&child, signal)?;
    stdout.read_to_string(&mut answers)?;
    let ended = collect(&mut child)?;
    ensure!(ended.code == Some(0) && ended.err.is_empty(), "{ended:?}");
    ensure!(hooks::attached(&cgroup)? == 0, "hooks are still attached");

    drop(writer);
    let mut unread = Vec::new();
    rest.read_to_end(&mut unread)?;
    let read =
        input.as_bytes().get(..input.len() - unread.len()).context("more was left than was written")?;
    let accepted = read.iter().filter(|byte| **byte == b'\n').count();
    let answers: Vec<serde_json::Value> =
        answers.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let expected: Vec<String> = (0..accepted).map(|i| format!("e{i}")).collect();
    ensure!(report_ids(&answers) == expected, "{accepted} accepted, {} answered", answers.len());
    ensure!(accepted > 0, "nothing was accepted");
    Ok(())
}

fn sigterm_on_a_socket() -> Result<()> {
    on_a_socket("cli-sigterm", libc::SIGTERM)
}

fn sigint_on_a_socket() -> Result<()> {
    on_a_socket("cli-sigint", libc::SIGINT)
}

/// What was accepted is answered in order and without a gap, then the connection ends.
fn on_a_socket(label: &str, signal: i32) -> Result<()> {
    let mut serve = Serve::start(label)?;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = serve.client()?;
        client.send(&(0..200).map(|i| event(&format!("e{i}"))).collect::<String>())?;
        clients.push(client);
    }
    for client in &mut clients {
        ensure!(client.answer()?.context("closed")?["id"] == "e0", "not the first");
    }
    serve.signal(signal)?;
    for client in &mut clients {
        let mut next = 1;
        // A connection with requests that nobody read is reset by the kernel, after its last answer.
        while let Some(report) = client.answer()? {
            ensure!(report["id"] == format!("e{next}"), "{report} instead of e{next}");
            next += 1;
        }
        // 200 events are less than one read: they were accepted together.
        ensure!(next == 200, "{next} of 200 answered");
    }
    let ended = serve.ended()?;
    ensure!(ended.code == Some(0) && ended.err.is_empty(), "{ended:?}");
    serve.nothing_left()
}

fn a_client_that_never_reads_does_not_hold_it_up() -> Result<()> {
    let mut serve = Serve::start("cli-stuck")?;
    let mut stuck = serve.client()?;
    stuck.stream.set_nonblocking(true)?;
    // Until neither its answers nor its requests fit anywhere any more.
    let mut sent = 0;
    process::until("the client to be stuck", || {
        while stuck.send(&event(&format!("e{sent}"))).is_ok() {
            sent += 1;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
        stuck.send(&event(&format!("e{sent}"))).is_err()
    })?;
    let mut other = serve.client()?;
    for i in 0..20 {
        other.ask(&format!("o{i}"))?;
    }
    serve.signal(libc::SIGTERM)?;
    let ended = serve.ended()?;
    ensure!(ended.code == Some(0), "{ended:?}");
    ensure!(ended.err.contains("answers were not delivered"), "{ended:?}");
    serve.nothing_left()
}
