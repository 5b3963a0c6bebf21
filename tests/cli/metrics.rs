//! `serve --metrics`: what a scrape says after events that are known.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use anyhow::{Context as _, Result, ensure};
use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model::MetricFamily;
use prost::Message as _;
use tempfile::TempDir;

use crate::commands::{TCP, Ten, UDP, good, good_json};
use crate::process::{self, PATIENCE, run};
use crate::serve::Serve;

crate::tests![
    a_scrape_says_what_was_done,
    native_histograms_for_who_asks,
    scrapers_that_hang_hold_up_nobody,
    an_address_that_is_taken,
];

const PROTOBUF: &str =
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";

/// `serve` with metrics on a unix socket.
pub struct Served {
    pub serve: Serve,
    directory: TempDir,
}

impl Served {
    pub fn start(label: &str) -> Result<Self> {
        let directory = TempDir::new()?;
        let address = format!("unix:{}", directory.path().join("metrics").display());
        let serve = Serve::start_with(label, &["--metrics", &address])?;
        Ok(Self { serve, directory })
    }

    fn connect(&self) -> Result<UnixStream> {
        let stream = UnixStream::connect(self.directory.path().join("metrics"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// The value of each time series.
    pub fn scrape(&self) -> Result<BTreeMap<String, f64>> {
        let (head, body) = get(self.connect()?, "/metrics", "*/*")?;
        ensure!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        ensure!(head.contains("Content-Type: application/openmetrics-text; version=1.0.0"), "{head}");
        let body = String::from_utf8(body)?;
        ensure!(body.ends_with("# EOF\n"), "{body}");
        let lines = body.lines().filter(|line| !line.starts_with('#'));
        lines
            .map(|line| {
                let (name, value) = line.rsplit_once(' ').context("no value")?;
                Ok((name.to_owned(), value.parse().with_context(|| line.to_owned())?))
            })
            .collect()
    }
}

fn get(mut stream: impl Read + Write, path: &str, accept: &str) -> Result<(String, Vec<u8>)> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n")?;
    answer(stream)
}

fn answer(mut stream: impl Read) -> Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").context("no end of the head")? + 4;
    let body = bytes.split_off(end);
    let head = String::from_utf8(bytes)?;
    ensure!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
    Ok((head, body))
}

/// Asserts the values of some time series; `None` is one that must not be there.
pub fn expect(scrape: &BTreeMap<String, f64>, wanted: &[(&str, Option<f64>)]) -> Result<()> {
    for (name, value) in wanted {
        let is = scrape.get(&format!("skreap_{name}")).copied();
        ensure!(is == *value, "{name} is {is:?} and not {value:?}: {scrape:#?}");
    }
    Ok(())
}

fn a_scrape_says_what_was_done() -> Result<()> {
    let served = Served::start("cli-metrics")?;
    let socket = served.serve.socket_arg()?;
    let socket = socket.as_str();
    let ten = Ten::new(&served.serve)?;
    let status = good_json(&["status", "--socket", socket, "--json"])?;
    let engine = status["engine"].as_str().context("no engine")?;
    let capacity = status["index"]["counters"]["capacity"].as_f64();
    let destroyed = format!("sockets_destroyed_total{{engine=\"{engine}\",protocol=\"udp\"}}");
    let version = env!("CARGO_PKG_VERSION");
    let build = format!("build_info{{version=\"{version}\",engine=\"{engine}\"}}");

    expect(
        &served.scrape()?,
        &[
            (&build, Some(1.0)),
            ("index_memberships", Some(10.0)),
            ("index_capacity", capacity),
            ("index_sockets", Some(10.0)),
            ("index_backends", Some(2.0)),
            ("index_inserts_total", Some(10.0)),
            ("index_removals_total", Some(0.0)),
            ("index_dropped_total{reason=\"full\"}", Some(0.0)),
            ("index_incomplete_backends", Some(0.0)),
            ("index_stale_total", Some(0.0)),
            (&destroyed, None),
            ("audit_differences{kind=\"missed\"}", None),
            ("event_duration_seconds_count{phase=\"total\"}", Some(0.0)),
        ],
    )?;

    good(&["reap", TCP, "--dry-run", "--socket", socket])?;
    good(&["reap", UDP, "--socket", socket])?;
    good(&["reap", UDP, "--socket", socket])?;
    let mut talk = served.serve.client()?;
    talk.send("nonsense\n")?;
    talk.answer()?;
    // The look at the index is up to half a second old, and the clients of before may still be on their way out.
    process::until("the index to be looked at again", || {
        served.scrape().is_ok_and(|scrape| {
            scrape.get("skreap_index_backends") == Some(&1.0) && scrape.get("skreap_clients") == Some(&1.0)
        })
    })?;
    expect(
        &served.scrape()?,
        &[
            ("events_total{type=\"backend-deleted\",result=\"complete\"}", Some(2.0)),
            ("events_total{type=\"backend-deleted\",result=\"dry-run\"}", Some(1.0)),
            ("events_total{type=\"backend-deleted\",result=\"failed\"}", None),
            (&destroyed, Some(6.0)),
            ("sockets_skipped_total{reason=\"no-peer\"}", Some(6.0)),
            ("sockets_skipped_total{reason=\"gone\"}", Some(0.0)),
            ("index_no_peer", Some(6.0)),
            ("index_sockets", Some(10.0)),
            ("lines_refused_total", Some(1.0)),
            ("clients", Some(1.0)),
            ("clients_refused_total{reason=\"uid\"}", Some(0.0)),
            ("events_waiting", Some(0.0)),
            ("events_unconfirmed", Some(0.0)),
            ("event_duration_seconds_count{phase=\"total\"}", Some(2.0)),
            ("event_duration_seconds_count{phase=\"queue\"}", Some(2.0)),
            ("event_duration_seconds_count{phase=\"other\"}", Some(2.0)),
            ("event_duration_seconds_bucket{le=\"+Inf\",phase=\"walk\"}", Some(2.0)),
        ],
    )?;
    drop((talk, ten));
    served.serve.finish()?;
    ensure!(!served.directory.path().join("metrics").exists(), "the socket of the metrics is still there");
    Ok(())
}

fn native_histograms_for_who_asks() -> Result<()> {
    let served = Served::start("cli-native")?;
    served.serve.client()?.ask("one")?;
    let (head, body) = get(served.connect()?, "/metrics", &format!("{PROTOBUF};q=0.6,text/plain;q=0.3"))?;
    ensure!(
        head.contains("Content-Type: application/vnd.google.protobuf; proto=io.prometheus.client"),
        "{head}"
    );
    let mut families = Vec::new();
    let mut rest = body.as_slice();
    while !rest.is_empty() {
        families.push(MetricFamily::decode_length_delimited(&mut rest)?);
    }
    let find = |name: &str| families.iter().find(|family| family.name == name).context("no such family");
    let events = find("skreap_events_total")?;
    ensure!(events.metric.len() == 1, "{events:?}");
    ensure!(events.metric[0].counter.as_ref().is_some_and(|counter| counter.value == 1.0), "{events:?}");
    let duration = find("skreap_event_duration_seconds")?;
    let phases: Vec<&str> = duration.metric.iter().map(|m| m.label[0].value.as_str()).collect();
    let expected = ["queue", "order", "pending", "walk", "destroy", "other", "total"];
    ensure!(phases == expected, "{duration:?}");
    for metric in &duration.metric {
        let histogram = metric.histogram.as_ref().context("no histogram")?;
        ensure!(histogram.sample_count == 1 && histogram.bucket.len() >= 12, "{histogram:?}");
        // One observation is one native bucket, or the one of zero.
        let native: i64 = histogram.positive_delta.iter().sum::<i64>() + histogram.zero_count.cast_signed();
        ensure!(histogram.schema >= 3 && native == 1, "{histogram:?}");
    }
    served.serve.finish()
}

fn scrapers_that_hang_hold_up_nobody() -> Result<()> {
    let served = Served::start("cli-hang")?;
    let hanging: Vec<UnixStream> = (0..4)
        .map(|_| {
            let mut stream = served.connect()?;
            stream.write_all(b"GET /metrics HTT")?;
            anyhow::Ok(stream)
        })
        .collect::<Result<_>>()?;
    // One more is told so, and the service goes on.
    let (head, _) = answer(served.connect()?)?;
    ensure!(head.starts_with("HTTP/1.1 503 "), "{head}");
    let mut client = served.serve.client()?;
    for i in 0..20 {
        client.ask(&format!("e{i}"))?;
    }
    drop(hanging);
    process::until("a scrape to be answered again", || {
        served.scrape().is_ok_and(|scrape| {
            scrape.get("skreap_events_total{type=\"backend-deleted\",result=\"complete\"}") == Some(&20.0)
        })
    })?;
    for (request, status) in [
        ("GET /other HTTP/1.1\r\n\r\n", "404 "),
        ("POST /metrics HTTP/1.1\r\n\r\n", "405 "),
        ("nonsense\r\n\r\n", "400 "),
        (&format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(9000)), "431 "),
    ] {
        // The scrapes of before may not have ended yet.
        process::until(request, || {
            let answered = served.connect().and_then(|mut stream| {
                stream.write_all(request.as_bytes())?;
                answer(&stream)
            });
            answered.is_ok_and(|(head, _)| head.starts_with(&format!("HTTP/1.1 {status}")))
        })?;
    }
    // One that never ends its request does not keep the service from ending.
    let mut last = served.connect()?;
    last.write_all(b"GET")?;
    served.serve.finish()
}

fn an_address_that_is_taken() -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let cgroup = skreap_testbed::Cgroup::create("cli-taken")?;
    let cgroup = cgroup.path().to_str().context("not UTF-8")?;
    let ended = run(&["serve", "--cgroup", cgroup, "--metrics", &address])?;
    ensure!(ended.code == Some(1) && ended.err.contains(&address), "{ended:?}");
    ensure!(ended.err.contains("--metrics") && ended.err.lines().count() == 1, "{ended:?}");
    drop(taken);
    let serve = Serve::start_with("cli-tcp", &["--metrics", &address])?;
    let (head, body) = get(TcpStream::connect(&address)?, "/metrics?x=y", "text/plain")?;
    ensure!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    let body = String::from_utf8(body)?;
    ensure!(body.contains("\nskreap_lines_refused_total 0\n"), "{body}");
    serve.finish()
}
