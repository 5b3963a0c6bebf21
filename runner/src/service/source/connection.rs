//! One stream of request lines and the stream for its answers.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, never, select, unbounded};
use skreap_core::{Refusal, Request, counted, plural};

use super::lines::{Line, Lines, MAX_LINE_BYTES};
use super::output::Output;
use super::stop::{Stop, Wake};
use super::unanswered::{UNCONFIRMED_MAX, Unanswered};
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
    let (reply, answers) = unbounded();
    let (confirmed, of_confirmed) = unbounded();
    let replies = Replies { answers, confirmed: of_confirmed, open: 2 };
    let unanswered = Arc::new(Unanswered::default());
    let answered = Arc::clone(&unanswered);
    let writer = thread::Builder::new()
        .name(format!("{name}-out"))
        .spawn(move || write(output, replies, &answered))?;
    thread::Builder::new().name(format!("{name}-in")).spawn(move || {
        let _connected = connected;
        let reader = Reader { inbox, requester, reply, confirmed, unanswered, clients };
        if let Err(e) = reader.run(input, &stop) {
            tracing::warn!("reading requests: {e}");
        }
        // The reader has ended, and its senders of replies with it: the writer ends with the senders
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
    /// For deletions that wait to be confirmed: nothing waits for their answers.
    confirmed: Sender<Reply>,
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
        let (number, request) = match line {
            // A blank line is ignored: people press return, and files end with one.
            Line::Whole(_, text) if text.iter().all(u8::is_ascii_whitespace) => return,
            Line::Whole(number, text) => (number, Request::parse(&text, number)),
            Line::TooLong(number) => (number, Err(Refusal::line_too_long(number, MAX_LINE_BYTES))),
        };
        let job = |request, reply: &Sender<Reply>| Job {
            request,
            requester: self.requester,
            line: number,
            received,
            reply: reply.clone(),
        };
        // A closed channel means that the other end has stopped; it has logged why.
        let _ = match request {
            // Whatever comes behind it is read while it waits, as that may take it back.
            Ok(Request::Event(event)) if event.waits() => {
                if self.unanswered.take_unconfirmed() {
                    self.inbox.send(job(Request::Event(event), &self.confirmed))
                } else {
                    let message = format!(
                        "{UNCONFIRMED_MAX} deletions of this client wait to be confirmed already, and nothing was done; send \
                         it again when one of them is answered, or without \"confirm_after_ms\""
                    );
                    self.refuse(Refusal::new(number, message).with_id(&event.id))
                }
            }
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
                let sent = self.inbox.send(job(request, &self.reply));
                if question && sent {
                    self.unanswered.drain();
                }
                sent
            }
            Err(refusal) => {
                self.clients.line_refused();
                self.refuse(refusal)
            }
        };
    }

    fn refuse(&self, refusal: Refusal) -> bool {
        self.unanswered.take();
        self.reply.send(Reply::Refused(refusal)).is_ok()
    }
}

/// What is to be written.
struct Replies {
    answers: Receiver<Reply>,
    /// To deletions that have waited to be confirmed.
    confirmed: Receiver<Reply>,
    /// How many of the two have senders.
    open: u8,
}

impl Replies {
    /// The next one, and whether a deletion has waited for it; `None` when every sender is dropped.
    fn next(&mut self) -> Option<(Reply, bool)> {
        while self.open > 0 {
            let (reply, has_waited) = select! {
                recv(self.answers) -> reply => (reply, false),
                recv(self.confirmed) -> reply => (reply, true),
            };
            match reply {
                Ok(reply) => return Some((reply, has_waited)),
                Err(_) if has_waited => self.confirmed = never(),
                Err(_) => self.answers = never(),
            }
            self.open -= 1;
        }
        None
    }
}

/// Writes until every sender of replies is dropped. A client that cannot be written to loses its
/// answers, which is logged, but its requests are still carried out.
fn write(mut output: impl Write, mut replies: Replies, unanswered: &Unanswered) {
    let mut lost = 0_u64;
    let mut line = Vec::new();
    while let Some((reply, has_waited)) = replies.next() {
        if lost == 0 {
            line.clear();
            let written = serde_json::to_writer(&mut line, &reply).map_err(io::Error::from).and_then(|()| {
                line.push(b'\n');
                output.write_all(&line)?;
                output.flush()
            });
            if let Err(e) = written {
                // A client that has its report may go.
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
        match (reply.is_later(), has_waited) {
            (true, _) => {}
            (false, true) => unanswered.unconfirmed_answered(),
            (false, false) => unanswered.answered(),
        }
    }
    unanswered.close();
    if lost > 0 {
        tracing::warn!("{} {} not delivered", counted(lost, "answer"), plural(lost, "was", "were"));
    }
}
