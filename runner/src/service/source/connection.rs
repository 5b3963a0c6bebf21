//! One stream of request lines and the stream for its answers.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, unbounded};
use skreap_core::{Refusal, Request, counted, plural};

use super::lines::{Line, Lines, MAX_LINE_BYTES};
use super::output::Output;
use super::stop::{Stop, Wake};
use super::unanswered::Unanswered;
use super::{Inbox, Job, Reply, Requester};
use crate::observe::clients::{Clients, Connected};

/// Who is at the other end.
pub(crate) struct Who {
    pub(crate) name: &'static str,
    pub(crate) requester: Requester,
    pub(crate) clients: Arc<Clients>,
    /// A client that connects and disconnects.
    pub(super) connected: Option<Connected>,
}

impl Who {
    /// A client that stays as long as the service.
    pub(crate) fn stays(name: &'static str, requester: Requester, clients: Arc<Clients>) -> Self {
        Self { name, requester, clients, connected: None }
    }
}

/// Reads requests from `input` and writes the answers to `output`, on threads of their own. The
/// returned thread ends after the last answer is written.
///
/// Both may be one descriptor, as for a socket: an accepted client then needs no second one, which
/// may not be available.
pub(crate) fn start(
    who: Who,
    input: Arc<File>,
    output: Arc<File>,
    inbox: Inbox,
    stop: Stop,
) -> io::Result<thread::JoinHandle<()>> {
    let Who { name, requester, clients, connected } = who;
    let output = Output::new(output, stop.clone());
    let (reply, replies) = unbounded();
    let unanswered = Arc::new(Unanswered::default());
    let answered = Arc::clone(&unanswered);
    let writer = thread::Builder::new()
        .name(format!("{name}-out"))
        .spawn(move || write(output, &replies, &answered))?;
    thread::Builder::new().name(format!("{name}-in")).spawn(move || {
        let _connected = connected;
        let reader = Reader { inbox, requester, reply, unanswered, clients };
        if let Err(e) = reader.run(input, &stop) {
            tracing::warn!("reading requests: {e}");
        }
        // The reader has ended, and its sender of replies with it: the writer ends with the sender
        // of the last job.
        if writer.join().is_err() {
            tracing::error!("a writer panicked");
        }
    })
}

struct Reader {
    inbox: Inbox,
    requester: Requester,
    reply: Sender<Reply>,
    unanswered: Arc<Unanswered>,
    clients: Arc<Clients>,
}

impl Reader {
    fn run(self, mut input: Arc<File>, stop: &Stop) -> io::Result<()> {
        let mut lines = Lines::default();
        loop {
            if stop.wait_readable(input.as_fd())? == Wake::Stopped {
                return Ok(());
            }
            if !lines.read(&mut input, |line| self.accept(line))? {
                return Ok(());
            }
        }
    }

    fn accept(&self, line: Line) {
        let received = Instant::now();
        let request = match line {
            // A blank line is ignored: people press return, and files end with one.
            Line::Whole(_, text) if text.iter().all(u8::is_ascii_whitespace) => return,
            Line::Whole(number, text) => Request::parse(&text, number),
            Line::TooLong(number) => Err(Refusal::line_too_long(number, MAX_LINE_BYTES)),
        };
        // A closed channel means that the other end has stopped; it has logged why.
        let _ = match request {
            Ok(request) => {
                // Questions are answered beside the reaper. For one client they keep their place:
                // after all its earlier requests, and before all later ones. The same holds for a
                // dry run, whose answer may name any number of sockets: so only one such answer at
                // a time is in memory.
                let question = !matches!(&request, Request::Event(event) if !event.dry_run);
                if question {
                    self.unanswered.drain();
                }
                self.unanswered.take();
                let (requester, reply) = (self.requester, self.reply.clone());
                let sent = self.inbox.send(Job { request, requester, received, reply });
                if question && sent {
                    self.unanswered.drain();
                }
                sent
            }
            Err(refusal) => {
                self.clients.line_refused();
                self.unanswered.take();
                self.reply.send(Reply::Refused(refusal)).is_ok()
            }
        };
    }
}

/// Writes until every sender of replies is dropped. A client that cannot be written to loses its
/// answers, which is logged, but its requests are still carried out.
fn write(mut output: impl Write, replies: &Receiver<Reply>, unanswered: &Unanswered) {
    let mut lost = 0_u64;
    let mut line = Vec::new();
    for reply in replies {
        if lost == 0 {
            line.clear();
            let written = serde_json::to_writer(&mut line, &reply).map_err(io::Error::from).and_then(|()| {
                line.push(b'\n');
                output.write_all(&line)?;
                output.flush()
            });
            if let Err(e) = written {
                // Whoever has its report may go.
                if reply.is_later() {
                    tracing::debug!("a client did not wait for what came of destroyed sockets: {e}");
                    continue;
                }
                tracing::warn!("cannot write an answer, the client gets no further ones: {e}");
                lost = 1;
            }
        } else {
            lost += 1;
        }
        if !reply.is_later() {
            unanswered.answered();
        }
    }
    unanswered.close();
    if lost > 0 {
        tracing::warn!("{} {} not delivered", counted(lost, "answer"), plural(lost, "was", "were"));
    }
}
