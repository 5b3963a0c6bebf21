//! Running the binary, never for longer than it should take.

use std::io::{Read, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Longer than anything takes here, the machine being busy or not.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The command under test, deaf to the environment of who runs the tests.
pub fn skreap(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skreap"));
    command.args(args).env_remove("SKREAP_LOG").env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
    command
}

/// How a command ended, and all it said.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ended {
    /// The lines of stdout, as JSON.
    pub fn json(&self) -> Result<Vec<serde_json::Value>> {
        let parse = |line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}"));
        self.out.lines().map(parse).collect()
    }
}

/// Runs a command to its end, with this on its stdin.
pub fn run_with(mut command: Command, input: Vec<u8>) -> Result<Ended> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    // It may end without having read everything.
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let ended = collect(&mut child);
    // Its reader is gone now, so this ends.
    let _ = writer.join();
    ended
}

/// Runs `skreap` with nothing on its stdin.
pub fn run(args: &[&str]) -> Result<Ended> {
    run_with(skreap(args), Vec::new())
}

/// Takes everything a child says until it ends.
pub fn collect(child: &mut Child) -> Result<Ended> {
    let out = reader(child.stdout.take());
    let err = reader(child.stderr.take());
    let status = wait(child, PATIENCE)?;
    let text = |from: mpsc::Receiver<Vec<u8>>| -> Result<String> {
        let bytes = from.recv_timeout(PATIENCE).context("a child's output does not end")?;
        Ok(String::from_utf8(bytes)?)
    };
    Ok(Ended { code: status.code(), out: text(out)?, err: text(err)? })
}

fn reader(stream: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            let _ = stream.read_to_end(&mut bytes);
        }
        sender.send(bytes)
    });
    receiver
}

/// Waits for a child; one that takes longer is killed, and that is an error.
pub fn wait(child: &mut Child, patience: Duration) -> Result<ExitStatus> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!("it did not end within {patience:?}");
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until something is so.
pub fn until(what: &str, mut so: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        if Instant::now() > deadline {
            bail!("waited {PATIENCE:?} in vain for: {what}");
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Sends a signal to a child of ours that has not been waited for.
pub fn signal(child: &Child, signal: i32) -> Result<()> {
    let pid = i32::try_from(child.id())?;
    // SAFETY: kill takes no pointers; the child is not waited for, so the PID is still its own.
    if unsafe { libc::kill(pid, signal) } != 0 {
        return Err(std::io::Error::last_os_error()).context("kill");
    }
    Ok(())
}
