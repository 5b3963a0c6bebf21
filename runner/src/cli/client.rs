//! One request to a running `serve`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use skreap::core::{Refusal, Request};

/// Longest wait for an answer: a full scan of a large machine takes seconds, not minutes.
const PATIENCE: Duration = Duration::from_secs(120);

/// Sends the request and reads its answer.
pub(super) fn ask(socket: &Path, request: &Request) -> anyhow::Result<Value> {
    let mut stream = UnixStream::connect(socket)
        .with_context(|| format!("cannot reach `skreap serve --source unix:{}`", socket.display()))?;
    stream.set_read_timeout(Some(PATIENCE)).context("cannot set a timeout")?;
    let mut line = serde_json::to_vec(request).context("cannot write the request")?;
    line.push(b'\n');
    stream.write_all(&line).context("cannot send the request")?;
    let mut answer = String::new();
    let read = BufReader::new(stream).read_line(&mut answer).context("no answer")?;
    if read == 0 {
        bail!("the service closed the connection without an answer; its log says why");
    }
    let value: Value = serde_json::from_str(&answer).context("cannot read the answer")?;
    if value.get("error").is_some_and(Value::is_object) {
        let refusal: Refusal = serde_json::from_value(value).context("cannot read the refusal")?;
        bail!("{refusal}");
    }
    Ok(value)
}

/// An id for a request of this process.
pub(super) fn id(command: &str) -> String {
    format!("{command}-{}", std::process::id())
}
