//! Events on many backends, events that wait together, limits, and signals, from outside.

use anyhow::{Context as _, Result, ensure};
use skreap_testbed::Cgroup;

use crate::commands::{TCP, Ten, UDP};
use crate::hooks;
use crate::process::{self, collect, run, run_with, skreap};
use crate::serve::{Serve, command, event_for};

crate::tests![
    reap_names_several,
    reconcile_names_the_living,
    reconcile_of_nothing_is_refused,
    queued_events_share_a_walk,
    a_limit_of_victims,
    hangup_ends_it,
    hangup_that_was_ignored_stays_so,
];

fn reap_names_several() -> Result<()> {
    let serve = Serve::start("cli-several")?;
    let mut ten = Ten::new(&serve)?;
    let socket = serve.socket_arg()?;
    let ended = run(&["reap", UDP, TCP, UDP, "--dry-run", "--socket", &socket])?;
    ensure!(ended.code == Some(0), "{ended:?}");
    // One that is named twice is one.
    ensure!(ended.out.starts_with("2 backends: 10 sockets would be destroyed\n"), "{ended:?}");
    let ended = run(&["reap", UDP, UDP, "--dry-run", "--socket", &socket])?;
    ensure!(ended.out.starts_with(&format!("{UDP}: 6 sockets would be destroyed\n")), "{ended:?}");
    let ended = run(&["reap", UDP, TCP, "--socket", &socket])?;
    ensure!(ended.code == Some(0), "{ended:?}");
    ensure!(ended.out.starts_with("2 backends: 10 of 10 sockets destroyed by engine "), "{ended:?}");
    ensure!(
        ended.out.contains(&format!("\n  {UDP}: 6 of 6 destroyed\n  {TCP}: 4 of 4 destroyed\n")),
        "{ended:?}"
    );
    ensure!(ten.states()?.iter().filter(|state| state.destroyed()).count() == 10);
    drop(ten);
    serve.finish()
}

fn reconcile_names_the_living() -> Result<()> {
    let serve = Serve::start("cli-living-backends")?;
    let mut ten = Ten::new(&serve)?;
    let socket = serve.socket_arg()?;
    let ended =
        run(&["reconcile", TCP, "udp://10.96.7.9:1", TCP, "--dry-run", "--json", "--socket", &socket])?;
    let [report] = &ended.json()?[..] else { anyhow::bail!("not one report: {ended:?}") };
    ensure!(report["victims"] == 6 && report["destroyed"] == 0 && report["type"] == "reconcile", "{report}");
    ensure!(ten.echo(0, 10)?.answered() == 10);
    let mut command = skreap(&["reconcile", "--yes", "--socket"]);
    command.arg(&socket);
    let living = format!("# the living\n\n{TCP} # web\nudp://10.96.7.9:1\n{TCP}\n");
    let ended = run_with(command, living.into_bytes())?;
    ensure!(ended.code == Some(0), "{ended:?}");
    let begin = "not among 2 living backends: 6 of 6 sockets destroyed by engine ";
    ensure!(ended.out.starts_with(begin), "{ended:?}");
    let destroyed: Vec<bool> = ten.states()?.iter().map(|state| state.destroyed()).collect();
    ensure!(destroyed == [[true; 6].as_slice(), &[false; 4]].concat(), "{destroyed:?}");
    ensure!(ten.echo(6, 4)?.answered() == 4);
    drop(ten);
    serve.finish()
}

/// It would mean every socket there is.
fn reconcile_of_nothing_is_refused() -> Result<()> {
    let ended = run_with(skreap(&["reconcile", "--yes"]), b"\n# none\n".to_vec())?;
    ensure!(ended.code == Some(2) && ended.err.contains("at least one"), "{ended:?}");
    let ended =
        run_with(skreap(&["reconcile", "--dry-run"]), b"udp://10.0.0.1:53\nudp://10.0.0.1\n".to_vec())?;
    ensure!(ended.code == Some(2) && ended.err.starts_with("skreap: line 2: "), "{ended:?}");
    Ok(())
}

/// Each is answered in its turn, and every socket is in one report only.
fn queued_events_share_a_walk() -> Result<()> {
    let serve = Serve::start("cli-together")?;
    let ten = Ten::new(&serve)?;
    let mut client = serve.client()?;
    client.send(&(0..100).map(|i| event_for(&format!("e{i}"), [UDP, TCP][i % 2])).collect::<String>())?;
    let (mut destroyed, mut merged) = (0, 0);
    for i in 0..100 {
        let report = client.answer()?.context("closed")?;
        ensure!(report["id"] == format!("e{i}") && report["complete"] == true, "{report}");
        destroyed += report["destroyed"].as_u64().context("no number")?;
        if let Some(with) = report["merged"].as_object() {
            merged += 1;
            let (backend, id) = with.iter().next().context("merged with nothing")?;
            ensure!(with.len() == 1 && *backend == [UDP, TCP][i % 2] && report["visited"] == 0, "{report}");
            let earlier: usize = id.as_str().context("no id")?.trim_start_matches('e').parse()?;
            ensure!(earlier < i && earlier % 2 == i % 2, "{report}");
        }
    }
    ensure!(destroyed == 10 && merged > 0, "{destroyed} destroyed, {merged} merged");
    drop(ten);
    serve.finish()
}

fn a_limit_of_victims() -> Result<()> {
    let serve = Serve::start_with("cli-limit", &["--max-victims", "5", "--max-rate", "100000"])?;
    let mut ten = Ten::new(&serve)?;
    let socket = serve.socket_arg()?;
    let ended = run(&["reap", UDP, "--socket", &socket])?;
    ensure!(ended.code == Some(1), "{ended:?}");
    ensure!(ended.out.starts_with(&format!("{UDP}: refused: 6 victims are more than the 5 ")), "{ended:?}");
    ensure!(ten.echo(0, 10)?.answered() == 10);
    let ended = run(&["reap", TCP, "--json", "--socket", &socket])?;
    let [report] = &ended.json()?[..] else { anyhow::bail!("not one report: {ended:?}") };
    ensure!(report["destroyed"] == 4 && report["guard"]["found"] == 4, "{report}");
    ensure!(report["guard"]["max_rate"] == 100_000 && report["guard"]["refused"] == false, "{report}");
    ensure!(ten.echo(0, 6)?.answered() == 6);
    drop(ten);
    serve.finish()
}

fn hangup_ends_it() -> Result<()> {
    let mut serve = Serve::start("cli-hangup")?;
    serve.client()?.ask("before")?;
    serve.signal(libc::SIGHUP)?;
    let ended = serve.ended()?;
    ensure!(ended.code == Some(0), "{ended:?}");
    serve.nothing_left()
}

/// As under nohup(1).
fn hangup_that_was_ignored_stays_so() -> Result<()> {
    let cgroup = Cgroup::create("cli-nohup")?;
    let mut plain = command(&cgroup, &[]);
    let mut nohup = std::process::Command::new("nohup");
    nohup.arg(plain.get_program()).args(plain.get_args());
    nohup.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    plain.stdin(std::process::Stdio::null());
    let mut child = nohup.stderr(std::process::Stdio::piped()).spawn()?;
    let ready = process::until("the hooks", || hooks::attached(&cgroup).is_ok_and(|n| n == 5));
    let signalled = process::signal(&child, libc::SIGHUP);
    let mut input = child.stdin.take().context("no stdin")?;
    std::io::Write::write_all(&mut input, event_for("after", UDP).as_bytes())?;
    drop(input);
    let ended = collect(&mut child)?;
    ready.and(signalled)?;
    ensure!(ended.code == Some(0) && ended.json()?.len() == 1, "{ended:?}");
    Ok(())
}
