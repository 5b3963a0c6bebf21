//! A Deployment and its clients, from the first pod to the last.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;

use crate::cluster::{Cluster, Part};
use crate::kubelet::Kubelet;
use crate::node::{Node, Totals};
use crate::process::until;

crate::tests!(
    scaled_rolled_evicted_and_a_node_lost,
    one_pod_in_two_services,
    the_account_reads_what_it_watches_and_nothing_else,
);

const NODES: &[&str] = &["node-a", "node-b"];

/// Sockets of each pod.
pub const EACH: u32 = 20;

/// A cluster that runs `dns` with three pods, a node that watches, and clients of each pod.
pub fn begin(label: &str, arguments: &[&str]) -> anyhow::Result<(Cluster, Kubelet, Node, String)> {
    let cluster = Cluster::start()?;
    let kubelet = Kubelet::start(cluster.port, &cluster.path("ca.crt"), NODES)?;
    let service = cluster.deploy("dns", 3)?;
    let mut node = Node::new(&cluster, label, arguments)?;
    for pod in cluster.settled("dns", 3)? {
        node.open(&service, pod.address, EACH)?;
    }
    node.watch()?;
    Ok((cluster, kubelet, node, service))
}

fn scaled_rolled_evicted_and_a_node_lost() -> anyhow::Result<()> {
    let (cluster, _kubelet, mut node, service) = begin("fleet-story", &[])?;
    // Up: nobody is concerned. Down: the clients of one pod.
    cluster.scale("dns", 4)?;
    let pods = cluster.settled("dns", 4)?;
    node.look(&pods)?;
    ensure!(node.totals == Totals { kept: 60, ..Totals::default() }, "up: {:?}", node.totals);
    for pod in pods.iter().skip(3) {
        node.open(&service, pod.address, EACH)?;
    }
    cluster.scale("dns", 3)?;
    node.look(&cluster.settled("dns", 3)?)?;
    ensure!(
        node.totals == Totals { destroyed: 20, kept: 60, ..Totals::default() },
        "down: {:?}",
        node.totals
    );

    // Every pod is replaced; clients of the new ones connect while the old ones go.
    cluster.roll("dns", "2")?;
    let pods = cluster.settled("dns", 3)?;
    for pod in &pods {
        node.open(&service, pod.address, EACH)?;
    }
    node.look(&pods)?;
    ensure!(
        node.totals == Totals { destroyed: 80, kept: 60, ..Totals::default() },
        "rolled: {:?}",
        node.totals
    );

    let evicted = &pods[0].name;
    let eviction = json!({"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": evicted}});
    cluster.api.post(&format!("/api/v1/namespaces/default/pods/{evicted}/eviction"), &eviction)?;
    until("the pod is gone", || {
        cluster.api.get(&format!("/api/v1/namespaces/default/pods/{evicted}")).is_err()
    })?;
    let pods = cluster.settled("dns", 3)?;
    node.look(&pods)?;
    ensure!(
        node.totals == Totals { destroyed: 100, kept: 40, ..Totals::default() },
        "evicted: {:?}",
        node.totals
    );

    // A node that is lost: its object goes, and with it the pods that were placed there.
    let lost = pods.iter().filter(|pod| pod.node == "node-b").count();
    let clients_before = node.totals;
    cluster.api.delete("/api/v1/nodes/node-b")?;
    for pod in pods.iter().filter(|pod| pod.node == "node-b") {
        cluster.api.delete(&format!("/api/v1/namespaces/default/pods/{}?gracePeriodSeconds=0", pod.name))?;
    }
    let pods = cluster.settled("dns", 3)?;
    node.look(&pods)?;
    ensure!(node.totals.missed == 0 && node.totals.wrong == 0, "a node lost: {:?}", node.totals);
    ensure!(lost == 0 || node.totals.destroyed > clients_before.destroyed, "{lost} pods: {:?}", node.totals);

    // The Service goes with everything.
    cluster.api.delete("/api/v1/namespaces/default/services/dns")?;
    cluster.scale("dns", 0)?;
    node.look(&cluster.settled("dns", 0)?)?;
    ensure!(node.totals == Totals { destroyed: 140, ..Totals::default() }, "the end: {:?}", node.totals);
    println!("the story of a Deployment: {:?}", node.totals);
    Ok(())
}

/// A pod loses a label: it has left one Service and is still in the other. Clients of the first are concerned, those of
/// the other and direct ones are not.
fn one_pod_in_two_services() -> anyhow::Result<()> {
    let (cluster, _kubelet, mut node, service) = begin("fleet-two", &[])?;
    let pods = cluster.settled("dns", 3)?;
    let other = json!({"metadata": {"name": "other"}, "spec": {"selector": {"other": "yes"},
        "ports": [{"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 5353}]}});
    let other = cluster.api.post("/api/v1/namespaces/default/services", &other)?;
    let other = other["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    let pod = format!("/api/v1/namespaces/default/pods/{}", pods[0].name);
    cluster.api.patch(&pod, &json!({"metadata": {"labels": {"other": "yes"}}}))?;
    until("it is in both", || {
        let slices = cluster.api.get("/apis/discovery.k8s.io/v1beta1/namespaces/default/endpointslices");
        let slices = slices.map(|list| list.to_string()).unwrap_or_default();
        slices.matches(&format!("\"{}\"", pods[0].address)).count() == 2
    })?;
    node.open(&other, pods[0].address, 7)?;
    thread::sleep(Duration::from_secs(1));
    // The ReplicaSet lets it go, and makes another one.
    cluster.api.patch(&pod, &json!({"metadata": {"labels": {"app": "none"}}}))?;
    until("another pod", || cluster.pods("dns").is_ok_and(|pods| pods.len() == 3))?;
    let end = Instant::now() + Duration::from_secs(30);
    while node.of(pods[0].address)? > 7 && Instant::now() < end {
        thread::sleep(Duration::from_millis(50));
    }
    thread::sleep(Duration::from_secs(1));
    let left = node.of(pods[0].address)?;
    ensure!(left == 7, "the clients of the other Service alone: {left} of {service} and {other}");
    cluster.api.delete(&format!("{pod}?gracePeriodSeconds=0"))?;
    let end = Instant::now() + Duration::from_secs(30);
    while node.of(pods[0].address)? > 0 && Instant::now() < end {
        thread::sleep(Duration::from_millis(50));
    }
    ensure!(node.of(pods[0].address)? == 0, "gone everywhere");
    Ok(())
}

/// The manifest's RBAC, asked of the server: exactly what the watcher reads.
fn the_account_reads_what_it_watches_and_nothing_else() -> anyhow::Result<()> {
    let mut cluster = Cluster::start()?;
    let can = |words: &str| {
        let account = "--as=system:serviceaccount:skreap:skreap";
        let words: Vec<&str> = ["auth", "can-i", account].into_iter().chain(words.split(' ')).collect();
        cluster.kubectl(&words).is_ok_and(|answer| answer.trim() == "yes")
    };
    for words in ["list services", "watch services", "list endpointslices.discovery.k8s.io"] {
        ensure!(can(words), "{words}");
    }
    for words in
        ["get services", "list pods", "list secrets", "list nodes", "create events", "patch services"]
    {
        ensure!(!can(words), "{words}");
    }
    cluster.kill(Part::Controllers)
}
