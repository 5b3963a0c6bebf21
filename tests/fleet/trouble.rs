//! Bad days of the control plane, the watcher and the service: what is gone is found when they are back, and nothing else.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use crate::cluster::{Cluster, Part};
use crate::node::Totals;
use crate::process::until;
use crate::story::{EACH, begin};

crate::tests!(
    the_api_server_is_away_for_a_while,
    etcd_is_compacted_meanwhile,
    a_token_that_is_revoked,
    anything_is_killed_at_any_time,
);

/// Deletes the newest pod behind the API server's back; its slice is rewritten when the controllers are back.
fn delete_in_etcd(cluster: &Cluster, pod: &str) -> anyhow::Result<()> {
    cluster.etcdctl(&["del", &format!("/registry/pods/default/{pod}")])?;
    Ok(())
}

/// Seconds that the API server is away: `SKREAP_FLEET_AWAY`.
fn away() -> u64 {
    std::env::var("SKREAP_FLEET_AWAY").ok().and_then(|text| text.parse().ok()).unwrap_or(20)
}

fn the_api_server_is_away_for_a_while() -> anyhow::Result<()> {
    let (mut cluster, _kubelet, mut node, _service) = begin("fleet-away", &[])?;
    let pods = cluster.settled("dns", 3)?;
    cluster.kill(Part::ApiServer)?;
    delete_in_etcd(&cluster, &pods[1].name)?;
    thread::sleep(Duration::from_secs(away()));
    node.look(&pods)?;
    ensure!(node.totals == Totals { kept: 60, ..Totals::default() }, "nothing is decided: {:?}", node.totals);
    let lists = node.lists();
    cluster.run(Part::ApiServer)?;
    let ready = Instant::now();
    until("the slices are listed anew", || node.lists() > lists)?;
    let listed = ready.elapsed();
    println!("first list after the API server is ready: {listed:?}");
    let pods = cluster.settled("dns", 3)?;
    node.look(&pods)?;
    ensure!(
        node.totals == Totals { destroyed: 20, kept: 40, ..Totals::default() },
        "back: {:?}",
        node.totals
    );
    ensure!(node.log().contains("410"), "the server has forgotten all versions");
    ensure!(listed < Duration::from_secs(5), "the bar is 2 s on a quiet machine: {listed:?}");
    Ok(())
}

fn etcd_is_compacted_meanwhile() -> anyhow::Result<()> {
    let (mut cluster, _kubelet, mut node, service) = begin("fleet-compact", &[])?;
    let pods = cluster.settled("dns", 3)?;
    // The server has the events in memory: a compaction alone is not noticed.
    let compact = |cluster: &Cluster| -> anyhow::Result<()> {
        let status = cluster.etcdctl(&["endpoint", "status", "--write-out=json"])?;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        let revision = status[0]["Status"]["header"]["revision"].as_u64().context("no revision")?;
        cluster.etcdctl(&["compact", &revision.to_string(), "--physical"])?;
        Ok(())
    };
    compact(&cluster)?;
    cluster.scale("dns", 2)?;
    node.look(&cluster.settled("dns", 2)?)?;
    ensure!(node.totals == Totals { destroyed: 20, kept: 40, ..Totals::default() }, "{:?}", node.totals);
    let lists = node.lists();

    // With everything down, pods and revisions go.
    cluster.kill(Part::Controllers)?;
    cluster.kill(Part::ApiServer)?;
    let left = cluster_pods(&pods, &node.living());
    delete_in_etcd(&cluster, &left[0])?;
    compact(&cluster)?;
    cluster.kill(Part::Etcd)?;
    thread::sleep(Duration::from_secs(3));
    for part in [Part::Etcd, Part::ApiServer, Part::Controllers] {
        cluster.run(part)?;
    }
    until("the slices are listed anew", || node.lists() > lists)?;
    let pods = cluster.settled("dns", 2)?;
    node.look(&pods)?;
    ensure!(node.totals == Totals { destroyed: 40, kept: 20, ..Totals::default() }, "{:?}", node.totals);
    for pod in &pods {
        node.open(&service, pod.address, EACH)?;
    }
    node.look(&pods)?;
    ensure!(node.totals == Totals { destroyed: 40, kept: 60, ..Totals::default() }, "{:?}", node.totals);
    Ok(())
}

/// Names of the pods at these addresses.
fn cluster_pods(pods: &[crate::cluster::Pod], addresses: &[std::net::Ipv4Addr]) -> Vec<String> {
    pods.iter().filter(|pod| addresses.contains(&pod.address)).map(|pod| pod.name.clone()).collect()
}

/// The server refuses the token from then on; the file has another one soon.
fn a_token_that_is_revoked() -> anyhow::Result<()> {
    let (mut cluster, _kubelet, mut node, _service) = begin("fleet-token", &[])?;
    let pods = cluster.settled("dns", 3)?;
    let secrets = cluster.api.get("/api/v1/namespaces/skreap/secrets")?;
    let old = secrets["items"].as_array().into_iter().flatten().find_map(|secret| {
        let name = secret["metadata"]["name"].as_str()?;
        name.starts_with("skreap-token-").then(|| name.to_owned())
    });
    let old = old.context("no secret")?;
    cluster.api.delete(&format!("/api/v1/namespaces/skreap/secrets/{old}"))?;
    // The watches of before go on until the server ends.
    cluster.kill(Part::ApiServer)?;
    delete_in_etcd(&cluster, &pods[2].name)?;
    cluster.run(Part::ApiServer)?;
    until("the token is refused", || node.log().contains("401"))?;
    let lists = node.lists();
    let token = cluster.service_account_token()?;
    cluster.write_kubeconfig("watch.conf", &token)?;
    until("the slices are listed anew", || node.lists() > lists)?;
    node.look(&cluster.settled("dns", 3)?)?;
    ensure!(node.totals == Totals { destroyed: 20, kept: 40, ..Totals::default() }, "{:?}", node.totals);
    Ok(())
}

/// `SKREAP_FLEET_KILLS` kills, at moments that a fixed seed chooses; a pod goes around each of them.
fn anything_is_killed_at_any_time() -> anyhow::Result<()> {
    let kills: u32 =
        std::env::var("SKREAP_FLEET_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    let within = ["--initial-reconcile", "--within", "10.244.0.0/16"];
    let (mut cluster, _kubelet, mut node, service) = begin("fleet-kill", &within)?;
    let mut random = 0x5eed_u64;
    let mut next = move |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    for kill in 0..kills {
        let pods = cluster.settled("dns", 3)?;
        let gone = &pods[usize::try_from(next(3))?].name;
        let (before, after) = (next(1500), next(1500));
        if next(2) == 0 {
            cluster.api.delete(&format!("/api/v1/namespaces/default/pods/{gone}"))?;
        } else {
            delete_in_etcd(&cluster, gone)?;
        }
        thread::sleep(Duration::from_millis(before));
        let lists = node.lists();
        match next(4) {
            0 => {
                node.kill_watch()?;
                thread::sleep(Duration::from_millis(after));
                node.start_watch()?;
            }
            1 => {
                node.kill_serve()?;
                thread::sleep(Duration::from_millis(after));
                node.serve()?;
            }
            n => {
                let part = if n == 2 { Part::ApiServer } else { Part::Etcd };
                cluster.kill(part)?;
                thread::sleep(Duration::from_millis(after));
                cluster.run(part)?;
            }
        }
        let pods = cluster.settled("dns", 3)?;
        node.look(&pods)?;
        for pod in &pods {
            node.refill(&service, pod.address, EACH)?;
        }
        let totals = node.totals;
        println!("kill {kill}: {totals:?}, {} lists", node.lists() - lists);
        ensure!(totals.missed == 0 && totals.wrong == 0, "kill {kill}: {totals:?}");
    }
    Ok(())
}
