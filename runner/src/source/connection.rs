//! One stream of request lines and the stream its answers go to.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use skreap_core::{Refusal, Request};

use super::lines::{Line, Lines, MAX_LINE_BYTES};
use super::output::Output;
use super::stop::{Stop, Wake};
use super::{Job, Reply};

/// Requests of one client that may be unanswered at a time; a client with more waits. It bounds the answers
/// that can pile up for a client that does not read them, without the reaper ever waiting for it.
const UNANSWERED_MAX: usize = 256;

/// Reads requests from `input` and writes the answers to `output`, on threads of their own. The thread that
/// is returned ends after the last answer is written.
pub(super) fn start(
    name: &str,
    input: File,
    output: File,
    queue: Sender<Job>,
    stop: Stop,
) -> io::Result<thread::JoinHandle<()>> {
    let output = Output::new(output, stop.clone());
    let (reply, replies) = unbounded();
    let (permits, returned) = bounded(UNANSWERED_MAX);
    let writer = thread::Builder::new()
        .name(format!("{name}-out"))
        .spawn(move || write(output, &replies, &returned))?;
    thread::Builder::new().name(format!("{name}-in")).spawn(move || {
        let reader = Reader { queue, reply, permits };
        if let Err(e) = reader.run(input, &stop) {
            tracing::warn!("reading requests: {e}");
        }
        // The reader is gone, and its sender of replies with it: the writer ends with the last job's.
        if writer.join().is_err() {
            tracing::error!("a writer panicked");
        }
    })
}

struct Reader {
    queue: Sender<Job>,
    reply: Sender<Reply>,
    permits: Sender<()>,
}

impl Reader {
    fn run(self, mut input: File, stop: &Stop) -> io::Result<()> {
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
            // A blank line asks nothing: people press return, and files end with one.
            Line::Whole(_, text) if text.iter().all(u8::is_ascii_whitespace) => return,
            Line::Whole(number, text) => Request::parse(&text, number),
            Line::TooLong(number) => Err(Refusal::line_too_long(number, MAX_LINE_BYTES)),
        };
        // A closed channel means that the other end has given up; it has said why.
        let _ = self.permits.send(());
        let _ = match request {
            Ok(request) => self.queue.send(Job { request, received, reply: self.reply.clone() }).is_ok(),
            Err(refusal) => self.reply.send(Reply::Refused(refusal)).is_ok(),
        };
    }
}

/// Writes until every sender of replies is gone. A client that cannot be written to loses its answers, which
/// is logged, but its requests are still carried out.
fn write(mut output: impl Write, replies: &Receiver<Reply>, permits: &Receiver<()>) {
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
                tracing::warn!("cannot write an answer, its client will get no more: {e}");
                lost = 1;
            }
        } else {
            lost += 1;
        }
        let _ = permits.try_recv();
    }
    if lost > 0 {
        tracing::warn!("{lost} answers were not delivered");
    }
}
