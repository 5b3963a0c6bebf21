//! The round trip of an event through `skreap serve`: from the client's write to the unix socket to the end of the line
//! that answers it.

use std::env;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use skreap::core::{Event, Report};

use super::{Sample, event, nanos};
use crate::world::World;

/// How long the service may take to be ready, and to answer.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(5);

/// A service of its own, with an index of its own, and one client.
pub struct Service {
    client: BufReader<UnixStream>,
    number: u64,
    // Dropped last: the client is gone when the service ends.
    process: Process,
}

struct Process {
    child: Child,
    socket: PathBuf,
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing to do about a process that has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// The command beside this one.
///
/// # Errors
/// When this program cannot be found.
pub fn ours() -> Result<PathBuf> {
    Ok(env::current_exe().context("find this program")?.with_file_name("skreap"))
}

impl Service {
    /// Starts `skreap serve` of this command, and waits until it is ready.
    ///
    /// # Errors
    /// When the command is missing or does not start.
    pub fn new(world: &World, label: &str, command: &Path) -> Result<Self> {
        Self::start(world.cgroup(), world.max_sockets(), label, command)
    }

    /// The same on any cgroup, with an index of that size.
    ///
    /// # Errors
    /// When the command is missing or does not start.
    pub fn start(cgroup: &Path, max_sockets: u32, label: &str, command: &Path) -> Result<Self> {
        let socket = env::temp_dir().join(format!("skreap-bench-{}-{label}.sock", std::process::id()));
        let child = Command::new(command)
            .arg("serve")
            .arg("--cgroup")
            .arg(cgroup)
            .arg("--max-sockets")
            .arg(max_sockets.to_string())
            .arg("--source")
            .arg(format!("unix:{}", socket.display()))
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("start {}; `cargo build --release` makes it", command.display()))?;
        let mut process = Process { child, socket };
        let stream = process.connect()?;
        stream.set_read_timeout(Some(PATIENCE)).context("set a timeout")?;
        Ok(Self { client: BufReader::new(stream), number: 0, process })
    }

    /// One event on the backend that is gone.
    ///
    /// # Errors
    /// When the event failed, or the service has ended.
    pub fn run(&mut self, world: &World) -> Result<Sample> {
        self.number += 1;
        let (answer, total_ns) = self.ask(&event::deleted(self.number, world.target()?.backend))?;
        event::sample(total_ns, &report(&answer)?)
    }

    /// Sends one event. Returns the line that answers it, and the nanoseconds until its end.
    ///
    /// # Errors
    /// When the service has ended.
    pub fn ask(&mut self, event: &Event) -> Result<(String, u64)> {
        let mut line = serde_json::to_string(event)?;
        line.push('\n');
        let mut answer = String::new();
        let start = Instant::now();
        self.client.get_mut().write_all(line.as_bytes()).context("send the event")?;
        self.client.read_line(&mut answer).context("read the report")?;
        Ok((answer, nanos(start.elapsed())))
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }
}

/// The report in an answer.
///
/// # Errors
/// When it is none.
pub fn report(answer: &str) -> Result<Report> {
    serde_json::from_str(answer).with_context(|| format!("the service answers {answer:?}"))
}

impl Process {
    fn connect(&mut self) -> Result<UnixStream> {
        let end = Instant::now() + PATIENCE;
        loop {
            match UnixStream::connect(&self.socket) {
                Ok(stream) => return Ok(stream),
                Err(error) if Instant::now() > end => return Err(error).context("connect to the service"),
                Err(_) => {}
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the service has ended: {status}");
            }
            thread::sleep(POLL);
        }
    }
}
