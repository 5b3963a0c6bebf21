//! Selectors on the command line: one vocabulary for `terminate`, `reap` and `reconcile`.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use skreap_testbed::Cgroup;

use crate::commands::{TCP, Ten, UDP, good, good_json};
use crate::process::run;
use crate::serve::Serve;

crate::tests![
    reap_is_restricted,
    reconcile_is_restricted,
    reap_once_is_restricted,
    what_makes_no_sense_is_refused
];

fn cookie_of(ten: &Ten) -> Result<String> {
    let file = format!("/proc/{}/ns/net", ten.client.pid());
    Ok(format!("cookie:{}", skreap::netns::identify(Path::new(&file))?.cookie))
}

/// How many UDP and TCP sockets of it are destroyed.
fn destroyed(ten: &mut Ten) -> Result<(usize, usize)> {
    let states = ten.states()?;
    let count =
        |states: &[skreap_testbed::SocketState]| states.iter().filter(|state| state.destroyed()).count();
    Ok((count(&states[..6]), count(&states[6..])))
}

/// Two clients of one address, each in a netns and a cgroup of its own.
fn reap_is_restricted() -> Result<()> {
    let serve = Serve::start("cli-reap-where")?;
    let socket = serve.socket_arg()?;
    let inner = serve.cgroup.child("inner")?;
    let (mut outside, mut inside) = (Ten::new(&serve)?, Ten::labelled("cli-inner", &inner)?);
    let path = inner.path().to_str().context("the path is not UTF-8")?;
    let pid = outside.client.pid().to_string();
    let base = ["reap", UDP, "--socket", &socket, "--dry-run", "--json"];
    let cookie = cookie_of(&inside)?;
    for (options, victims) in [
        (&[][..], 12),
        (&["--cgroup", path], 6),
        (&["--except-cgroup", path], 6),
        (&["--netns", &pid], 6),
        (&["--netns", &cookie], 6),
        (&["--netns", &pid, "--except-netns", &pid], 0),
        (&["--netns", &pid, "--cgroup", path], 0),
        (&["--uid", "0"], 12),
        (&["--uid", "4711"], 0),
        (&["--except-uid", "0"], 0),
        (&["--except-to", "10.96.0.0/16"], 0),
        (&["--except-to", "10.96.0.0/16", "--except-port", "54"], 12),
        (&["--except-protocol", "tcp"], 12),
        (&["--netns", &pid, "--interface", "lo"], 0),
        (&["--except-netns", &pid], 6),
        // None is bound to it.
        (&["--except-netns", &pid, "--except-interface", "lo"], 12),
    ] {
        let report = good_json(&[&base[..], options].concat())?;
        ensure!(report["victims"] == victims, "{options:?}: {report}");
    }
    let text = good(&["reap", UDP, TCP, "--cgroup", path, "--except-protocol", "tcp", "--socket", &socket])?;
    let begin = format!("2 backends where cgroup {path} except tcp: 6 of 6 sockets destroyed by engine ");
    ensure!(text.starts_with(&begin) && text.contains("  skipped 14: not selected, or excepted\n"), "{text}");
    ensure!(destroyed(&mut inside)? == (6, 0) && destroyed(&mut outside)? == (0, 0));
    ensure!(outside.echo(0, 10)?.answered() == 10 && inside.echo(6, 4)?.answered() == 4);
    drop((outside, inside, inner));
    serve.finish()
}

fn reconcile_is_restricted() -> Result<()> {
    let serve = Serve::start("cli-reconcile-where")?;
    let socket = serve.socket_arg()?;
    let (mut one, mut other) = (Ten::new(&serve)?, Ten::labelled("cli-other", &serve.cgroup)?);
    let pid = one.client.pid().to_string();
    let args = ["reconcile", TCP, "--yes", "--netns", &pid, "--except-port", "1-52", "--socket", &socket];
    let text = good(&args)?;
    let begin = format!(
        "not among 1 living backend where netns {pid} except ports 1-52: 6 of 6 sockets destroyed by engine "
    );
    ensure!(text.starts_with(&begin), "{text}");
    ensure!(destroyed(&mut one)? == (6, 0) && destroyed(&mut other)? == (0, 0));
    ensure!(other.echo(0, 10)?.answered() == 10);
    drop((one, other));
    serve.finish()
}

/// Without a service a path of a cgroup says which sockets are looked for at all; the rest is as with one.
fn reap_once_is_restricted() -> Result<()> {
    let cgroup = Cgroup::create("cli-once-where")?;
    let path = cgroup.path().to_str().context("the path is not UTF-8")?.to_owned();
    let (mut one, mut other) = (Ten::inside(&cgroup)?, Ten::labelled("cli-other", &cgroup)?);
    let pid = one.client.pid().to_string();
    let once = ["reap", UDP, "--once", "--cgroup", &path, "--netns", &pid, "--json"];
    let report = good_json(&once)?;
    ensure!(report["destroyed"] == 6 && report["skipped"]["not_selected"] == 6, "{report}");
    ensure!(report["where"].get("cgroup").is_none() && report["where"]["netns"] == pid.as_str(), "{report}");
    ensure!(destroyed(&mut one)? == (6, 0) && destroyed(&mut other)? == (0, 0));
    Ok(())
}

fn what_makes_no_sense_is_refused() -> Result<()> {
    for (options, says) in [
        (&["--interface", "eth0"][..], "--netns"),
        (&["--except-interface", "eth0"], "--except-netns"),
        (&["--cgroup", "a.slice"], "names no cgroup"),
        (&["--except-port", "0"], "port 0 is that of sockets without a peer"),
        (&["--except-port", "9-1"], "ends before it begins"),
        (&["--except-to", "0.0.0.0"], "the address of sockets without a peer"),
        (&["--except-netns", ""], "a name, a path or a pid"),
    ] {
        for command in [&["reap", UDP][..], &["reconcile", TCP, "--yes"], &["terminate", "--uid", "0"]] {
            let ended = run(&[command, options].concat())?;
            ensure!(ended.code == Some(2) && ended.err.contains(says), "{command:?} {options:?}: {ended:?}");
        }
    }
    Ok(())
}
