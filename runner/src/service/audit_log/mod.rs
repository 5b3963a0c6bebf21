//! The audit log: one JSON line for each event, and one for each socket that was destroyed, moved, refused or failed; and
//! the same again when destroyed sockets were looked at again.
//!
//! ```text
//!  reaper's thread ─► line ─► queue (bounded in bytes, never waits) ─► writer's thread ─► file, socket, journald
//! ```
//!
//! `docs/operating.md` describes the lines.

mod line;
mod queue;
mod sink;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use skreap_core::{Report, SocketEnd};

use self::line::{By, Clock, Socket};
use self::queue::Queue;
use self::sink::Sink;
use super::recorder::Recorder;
use super::source::Requester;
use crate::engine::LateResult;
use crate::observe::status::AuditLogStatus;
use crate::upkeep::revive::RevivedEvent;

pub use sink::{Destination, DestinationError};

/// Bytes of lines that may wait to be written, if nothing is said.
pub const BUFFER: usize = 4 << 20;
/// How long the end of the service waits for lines that are not written yet.
const FAREWELL: Duration = Duration::from_secs(5);
/// Pause between two attempts to write.
const PAUSE: Duration = Duration::from_secs(1);

/// An audit log. Dropping it waits, for five seconds at most, until everything is written.
#[derive(Debug)]
pub struct AuditLog {
    queue: Arc<Queue>,
    ended: Receiver<()>,
    /// Sockets whose lock is held, with the event that has reported it.
    held: HashMap<u64, (String, Requester)>,
}

impl AuditLog {
    /// Opens the destination and starts the thread that writes. `buffer`: bytes of lines that may wait; further lines are
    /// dropped and counted.
    ///
    /// # Errors
    /// The errno of opening a file or of making the thread. A socket on which nobody listens is no error: the writer
    /// tries again every second.
    pub fn start(to: &Destination, buffer: usize) -> io::Result<Self> {
        let sink = Sink::open(to)?;
        let queue = Arc::new(Queue::new(buffer));
        let (end, ended) = bounded::<()>(0);
        let lines = Arc::clone(&queue);
        thread::Builder::new().name("audit-log".to_owned()).spawn(move || {
            let _end = end;
            write(&lines, sink);
        })?;
        Ok(Self { queue, ended, held: HashMap::new() })
    }

    /// Reads how many lines were written and dropped, from any thread.
    #[must_use]
    pub fn watch(&self) -> Box<dyn Fn() -> AuditLogStatus + Send> {
        let queue = Arc::clone(&self.queue);
        Box::new(move || queue.status())
    }
}

impl Recorder for AuditLog {
    fn event(&mut self, report: &Report, by: Requester) {
        if report.dry_run {
            return;
        }
        let clock = Clock::at_end_of(report);
        self.queue.push(line::event(report, by, &clock));
        for one in report.results.iter().flat_map(|results| &results.sockets) {
            if one.result == SocketEnd::Failed(libc::ETIMEDOUT) {
                self.held.insert(one.socket.cookie, (report.id.clone(), by));
            }
            self.queue.push(Socket::of(report, one, by, &clock).line());
        }
    }

    fn late(&mut self, late: &LateResult) {
        // The log does not know who asked for an event that was handled before it began.
        let known = self.held.remove(&late.socket.cookie);
        let (event, by) = known.unwrap_or_else(|| (String::new(), Requester::Program));
        self.queue.push(Socket::late(&event, late, By::from(by)).line());
    }

    fn revived(&mut self, event: &RevivedEvent) {
        self.queue.push(line::revived(event));
        for one in &event.sockets {
            self.queue.push(line::revived_socket(&event.id, one));
        }
    }
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        self.queue.close();
        // Nothing is ever sent: the writer's end of it is dropped when it has written everything.
        if self.ended.recv_timeout(FAREWELL) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
            let left = self.queue.status().waiting;
            tracing::warn!(
                "the audit log's reader has read nothing for {FAREWELL:?}: {left} lines are not written"
            );
        }
    }
}

/// Writes lines until the queue is closed and empty. A line that cannot be written is tried again every second, and for
/// [`FAREWELL`] once the queue is closed.
fn write(queue: &Queue, mut sink: Sink) {
    let mut failing = false;
    let mut closed: Option<Instant> = None;
    while let Some(line) = queue.next() {
        loop {
            match sink.write(&line) {
                Ok(()) => {
                    queue.written();
                    break;
                }
                // journald takes no datagram of this size, however often it is sent.
                Err(e) if e.raw_os_error() == Some(libc::EMSGSIZE) => {
                    tracing::warn!("a line of {} bytes is too long for {sink}", line.len());
                    queue.lost();
                    break;
                }
                Err(e) => {
                    if !failing {
                        tracing::warn!(
                            "cannot write the audit log to {sink}, trying again every second: {e}"
                        );
                    }
                    failing = true;
                }
            }
            if queue.pause(PAUSE) && closed.get_or_insert_with(Instant::now).elapsed() >= FAREWELL {
                return;
            }
        }
        if std::mem::take(&mut failing) {
            tracing::info!("writing the audit log to {sink} again");
        }
    }
}
