//! A running `skreap serve`.

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use skreap_testbed::Cgroup;
use tempfile::TempDir;

use crate::hooks;
use crate::process::{self, Ended, PATIENCE, skreap};
use crate::schema;

/// One event as a line.
pub fn event(id: &str) -> String {
    event_for(id, "udp://10.96.0.9:53")
}

pub fn event_for(id: &str, backend: &str) -> String {
    format!("{{\"id\":\"{id}\",\"type\":\"backend-deleted\",\"backend\":\"{backend}\"}}\n")
}

/// The ids of the reports among answers, in their order.
pub fn report_ids(answers: &[Value]) -> Vec<&str> {
    answers.iter().filter(|a| a.get("engine").is_some()).filter_map(|a| a["id"].as_str()).collect()
}

/// `skreap serve` on a cgroup of its own, with some sources.
pub fn command(cgroup: &Cgroup, sources: &[&str]) -> Command {
    let mut command = skreap(&["serve"]);
    command.arg("--cgroup").arg(cgroup.path());
    for source in sources {
        command.args(["--source", source]);
    }
    command
}

/// `serve --source unix:PATH`, attached and listening. It is killed on drop if it has not ended.
pub struct Serve {
    child: Child,
    pub cgroup: Cgroup,
    directory: TempDir,
    /// What it is started with, besides cgroup and source.
    pub args: Vec<String>,
}

impl Serve {
    pub fn start(label: &str) -> Result<Self> {
        Self::start_with(label, &[])
    }

    /// As [`Serve::start`], with more arguments.
    pub fn start_with(label: &str, args: &[&str]) -> Result<Self> {
        let cgroup = Cgroup::create(label)?;
        let directory = TempDir::new()?;
        // Users other than root are to find the socket.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755))?;
        let args: Vec<String> = args.iter().copied().map(str::to_owned).collect();
        let child = Self::spawn(&cgroup, &directory.path().join("socket"), &args)?;
        let serve = Self { child, cgroup, directory, args };
        serve.ready()?;
        Ok(serve)
    }

    fn spawn(cgroup: &Cgroup, socket: &Path, args: &[String]) -> Result<Child> {
        let source = format!("unix:{}", socket.display());
        let mut command = command(cgroup, &[&source]);
        command.args(args);
        Ok(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
    }

    fn ready(&self) -> Result<()> {
        process::until("the service to listen", || UnixStream::connect(self.socket()).is_ok())?;
        // The first programs are before all that translate.
        let expected = if self.args.iter().any(|arg| arg == "--frontends") { 9 } else { 5 };
        ensure!(hooks::attached(&self.cgroup)? == expected, "not all hooks are attached");
        Ok(())
    }

    /// Kills it with SIGKILL and starts another in its place.
    pub fn replace(&mut self) -> Result<()> {
        self.kill()?;
        ensure!(self.socket().exists(), "a killed service cannot have removed its socket");
        self.restart()
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts another in the place of one that has ended.
    pub fn restart(&mut self) -> Result<()> {
        self.begin()?;
        self.ready()
    }

    /// As [`Serve::restart`], without waiting until it is ready.
    pub fn begin(&mut self) -> Result<()> {
        self.child = Self::spawn(&self.cgroup, &self.socket(), &self.args)?;
        Ok(())
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// The socket as an argument.
    pub fn socket_arg(&self) -> Result<String> {
        Ok(self.socket().to_str().context("the path is not UTF-8")?.to_owned())
    }

    pub fn client(&self) -> Result<Talk> {
        let stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Talk { answers: BufReader::new(stream.try_clone()?), stream, last: String::new() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: i32) -> Result<()> {
        process::signal(&self.child, signal)
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> Result<Ended> {
        process::collect(&mut self.child)
    }

    /// Asks it to end, and checks that it does so in good order.
    pub fn finish(mut self) -> Result<()> {
        self.signal(libc::SIGTERM)?;
        let ended = self.ended()?;
        ensure!(ended.code == Some(0), "{ended:?}");
        ensure!(!ended.err.contains("panicked"), "{ended:?}");
        self.nothing_left()?;
        let cgroup = self.cgroup.path().to_owned();
        drop(self);
        ensure!(!cgroup.exists(), "the cgroup has members: drop them first");
        Ok(())
    }

    /// Neither hooks nor socket file.
    pub fn nothing_left(&self) -> Result<()> {
        ensure!(hooks::attached(&self.cgroup)? == 0, "hooks are still attached");
        ensure!(!self.socket().exists(), "the socket file is still there");
        Ok(())
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection to the service.
pub struct Talk {
    answers: BufReader<UnixStream>,
    pub stream: UnixStream,
    /// The last answer, as it was.
    pub last: String,
}

impl Talk {
    pub fn send(&mut self, text: &str) -> Result<()> {
        Ok(self.stream.write_all(text.as_bytes())?)
    }

    /// The next answer; `None` once the service has closed the connection.
    pub fn answer(&mut self) -> Result<Option<Value>> {
        self.last.clear();
        if self.answers.read_line(&mut self.last)? == 0 {
            return Ok(None);
        }
        let answer = serde_json::from_str(&self.last).with_context(|| self.last.clone())?;
        schema::check_answer(&answer)?;
        Ok(Some(answer))
    }

    /// Sends one event and takes its report.
    pub fn ask(&mut self, id: &str) -> Result<()> {
        self.send(&event(id))?;
        let report = self.answer()?.context("the connection was closed")?;
        ensure!(report["id"] == id && report["complete"] == true, "{report}");
        Ok(())
    }
}
