//! A separate process for work that may have to wait for the owner of a socket.
//!
//! Nothing ends the wait of a thread for the lock of a socket, and a process has ended for its parent only when
//! the last of its threads has. So this process starts another, reads the one line that it prints, and ends. The other
//! one is left behind if a thread of it waits.

use std::env;
use std::ffi::OsStr;
use std::io::{self, IsTerminal as _, Read, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Failure;

/// What a process is given that is such a worker.
pub(super) const ARGUMENT: &str = "--worker";
/// How long a process takes to end that waits for nothing.
const PATIENCE: Duration = Duration::from_millis(200);

/// Starts this command again with the same arguments and, behind the one named, [`ARGUMENT`]. Returns the line that it
/// prints.
pub(super) fn line(behind: &str) -> Result<String, Failure> {
    let mut arguments: Vec<_> = env::args_os().collect();
    let at = arguments.iter().position(|argument| argument == behind).context("no such argument")?;
    arguments.insert(at + 1, ARGUMENT.into());
    let mut command = Command::new("/proc/self/exe");
    command.arg0(arguments.first().map_or(OsStr::new("skreap"), |name| name));
    command.args(arguments.iter().skip(1)).stdin(Stdio::null()).stdout(Stdio::piped());
    // The reader of a pipe would wait for a worker that is left behind. A terminal is given to it, as the log
    // has colors there.
    command.stderr(if io::stderr().is_terminal() { Stdio::inherit() } else { Stdio::piped() });
    let mut worker = command.spawn().context("cannot start a process (/proc/self/exe)")?;
    match read(&mut worker).context("cannot read from the process that does the work")? {
        Some(line) => {
            wait_a_little(&mut worker);
            Ok(line)
        }
        None => {
            let status = worker.wait().context("cannot wait for the process that does the work")?;
            Err(match status.code().and_then(|code| u8::try_from(code).ok()) {
                // It has said why.
                Some(code) if code != 0 => Failure::Said(code),
                _ => anyhow!("the process that does the work ended without an answer: {status}").into(),
            })
        }
    }
}

/// Its line; passes on what it logs until then. `None` if it ends without one.
fn read(worker: &mut Child) -> io::Result<Option<String>> {
    let mut out = worker.stdout.take().ok_or(io::ErrorKind::NotConnected)?;
    let mut log = worker.stderr.take();
    let mut line = Vec::new();
    let mut ended = false;
    loop {
        let mut ready = vec![PollFd::new(out.as_fd(), PollFlags::POLLIN)];
        ready.extend(log.as_ref().map(|log| PollFd::new(log.as_fd(), PollFlags::POLLIN)));
        // What was logged before the line is there by now.
        let timeout = if ended { PollTimeout::ZERO } else { PollTimeout::NONE };
        poll(&mut ready, timeout)?;
        let ready: Vec<bool> = ready.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        let has_log = ready.get(1).is_some_and(|ready| *ready);
        if has_log && !pass_on(&mut log)? {
            log = None;
        }
        if !ended && ready.first().is_some_and(|ready| *ready) {
            ended = !read_some(&mut out, &mut line)? || line.ends_with(b"\n");
        }
        if ended && !has_log {
            let line = String::from_utf8(line).map_err(io::Error::other)?;
            return Ok(line.strip_suffix('\n').map(str::to_owned));
        }
    }
}

/// False at the end of the log.
fn pass_on(log: &mut Option<ChildStderr>) -> io::Result<bool> {
    let mut bytes = Vec::new();
    let more = log.as_mut().map_or(Ok(false), |log| read_some(log, &mut bytes))?;
    // A log that nobody takes is no reason to fail.
    let _ = io::stderr().write_all(&bytes);
    Ok(more)
}

/// Appends what there is; false at the end.
fn read_some(from: &mut impl Read, to: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    let n = from.read(&mut buffer)?;
    to.extend(buffer.iter().take(n));
    Ok(n > 0)
}

/// One that waits for nothing is gone when this returns.
fn wait_a_little(worker: &mut Child) {
    let start = Instant::now();
    while matches!(worker.try_wait(), Ok(None)) && start.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(1));
    }
}
