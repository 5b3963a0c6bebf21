//! Requests to a running `serve`.

use std::collections::VecDeque;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::unistd::geteuid;
use serde::de::DeserializeOwned;
use serde_json::Value;
use skreap::core::{Refusal, Request};

use super::socket::SocketArg;

/// Interval at which it is said that an answer is waited for.
const SAY: Duration = Duration::from_secs(10);

/// Options of the commands that ask a running `serve`.
#[derive(Debug, clap::Args)]
pub(super) struct ClientArgs {
    #[command(flatten)]
    socket: SocketArg,
    /// Print the answer as JSON, one object a line
    #[arg(long)]
    pub(super) json: bool,
}

impl ClientArgs {
    pub(super) fn connect(&self) -> anyhow::Result<Session> {
        Session::connect(&self.socket.path())
    }

    /// Asks a question; returns the part of the answer with this name.
    pub(super) fn ask(&self, request: &Request, part: &str) -> anyhow::Result<Value> {
        let mut answer = self.connect()?.ask(request)?;
        Ok(answer.get_mut(part).with_context(|| format!("the answer has no {part}"))?.take())
    }
}

/// Reads a part of an answer.
pub(super) fn read<T: DeserializeOwned>(answer: &Value) -> anyhow::Result<T> {
    T::deserialize(answer).context("cannot read the answer")
}

/// `--dry-run`, of the commands that send an event to a running `serve`.
#[derive(Debug, clap::Args)]
pub(super) struct DryRunArg {
    /// List the victims and whose they are, and destroy nothing; exit code 1 if a limit would refuse the event
    #[arg(long)]
    pub(super) dry_run: bool,
}

/// Asks on the terminal; everything but a yes is a no.
pub(super) fn confirmed(question: &str) -> anyhow::Result<bool> {
    write!(io::stderr(), "{question} [y/N] ")?;
    io::stderr().flush()?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).context("cannot read the terminal")?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

/// A connection to a running `serve`, for one request after the other.
pub(super) struct Session {
    stream: UnixStream,
    answers: BufReader<UnixStream>,
    wait: Wait,
    /// Lines with `revived` that were read before anybody asked for them.
    later: VecDeque<Value>,
}

/// How long an answer is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// While the connection lives; that it still waits is said on stderr each time this is over.
    Saying(Duration),
    /// So long.
    AtMost(Duration),
}

impl Session {
    /// Waits for each answer while the connection lives: no limit is right for every event (`--max-rate`, events before it).
    pub(super) fn connect(socket: &Path) -> anyhow::Result<Self> {
        Self::over(connect(socket)?, Wait::Saying(SAY))
    }

    /// As [`connect`](Self::connect), for a caller that waits no longer than this for an answer, and says nothing.
    pub(super) fn connect_within(socket: &Path, patience: Duration) -> anyhow::Result<Self> {
        Self::over(connect(socket)?, Wait::AtMost(patience))
    }

    fn over(stream: UnixStream, wait: Wait) -> anyhow::Result<Self> {
        let (Wait::Saying(step) | Wait::AtMost(step)) = wait;
        stream.set_read_timeout(Some(step)).context("cannot set a timeout")?;
        let answers = BufReader::new(stream.try_clone().context("cannot keep the connection")?);
        Ok(Self { stream, answers, wait, later: VecDeque::new() })
    }

    /// Sends a request and reads its answer.
    pub(super) fn ask(&mut self, request: &Request) -> anyhow::Result<Value> {
        let mut line = serde_json::to_vec(request).context("cannot write the request")?;
        line.push(b'\n');
        // A service that refuses us sends the reason before it closes: the reason is worth more than the broken pipe.
        if let Err(e) = self.stream.write_all(&line)
            && e.kind() != io::ErrorKind::BrokenPipe
        {
            return Err(e).context("cannot send the request");
        }
        let what = format!("the answer to {}", name(request));
        loop {
            let answer = self.read(&what)?;
            // It may come between any two answers.
            if answer.get("revived").is_none() {
                return Ok(answer);
            }
            self.later.push_back(answer);
        }
    }

    /// What came of the sockets of an event whose report has announced it.
    pub(super) fn later(&mut self) -> anyhow::Result<Value> {
        match self.later.pop_front() {
            Some(value) => Ok(value),
            None => self.read("what comes of destroyed sockets"),
        }
    }

    /// Reads the next line.
    fn read(&mut self, what: &str) -> anyhow::Result<Value> {
        let mut line = Vec::new();
        let start = Instant::now();
        loop {
            match self.answers.read_until(b'\n', &mut line) {
                Ok(_) => break,
                // What was read of the line is kept.
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    let waited = start.elapsed().as_secs();
                    match self.wait {
                        Wait::Saying(_) => {
                            // A terminal that is gone is no reason to give up.
                            let _ = writeln!(io::stderr(), "skreap: waiting for {what} for {waited} s");
                        }
                        Wait::AtMost(patience) => bail!("the service has not answered for {patience:?}"),
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // It had requests that nobody will read.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => break,
                Err(e) => return Err(e).context("no answer"),
            }
        }
        if line.is_empty() {
            bail!("the service closed the connection without an answer; its log says why");
        }
        let value: Value = serde_json::from_slice(&line).context("cannot read the answer")?;
        if value.get("error").is_some_and(Value::is_object) {
            let refusal: Refusal = serde_json::from_value(value).context("cannot read the refusal")?;
            // It concerns our only line, or none.
            bail!("{}", refusal.message);
        }
        Ok(value)
    }
}

/// A request as people know it.
fn name(request: &Request) -> String {
    match request {
        Request::Event(event) if event.dry_run => {
            format!("a dry run of {} {:?}", event.action.name(), event.id)
        }
        Request::Event(event) if event.waits() => {
            let seconds = f64::from(event.confirm_after_ms) / 1000.0;
            format!("{} {:?}, which is confirmed after {seconds} s", event.action.name(), event.id)
        }
        Request::Event(event) => format!("{} {:?}", event.action.name(), event.id),
        question => format!("question {:?}", question.id()),
    }
}

/// Connects to a running `serve`.
fn connect(socket: &Path) -> anyhow::Result<UnixStream> {
    UnixStream::connect(socket).map_err(|e| {
        let path = socket.display();
        let why = match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                format!("no service listens there: {e}; start `skreap serve --source unix:{path}`, or name another --socket")
            }
            io::ErrorKind::PermissionDenied => {
                format!("{e}; run as root, or serve with `--source unix:{path} --allow-uid {}`", geteuid())
            }
            _ => e.to_string(),
        };
        anyhow::anyhow!("{path}: {why}")
    })
}

/// An id for a request of this process.
pub(super) fn id(command: &str) -> String {
    format!("{command}-{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use skreap::core::Event;

    use super::*;

    const STEP: Duration = Duration::from_millis(20);

    fn pair(wait: Wait) -> (Session, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Session::over(ours, wait).unwrap(), theirs)
    }

    fn question() -> Request {
        Request::Status { id: "q".to_owned() }
    }

    #[test]
    fn an_answer_is_waited_for_while_the_connection_lives() {
        let (mut session, mut service) = pair(Wait::Saying(STEP));
        let answering = thread::spawn(move || {
            // In the middle of a character, too.
            for part in [&b"{\"id\":\"q\",\"status\":\"\xc3"[..], b"\xa9\"}", b"\n"] {
                thread::sleep(STEP * 5);
                service.write_all(part).unwrap();
            }
            service
        });
        assert_eq!(session.ask(&question()).unwrap(), serde_json::json!({"id": "q", "status": "é"}));
        drop(answering.join().unwrap());
        let error = session.ask(&question()).unwrap_err().to_string();
        assert_eq!(error, "the service closed the connection without an answer; its log says why");
    }

    #[test]
    fn whoever_cannot_wait_gives_up() {
        let (mut session, _service) = pair(Wait::AtMost(STEP));
        let error = session.ask(&question()).unwrap_err().to_string();
        assert_eq!(error, "the service has not answered for 20ms");
    }

    #[test]
    fn what_came_of_sockets_is_no_answer() {
        let (mut session, mut service) = pair(Wait::Saying(STEP));
        let lines =
            ["{\"id\":\"a\",\"revived\":{}}", "{\"id\":\"q\",\"status\":1}", "{\"id\":\"b\",\"revived\":{}}"];
        service.write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
        assert_eq!(session.ask(&question()).unwrap()["status"], 1);
        assert_eq!(session.later().unwrap()["id"], "a");
        assert_eq!(session.later().unwrap()["id"], "b");
    }

    #[test]
    fn what_is_waited_for_has_a_name() {
        let event = || Event::deleted("udp://10.0.0.1:53".parse().unwrap()).with_id("e");
        let waiting = {
            let mut event = event();
            event.confirm_after_ms = 1500;
            event
        };
        for (request, expected) in [
            (Request::Event(event()), "backend-deleted \"e\""),
            (Request::Event(event().with_dry_run(true)), "a dry run of backend-deleted \"e\""),
            (Request::Event(waiting), "backend-deleted \"e\", which is confirmed after 1.5 s"),
            (question(), "question \"q\""),
        ] {
            assert_eq!(name(&request), expected);
        }
    }
}
