//! The subset of HTTP that a scrape needs: one GET, one response, and the connection is closed.
//!
//! Existing small servers either bring an asynchronous runtime, or limit neither the time per
//! client nor the number of clients; both limits matter here. `httparse` parses the request.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use prometheus_client::encoding::{prometheus_protobuf, text};
use prometheus_client::registry::Registry;

use super::{DEADLINE, SCRAPES_MAX};
use crate::service::source::{Bound, Stop, Wake};

/// Longest head of a request.
const HEAD_MAX: usize = 8 * 1024;
const HEADERS_MAX: usize = 64;
/// How long a client too many is waited for, on the thread that accepts.
const REFUSE_AFTER: Duration = Duration::from_millis(50);
/// Limits in time and bytes of reading from a client after the response.
const LINGER: Duration = Duration::from_secs(1);
const DRAIN_MAX: usize = 64 * 1024;
/// How long accepting rests when it fails.
const REST: Duration = Duration::from_millis(100);

const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROTOBUF: &str =
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";

pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(Bound),
}

impl Listener {
    fn accept(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(listener) => Stream::Tcp(listener.accept()?.0),
            Self::Unix(bound) => Stream::Unix(bound.listener().accept()?.0),
        })
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn shutdown_write(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    /// Timeout of the next read or write; none: do not wait.
    fn wait(&self, left: Option<Duration>) -> io::Result<()> {
        match (self, left) {
            (Self::Tcp(s), None) => s.set_nonblocking(true),
            (Self::Unix(s), None) => s.set_nonblocking(true),
            (Self::Tcp(s), left) => s.set_read_timeout(left).and_then(|()| s.set_write_timeout(left)),
            (Self::Unix(s), left) => s.set_read_timeout(left).and_then(|()| s.set_write_timeout(left)),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Accepts scrapes until `stop` is given.
pub(super) fn serve(listener: &Listener, registry: &Arc<Registry>, stop: &Stop) {
    let active = Arc::new(AtomicUsize::new(0));
    loop {
        let fd = match listener {
            Listener::Tcp(listener) => listener.as_fd(),
            Listener::Unix(bound) => bound.listener().as_fd(),
        };
        match stop.wait_readable(fd) {
            Ok(Wake::Readable) => {}
            Ok(Wake::Stopped) => return,
            Err(e) => {
                tracing::error!("cannot serve metrics any more: {e}");
                return;
            }
        }
        let stream = match listener.accept() {
            Ok(stream) => stream,
            Err(e) => {
                tracing::debug!("cannot accept a scrape: {e}");
                stop.pause(REST);
                continue;
            }
        };
        let scrape = Scrape { stream, until: Instant::now() + DEADLINE, active: Arc::clone(&active) };
        let full = active.fetch_add(1, Ordering::Relaxed) >= SCRAPES_MAX;
        let registry = Arc::clone(registry);
        // Beyond the limit the response is short and fits a socket's buffer, so it is sent here,
        // without a thread.
        if full {
            scrape.refuse();
        } else if let Err(e) =
            thread::Builder::new().name("scrape".to_owned()).spawn(move || scrape.answer(&registry))
        {
            tracing::warn!("cannot answer a scrape: {e}");
        }
    }
}

/// Answers one scrape, on the calling thread.
#[cfg(feature = "fuzzing")]
pub(crate) fn answer(stream: UnixStream, registry: &Registry) {
    let active = Arc::new(AtomicUsize::new(1));
    Scrape { stream: Stream::Unix(stream), until: Instant::now() + DEADLINE, active }.answer(registry);
}

/// One connection, counted as active while this value lives.
struct Scrape {
    stream: Stream,
    /// Deadline for waiting. Input that has arrived by then is read, and output that fits the
    /// socket's buffer is written, however late: on a busy machine this thread may not have run
    /// before.
    until: Instant,
    active: Arc<AtomicUsize>,
}

impl Drop for Scrape {
    fn drop(&mut self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Scrape {
    /// Waits a moment for the client's request and reads it: closing a connection with unread input
    /// resets it, and the response may be lost.
    fn refuse(mut self) {
        self.until = Instant::now() + REFUSE_AFTER;
        let _ = self.read(&mut [0; HEAD_MAX]);
        let told = self.respond("503 Service Unavailable", "text/plain", b"too many scrapes at once\n", true);
        let _ = told.and_then(|()| self.drain());
    }

    fn answer(mut self, registry: &Registry) {
        if let Err(e) = self.try_answer(registry).and_then(|()| self.drain()) {
            tracing::debug!("a scrape ended early: {e}");
        }
    }

    /// Reads the rest of the client's input, so that the connection ends with the response and not
    /// with a reset.
    fn drain(&mut self) -> io::Result<()> {
        self.until = self.until.min(Instant::now() + LINGER);
        self.stream.shutdown_write()?;
        let mut rest = DRAIN_MAX;
        while rest > 0 {
            match self.read(&mut [0; 4096])? {
                0 => return Ok(()),
                n => rest = rest.saturating_sub(n),
            }
        }
        Ok(())
    }

    fn try_answer(&mut self, registry: &Registry) -> io::Result<()> {
        let mut head = Vec::new();
        let request = loop {
            let mut buffer = [0; 2048];
            let n = self.read(&mut buffer)?;
            let Some(read) = buffer.get(..n).filter(|read| !read.is_empty()) else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            head.extend_from_slice(read);
            match Request::parse(&head) {
                Parsed::Whole(request) => break request,
                Parsed::Part if head.len() < HEAD_MAX => {}
                Parsed::Part => {
                    return self.respond("431 Request Header Fields Too Large", "text/plain", b"", true);
                }
                Parsed::Bad => return self.respond("400 Bad Request", "text/plain", b"", true),
            }
        };
        let body = request.method == Method::Get;
        match (request.method, request.path.as_str()) {
            (Method::Other, _) => {
                self.respond("405 Method Not Allowed", "text/plain", b"GET /metrics\n", true)
            }
            (_, "/metrics") if request.protobuf => match prometheus_protobuf::encode_to_vec(registry) {
                Ok(bytes) => self.respond("200 OK", PROTOBUF, &bytes, body),
                Err(e) => self.fail(&e),
            },
            (_, "/metrics") => {
                let mut out = String::new();
                match text::encode(&mut out, registry) {
                    Ok(()) => self.respond("200 OK", TEXT, out.as_bytes(), body),
                    Err(e) => self.fail(&e),
                }
            }
            _ => self.respond("404 Not Found", "text/plain", b"the metrics are at /metrics\n", body),
        }
    }

    fn fail(&mut self, e: &dyn std::error::Error) -> io::Result<()> {
        tracing::error!("cannot encode the metrics: {e}");
        self.respond("500 Internal Server Error", "text/plain", b"", true)
    }

    fn respond(&mut self, status: &str, kind: &str, body: &[u8], with_body: bool) -> io::Result<()> {
        let length = body.len();
        let mut out = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        )
        .into_bytes();
        if with_body {
            out.extend_from_slice(body);
        }
        let mut rest = out.as_slice();
        while !rest.is_empty() {
            let n = self.write(rest)?;
            rest = rest.get(n..).filter(|_| n > 0).ok_or(io::ErrorKind::WriteZero)?;
        }
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.wait()?;
            match self.stream.read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.wait()?;
            match self.stream.write(bytes) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    fn wait(&self) -> io::Result<()> {
        let left = self.until.saturating_duration_since(Instant::now());
        self.stream.wait((!left.is_zero()).then_some(left))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Get,
    Head,
    Other,
}

#[derive(Debug, PartialEq, Eq)]
struct Request {
    method: Method,
    path: String,
    /// The scraper would rather have protobuf, which native histograms need.
    protobuf: bool,
}

enum Parsed {
    Whole(Request),
    Part,
    Bad,
}

impl Request {
    fn parse(head: &[u8]) -> Parsed {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(head) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Parsed::Part,
            Err(_) => return Parsed::Bad,
        }
        let method = match request.method {
            Some("GET") => Method::Get,
            Some("HEAD") => Method::Head,
            _ => Method::Other,
        };
        let path = request.path.unwrap_or_default();
        let path = path.split_once('?').map_or(path, |(path, _)| path).to_owned();
        let accept = request.headers.iter().filter(|h| h.name.eq_ignore_ascii_case("accept"));
        let accept: Vec<_> = accept.filter_map(|h| std::str::from_utf8(h.value).ok()).collect();
        Parsed::Whole(Self { method, path, protobuf: prefers_protobuf(&accept.join(",")) })
    }
}

/// True if the `Accept` header puts Prometheus's protobuf before every text format.
pub(crate) fn prefers_protobuf(accept: &str) -> bool {
    let (mut protobuf, mut others) = (0.0_f32, 0.0_f32);
    for entry in accept.split(',') {
        let mut parts = entry.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let mut weight = 1.0_f32;
        let mut right = [false; 2];
        for (name, value) in parts.filter_map(|parameter| parameter.split_once('=')) {
            match name.trim().to_ascii_lowercase().as_str() {
                "q" => weight = weight_of(value.trim()),
                "proto" => right[0] = value.trim() == "io.prometheus.client.MetricFamily",
                "encoding" => right[1] = value.trim() == "delimited",
                _ => {}
            }
        }
        if kind.eq_ignore_ascii_case("application/vnd.google.protobuf") {
            if right == [true; 2] {
                protobuf = protobuf.max(weight);
            }
        } else {
            others = others.max(weight);
        }
    }
    protobuf > others
}

/// A weight of RFC 9110 (12.4.2), from 0 to 1; anything else counts as 0.
fn weight_of(text: &str) -> f32 {
    text.parse().ok().filter(|weight| (0.0..=1.0).contains(weight)).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_prometheus_asks_for() {
        let protobuf =
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        // Prometheus with native histograms, and without.
        assert!(prefers_protobuf(&format!(
            "{protobuf};q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
        )));
        assert!(!prefers_protobuf(
            "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.3,*/*;q=0.1"
        ));
        assert!(!prefers_protobuf(&format!("text/plain,{protobuf};q=0.5")));
        assert!(!prefers_protobuf("application/vnd.google.protobuf;proto=other;encoding=delimited"));
        // A weight above 1, or an invalid one, ranks nothing before a format with a valid weight.
        for weight in ["2", "inf", "NaN", "-1", ""] {
            assert!(!prefers_protobuf(&format!("{protobuf};q={weight},text/plain")), "{weight}");
        }
        assert!(!prefers_protobuf("*/*") && !prefers_protobuf("") && !prefers_protobuf(";;q=,=,"));
    }

    /// Response to a client that has sent all this before its scrape has its turn.
    fn after(request: &[u8], until: Instant, turn: impl FnOnce(Scrape)) -> io::Result<String> {
        let (mut client, server) = UnixStream::pair()?;
        client.write_all(request)?;
        client.shutdown(Shutdown::Write)?;
        turn(Scrape { stream: Stream::Unix(server), until, active: Arc::new(AtomicUsize::new(1)) });
        let mut answer = String::new();
        client.read_to_string(&mut answer)?;
        Ok(answer)
    }

    #[test]
    fn what_is_there_is_answered_however_late() {
        let registry = Registry::default();
        let long_ago = Instant::now() - DEADLINE;
        let mut request = b"GET /metrics HTTP/1.1\r\n\r\n".to_vec();
        request.resize(DRAIN_MAX, b'x');
        let answer = after(&request, long_ago, |scrape| scrape.answer(&registry)).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("# EOF\n"), "{answer}");
        let part = &request[..9];
        assert_eq!(after(part, long_ago, |scrape| scrape.answer(&registry)).unwrap(), "");
    }

    #[test]
    fn who_is_refused_is_not_reset() {
        let request = [b'x'; HEAD_MAX + 1];
        let answer = after(&request, Instant::now(), Scrape::refuse).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("at once\n"), "{answer}");
    }

    #[test]
    fn who_stays_silent_is_given_up() {
        let (client, server) = UnixStream::pair().unwrap();
        let start = Instant::now();
        let until = start + Duration::from_millis(20);
        let scrape = Scrape { stream: Stream::Unix(server), until, active: Arc::new(AtomicUsize::new(1)) };
        scrape.answer(&Registry::default());
        assert!(start.elapsed() >= Duration::from_millis(20));
        assert_eq!((&client).read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn requests() {
        let whole = |head: &str| match Request::parse(head.as_bytes()) {
            Parsed::Whole(request) => request,
            Parsed::Part => panic!("part: {head}"),
            Parsed::Bad => panic!("bad: {head}"),
        };
        let request = |method, path: &str| Request { method, path: path.to_owned(), protobuf: false };
        assert_eq!(whole("GET /metrics?x=1 HTTP/1.1\r\n\r\n"), request(Method::Get, "/metrics"));
        assert_eq!(whole("HEAD / HTTP/1.0\r\naccept: */*\r\n\r\n"), request(Method::Head, "/"));
        assert_eq!(whole("POST /metrics HTTP/1.1\r\n\r\n").method, Method::Other);
        assert!(matches!(Request::parse(b"GET /metr"), Parsed::Part));
        assert!(matches!(Request::parse(b"\0\0\0\0\r\n\r\n"), Parsed::Bad));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(HEADERS_MAX + 1));
        assert!(matches!(Request::parse(many.as_bytes()), Parsed::Bad));
    }
}
