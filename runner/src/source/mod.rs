//! Sources: where requests come from, and where the answers go back to. A source knows no engine.

mod connection;
mod lines;
mod output;
mod stop;
mod unix;

use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::str::FromStr;
use std::thread;
use std::time::Instant;

use crossbeam_channel::Sender;
use serde::Serialize;
use skreap_core::{Refusal, Report, Request};

use crate::listing::Listing;

pub use lines::MAX_LINE_BYTES;
pub use stop::Stop;

/// A request on its way to the reaper.
#[derive(Debug)]
pub struct Job {
    /// What is asked.
    pub request: Request,
    /// When the line was complete.
    pub received: Instant,
    /// Where the answer goes.
    pub reply: Sender<Reply>,
}

/// One line of output.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Reply {
    /// An event was handled.
    Report(Box<Report>),
    /// The index was asked for.
    Index {
        /// Id of the request.
        id: String,
        /// What the index holds.
        index: Box<Listing>,
    },
    /// The line was refused, or what it asks for failed.
    Refused(Refusal),
}

/// Where requests come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Standard input; answers go to standard output.
    Stdin,
    /// A unix stream socket at this path; answers go back to the client.
    Unix(PathBuf),
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "stdin" => Ok(Self::Stdin),
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(path.into())),
            _ => Err("a source is stdin, or unix:PATH".to_owned()),
        }
    }
}

impl Source {
    /// Starts reading. The source ends when its input does or when `stop` is given; what it has accepted by
    /// then is still answered, unless its reader has read nothing for five seconds. Every job holds a sender
    /// of `queue`, and a full queue blocks the source.
    ///
    /// # Errors
    /// The errno of opening the source or of making its threads.
    pub fn start(&self, queue: Sender<Job>, stop: &Stop) -> io::Result<Running> {
        let thread = match self {
            Self::Stdin => {
                let input = io::stdin().as_fd().try_clone_to_owned()?;
                let output = io::stdout().as_fd().try_clone_to_owned()?;
                connection::start("stdin", input.into(), output.into(), queue, stop.clone())?
            }
            Self::Unix(path) => unix::start(path, queue, stop.clone())?,
        };
        Ok(Running { thread })
    }
}

/// A source that was started.
#[derive(Debug)]
pub struct Running {
    thread: thread::JoinHandle<()>,
}

impl Running {
    /// Waits until the source has ended and its last answer is written.
    pub fn wait(self) {
        if self.thread.join().is_err() {
            tracing::error!("a source panicked");
        }
    }
}
