//! What goes wrong on a node some day, and how `serve` takes it.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use skreap::core::Protocol;
use skreap_testbed::{Cgroup, Client, Netns, Op, OpenMany, Reply, Selection, SpawnOptions};
use tempfile::TempDir;

use crate::commands::{TCP, Ten, UDP, good, good_json};
use crate::hooks;
use crate::missing::{check, in_other_mounts};
use crate::process::{self, run_with, skreap};
use crate::serve::{Serve, command, event_for};

crate::tests![
    a_bpf_filesystem_that_is_read_only,
    the_cgroup_is_removed,
    sixty_four_descriptors,
    the_disk_of_the_log_is_full,
    sigterm_amid_ten_thousand_victims,
    two_hundred_and_fifty_seven_clients,
];

fn a_bpf_filesystem_that_is_read_only() -> Result<()> {
    let cgroup = Cgroup::create("cli-read-only")?;
    let directory = TempDir::new()?;
    let pins = directory.path().join("pins");
    for (command, path) in [("serve", &pins), ("unload", &pins)] {
        let mut command = skreap(&[command, "--pin", path.to_str().context("not UTF-8")?]);
        if command.get_args().any(|arg| arg == "serve") {
            command.arg("--cgroup").arg(cgroup.path());
        }
        let target = CString::new(directory.path().as_os_str().as_bytes())?;
        in_other_mounts(&mut command, move || {
            let (kind, flags) = (c"bpf".as_ptr(), libc::MS_NOSUID);
            // SAFETY: C strings; a bpf filesystem takes no data here.
            check(unsafe { libc::mount(kind, target.as_ptr(), kind, flags, std::ptr::null()) })?;
            let again = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY;
            // SAFETY: as above; of a remount only the target is read.
            check(unsafe { libc::mount(kind, target.as_ptr(), kind, again, std::ptr::null()) })
        });
        let ended = run_with(command, Vec::new())?;
        if ended.out.contains("nothing is pinned") {
            ensure!(ended.code == Some(0) && ended.err.is_empty(), "{ended:?}");
            continue;
        }
        let says = format!(
            "skreap: pin {}: Read-only file system (os error 30); mount it writable (mount -o remount,rw), or pin elsewhere\n",
            path.display()
        );
        ensure!(ended.code == Some(1) && ended.err == says, "{ended:?}");
    }
    ensure!(hooks::attached(&cgroup)? == 0, "hooks are still attached");
    Ok(())
}

/// Its sockets live on elsewhere: they stay in the index, are reaped, and leave it when they close.
fn the_cgroup_is_removed() -> Result<()> {
    let mut serve = Serve::start("cli-removed")?;
    let socket = serve.socket_arg()?;
    let mut ten = Ten::new(&serve)?;
    let elsewhere = Cgroup::create("cli-elsewhere")?;
    elsewhere.add(ten.client.pid())?;
    process::until("the cgroup to be removed", || fs::remove_dir(serve.cgroup.path()).is_ok())?;
    // The order of the hooks is looked at once a second, and before each event.
    std::thread::sleep(std::time::Duration::from_millis(1200));
    // The kernel has detached the hooks, so that sockets may have been missed: a scan looks for them.
    let ended = process::run(&["reap", UDP, "--socket", &socket, "--json"])?;
    let report = ended.json()?.pop().unwrap_or_default();
    ensure!(ended.code == Some(0) && report["complete"] == true, "{report}");
    ensure!(report["fallbacks"].as_array().is_some_and(|scans| scans.len() == 1), "{report}");
    ensure!(
        report["fallbacks"][0]["because"] == "hook-order" && report["fallbacks"][0]["destroyed"] == 0,
        "{report}"
    );
    ensure!(report["destroyed"] == 6 && report["failed"]["total"] == 0, "{report}");
    let mut destroyed: Vec<u32> = ten.states()?.iter().filter(|s| s.destroyed()).map(|s| s.socket).collect();
    destroyed.sort_unstable();
    ensure!(destroyed == [0, 1, 2, 3, 4, 5], "{destroyed:?}");
    // What connects now is of another cgroup.
    ten.connect(UDP, 3)?;
    let index = good_json(&["index", "--socket", &socket, "--json"])?;
    ensure!(index["backends"] == json!({TCP: {"connected": 4, "unconnected": 0, "netns": 1}}), "{index}");
    drop(ten);
    let index = good_json(&["index", "--socket", &socket, "--json"])?;
    ensure!(index["nodes"] == 0 && index["counters"]["removals"] == 10, "{index}");
    serve.signal(libc::SIGTERM)?;
    let ended = serve.ended()?;
    ensure!(ended.code == Some(0) && !ended.err.contains("panicked"), "{ended:?}");
    // Once for each of the four hooks that have an order.
    ensure!(ended.err.matches("each event has a fallback scan: No such file").count() == 4, "{ended:?}");
    Ok(())
}

/// Those that were destroyed since the last count.
fn count_destroyed(client: &mut Client) -> Result<usize> {
    match client.call(&Op::States { sockets: Selection::All })? {
        Reply::States(states) => Ok(states.iter().filter(|s| s.destroyed()).count()),
        other => bail!("{other:?}"),
    }
}

/// The soft limit is raised to the hard one. 80 netns want a diag socket each, but not at the same time: each destroyer has
/// one of them open, so a limit that leaves room for fewer is enough.
fn sixty_four_descriptors() -> Result<()> {
    many_netns("64:4096")?;
    many_netns("64:100")?;
    // Not even enough to start with.
    let cgroup = Cgroup::create("cli-too-few")?;
    let ended = run_with(limited("48:48", &cgroup, "stdin"), Vec::new())?;
    // Warnings may go before it.
    let errors = ended.err.lines().filter(|line| line.starts_with("skreap: ")).count();
    ensure!(ended.code == Some(1) && errors == 1, "{ended:?}");
    ensure!(ended.err.contains("Too many open files (os error 24)"), "{ended:?}");
    ensure!(
        ended.err.ends_with("; raise the limit of open files: LimitNOFILE= of its unit, or ulimit -n\n"),
        "{ended:?}"
    );
    ensure!(hooks::attached(&cgroup)? == 0, "hooks are still attached");
    Ok(())
}

const NETNS: usize = 80;

/// `serve` with a limit of descriptors, soft and hard.
fn limited(limit: &str, cgroup: &Cgroup, source: &str) -> Command {
    let inner = command(cgroup, &[source]);
    let mut limited = Command::new("prlimit");
    limited.arg(format!("--nofile={limit}")).arg(inner.get_program()).args(inner.get_args());
    limited.args(["--max-sockets", "2000"]).env_remove("SKREAP_LOG").env_remove("NOTIFY_SOCKET");
    limited
}

/// One event for a socket in each of 80 netns: all of them are destroyed.
fn many_netns(limit: &str) -> Result<()> {
    let cgroup = Cgroup::create("cli-few")?;
    let directory = TempDir::new()?;
    let socket = directory.path().join("socket");
    let mut command = limited(limit, &cgroup, &format!("unix:{}", socket.display()));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let done = (|| {
        process::until("the service to listen", || {
            UnixStream::connect(&socket).is_ok() || child.try_wait().is_ok_and(|ended| ended.is_some())
        })?;
        let spaces: Vec<Netns> = (0..NETNS)
            .map(|i| {
                let netns = Netns::create(&format!("few{i}"))?;
                netns.bring_up()?;
                Ok(netns)
            })
            .collect::<Result<_>>()?;
        let options = SpawnOptions { label: "few", cgroup: Some(&cgroup), netns: None };
        let mut client = Client::spawn(&options)?;
        for netns in &spaces {
            let many = OpenMany {
                netns: netns.reference()?,
                protocol: Protocol::Udp,
                count: 1,
                connect: "127.0.0.1:5353".parse()?,
                timeout_ms: 10_000,
            };
            ensure!(client.open_many(many)?.failed == 0, "cannot connect");
        }
        let path = socket.display().to_string();
        let ended = process::run(&["reap", "udp://127.0.0.1:5353", "--socket", &path, "--json"])?;
        let report = ended.json()?.pop().with_context(|| format!("{ended:?}"))?;
        ensure!(report["victims"] == NETNS && report["destroyed"] == NETNS, "{report}");
        ensure!(report["failed"]["total"] == 0 && report["complete"] == true, "{report}");
        let destroyed = count_destroyed(&mut client)?;
        ensure!(destroyed == NETNS, "{destroyed} of {NETNS}: {report}");
        Ok(())
    })();
    let _ = process::signal(&child, libc::SIGTERM);
    let ended = process::collect(&mut child)?;
    done.with_context(|| ended.err.clone())?;
    ensure!(ended.code == Some(0) && hooks::attached(&cgroup)? == 0, "{ended:?}");
    Ok(())
}

/// Every line of the log fails, and there are many: nothing else does.
fn the_disk_of_the_log_is_full() -> Result<()> {
    let cgroup = Cgroup::create("cli-full")?;
    let mut full = skreap(&["--log", "trace", "serve", "--max-sockets", "2000", "--cgroup"]);
    full.arg(cgroup.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = full.stderr(File::options().write(true).open("/dev/full")?).spawn()?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    process::until("the hooks", || {
        hooks::attached(&cgroup).is_ok_and(|n| n == 5) || child.try_wait().is_ok_and(|ended| ended.is_some())
    })?;
    let mut ten = Ten::inside(&cgroup)?;
    let input = event_for("one", UDP) + "nonsense\n" + &event_for("two", TCP);
    std::io::Write::write_all(&mut stdin, input.as_bytes())?;
    drop(stdin);
    let ended = process::collect(&mut child)?;
    let answers = ended.json()?;
    ensure!(ended.code == Some(0) && answers.len() == 3, "{ended:?}");
    // A refusal needs no reaper, and may come before.
    let of = |id: &str| answers.iter().find(|answer| answer["id"] == id).cloned().unwrap_or_default();
    ensure!(of("one")["destroyed"] == 6 && of("two")["destroyed"] == 4, "{ended:?}");
    ensure!(answers.iter().any(|answer| answer["error"]["line"] == 2), "{ended:?}");
    ensure!(ten.states()?.iter().filter(|s| s.destroyed()).count() == 10, "not all destroyed");
    Ok(())
}

/// It was going slowly because that was asked for, and finishes at once when it is to end: all of them, and the report
/// says so.
fn sigterm_amid_ten_thousand_victims() -> Result<()> {
    const VICTIMS: usize = 10_000;
    let mut serve = Serve::start_with("cli-amid", &["--max-rate", "2000"])?;
    let mut ten = Ten::new(&serve)?;
    ten.connect(UDP, VICTIMS as u32 - 6)?;
    let mut client = serve.client()?;
    client.send(&event_for("many", UDP))?;
    let mut destroyed = 0;
    process::until("a thousand to be destroyed", || {
        destroyed += count_destroyed(&mut ten.client).unwrap_or_default();
        destroyed >= 1000
    })?;
    serve.signal(libc::SIGTERM)?;
    ensure!(destroyed < VICTIMS, "all were destroyed before the signal");
    let report = client.answer()?.context("closed without an answer")?;
    ensure!(report["id"] == "many" && report["complete"] == true, "{report}");
    ensure!(report["victims"] == VICTIMS && report["destroyed"] == VICTIMS, "{report}");
    ensure!(report["failed"]["total"] == 0, "{report}");
    ensure!(client.answer()?.is_none(), "there is more");
    let ended = serve.ended()?;
    ensure!(ended.code == Some(0) && ended.err.is_empty(), "{ended:?}");
    destroyed += count_destroyed(&mut ten.client)?;
    ensure!(destroyed == VICTIMS, "{destroyed} of {VICTIMS}");
    let tcp = Selection::Range { first: 6, count: 4 };
    ensure!(ten.client.echo_all(tcp, 10_000)?.answered() == 4, "TCP was touched");
    serve.nothing_left()
}

/// One client too many gets a line that says so; when one leaves, the next is served.
fn two_hundred_and_fifty_seven_clients() -> Result<()> {
    const MOST: usize = 256;
    let serve = Serve::start("cli-crowd")?;
    let socket = serve.socket_arg()?;
    let status = || -> Result<serde_json::Value> {
        let mut asked = serve.client()?;
        asked.send("{\"id\":\"s\",\"type\":\"status\"}\n")?;
        Ok(asked.answer()?.context("closed")?["status"]["clients"].clone())
    };
    // The one that looked whether it listens, and this one, are over.
    process::until("nobody else to be there", || status().is_ok_and(|c| c["connected"] == 1))?;
    let mut clients = Vec::new();
    while clients.len() < MOST {
        let mut client = serve.client()?;
        match client.ask(&format!("c{}", clients.len())) {
            Ok(()) => clients.push(client),
            // The thread of the last status may not have ended yet.
            Err(e) => ensure!(clients.len() >= MOST - 1, "client {}: {e:#}", clients.len()),
        }
    }
    let mut one_more = serve.client()?;
    let refusal = one_more.answer()?.context("closed without a word")?;
    ensure!(
        refusal["error"]["message"] == "there are 256 clients already; close some, and connect again",
        "{refusal}"
    );
    ensure!(one_more.answer()?.is_none(), "it is still served");
    let ended = process::run(&["status", "--socket", &socket])?;
    ensure!(ended.code == Some(1) && ended.err.contains("there are 256 clients already"), "{ended:?}");
    // Those who are there are not disturbed.
    for (i, client) in clients.iter_mut().enumerate() {
        client.ask(&format!("again-{i}"))?;
    }
    clients.truncate(MOST - 2);
    process::until("room for others", || status().is_ok_and(|c| c["connected"] == MOST - 1))?;
    let seen = status()?;
    ensure!(seen["refused_full"].as_u64() >= Some(2) && seen["refused_uid"] == 0, "{seen}");
    drop(clients);
    good(&["status", "--socket", &socket])?;
    serve.finish()
}
