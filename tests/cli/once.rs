//! `skreap reap --once`: no service, the sockets that are there, and nothing left behind.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use skreap_testbed::{Cgroup, Holding, Selection};

use crate::commands::{TCP, Ten, UDP, good, good_json};
use crate::hooks;
use crate::process::{run, until};

crate::tests![
    it_searches_reaps_and_ends,
    it_ends_while_an_owner_holds_a_lock,
    what_it_cannot_do_is_an_exit_code
];

fn it_searches_reaps_and_ends() -> Result<()> {
    let cgroup = Cgroup::create("cli-once")?;
    let path = cgroup.path().to_str().context("not UTF-8")?.to_owned();
    let once = ["--once", "--cgroup", path.as_str()];
    let mut ten = Ten::inside(&cgroup)?;

    let text = good(&[&["reap", TCP, "--dry-run"][..], &once].concat())?;
    ensure!(text.starts_with(&format!("{TCP}: 4 sockets would be destroyed\n")), "{text}");
    ensure!(ten.echo(0, 10)?.answered() == 10, "a dry run touched a socket");
    ensure!(hooks::attached(&cgroup)? == 0, "hooks are still attached");

    let text = good(&[&["reap", UDP, "udp://10.96.7.9:1"][..], &once].concat())?;
    ensure!(text.starts_with("2 backends: 6 of 6 sockets destroyed by engine "), "{text}");
    let destroyed: Vec<u32> = ten.states()?.iter().filter(|s| s.destroyed()).map(|s| s.socket).collect();
    ensure!(destroyed == [0, 1, 2, 3, 4, 5], "{destroyed:?}");
    ensure!(ten.echo(6, 4)?.answered() == 4, "a TCP socket was touched");

    // The engine that is asked for; one socket is not several.
    ten.client.close(6)?;
    ten.client.close(7)?;
    ten.client.close(8)?;
    let text = good(&[&["reap", TCP, "--engine", "iter", "--dry-run"][..], &once].concat())?;
    ensure!(text.starts_with(&format!("{TCP}: 1 socket would be destroyed\n")), "{text}");
    let report = good_json(&[&["reap", TCP, "--engine", "iter", "--json"][..], &once].concat())?;
    ensure!(report["engine"] == "iter" && report["destroyed"] == 1 && report["complete"] == true, "{report}");
    ensure!(
        report["failed"] == json!({"total": 0, "by_errno": {}, "sockets": [], "left_out": 0}),
        "{report}"
    );
    let destroyed: Vec<u32> = ten.states()?.iter().filter(|s| s.destroyed()).map(|s| s.socket).collect();
    ensure!(destroyed == [9], "{destroyed:?}");
    ensure!(hooks::attached(&cgroup)? == 0, "hooks are still attached");
    Ok(())
}

/// Whoever has started it waits for no owner, nor does whoever reads what it says to the end.
fn it_ends_while_an_owner_holds_a_lock() -> Result<()> {
    let cgroup = Cgroup::create("cli-once-held")?;
    let path = cgroup.path().to_str().context("not UTF-8")?.to_owned();
    let mut ten = Ten::inside(&cgroup)?;
    for (backend, first, last, engine) in [(UDP, 0, 5, "netlink"), (TCP, 6, 9, "diag")] {
        ten.client.start_hold(first, Holding::Memory)?;
        let start = Instant::now();
        let once =
            ["reap", backend, "--once", "--cgroup", path.as_str(), "--engine", engine, "--log", "warn"];
        let ended = run(&once)?;
        ensure!(start.elapsed() >= Duration::from_secs(1), "given up too early: {:?}", start.elapsed());
        ensure!(start.elapsed() < Duration::from_secs(10), "it has waited for {:?}", start.elapsed());
        let others = last - first;
        let begin = format!("{backend}: {others} of {} sockets destroyed by engine {engine} ", others + 1);
        ensure!(ended.code == Some(1) && ended.out.starts_with(&begin), "{ended:?}");
        ensure!(ended.out.contains("ETIMEDOUT: its owner holds its lock"), "{ended:?}");
        ensure!(ended.err.contains("not destroyed, as its owner holds its lock"), "{ended:?}");
        ensure!(hooks::attached(&cgroup)? == 0, "hooks are still attached");
        ensure!(ten.client.destroyed(Selection::List(vec![last]))?.len() == 1, "the free ones are alive");
        ten.client.end_hold(first)?;
        until("the held socket to be destroyed", || {
            ten.client.destroyed(Selection::List(vec![first])).is_ok_and(|cookies| !cookies.is_empty())
        })?;
    }
    Ok(())
}

fn what_it_cannot_do_is_an_exit_code() -> Result<()> {
    for args in [&["reap", UDP, "--engine", "iter"][..], &["reap", UDP, "--once", "--engine", "magic"]] {
        let ended = run(args)?;
        ensure!(ended.code == Some(2) && ended.out.is_empty(), "{args:?}: {ended:?}");
    }
    let ended = run(&["reap", UDP, "--once", "--cgroup", "/nowhere"])?;
    let lines = ended.err.lines().count();
    ensure!(ended.code == Some(1) && ended.out.is_empty() && lines == 1, "{ended:?}");
    ensure!(ended.err.contains("--cgroup /nowhere"), "{ended:?}");
    Ok(())
}
