//! What `serve` may do once it runs: the kernel's own account of every thread, and that it is enough.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use skreap::core::Protocol;
use skreap_testbed::{Cgroup, Client, Echo, Family, Mode, Netns, OpenSpec, SpawnOptions};

use crate::process::{run, run_with};
use crate::serve::Serve;

crate::tests![only_what_is_needed_on_every_thread, netns_that_cannot_be_entered, what_is_missing_is_named];

// linux/capability.h
const DAC_READ_SEARCH: u64 = 1 << 2;
const NET_ADMIN: u64 = 1 << 12;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
const PERFMON: u64 = 1 << 38;
const BPF: u64 = 1 << 39;
const ALWAYS: u64 = BPF | NET_ADMIN | PERFMON;

/// A line of `/proc/PID/task/TID/status` for every thread.
fn of_threads(pid: u32, field: &str) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = match fs::read_to_string(thread?.path().join("status")) {
            // It has ended since it was listed.
            Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => {
                continue;
            }
            status => status?,
        };
        let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
        found.insert(line.trim().to_owned());
    }
    Ok(found)
}

fn expect_lowered(pid: u32) -> Result<()> {
    let capabilities = |bits: u64| BTreeSet::from([format!("{bits:016x}")]);
    let kept = ALWAYS | SYS_ADMIN | SYS_PTRACE | DAC_READ_SEARCH;
    for (field, expected) in [
        ("CapEff:", capabilities(ALWAYS)),
        ("CapPrm:", capabilities(kept)),
        ("CapBnd:", capabilities(kept)),
        ("CapInh:", capabilities(0)),
        ("CapAmb:", capabilities(0)),
        ("NoNewPrivs:", BTreeSet::from(["1".to_owned()])),
    ] {
        let found = of_threads(pid, field)?;
        ensure!(found == expected, "{field} {found:?} and not {expected:?}");
    }
    Ok(())
}

fn only_what_is_needed_on_every_thread() -> Result<()> {
    let serve = Serve::start("cli-caps")?;
    expect_lowered(serve.pid())?;
    // A netns that is made only now.
    let netns = Netns::create("caps")?;
    let addr: SocketAddr = "10.96.8.1:53".parse()?;
    netns.add_address(addr.ip())?;
    let _server = Echo::start(Protocol::Udp, addr, &[&netns], Mode::Echo)?;
    let mut client =
        Client::spawn(&SpawnOptions { label: "caps", cgroup: Some(&serve.cgroup), netns: Some(&netns) })?;
    for _ in 0..3 {
        let socket = client.open(OpenSpec::new(Protocol::Udp, Family::V4))?;
        client.connect(socket, addr)?;
    }
    let socket = serve.socket_arg()?;
    let audit = run(&["audit", "--socket", &socket, "--json"])?.json()?.pop().unwrap_or_default();
    ensure!(audit["agrees"] == true && audit["complete"] == true && audit["sockets"] == 3, "{audit}");
    let ended = run(&["reap", "udp://10.96.8.1:53", "--socket", &socket, "--json"])?;
    let report = ended.json()?.pop().unwrap_or_default();
    ensure!(report["destroyed"] == 3 && report["complete"] == true, "{ended:?}");
    expect_lowered(serve.pid())?;
    drop(client);
    serve.finish()
}

/// As root, but not allowed to enter another netns: pre-existing sockets there are found all the same, and every event says that
/// it could not destroy them.
fn netns_that_cannot_be_entered() -> Result<()> {
    if Command::new("setpriv").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("setpriv is not installed (util-linux)");
        return Ok(());
    }
    let cgroup = Cgroup::create("cli-unentered")?;
    let netns = Netns::create("cli-unentered")?;
    let addr: SocketAddr = "10.177.0.1:53".parse()?;
    netns.add_address(addr.ip())?;
    let options = SpawnOptions { label: "unentered", cgroup: Some(&cgroup), netns: Some(&netns) };
    let mut client = Client::spawn(&options)?;
    let socket = client.open(OpenSpec::new(Protocol::Udp, Family::V4))?;
    client.connect(socket, addr)?;
    let serve = |bounding: &str| -> Result<Vec<serde_json::Value>> {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", bounding, env!("CARGO_BIN_EXE_skreap"), "serve", "--cgroup"]);
        command.arg(cgroup.path());
        let lines = [
            r#"{"id":"e","type":"backend-deleted","backend":"udp://10.177.0.1:53"}"#,
            r#"{"id":"s","type":"status"}"#,
        ];
        let ended = run_with(command, format!("{}\n", lines.join("\n")).into_bytes())?;
        ensure!(ended.code == Some(0), "{ended:?}");
        ended.json()
    };
    let [report, status] = &serve("-sys_admin")?[..] else { bail!("not two answers") };
    ensure!(status["status"]["index"]["incomplete_everything"] == false, "{status}");
    ensure!(report["victims"] == 1 && report["destroyed"] == 0, "{report}");
    ensure!(report["failed"]["by_errno"] == serde_json::json!({"EPERM": 1}), "{report}");
    ensure!(report["complete"] == false, "{report}");
    ensure!(report["incomplete_because"] == serde_json::json!(["netns-unreachable"]), "{report}");

    let [report, status] = &serve("-sys_boot")?[..] else { bail!("not two answers") };
    ensure!(status["status"]["index"]["incomplete_everything"] == false, "{status}");
    ensure!(report["complete"] == true && report["destroyed"] == 1, "{report}");
    ensure!(report["fallbacks"].is_null(), "{report}");
    drop(client);
    Ok(())
}

/// As root, but without one of the three.
fn what_is_missing_is_named() -> Result<()> {
    if Command::new("setpriv").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("setpriv is not installed (util-linux)");
        return Ok(());
    }
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-perfmon,-bpf", env!("CARGO_BIN_EXE_skreap"), "serve"]);
    let ended = run_with(command, Vec::new())?;
    ensure!(ended.code == Some(3), "{ended:?}");
    ensure!(
        ended.err.starts_with("skreap: this process lacks CAP_BPF, CAP_PERFMON: run as root"),
        "{ended:?}"
    );
    ensure!(ended.err.lines().count() == 1, "{ended:?}");
    Ok(())
}
