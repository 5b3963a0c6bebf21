//! Slices and Services of an API server made by hand.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;
use tempfile::TempDir;

use crate::api_server::ApiServer;
use crate::process::{Process, until};
use crate::service::Service;

crate::tests!(
    pods_leave_services_and_the_cluster,
    a_list_as_the_beginning_of_a_watch,
    an_old_server_without_newer_versions,
    a_version_that_is_gone_is_listed_at_once,
    a_server_that_is_away_and_comes_back_restarted,
    a_watch_that_ends_goes_on_where_it_was,
    a_list_that_fails_half_way_says_nothing,
    a_token_that_has_expired,
    annotations_say_what_is_done,
    a_thousand_endpoints_and_slices_without_backends,
    one_address_and_another_pod_in_one_update,
    one_name_of_a_port_and_other_numbers,
    a_service_deleted_before_its_slices,
);

struct World {
    folder: TempDir,
    api: ApiServer,
    service: Service,
}

impl World {
    fn new() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let api = ApiServer::start()?;
        let service = Service::start(&folder.path().join("skreap.sock"))?;
        let config = format!(
            "current-context: c\nclusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{}'}}}}]\n\
             contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\nusers: [{{name: u, user: {{tokenFile: token}}}}]\n",
            api.port
        );
        fs::write(folder.path().join("config"), config)?;
        fs::write(folder.path().join("token"), "first\n")?;
        let world = Self { folder, api, service };
        world.api.service("dns", "10.96.0.10", None);
        world.api.service("cache", "10.96.0.11", None);
        world.api.slice("dns-1", "dns", &["10.1.0.1", "10.1.0.2"]);
        world.api.slice("dns-2", "dns", &["10.1.0.3"]);
        world.api.slice("cache-1", "cache", &["10.1.0.1", "10.1.0.9"]);
        Ok(world)
    }

    fn start(&self, arguments: &[&str]) -> anyhow::Result<Process> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skreap-watch"));
        command.args(["--log", "debug", "kubernetes", "--settle-ms", "200"]).args(arguments);
        command.arg("--kubeconfig").arg(self.folder.path().join("config"));
        command.arg("--socket").arg(self.folder.path().join("skreap.sock"));
        command.stderr(fs::File::create(self.folder.path().join("log"))?);
        Process::start(&mut command)
    }

    /// Watches, and has listed what is there.
    fn watch(&self, arguments: &[&str]) -> anyhow::Result<Process> {
        let process = self.start(arguments)?;
        self.service.connected()?;
        until("the slices are listed", || self.log().contains(" slices listed"))?;
        Ok(process)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn lists(&self) -> usize {
        self.log().matches(" slices listed").count()
    }
}

const GONE: &str = "udp://10.1.0.2:53";
const LEFT: &str = "udp://10.1.0.1:53 through udp://10.96.0.10:53";

fn pods_leave_services_and_the_cluster() -> anyhow::Result<()> {
    let world = World::new()?;
    let _watch = world.watch(&[])?;
    ensure!(world.log().contains("3 slices listed"), "{}", world.log());
    // One is gone, one has left one of its Services, one does not serve and is still named.
    world.api.slice("dns-1", "dns", &[]);
    world.api.slice("cache-1", "cache", &["10.1.0.1", "10.1.0.9 FFF"]);
    let unready = "udp://10.1.0.9:53 through udp://10.96.0.11:53";
    world.service.wait(&[LEFT, GONE, unready])?;
    world.api.delete_slice("cache-1");
    world.service.wait(&["udp://10.1.0.1:53", LEFT, GONE, "udp://10.1.0.9:53", unready])?;
    ensure!(world.api.asked("sendInitialEvents") == 2, "it is asked for once, for each kind");
    ensure!(world.api.asked("/apis/discovery.k8s.io/v1/endpointslices") > 0);
    Ok(())
}

fn a_list_as_the_beginning_of_a_watch() -> anyhow::Result<()> {
    let world = World::new()?;
    world.api.world().streaming = true;
    let _watch = world.watch(&[])?;
    world.api.slice("dns-1", "dns", &["10.1.0.1"]);
    world.service.wait(&[GONE])?;
    ensure!(world.api.asked("limit=") == 0, "no other list");
    // After it, the watch goes on as any other.
    world.api.cut();
    world.api.delete_slice("dns-2");
    world.service.wait(&[GONE, "udp://10.1.0.3:53"])?;
    ensure!(world.lists() == 1, "{} lists", world.lists());
    Ok(())
}

fn an_old_server_without_newer_versions() -> anyhow::Result<()> {
    let world = World::new()?;
    world.api.world().versions = &["v1beta1"];
    let _watch = world.watch(&[])?;
    world.api.slice("dns-1", "dns", &["10.1.0.1"]);
    world.service.wait(&[GONE])?;
    ensure!(world.api.asked("/apis/discovery.k8s.io/v1/") == 0);
    Ok(())
}

fn a_version_that_is_gone_is_listed_at_once() -> anyhow::Result<()> {
    let world = World::new()?;
    let _watch = world.watch(&[])?;
    thread::sleep(Duration::from_secs(6));
    // While nobody watches, one pod goes and a slice is replaced by another.
    world.api.world().down = true;
    world.api.cut();
    world.api.slice("dns-1", "dns", &["10.1.0.1"]);
    world.api.delete_slice("dns-2");
    world.api.slice("dns-9", "dns", &["10.1.0.3"]);
    world.api.forget();
    world.api.world().down = false;
    let back = Instant::now();
    world.service.wait(&[GONE])?;
    let after = world.service.events()[0].0.saturating_duration_since(back);
    ensure!(after < Duration::from_secs(3), "listed at once, and settled: {after:?}");
    ensure!(world.log().contains("410") && world.lists() == 2, "{}", world.log());
    Ok(())
}

fn a_server_that_is_away_and_comes_back_restarted() -> anyhow::Result<()> {
    let world = World::new()?;
    let _watch = world.watch(&[])?;
    world.api.world().down = true;
    world.api.forget();
    thread::sleep(Duration::from_secs(8));
    world.api.slice("dns-1", "dns", &["10.1.0.1"]);
    ensure!(world.service.events().is_empty(), "nothing is decided while the server is away");
    world.api.world().down = false;
    let back = Instant::now();
    until("another list", || world.lists() == 2)?;
    // The bar is 2 s on a quiet machine; pauses are 1.5 s at most.
    ensure!(back.elapsed() < Duration::from_secs(4), "the first list: {:?}", back.elapsed());
    world.service.wait(&[GONE])
}

fn a_watch_that_ends_goes_on_where_it_was() -> anyhow::Result<()> {
    let world = World::new()?;
    let _watch = world.watch(&[])?;
    for round in 0..5 {
        world.api.cut();
        world.api.slice("dns-2", "dns", &[&format!("10.1.1.{}", round + 1)]);
        thread::sleep(Duration::from_millis(400));
    }
    let gone = [
        "udp://10.1.0.3:53",
        "udp://10.1.1.1:53",
        "udp://10.1.1.2:53",
        "udp://10.1.1.3:53",
        "udp://10.1.1.4:53",
    ];
    world.service.wait(&gone)?;
    ensure!(world.lists() == 1, "{} lists", world.lists());
    // A bookmark is where the next watch goes on.
    world.api.bookmark();
    thread::sleep(Duration::from_millis(500));
    let version = world.api.world().requests.len();
    world.api.cut();
    until("two more watches", || world.api.world().requests.len() >= version + 2)?;
    let requests = world.api.world().requests.clone();
    let last = requests.iter().rev().take(2).map(|request| {
        request.split('&').find(|part| part.starts_with("resourceVersion=")).unwrap_or_default()
    });
    let versions: Vec<&str> = last.collect();
    ensure!(versions[0] == versions[1], "one bookmark, one version: {versions:?}");
    Ok(())
}

fn a_list_that_fails_half_way_says_nothing() -> anyhow::Result<()> {
    let world = World::new()?;
    let _watch = world.watch(&[])?;
    world.api.world().half_lists = true;
    world.api.slice("dns-1", "dns", &["10.1.0.1", "10.1.0.2", "10.1.0.4"]);
    world.api.forget();
    until("some lists have failed", || world.log().matches("the rest is not to be had").count() >= 4)?;
    ensure!(world.service.events().is_empty(), "half a list is none");
    world.api.slice("dns-1", "dns", &["10.1.0.1", "10.1.0.4"]);
    world.api.world().half_lists = false;
    world.service.wait(&[GONE])
}

fn a_token_that_has_expired() -> anyhow::Result<()> {
    let world = World::new()?;
    world.api.world().token = Some("first");
    let _watch = world.watch(&[])?;
    world.api.world().token = Some("second");
    world.api.cut();
    until("it is refused", || world.log().contains("401 Unauthorized"))?;
    world.api.slice("dns-1", "dns", &["10.1.0.1"]);
    fs::write(world.folder.path().join("token"), "second\n")?;
    world.service.wait(&[GONE])?;
    ensure!(world.lists() == 1, "it goes on where it was");
    Ok(())
}

fn annotations_say_what_is_done() -> anyhow::Result<()> {
    let world = World::new()?;
    world.api.service("dns", "10.96.0.10", Some("none"));
    world.api.service("cache", "10.96.0.11", Some("whatever"));
    world.api.service("web", "10.96.0.12", None);
    world.api.slice("web-1", "web", &["10.1.0.7"]);
    let _watch = world.watch(&[])?;
    ensure!(world.log().contains("whatever"), "{}", world.log());
    for slice in ["dns-1", "dns-2", "cache-1", "web-1"] {
        world.api.delete_slice(slice);
    }
    world.service.wait(&["udp://10.1.0.7:53"])
}

fn a_thousand_endpoints_and_slices_without_backends() -> anyhow::Result<()> {
    let world = World::new()?;
    let port = json!([{"name": "dns", "protocol": "UDP", "port": 53}]);
    let endpoints = |count: usize| -> serde_json::Value {
        (0..count)
            .map(|n| json!({"addresses": [format!("10.2.{}.{}", n / 250, n % 250 + 1)], "conditions": null}))
            .collect()
    };
    let slice = |kind: &str, endpoints: serde_json::Value, ports: &serde_json::Value| json!({"addressType": kind, "endpoints": endpoints, "ports": ports});
    world.api.odd_slice("big-1", "big", slice("IPv4", endpoints(1000), &port));
    world.api.odd_slice("big-2", "big", slice("FQDN", json!([{"addresses": ["db.example"]}]), &port));
    world.api.odd_slice("big-3", "big", slice("IPv4", json!(null), &json!(null)));
    let sctp = json!([{"name": "dns", "protocol": "SCTP", "port": 53}]);
    world.api.odd_slice(
        "big-4",
        "big",
        slice("IPv4", json!([{"addresses": ["10.3.0.1"], "conditions": {}}]), &sctp),
    );
    let _watch = world.watch(&[])?;
    ensure!(world.log().contains("7 slices listed"), "{}", world.log());
    world.api.odd_slice("big-1", "big", slice("IPv4", endpoints(1), &port));
    for slice in ["big-2", "big-3", "big-4"] {
        world.api.delete_slice(slice);
    }
    until("they are gone", || world.service.gone().len() >= 999)?;
    thread::sleep(Duration::from_millis(500));
    let gone = world.service.gone();
    ensure!(
        gone.len() == 999 && gone.iter().all(|b| b.starts_with("udp://10.2.")),
        "{} are gone",
        gone.len()
    );
    ensure!(!gone.contains(&"udp://10.2.0.1:53".to_owned()), "that one lives");
    Ok(())
}

/// A socket of the old pod cannot be told from one of the new pod: neither is destroyed.
fn one_address_and_another_pod_in_one_update() -> anyhow::Result<()> {
    let world = World::new()?;
    let slice = |uids: &[&str]| {
        let endpoints: serde_json::Value = uids
            .iter()
            .map(|uid| {
                json!({"addresses": ["10.2.0.1"], "conditions": {"ready": true},
                "targetRef": {"kind": "Pod", "uid": uid}})
            })
            .collect();
        json!({"addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "dns", "protocol": "UDP", "port": 53}]})
    };
    world.api.odd_slice("one-1", "one", slice(&["old"]));
    let _watch = world.watch(&[])?;
    world.api.odd_slice("one-1", "one", slice(&["new"]));
    // Both at once, as a slice of a slow controller may have them, and then only one.
    world.api.odd_slice("one-1", "one", slice(&["new", "newer"]));
    world.api.odd_slice("one-1", "one", slice(&["newer"]));
    world.api.slice("dns-1", "dns", &["10.1.0.1"]);
    world.service.wait(&[GONE])
}

fn one_name_of_a_port_and_other_numbers() -> anyhow::Result<()> {
    let world = World::new()?;
    let slice = |address: &str, port: u16| {
        json!({"addressType": "IPv4", "endpoints": [{"addresses": [address]}],
            "ports": [{"name": "dns", "protocol": "UDP", "port": port}]})
    };
    world.api.odd_slice("two-1", "dns", slice("10.2.0.1", 8053));
    world.api.odd_slice("two-2", "dns", slice("10.2.0.2", 9053));
    let _watch = world.watch(&[])?;
    // The number changes with the pod's own.
    world.api.odd_slice("two-1", "dns", slice("10.2.0.1", 9053));
    world.api.delete_slice("two-2");
    world.service.wait(&["udp://10.2.0.1:8053", "udp://10.2.0.2:9053"])
}

fn a_service_deleted_before_its_slices() -> anyhow::Result<()> {
    let world = World::new()?;
    let _watch = world.watch(&[])?;
    world.api.delete_service("dns");
    thread::sleep(Duration::from_millis(500));
    ensure!(world.service.events().is_empty(), "its endpoints live on");
    world.api.delete_slice("dns-1");
    world.api.delete_slice("dns-2");
    // One is still in another Service. The addresses of the one that is gone are known until its last endpoint is.
    world.service.wait(&[LEFT, GONE, "udp://10.1.0.3:53"])
}
