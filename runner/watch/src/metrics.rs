//! Numbers for Prometheus.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::outbox::Sent;
use crate::source::Counters;
use crate::state::Counts;

/// Scrapes at a time.
const SCRAPES: usize = 4;
/// The longest scrape.
const DEADLINE: Duration = Duration::from_secs(5);
/// The longest head of a request.
const HEAD_MAX: usize = 8 << 10;

/// What the loop knows, after each of its turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Of the state.
    pub counts: Counts,
    /// Of the outbox.
    pub sent: Sent,
    /// Backends that are known, also those that are settling.
    pub backends: usize,
    /// Slices, or keys.
    pub slices: usize,
    /// Decisions without a report.
    pub waiting: usize,
    /// The watch works.
    pub live: bool,
    /// The service is connected.
    pub connected: bool,
}

/// All numbers.
#[derive(Debug)]
pub struct Numbers {
    snapshot: watch::Receiver<Snapshot>,
    counters: Arc<Counters>,
    lag: Histogram,
}

/// From the change to the report.
pub fn lag() -> Histogram {
    // 1 ms, 2 ms ... 33 s
    Histogram::new(exponential_buckets(0.001, 2.0, 16))
}

impl Numbers {
    /// Read at each scrape.
    pub const fn new(snapshot: watch::Receiver<Snapshot>, counters: Arc<Counters>, lag: Histogram) -> Self {
        Self { snapshot, counters, lag }
    }
}

impl Collector for Numbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let s = *self.snapshot.borrow();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        for (name, help, value) in [
            ("streams", "Watches that were begun", read(&self.counters.streams)),
            ("breaks", "Watches that broke, and lists that failed", read(&self.counters.breaks)),
            (
                "left_out",
                "Keys and objects of which something stands for no backend",
                read(&self.counters.left_out),
            ),
            ("lists", "Lists that were complete", s.counts.lists),
            ("returned", "Backends that came back within the settle time", s.counts.returned),
            (
                "replaced",
                "Backends that are another instance at the address of an earlier one",
                s.counts.replaced,
            ),
            ("events", "Events sent to the service", s.sent.events),
            ("reports", "Reports received", s.sent.reports),
            (
                "reports_incomplete",
                "Reports of failures, or of sockets that may have been missed",
                s.sent.incomplete,
            ),
            ("refused", "Events that the service did not understand", s.sent.refused),
            ("destroyed", "Sockets that reports say were destroyed", s.sent.destroyed),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(metric)?;
        }
        let help = "Decisions that led to no event";
        let mut family = encoder.encode_descriptor("skipped", help, None, MetricType::Counter)?;
        for (reason, value) in [
            ("no_frontend", s.counts.no_frontend),
            ("action_none", s.counts.action_none),
            ("service_without_frontends", s.sent.no_frontends),
            ("service_without_action", s.sent.no_action),
            ("outdated", s.sent.outdated),
        ] {
            ConstCounter::new(value).encode(family.encode_family(&[("reason", reason)])?)?;
        }
        for (name, help, value) in [
            ("backends", "Backends that are known", s.backends),
            ("slices", "Slices or keys that are known", s.slices),
            ("waiting", "Decisions without a report", s.waiting),
            ("live", "The watch works: 1, or 0", usize::from(s.live)),
            ("connected", "The service is connected: 1, or 0", usize::from(s.connected)),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(metric)?;
        }
        let help = "From the receipt of a change to the report, with the settle time";
        let metric = encoder.encode_descriptor("lag", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        self.lag.encode(metric)
    }
}

/// Serves scrapes for ever.
pub async fn serve(listener: TcpListener, numbers: Numbers) {
    let mut registry = Registry::with_prefix("skreap_watch");
    registry.register_collector(Box::new(numbers));
    let (registry, room) = (Arc::new(registry), Arc::new(Semaphore::new(SCRAPES)));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::debug!("cannot accept a scrape: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // One too many is closed without an answer.
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
        let registry = Arc::clone(&registry);
        tokio::spawn(async move {
            let _permit = permit;
            // A scraper that goes, or is slow, misses the numbers: nothing depends on it.
            if let Ok(Err(e)) = timeout(DEADLINE, scrape(stream, &registry)).await {
                tracing::debug!("a scrape failed: {e}");
            }
        });
    }
}

async fn scrape(mut stream: TcpStream, registry: &Registry) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        if head.len() > HEAD_MAX || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let (status, body) = answer(&head, registry);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

fn answer(head: &[u8], registry: &Registry) -> (&'static str, String) {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let Ok(httparse::Status::Complete(_)) = request.parse(head) else {
        return ("400 Bad Request", String::new());
    };
    match (request.method, request.path) {
        (Some("GET"), Some("/metrics")) => {
            let mut body = String::new();
            match prometheus_client::encoding::text::encode(&mut body, registry) {
                Ok(()) => ("200 OK", body),
                Err(e) => ("500 Internal Server Error", format!("{e}\n")),
            }
        }
        (Some("GET"), _) => ("404 Not Found", "the metrics are at /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", String::new()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "input of the tests is written here")]

    use super::*;

    #[test]
    fn numbers_have_names() {
        let sent = Sent { events: 7, no_frontends: 2, ..Sent::default() };
        let snapshot = Snapshot { sent, backends: 100, live: true, ..Snapshot::default() };
        let (_keep, receiver) = watch::channel(snapshot);
        let counters = Arc::new(Counters::default());
        counters.streams.store(3, Ordering::Relaxed);
        let lag = lag();
        lag.observe(0.003);
        let mut registry = Registry::with_prefix("skreap_watch");
        registry.register_collector(Box::new(Numbers::new(receiver, counters, lag)));
        let (status, body) = answer(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", &registry);
        assert_eq!(status, "200 OK");
        for line in [
            "skreap_watch_streams_total 3",
            "skreap_watch_events_total 7",
            "skreap_watch_skipped_total{reason=\"service_without_frontends\"} 2",
            "skreap_watch_backends 100",
            "skreap_watch_live 1",
            "skreap_watch_connected 0",
            "skreap_watch_lag_seconds_count 1",
            "skreap_watch_lag_seconds_bucket{le=\"0.002\"} 0",
            "skreap_watch_lag_seconds_bucket{le=\"0.004\"} 1",
        ] {
            assert!(body.lines().any(|there| there == line), "{line} is not in:\n{body}");
        }
        assert!(body.ends_with("# EOF\n"));
        assert_eq!(answer(b"GET / HTTP/1.1\r\n\r\n", &registry).0, "404 Not Found");
        assert_eq!(answer(b"POST /metrics HTTP/1.1\r\n\r\n", &registry).0, "405 Method Not Allowed");
        assert_eq!(answer(b"\x16\x03\x01\r\n\r\n", &registry).0, "400 Bad Request");
    }
}
