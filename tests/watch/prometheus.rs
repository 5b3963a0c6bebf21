//! The alerts and the dashboard in `docs`, beside a real Prometheus that scrapes a real service and a real watcher.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::e2e::{self, A, World};
use crate::process::{Process, until};

crate::tests!(
    alerts_fire_when_they_should,
    alerts_and_dashboard_are_loaded,
    every_metric_that_is_named_is_documented,
);

const ALERTS: &str = include_str!("../../docs/alerts.yaml");
const DASHBOARD: &str = include_str!("../../docs/grafana.json");
const DOCUMENTS: [&str; 2] = [include_str!("../../docs/metrics.md"), include_str!("../../docs/fleet.md")];

/// What is missing.
pub fn lacks() -> Option<String> {
    if let Some(lacks) = e2e::lacks() {
        return Some(lacks);
    }
    let missing = ["prometheus", "promtool"].into_iter().find(|name| !program(name).exists())?;
    Some(format!("{} is missing: run tests/fleet/unpack.sh prometheus", program(missing).display()))
}

/// Where `tests/fleet/unpack.sh` has put it.
fn program(name: &str) -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME")
        .map_or_else(|| PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache"), PathBuf::from);
    cache.join("skreap/packages/usr/bin").join(name)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Series in, alerts out: `tests/fleet/alerts.yaml`.
fn alerts_fire_when_they_should() -> anyhow::Result<()> {
    for arguments in [["check", "rules", "docs/alerts.yaml"], ["test", "rules", "tests/fleet/alerts.yaml"]] {
        let ended = Command::new(program("promtool")).args(arguments).current_dir(root()).output()?;
        ensure!(
            ended.status.success(),
            "{arguments:?}: {}{}",
            String::from_utf8_lossy(&ended.stdout),
            String::from_utf8_lossy(&ended.stderr)
        );
    }
    Ok(())
}

fn alerts_and_dashboard_are_loaded() -> anyhow::Result<()> {
    let [service, watcher, at] = free_ports()?;
    let mut world = World::with_metrics("watch-prom", Some([service, watcher]))?;
    let prometheus = Prometheus::start(world.folder.path(), at, service, watcher)?;
    let one = |query| prometheus.query(query).is_ok_and(|result| number(&result) == Some(1.0));
    until("both are scraped", || {
        one("up{job='skreap'}") && one("up{job='skreap-watch'}") && one("skreap_watch_live")
    })?;
    world.etcd.delete(A.0)?;
    world.destroyed(23)?;
    until("the sockets are counted", || {
        prometheus.query("sum(skreap_sockets_destroyed_total)").is_ok_and(|r| number(&r) == Some(23.0))
    })?;

    // Every expression is understood. Where there is something to see, it shows it, once there are two samples.
    let mut empty = expressions()?;
    for (title, expression) in &empty {
        prometheus.query(expression).with_context(|| format!("{title}: {expression}"))?;
    }
    let shown = until("every panel shows something", || {
        empty.retain(|(_, query)| !prometheus.query(query).is_ok_and(|result| number(&result).is_some()));
        empty.iter().all(|(_, query)| may_be_empty(query))
    });
    shown.with_context(|| format!("{empty:?}"))?;

    let rules = prometheus.rules()?;
    ensure!(rules.len() == ALERTS.matches("- alert: ").count(), "{} rules", rules.len());
    for rule in &rules {
        ensure!(rule["health"] == "ok" && rule["state"] == "inactive", "nothing is wrong: {rule}");
    }
    world.kill_watch()?;
    until("the alert is on its way", || {
        let rules = prometheus.rules().unwrap_or_default();
        let active: Vec<_> = rules.iter().filter(|rule| rule["state"] != "inactive").collect();
        active.len() == 1 && active[0]["name"] == "SkreapWatchDown" && active[0]["state"] == "pending"
    })
}

fn every_metric_that_is_named_is_documented() -> anyhow::Result<()> {
    let documented = documented();
    let mut texts: Vec<String> = expressions()?.into_iter().map(|(_, expression)| expression).collect();
    texts.push(ALERTS.to_owned());
    let mut named = BTreeSet::new();
    for text in &texts {
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            if word.starts_with("skreap_") {
                named.insert(word.trim_end_matches("_bucket").to_owned());
            }
        }
    }
    ensure!(named.len() > 30, "{named:?}");
    let unknown: Vec<_> = named.difference(&documented).collect();
    ensure!(unknown.is_empty(), "{unknown:?} are in no document");
    Ok(())
}

/// Names in the tables; those of the watcher are there without their beginning.
fn documented() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (document, prefix) in DOCUMENTS.iter().zip(["", "skreap_watch_"]) {
        for line in document.lines().filter(|line| line.starts_with("| `")) {
            let Some(cell) = line.split(" | ").next() else { continue };
            for name in cell.split('`').skip(1).step_by(2) {
                names.insert(format!("{prefix}{}", name.split('{').next().unwrap_or_default()));
            }
        }
    }
    names
}

/// What appears with its first count is not in each panel.
fn may_be_empty(query: &str) -> bool {
    let first_counts = [
        "failed_total",
        "incomplete_total",
        "skipped_total",
        "dropped_total",
        "audit_differences",
        "order_moves",
    ];
    first_counts.iter().any(|part| query.contains(part)) && !query.contains("vector(0)")
}

/// Title and expression of all that the dashboard asks for, with its variables replaced.
fn expressions() -> anyhow::Result<Vec<(String, String)>> {
    let dashboard: Value = serde_json::from_str(DASHBOARD)?;
    let mut all = Vec::new();
    for panel in dashboard["panels"].as_array().context("no panels")? {
        let targets = panel["targets"].as_array().map_or(&[][..], Vec::as_slice);
        ensure!(panel["type"] == "row" || !targets.is_empty(), "{} shows nothing", panel["title"]);
        for target in targets {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let expression = text(&target["expr"]).replace("$instance", ".*");
            let expression = expression.replace("$__rate_interval", "1m").replace("$__range", "1h");
            all.push((text(&panel["title"]), expression));
        }
    }
    Ok(all)
}

fn free_ports() -> anyhow::Result<[SocketAddr; 3]> {
    let ports = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()));
    let [a, b, c] = ports;
    Ok([a?, b?, c?])
}

/// The first value of a result, if there is one.
fn number(result: &Value) -> Option<f64> {
    result["result"][0]["value"][1].as_str()?.parse().ok()
}

struct Prometheus {
    at: SocketAddr,
    _process: Process,
}

impl Prometheus {
    fn start(
        folder: &Path,
        at: SocketAddr,
        service: SocketAddr,
        watcher: SocketAddr,
    ) -> anyhow::Result<Self> {
        let rules = root().join("docs/alerts.yaml").canonicalize()?;
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
             rule_files: ['{}']\n\
             scrape_configs:\n\
             - {{job_name: skreap, static_configs: [{{targets: ['{service}']}}]}}\n\
             - {{job_name: skreap-watch, static_configs: [{{targets: ['{watcher}']}}]}}\n",
            rules.display()
        );
        let file = folder.join("prometheus.yml");
        fs::write(&file, config)?;
        let mut command = Command::new(program("prometheus"));
        command.arg("--config.file").arg(&file).arg("--storage.tsdb.path").arg(folder.join("prometheus"));
        command.arg("--web.listen-address").arg(at.to_string());
        command.stdout(Stdio::null()).stderr(fs::File::create(folder.join("prometheus.log"))?);
        let process = Process::start(&mut command)?;
        let prometheus = Self { at, _process: process };
        until("Prometheus is ready", || prometheus.query("vector(1)").is_ok())?;
        Ok(prometheus)
    }

    /// `data` of the answer.
    fn get(&self, path: &str) -> anyhow::Result<Value> {
        let mut stream = TcpStream::connect(self.at)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
        let mut body: Value = serde_json::from_str(body).with_context(|| body.to_owned())?;
        ensure!(body["status"] == "success", "{body}");
        Ok(body["data"].take())
    }

    fn query(&self, expression: &str) -> anyhow::Result<Value> {
        let mut text = String::new();
        for byte in expression.bytes() {
            text.push_str(&format!("%{byte:02X}"));
        }
        self.get(&format!("/api/v1/query?query={text}"))
    }

    fn rules(&self) -> anyhow::Result<Vec<Value>> {
        let data = self.get("/api/v1/rules")?;
        let groups = data["groups"].as_array().context("no groups")?;
        Ok(groups.iter().flat_map(|group| group["rules"].as_array().into_iter().flatten().cloned()).collect())
    }
}
