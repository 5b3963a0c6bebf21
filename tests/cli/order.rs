//! A load balancer beside a running service, and what `probe` says of the order.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use skreap::core::Backend;
use skreap_testbed::bpf::LoadBalancer;
use skreap_testbed::{Bpffs, Cgroup};

use crate::commands::{TCP, Ten, UDP, good, good_json};
use crate::hooks;
use crate::process::{self, skreap, until};
use crate::serve::{Serve, event_for};

crate::tests![
    a_balancer_comes_while_pinned_hooks_serve,
    probe_shows_the_order,
    a_service_in_its_own_pid_namespace,
];

const VIP: &str = "udp://10.96.7.9:5353";

/// The hooks are moved behind it, and their pins with them: the next service takes over hooks that are the last.
fn a_balancer_comes_while_pinned_hooks_serve() -> Result<()> {
    let bpffs = Bpffs::create()?;
    let directory = bpffs.path("skreap").to_str().context("not UTF-8")?.to_owned();
    let args = ["--log", "info", "--max-sockets", "2000", "--pin", &directory];
    let mut serve = Serve::start_with("cli-order", &args)?;
    let socket = serve.socket_arg()?;
    let mut ten = Ten::new(&serve)?;
    let entries: [(Backend, Backend); 1] = [(VIP.parse()?, UDP.parse()?)];
    let balancer = LoadBalancer::attach(&entries, serve.cgroup.open()?.as_fd())?;
    // Recorded under the virtual address, before anybody has looked or just after.
    ten.connect(VIP, 4)?;
    let order = || -> Result<serde_json::Value> {
        Ok(good_json(&["status", "--socket", &socket, "--json"])?["order"].clone())
    };
    until("the hooks to be moved", || order().is_ok_and(|o| o["moves"] == 1))?;
    ensure!(order()?["last"] == true && order()?["behind"] == 0, "{}", order()?);
    ensure!(hooks::attached(&serve.cgroup)? == 9, "not five hooks and four programs of the balancer");

    // Their pins have followed, and once more after a change of service.
    drop(balancer);
    serve.replace()?;
    ensure!(order()?["moves"] == 0 && order()?["last"] == true, "{}", order()?);
    let balancer = LoadBalancer::attach(&entries, serve.cgroup.open()?.as_fd())?;
    ten.connect(VIP, 3)?;
    let report = good_json(&["reap", UDP, "--socket", &socket, "--json"])?;
    ensure!(report["destroyed"] == 13 && report["complete"] == true, "{report}");
    ensure!(order()?["moves"] == 1 && order()?["last"] == true, "{}", order()?);
    let report = good_json(&["reap", TCP, "--socket", &socket, "--json"])?;
    ensure!(report["destroyed"] == 4, "{report}");
    drop(balancer);
    drop(ten);
    serve.signal(libc::SIGTERM)?;
    let ended = serve.ended()?;
    ensure!(ended.code == Some(0) && ended.err.contains("taken over, with all sockets"), "{ended:?}");
    good(&["unload", "--pin", &directory])?;
    ensure!(hooks::attached(&serve.cgroup)? == 0, "something is still attached");
    Ok(())
}

fn probe_shows_the_order() -> Result<()> {
    let findings = good_json(&["probe", "--json"])?;
    let order = findings["order"].as_array().context("no order")?;
    let hooks: Vec<&str> = order.iter().filter_map(|o| o["hook"].as_str()).collect();
    ensure!(hooks == ["connect4", "connect6", "sendmsg4", "sendmsg6"], "{findings}");
    for one in order {
        let name = format!("skreap_{}", one["hook"].as_str().unwrap_or_default());
        ensure!(one["ours"]["name"] == name.as_str(), "{one}");
        ensure!(one["after"].as_array().is_some_and(Vec::is_empty), "attached last, and not the last: {one}");
    }
    let text = good(&["probe"])?;
    ensure!(text.lines().filter(|l| l.contains("here")).count() == 5, "{text}");
    Ok(())
}

/// It sees no process but its own, and reaches the netns all the same.
fn a_service_in_its_own_pid_namespace() -> Result<()> {
    let cgroup = Cgroup::create("cli-pidns")?;
    let inner = skreap(&["serve", "--engine", "netlink", "--cgroup"]);
    let mut command = std::process::Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]).arg(inner.get_program());
    command.args(inner.get_args()).arg(cgroup.path()).env_remove("SKREAP_LOG");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    until("the hooks to be attached", || hooks::attached(&cgroup).is_ok_and(|n| n == 5))?;
    let mut ten = Ten::inside(&cgroup)?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    stdin.write_all(event_for("pidns", UDP).as_bytes())?;
    drop(stdin);
    let ended = process::collect(&mut child)?;
    let reports = ended.json()?;
    ensure!(ended.code == Some(0) && reports.len() == 1, "{ended:?}");
    ensure!(reports[0]["destroyed"] == 6 && reports[0]["complete"] == true, "{ended:?}");
    let mut destroyed: Vec<u32> = ten.states()?.iter().filter(|s| s.destroyed()).map(|s| s.socket).collect();
    destroyed.sort_unstable();
    ensure!(destroyed == [0, 1, 2, 3, 4, 5], "{destroyed:?}");
    Ok(())
}
