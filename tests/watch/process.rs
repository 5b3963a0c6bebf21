//! Child processes that end with the test.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What must come comes within this time, also on a busy machine.
pub const LONG: Duration = Duration::from_secs(60);

/// A running process, killed when this is dropped.
pub struct Process(Child);

impl Process {
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        let child =
            command.stdin(Stdio::null()).spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self(child))
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.0.try_wait().ok().flatten()
    }

    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.id())?), signal)?)
    }

    /// Sends a signal that ends it, and waits for the end; true if it has ended well.
    pub fn end(mut self, signal: Signal) -> anyhow::Result<bool> {
        self.signal(signal)?;
        let until = Instant::now() + LONG;
        loop {
            if let Some(status) = self.ended() {
                return Ok(status.success());
            }
            if Instant::now() > until {
                bail!("it does not end by {signal}");
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be stopped, or have ended.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// Waits until this is true.
pub fn until(what: &str, mut is: impl FnMut() -> bool) -> anyhow::Result<()> {
    let end = Instant::now() + LONG;
    while !is() {
        if Instant::now() > end {
            bail!("not within {} s: {what}", LONG.as_secs());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
