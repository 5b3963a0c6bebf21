//! The connection to `skreap serve`.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::outbox::Abilities;

/// Longest wait for the service to read a line, or to say how it is.
const PATIENCE: Duration = Duration::from_secs(10);

const STATUS: &str = "{\"id\":\"watch-status\",\"type\":\"status\"}\n";

/// A service that has said what it can do.
#[derive(Debug)]
pub struct Service {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
    /// What it can do.
    pub abilities: Abilities,
}

/// Answer to [`STATUS`], as far as it is of use here.
#[derive(Deserialize)]
struct Answer {
    status: Status,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    order: Option<Order>,
}

#[derive(Deserialize)]
struct Order {
    /// There if frontends are recorded.
    #[serde(default)]
    first: Option<serde::de::IgnoredAny>,
}

impl Service {
    /// Connects and asks.
    ///
    /// # Errors
    /// The socket's, and an answer that is none: a service that refuses a client says why in one line.
    pub async fn connect(path: &Path) -> io::Result<Self> {
        let (reader, writer) = UnixStream::connect(path).await?.into_split();
        let lines = BufReader::new(reader).lines();
        // Whether it knows actions is seen when one is sent.
        let abilities = Abilities { frontends: false, actions: true };
        let mut service = Self { lines, writer, abilities };
        service.send(STATUS).await?;
        let line = timeout(PATIENCE, service.next()).await.map_err(|_| silent())??;
        let answer: Answer =
            serde_json::from_str(&line).map_err(|e| io::Error::other(format!("it answers {line}: {e}")))?;
        service.abilities.frontends = answer.status.order.is_some_and(|order| order.first.is_some());
        Ok(service)
    }

    /// Sends a line.
    ///
    /// # Errors
    /// The socket's; also if the service does not read for long.
    pub async fn send(&mut self, line: &str) -> io::Result<()> {
        timeout(PATIENCE, self.writer.write_all(line.as_bytes())).await.map_err(|_| silent())?
    }

    /// The next line of the service. Nothing is lost if this is cancelled.
    ///
    /// # Errors
    /// The socket's; also when it is closed.
    pub async fn next(&mut self) -> io::Result<String> {
        let closed = || io::Error::new(io::ErrorKind::UnexpectedEof, "it has closed the connection");
        self.lines.next_line().await?.ok_or_else(closed)
    }
}

fn silent() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no sign of it for {} s", PATIENCE.as_secs()))
}
