//! The kubelets of all nodes, played by one thread: pods are placed, get an address and are ready at once; a pod that is to
//! go is not ready from then on, and is gone a little later.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::Api;

const PODS: &str = "/api/v1/namespaces/default/pods";
/// Between two looks at the pods.
const TICK: Duration = Duration::from_millis(100);
/// How long a pod terminates.
const GRACE: Duration = Duration::from_millis(400);

/// Addresses of pods, one after the other: none is given twice.
pub const ADDRESSES: u8 = 200;

/// The address of the n-th pod.
pub fn address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 0, n)
}

/// Ends with this.
pub struct Kubelet {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Kubelet {
    /// Makes these nodes, and plays them from now on.
    pub fn start(port: u16, ca: &Path, nodes: &'static [&'static str]) -> anyhow::Result<Self> {
        let api = Api::new(port, ca)?;
        for node in nodes {
            api.post("/api/v1/nodes", &json!({"metadata": {"name": node}}))?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut work = Work { api, nodes, placed: 0, next: 0, going: HashMap::new() };
            while !stopped.load(Ordering::Relaxed) {
                // The API server may be away: the next look does what this one could not.
                _ = work.tick();
                thread::sleep(TICK);
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

struct Work {
    api: Api,
    nodes: &'static [&'static str],
    /// Pods that were placed.
    placed: usize,
    /// Addresses that were given.
    next: u8,
    /// Pods that are to go, by uid, and since when.
    going: HashMap<String, Instant>,
}

impl Work {
    fn tick(&mut self) -> anyhow::Result<()> {
        let list = self.api.get(PODS)?;
        for pod in list["items"].as_array().into_iter().flatten() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (name, uid) = (text(&pod["metadata"]["name"]), text(&pod["metadata"]["uid"]));
            let to_go = !pod["metadata"]["deletionTimestamp"].is_null();
            // One that cannot be done is done at the next look.
            if to_go {
                _ = self.end(&name, uid);
            } else if pod["spec"]["nodeName"].is_null() {
                _ = self.place(&name);
            } else if pod["status"]["podIP"].is_null() {
                _ = self.run(&name);
            }
        }
        Ok(())
    }

    fn place(&mut self, name: &str) -> anyhow::Result<()> {
        let node = self.nodes[self.placed % self.nodes.len()];
        let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": node}});
        self.api.post(&format!("{PODS}/{name}/binding"), &binding)?;
        self.placed += 1;
        Ok(())
    }

    fn run(&mut self, name: &str) -> anyhow::Result<()> {
        self.next += 1;
        assert!(self.next <= ADDRESSES, "no more addresses");
        let ip = address(self.next);
        let conditions = json!([{"type": "Ready", "status": "True"}]);
        let status =
            json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": conditions});
        self.api.patch(&format!("{PODS}/{name}/status"), &json!({"status": status}))?;
        Ok(())
    }

    fn end(&mut self, name: &str, uid: String) -> anyhow::Result<()> {
        if let Some(since) = self.going.get(&uid) {
            if since.elapsed() >= GRACE {
                self.api.delete(&format!("{PODS}/{name}?gracePeriodSeconds=0"))?;
            }
            return Ok(());
        }
        self.going.insert(uid, Instant::now());
        let conditions = json!([{"type": "Ready", "status": "False"}]);
        self.api.patch(&format!("{PODS}/{name}/status"), &json!({"status": {"conditions": conditions}}))?;
        Ok(())
    }
}
