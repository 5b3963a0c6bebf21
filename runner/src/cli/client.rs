//! Requests to a running `serve`.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::unistd::geteuid;
use serde_json::Value;
use skreap::core::{Refusal, Request};

/// Longest wait for a response: a full scan of a large machine takes seconds, not minutes.
const PATIENCE: Duration = Duration::from_secs(120);

/// Sends the request and reads its answer.
pub(super) fn ask(socket: &Path, request: &Request) -> anyhow::Result<Value> {
    Session::connect(socket)?.ask(request)
}

/// A connection to a running `serve`, for one request after the other.
pub(super) struct Session {
    stream: UnixStream,
    answers: BufReader<UnixStream>,
}

impl Session {
    pub(super) fn connect(socket: &Path) -> anyhow::Result<Self> {
        Self::connect_within(socket, PATIENCE)
    }

    /// As [`connect`](Self::connect), for a caller that waits no longer than this for an answer.
    pub(super) fn connect_within(socket: &Path, patience: Duration) -> anyhow::Result<Self> {
        let stream = connect(socket)?;
        stream.set_read_timeout(Some(patience)).context("cannot set a timeout")?;
        let answers = BufReader::new(stream.try_clone().context("cannot keep the connection")?);
        Ok(Self { stream, answers })
    }

    /// Sends a request and reads its answer.
    pub(super) fn ask(&mut self, request: &Request) -> anyhow::Result<Value> {
        let mut line = serde_json::to_vec(request).context("cannot write the request")?;
        line.push(b'\n');
        // A service that refuses us sends the reason before it closes: the reason is worth more than the broken pipe.
        if let Err(e) = self.stream.write_all(&line)
            && e.kind() != io::ErrorKind::BrokenPipe
        {
            return Err(e).context("cannot send the request");
        }
        self.next()
    }

    /// Reads the next answer.
    pub(super) fn next(&mut self) -> anyhow::Result<Value> {
        let mut answer = String::new();
        let read = self.answers.read_line(&mut answer).context("no answer")?;
        if read == 0 {
            bail!("the service closed the connection without an answer; its log says why");
        }
        let value: Value = serde_json::from_str(&answer).context("cannot read the answer")?;
        if value.get("error").is_some_and(Value::is_object) {
            let refusal: Refusal = serde_json::from_value(value).context("cannot read the refusal")?;
            // It concerns our only line, or none.
            bail!("{}", refusal.message);
        }
        Ok(value)
    }
}

/// Connects to a running `serve`.
fn connect(socket: &Path) -> anyhow::Result<UnixStream> {
    UnixStream::connect(socket).map_err(|e| {
        let path = socket.display();
        let why = match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                format!("no service listens there: {e}; start `skreap serve --source unix:{path}`, or name another --socket")
            }
            io::ErrorKind::PermissionDenied => {
                format!("{e}; run as root, or serve with `--source unix:{path} --allow-uid {}`", geteuid())
            }
            _ => e.to_string(),
        };
        anyhow::anyhow!("{path}: {why}")
    })
}

/// An id for a request of this process.
pub(super) fn id(command: &str) -> String {
    format!("{command}-{}", std::process::id())
}
