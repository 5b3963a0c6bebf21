//! The `skreap serve` under test, and those who talk to it. It is killed at any moment and started again over its pins.

use std::env;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use skreap_testbed::{Bpffs, Cgroup};

/// How long an answer may take, restarts included: a start takes a minute where everything is looked at and emulated.
pub const PATIENCE: Duration = Duration::from_secs(300);

pub struct Service {
    child: Child,
    cgroup: PathBuf,
    directory: PathBuf,
    engine: String,
    frontends: bool,
    bpffs: Bpffs,
}

impl Service {
    pub fn start(cgroup: &Cgroup, directory: &Path, engine: &str, frontends: bool) -> Result<Self> {
        let bpffs = Bpffs::create()?;
        let cgroup = cgroup.path().to_owned();
        let child = spawn(&cgroup, directory, engine, frontends, &bpffs)?;
        let (directory, engine) = (directory.to_owned(), engine.to_owned());
        Ok(Self { child, cgroup, directory, engine, frontends, bpffs })
    }

    pub fn socket(directory: &Path) -> PathBuf {
        directory.join("socket")
    }

    /// SIGKILL, and another one takes over.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        self.child = spawn(&self.cgroup, &self.directory, &self.engine, self.frontends, &self.bpffs)?;
        Ok(())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error if it has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                bail!("skreap serve has ended: {status}; its log is {}", log(&self.directory).display())
            }
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Whatever is left of it goes with its pins.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn log(directory: &Path) -> PathBuf {
    directory.join("serve.log")
}

fn spawn(cgroup: &Path, directory: &Path, engine: &str, frontends: bool, bpffs: &Bpffs) -> Result<Child> {
    let log = File::options().create(true).append(true).open(log(directory))?;
    let mut source = std::ffi::OsString::from("unix:");
    source.push(Service::socket(directory));
    // Elsewhere than where it was built it is told.
    let command = env::var_os("SKREAP_COMMAND").unwrap_or_else(|| env!("CARGO_BIN_EXE_skreap").into());
    Command::new(command)
        // Connects are always under way here: to wait for them would leave no time for events.
        .args(["serve", "--log", "warn", "--max-sockets", "65536", "--pending-wait-ms", "1"])
        .args(frontends.then_some("--frontends"))
        .args(["--engine", engine, "--cgroup"])
        .arg(cgroup)
        .arg("--source")
        .arg(source)
        .arg("--pin")
        .arg(bpffs.path("pins"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("start skreap serve")
}

/// One connection to the service; made anew when the service was killed.
pub struct Talk {
    socket: PathBuf,
    stream: Option<BufReader<UnixStream>>,
}

impl Talk {
    pub fn new(directory: &Path) -> Self {
        Self { socket: Service::socket(directory), stream: None }
    }

    /// Asks until there is an answer.
    pub fn ask(&mut self, request: &Value) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.attempt(request) {
                Ok(answer) => {
                    ensure!(answer["id"] == request["id"], "not an answer to {request}: {answer}");
                    return Ok(answer);
                }
                Err(error) if Instant::now() > deadline => return Err(error).context("nobody answers"),
                Err(_) => {
                    self.stream = None;
                    thread::sleep(Duration::from_millis(2));
                }
            }
        }
    }

    fn attempt(&mut self, request: &Value) -> Result<Value> {
        if self.stream.is_none() {
            let stream = UnixStream::connect(&self.socket)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            self.stream = Some(BufReader::new(stream));
        }
        let stream = self.stream.as_mut().context("no connection")?;
        writeln!(stream.get_mut(), "{request}")?;
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            let answer: Value = serde_json::from_str(&line)?;
            // What has come of the sockets that an earlier event has destroyed.
            if answer.get("revived").is_none() {
                return Ok(answer);
            }
        }
    }
}
