//! `skreap reap --once`: no service, the sockets that are there, and nothing left behind.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use skreap_testbed::Cgroup;

use crate::commands::{TCP, Ten, UDP, good, good_json};
use crate::hooks;
use crate::process::run;

crate::tests![it_searches_reaps_and_ends, what_it_cannot_do_is_an_exit_code];

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

fn what_it_cannot_do_is_an_exit_code() -> Result<()> {
    for args in [
        &["reap", UDP, "--cgroup", "/sys/fs/cgroup"][..],
        &["reap", UDP, "--engine", "iter"],
        &["reap", UDP, "--once", "--engine", "magic"],
    ] {
        let ended = run(args)?;
        ensure!(ended.code == Some(2) && ended.out.is_empty(), "{args:?}: {ended:?}");
    }
    let ended = run(&["reap", UDP, "--once", "--cgroup", "/nowhere"])?;
    ensure!(
        ended.code == Some(1) && ended.out.is_empty() && ended.err.contains("--cgroup /nowhere"),
        "{ended:?}"
    );
    Ok(())
}
