//! A large cluster that changes all the time: how long an event takes, and what the watcher costs, beside curl and kubectl
//! that watch the same. Runs with `SKREAP_FLEET_LOAD=SECONDS`; `SKREAP_FLEET_SERVICES` (5000) Services of 20 endpoints.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use skreap_testbed::{Op, Reply, Selection, Watch, monotonic_ns};

use crate::api::{Api, TOKEN};
use crate::cluster::{Cluster, Part, kubectl};
use crate::kubelet;
use crate::node::Node;
use crate::process::until;

crate::tests!(a_large_cluster_that_changes_all_the_time);

const SLICES: &str = "/apis/discovery.k8s.io/v1beta1/namespaces/default/endpointslices";
const SERVICES: &str = "/api/v1/namespaces/default/services";
/// Endpoints of each Service.
const ENDPOINTS: u32 = 20;
/// Those who change things.
const WRITERS: u32 = 4;
/// Changes a second, of all of them.
const RATE: u32 = 100;

fn number(name: &str) -> Option<u32> {
    env::var(name).ok()?.parse().ok()
}

/// What is missing.
pub fn lacks() -> Option<String> {
    let curl = Command::new("curl").arg("--version").stdout(Stdio::null()).status();
    if number("SKREAP_FLEET_LOAD").is_none() {
        return Some("it takes long: SKREAP_FLEET_LOAD=120 runs it for two minutes".to_owned());
    }
    curl.is_err().then(|| "curl is missing".to_owned())
}

fn slice(service: &str, endpoints: &Value) -> Value {
    json!({"metadata": {"name": service, "labels": {"kubernetes.io/service-name": service}}, "addressType": "IPv4",
        "endpoints": endpoints, "ports": [{"name": "dns", "protocol": "UDP", "port": 5353}]})
}

/// Endpoints of the n-th Service, after so many changes: each replaces one.
fn endpoints(n: u32, changes: u32) -> Value {
    let of = |i: u32| {
        let generation = (changes + ENDPOINTS - 1 - i) / ENDPOINTS % 8;
        let id = (n * ENDPOINTS + i) * 8 + generation;
        let address = format!("10.{}.{}.{}", 128 + (id >> 16), id >> 8 & 0xff, id & 0xff);
        json!({"addresses": [address], "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "namespace": "default", "name": format!("pod-{n}-{i}-{generation}"),
                "uid": format!("00000000-0000-0000-{generation:04}-{n:06}{i:06}")}})
    };
    (0..ENDPOINTS).map(of).collect()
}

fn a_large_cluster_that_changes_all_the_time() -> anyhow::Result<()> {
    let seconds = number("SKREAP_FLEET_LOAD").unwrap_or(120);
    let services = number("SKREAP_FLEET_SERVICES").unwrap_or(5000);
    let mut cluster = Cluster::start()?;
    // These slices are nobody else's.
    cluster.kill(Part::Controllers)?;
    let ca = cluster.path("ca.crt");
    let began = Instant::now();
    writers(cluster.port, &ca, |api, writer| {
        for n in (0..services).filter(|n| n % WRITERS == writer) {
            let name = format!("load-{n}");
            let ports = json!([{"name": "dns", "protocol": "UDP", "port": 53}]);
            api.post(SERVICES, &json!({"metadata": {"name": name}, "spec": {"ports": ports}}))?;
            api.post(SLICES, &slice(&name, &endpoints(n, 0)))?;
        }
        Ok(())
    })?;
    println!("{services} Services of {ENDPOINTS} endpoints in {:.0} s", began.elapsed().as_secs_f64());

    // One probe each second: a Service with one endpoint, which has one client.
    let probes = seconds.min(u32::from(kubelet::ADDRESSES));
    let mut node = Node::new(&cluster, "fleet-load", &["--settle-ms", "0"])?;
    for n in 0..probes {
        let address = kubelet::address(u8::try_from(n + 1)?);
        let name = format!("probe-{n}");
        let service = json!({"metadata": {"name": name}, "spec": {"ports": [{"name": "dns", "protocol": "UDP", "port": 53}]}});
        let service = cluster.api.post(SERVICES, &service)?;
        cluster
            .api
            .post(SLICES, &slice(&name, &json!([{"addresses": [address], "conditions": {"ready": true}}])))?;
        node.open(service["spec"]["clusterIP"].as_str().context("no address")?, address, 1)?;
    }
    node.watch()?;
    let curl = Curl::start(&cluster)?;
    let kubectl = Watching::kubectl(&cluster, services + probes)?;
    let watch = Cost::of(node.watch_pid().context("no watcher")?)?;
    let beside = Cost::of(kubectl.0.id())?;

    // All ask at once: the client answers when each of its sockets has had its error.
    let watched = Watch {
        sockets: Selection::All,
        fallback: Vec::new(),
        expect: Some(probes),
        timeout_ms: u64::from(seconds) * 1000 + 60_000,
        verify_rest: false,
    };
    node.send(&Op::Watch(watched))?;
    let changes = AtomicU32::new(0);
    let began = Instant::now();
    let asked: Mutex<BTreeMap<u32, u64>> = Mutex::new(BTreeMap::new());
    writers(cluster.port, &ca, |api, writer| {
        let pause = Duration::from_secs(1) * WRITERS / RATE;
        let mut round = 0;
        while began.elapsed() < Duration::from_secs(u64::from(seconds)) {
            let n = (round * WRITERS * 7 + writer) % services;
            let name = format!("load-{n}");
            api.patch(&format!("{SLICES}/{name}"), &json!({"endpoints": endpoints(n, round + 1)}))?;
            changes.fetch_add(1, Ordering::Relaxed);
            round += 1;
            if writer == 0 && u64::from(asked.lock().unwrap().len() as u32) < began.elapsed().as_secs() {
                let n = asked.lock().unwrap().len() as u32;
                if n < probes {
                    asked.lock().unwrap().insert(n, monotonic_ns());
                    api.patch(&format!("{SLICES}/probe-{n}"), &json!({"endpoints": []}))?;
                }
            }
            thread::sleep((began + pause * round).saturating_duration_since(Instant::now()));
        }
        Ok(())
    })?;
    let took = began.elapsed();
    let (watch, beside) = (watch.since()?, beside.since()?);
    let last = asked.lock().unwrap().len() as u32;
    for n in last..probes {
        asked.lock().unwrap().insert(n, monotonic_ns());
        cluster.api.patch(&format!("{SLICES}/probe-{n}"), &json!({"endpoints": []}))?;
    }
    let Reply::Watched(watched) = node.receive()? else { bail!("no answer") };
    ensure!(
        !watched.timed_out && watched.victims.len() == probes as usize,
        "{} of {probes}",
        watched.victims.len()
    );
    until("curl has them all", || curl.seen().len() == probes as usize)?;

    let asked = asked.into_inner()?;
    let seen = curl.seen();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for victim in &watched.victims {
        let n = victim.socket - watched.victims.iter().map(|v| v.socket).min().unwrap_or(0);
        let (asked, seen) = (asked[&n], seen[&n]);
        ours.push(victim.error_at_ns.saturating_sub(asked));
        theirs.push(seen.saturating_sub(asked));
    }
    let percentile = |values: &mut Vec<u64>, p: usize| {
        values.sort_unstable();
        values[(values.len() * p / 100).min(values.len() - 1)] as f64 / 1e6
    };
    let result = json!({
        "services": services, "endpoints_each": ENDPOINTS, "seconds": took.as_secs_f64(),
        "changes_per_second": f64::from(changes.into_inner()) / took.as_secs_f64(), "probes": probes,
        "until_the_client_has_its_error_ms": {"p50": percentile(&mut ours, 50), "p99": percentile(&mut ours, 99)},
        "until_curl_has_the_line_ms": {"p50": percentile(&mut theirs, 50), "p99": percentile(&mut theirs, 99)},
        "ratio_p99": percentile(&mut ours, 99) / percentile(&mut theirs, 99),
        "skreap_watch": watch, "kubectl": beside,
        "cpu_ratio": watch["cpu_s"].as_f64().unwrap_or(0.0) / beside["cpu_s"].as_f64().unwrap_or(1.0),
        "memory_ratio": watch["rss_max_kib"].as_f64().unwrap_or(0.0) / beside["rss_max_kib"].as_f64().unwrap_or(1.0),
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
        "load_average": fs::read_to_string("/proc/loadavg")?.trim(),
    });
    let text = serde_json::to_string_pretty(&result)?;
    println!("{text}");
    if let Some(out) = env::var_os("SKREAP_FLEET_OUT") {
        fs::write(out, format!("{text}\n"))?;
    }
    Ok(())
}

/// Runs this in several threads, each with a client of its own.
fn writers(
    port: u16,
    ca: &Path,
    work: impl Fn(&Api, u32) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<()> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> =
            (0..WRITERS).map(|writer| scope.spawn(move || work(&Api::new(port, ca)?, writer))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap())
    })
}

/// A child that is killed at the end.
struct Watching(Child);

impl Drop for Watching {
    fn drop(&mut self) {
        // It may have ended.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

impl Watching {
    /// Waits until it has listed all slices.
    fn kubectl(cluster: &Cluster, slices: u32) -> anyhow::Result<Self> {
        let out = cluster.path("kubectl.out");
        let mut command = Command::new(kubectl());
        command.arg("--kubeconfig").arg(cluster.path("admin.conf")).env("HOME", cluster.folder.path());
        command.args(["get", "endpointslices", "--all-namespaces", "--watch"]);
        let child = command.stdout(fs::File::create(&out)?).stderr(Stdio::null()).spawn()?;
        let watching = Self(child);
        let listed = || fs::read_to_string(&out).unwrap_or_default().lines().count() > slices as usize;
        until("kubectl has listed the slices", listed)?;
        Ok(watching)
    }
}

/// A bare client: when each probe has lost its endpoint, by the line that says so.
struct Curl {
    _child: Watching,
    seen: Arc<Mutex<BTreeMap<u32, u64>>>,
}

impl Curl {
    fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let list = cluster.api.get(&format!("{SLICES}?limit=1"))?;
        let version = list["metadata"]["resourceVersion"].as_str().context("no version")?.to_owned();
        let mut command = Command::new("curl");
        command.args(["--silent", "--no-buffer", "--header", &format!("Authorization: Bearer {TOKEN}")]);
        command.arg("--cacert").arg(cluster.path("ca.crt"));
        command.arg(format!("https://127.0.0.1:{}{SLICES}?watch=1&resourceVersion={version}", cluster.port));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no output")?);
        let seen = Arc::new(Mutex::new(BTreeMap::new()));
        let to = Arc::clone(&seen);
        thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let now = monotonic_ns();
                let Some((_, rest)) = line.split_once("\"name\":\"probe-") else { continue };
                let Some(n) = rest.split('"').next().and_then(|n| n.parse().ok()) else { continue };
                if line.starts_with("{\"type\":\"MODIFIED\"") {
                    to.lock().unwrap().entry(n).or_insert(now);
                }
            }
        });
        Ok(Self { _child: Watching(child), seen })
    }

    fn seen(&self) -> BTreeMap<u32, u64> {
        self.seen.lock().unwrap().clone()
    }
}

/// Processor time and memory of a process.
struct Cost {
    process: PathBuf,
    ticks: u64,
}

impl Cost {
    fn of(pid: u32) -> anyhow::Result<Self> {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let ticks = ticks(&process)?;
        Ok(Self { process, ticks })
    }

    fn since(&self) -> anyhow::Result<Value> {
        let status = fs::read_to_string(self.process.join("status"))?;
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().next().and_then(|text| text.parse::<u64>().ok())
        };
        // A tick is 10 ms (USER_HZ).
        let cpu_s = (ticks(&self.process)? - self.ticks) as f64 / 100.0;
        Ok(json!({"cpu_s": cpu_s, "rss_kib": kib("VmRSS:"), "rss_max_kib": kib("VmHWM:")}))
    }
}

fn ticks(process: &Path) -> anyhow::Result<u64> {
    let stat = fs::read_to_string(process.join("stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("no fields")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    // utime and stime, see proc(5)
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}
