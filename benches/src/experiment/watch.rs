//! A client that continues as if nothing had happened, and records its first errors.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use skreap::core::errno_name;
use skreap_testbed::{CallError, Client, Op, Reply};

/// Between the start of the watch and the remedy.
pub const LEAD: Duration = Duration::from_millis(300);
/// Between two sends.
const PERIOD: Duration = Duration::from_millis(50);

/// A client's activity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Habit {
    /// Sends every 50 ms, and reads responses in between.
    Sends,
    /// Waits in receive.
    Waits,
}

impl Habit {
    /// As in the JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sends => "sends",
            Self::Waits => "waits",
        }
    }
}

/// The first error of a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Name of the errno, or `end of stream`.
    pub what: String,
    /// Milliseconds from the remedy to the return of the call.
    pub after_ms: f64,
}

/// An error, and when it came.
#[derive(Clone, Debug)]
pub struct Noted {
    what: String,
    at: Instant,
}

impl Noted {
    /// Relative to the remedy. Both clocks are this process's, so the time includes the response's
    /// way from the client, some tens of microseconds.
    pub fn after(&self, remedy: Instant) -> Seen {
        let after_ms = self.at.saturating_duration_since(remedy).as_secs_f64() * 1e3;
        Seen { what: self.what.clone(), after_ms }
    }
}

/// Result of a watch.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The client's activity.
    pub habit: Habit,
    /// First error of a send.
    pub send: Option<Noted>,
    /// First error of a receive.
    pub receive: Option<Noted>,
}

/// Watches for `duration` after the [`LEAD`].
///
/// # Errors
/// When the client process is gone.
pub fn watch(client: &mut Client, socket: u32, habit: Habit, duration: Duration) -> Result<Watched> {
    let end = Instant::now() + LEAD + duration;
    let mut watched = Watched { habit, send: None, receive: None };
    match habit {
        Habit::Waits => watched.receive = receive(client, socket, LEAD + duration)?,
        Habit::Sends => {
            while Instant::now() < end && (watched.send.is_none() || watched.receive.is_none()) {
                if watched.send.is_none() {
                    let sent = client.call(&Op::Send { socket, payload: b"are you there?".to_vec() });
                    watched.send = noted(sent)?;
                }
                let met = receive(client, socket, PERIOD)?;
                watched.receive = watched.receive.or(met);
            }
        }
    }
    Ok(watched)
}

/// Waits for an error; a response that arrives is read and dropped.
fn receive(client: &mut Client, socket: u32, at_most: Duration) -> Result<Option<Noted>> {
    let end = Instant::now() + at_most;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let timeout_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
        match client.call(&Op::Recv { socket, timeout_ms }) {
            Ok(Reply::Received { payload, from: None }) if payload.is_empty() => {
                return Ok(Some(Noted { what: "end of stream".to_owned(), at: Instant::now() }));
            }
            Ok(_) => {}
            Err(error) if error.errno() == Some(libc::EAGAIN) => return Ok(None),
            result => return noted(result),
        }
    }
}

fn noted(result: Result<Reply, CallError>) -> Result<Option<Noted>> {
    match result {
        Ok(_) => Ok(None),
        Err(error) => match error.errno() {
            Some(errno) => Ok(Some(Noted { what: errno_name(errno).into_owned(), at: Instant::now() })),
            None => bail!(error),
        },
    }
}
