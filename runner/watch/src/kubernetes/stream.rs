//! A watch: one JSON object a line.

use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::Response;
use hyper::body::Incoming;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::api::{Api, ApiError, Status, chain};
use super::object::Metadata;

/// The longest line. etcd holds no object of more than a few MiB.
const LINE_MAX: usize = 32 << 20;

/// One line.
#[derive(Deserialize)]
#[serde(tag = "type", content = "object", rename_all = "UPPERCASE")]
pub(super) enum Event<T> {
    Added(T),
    Modified(T),
    Deleted(T),
    Bookmark(Bookmark),
    Error(Status),
}

/// How far the watch is.
#[derive(Deserialize)]
pub(super) struct Bookmark {
    pub(super) metadata: Metadata,
}

/// A watch that goes on.
pub(super) struct Events {
    body: Incoming,
    buffer: Vec<u8>,
    /// Bytes of the buffer that hold no end of a line.
    searched: usize,
    /// The longest wait for the next byte.
    idle: Duration,
}

impl Events {
    /// Begins a watch. The server ends it after `length`.
    pub(super) async fn begin(api: &Api, path: &str, length: Duration) -> Result<Self, ApiError> {
        let path = format!("{path}&timeoutSeconds={}", length.as_secs());
        let answer: Response<Incoming> = api.get(&path).await?;
        let idle = length + Duration::from_secs(10);
        Ok(Self { body: answer.into_body(), buffer: Vec::new(), searched: 0, idle })
    }

    /// The next event; `None` when the server has ended the watch.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<Event<T>>, ApiError> {
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=self.searched + end).collect();
                self.searched = 0;
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return serde_json::from_slice(&line).map(Some).map_err(|e| ApiError::Content(e.to_string()));
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > LINE_MAX {
                return Err(ApiError::Content(format!("a line of more than {LINE_MAX} bytes")));
            }
            let frame = timeout(self.idle, self.body.frame()).await;
            let frame = frame.map_err(|_| ApiError::Connection("the watch has fallen silent".to_owned()))?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|e| ApiError::Connection(chain(&e)))?;
            if let Some(data) = frame.data_ref() {
                self.buffer.extend_from_slice(data);
            }
        }
    }
}
