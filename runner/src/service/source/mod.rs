//! Sources receive requests and send back the answers. A source knows no engine.

mod access;
pub(crate) mod connection;
pub(crate) mod lines;
mod output;
mod stop;
mod unanswered;
mod unix;

use std::fmt;
use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crossbeam_channel::Sender;
use serde::Serialize;
use skreap_core::{Refusal, Report, Request, Revived};

use crate::observe::listing::Listing;
use crate::observe::status::{Status, Top};
use crate::upkeep::audit::Audit;

pub use crate::observe::clients::{ClientCounts, Clients};
pub use access::Access;
pub use lines::MAX_LINE_BYTES;
pub use stop::Stop;
#[cfg(feature = "metrics")]
pub(crate) use stop::Wake;
#[cfg(feature = "metrics")]
pub(crate) use unix::Bound;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Requester {
    /// The writer to standard input.
    Stdin,
    /// A client of a unix socket, as it was when it connected (`SO_PEERCRED`).
    Client {
        /// Its user.
        uid: u32,
        /// Its process; 0 if that is in no namespace of ours.
        pid: u32,
    },
    /// This program itself.
    Program,
}

impl fmt::Display for Requester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdin => f.write_str("stdin"),
            Self::Client { uid, pid } => write!(f, "uid {uid} pid {pid}"),
            Self::Program => f.write_str("program"),
        }
    }
}

/// A request on its way to the reaper.
#[derive(Debug)]
pub struct Job {
    /// The request.
    pub request: Request,
    /// Who asks it.
    pub requester: Requester,
    /// Number of its line in the source, counted from 1; 0 if it comes from no line.
    pub line: u64,
    /// When the line was complete.
    pub received: Instant,
    /// The destination of the answer.
    pub reply: Sender<Reply>,
}

/// Where sources put requests.
#[derive(Clone, Debug)]
pub struct Inbox {
    /// Events, for the reaper, which handles one after the other. A full queue blocks the source.
    pub events: Sender<Job>,
    /// Questions about the service, which are answered independently of the reaper. A connection
    /// has at most one unanswered question.
    pub questions: Sender<Job>,
}

impl Inbox {
    /// False if no thread takes requests any more.
    fn send(&self, job: Job) -> bool {
        match job.request {
            Request::Event(_) => &self.events,
            _ => &self.questions,
        }
        .send(job)
        .is_ok()
    }
}

/// One line of output.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
#[non_exhaustive]
pub enum Reply {
    /// An event was handled.
    Report(Box<Report>),
    /// The index was asked for.
    Index {
        /// Id of the request.
        id: String,
        /// The contents of the index.
        index: Box<Listing>,
    },
    /// How the service is doing.
    Status {
        /// Id of the request.
        id: String,
        /// The numbers.
        status: Box<Status>,
    },
    /// The data of `skreap top`.
    Top {
        /// Id of the request.
        id: String,
        /// The numbers.
        top: Box<Top>,
    },
    /// An audit was asked for.
    Audit {
        /// Id of the request.
        id: String,
        /// Its result.
        audit: Box<Audit>,
    },
    /// Destroyed sockets of an event, whose report was sent before, were looked at again.
    Revived {
        /// Id of the event.
        id: String,
        /// What came of them.
        revived: Revived,
    },
    /// The line was refused, or its request failed.
    Refused(Refusal),
}

impl Reply {
    /// Id of the event that this is the report of.
    pub(crate) fn id(&self) -> Option<String> {
        match self {
            Self::Report(report) => Some(report.id.clone()),
            _ => None,
        }
    }

    /// True for one that comes after the answer to its request.
    pub(crate) const fn is_later(&self) -> bool {
        matches!(self, Self::Revived { .. })
    }
}

/// Where requests come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Standard input; answers go to standard output.
    Stdin,
    /// A unix stream socket at this path; answers go back to the client.
    Unix(PathBuf, Access),
}

impl Source {
    /// Says whether [`start`](Self::start) could open this now, so that a start that must fail does so before anything is
    /// attached. Nothing is left behind.
    ///
    /// # Errors
    /// The errno of opening the source.
    pub fn check(&self) -> io::Result<()> {
        match self {
            Self::Stdin => Ok(()),
            Self::Unix(path, _) => unix::check(path),
        }
    }

    /// Starts reading. The source ends when its input does or when `stop` is given. Requests
    /// accepted by then are still answered, unless the reader of the answers has read nothing for
    /// five seconds. Every job holds a sender of `inbox`, and a full queue blocks the source.
    ///
    /// # Errors
    /// The errno of opening the source or of making its threads.
    pub fn start(&self, inbox: Inbox, stop: &Stop, clients: &Arc<Clients>) -> io::Result<Running> {
        let thread = match self {
            Self::Stdin => {
                let input = io::stdin().as_fd().try_clone_to_owned()?;
                let output = io::stdout().as_fd().try_clone_to_owned()?;
                let who = connection::Who::stays("stdin", Requester::Stdin, Arc::clone(clients));
                connection::start(who, Arc::new(input.into()), Arc::new(output.into()), inbox, stop.clone())?
            }
            Self::Unix(path, access) => unix::start(path, access, inbox, stop.clone(), clients)?,
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
