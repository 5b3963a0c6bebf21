//! `--action`: what is told of sockets that are looked at again, and when.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use skreap_testbed::Bpffs;

use crate::commands::{TCP, Ten, UDP, good, good_json};
use crate::process::{run, until};
use crate::serve::Serve;

crate::tests![
    it_is_told_later_on_the_same_connection,
    reap_waits_for_it,
    reap_says_what_it_waits_for,
    the_end_of_the_service_loses_what_waits,
    the_usual_action_is_that_of_the_service,
    a_service_may_refuse_it,
    bad_options_are_refused,
    what_a_killed_service_has_left_is_told_by_the_next,
];

/// A backend that nobody is connected to, at the address of [`UDP`].
const ELSEWHERE: &str = "udp://10.96.7.1:54";

fn event(id: &str, after_ms: u32) -> String {
    let event = json!({
        "id": id, "type": "backend-deleted", "backend": UDP, "action": "revive", "to": ELSEWHERE, "after_ms": after_ms,
    });
    format!("{event}\n")
}

fn it_is_told_later_on_the_same_connection() -> Result<()> {
    let serve = Serve::start("cli-revive")?;
    let ten = Ten::new(&serve)?;
    let mut client = serve.client()?;
    client.send(&event("r1", 200))?;
    let report = client.answer()?.context("closed")?;
    ensure!(report["action"] == "revive" && report["destroyed"] == 6, "{report}");
    ensure!(report["reviving"] == json!({"sockets": 6, "after_ms": 200}), "{report}");
    // It is no answer: others come in between.
    client.ask("between")?;
    let later = client.answer()?.context("closed")?;
    ensure!(later["id"] == "r1" && later["revived"]["sockets"] == 6, "{later}");
    ensure!(later["revived"]["revived"] == 6, "{later}");
    let status = good_json(&["status", "--socket", &serve.socket_arg()?, "--json"])?;
    ensure!(status["totals"]["revived"]["revived"] == 6, "{status}");
    ensure!(status["reviving"] == 0, "{status}");
    // One that does not wait for it does no harm.
    let mut rude = serve.client()?;
    rude.send(&event("r2", 100))?;
    rude.answer()?.context("closed")?;
    drop(rude);
    thread::sleep(Duration::from_millis(300));
    client.ask("after")?;
    drop(ten);
    serve.finish()
}

fn reap_waits_for_it() -> Result<()> {
    let serve = Serve::start("cli-revive-reap")?;
    let ten = Ten::new(&serve)?;
    let socket = serve.socket_arg()?;
    let args =
        ["reap", UDP, "--action", "revive", "--to", ELSEWHERE, "--after-ms", "50", "--socket", &socket];
    let told = good(&args)?;
    ensure!(told.ends_with("6 of 6 sockets revived\n"), "{told}");
    let counted = good_json(&["reap", TCP, "--action", "none", "--socket", &socket, "--json"])?;
    ensure!(counted["victims"] == 4 && counted["destroyed"] == 0 && counted["action"] == "none", "{counted}");
    // Nothing that is not done is said to be done.
    for (args, says) in [
        (&["reap", TCP, "--action", "none"][..], "4 sockets counted\n"),
        (&["reap", UDP, TCP, "--action", "none"], "2 backends: 4 sockets counted\n"),
        (&["reconcile", UDP, "--action", "none"], "not among 1 living backend: 10 sockets counted\n"),
        (&["reap", TCP, "--dry-run"], "4 sockets would be destroyed\n"),
        (
            &["reap", UDP, TCP, "--dry-run", "--action", "move", "--to", ELSEWHERE],
            "2 backends: 4 sockets would be moved or destroyed\n",
        ),
        (
            &["reap", ELSEWHERE, "--dry-run", "--action", "revive", "--to", UDP],
            "6 sockets would be destroyed and revived\n",
        ),
    ] {
        let said = good(&[args, &["--socket", &socket]].concat())?;
        ensure!(said.contains(says), "{args:?}: {said}");
    }
    let said = good(&["reap", UDP, TCP, "--action", "none", "--socket", &socket])?;
    ensure!(said.contains(&format!("  {TCP}: 4 counted\n")), "{said}");
    drop(ten);
    serve.finish()
}

fn reap_says_what_it_waits_for() -> Result<()> {
    let serve = Serve::start("cli-revive-long")?;
    let ten = Ten::new(&serve)?;
    let socket = serve.socket_arg()?;
    let ended = run(&[
        "reap",
        UDP,
        "--action",
        "revive",
        "--to",
        ELSEWHERE,
        "--after-ms",
        "12000",
        "--socket",
        &socket,
    ])?;
    ensure!(ended.code == Some(0) && ended.out.ends_with("6 of 6 sockets revived\n"), "{ended:?}");
    ensure!(ended.err == "skreap: waiting for what comes of destroyed sockets for 10 s\n", "{ended:?}");
    drop(ten);
    serve.finish()
}

fn the_end_of_the_service_loses_what_waits() -> Result<()> {
    let serve = Serve::start("cli-revive-end")?;
    let ten = Ten::new(&serve)?;
    let mut client = serve.client()?;
    client.send(&event("r1", 3_600_000))?;
    client.answer()?.context("closed")?;
    let start = Instant::now();
    drop(ten);
    serve.finish()?;
    ensure!(start.elapsed() < Duration::from_secs(10), "the end has waited {:?}", start.elapsed());
    let later = client.answer()?.context("closed")?;
    ensure!(later["revived"]["lost"] == 6 && later["revived"]["sockets"] == 6, "{later}");
    Ok(())
}

fn the_usual_action_is_that_of_the_service() -> Result<()> {
    let args = ["--action", "revive", "--to", ELSEWHERE, "--after-ms", "1"];
    let serve = Serve::start_with("cli-revive-usual", &args)?;
    let ten = Ten::new(&serve)?;
    let told = good(&["reap", UDP, "--socket", &serve.socket_arg()?])?;
    ensure!(told.ends_with("6 of 6 sockets revived\n"), "{told}");
    // TCP sockets are destroyed, and an event may say something else.
    let tcp = good_json(&["reap", TCP, "--socket", &serve.socket_arg()?, "--json"])?;
    ensure!(tcp["destroyed"] == 4 && tcp.get("reviving").is_none(), "{tcp}");
    let plain =
        good_json(&["reap", ELSEWHERE, "--action", "destroy", "--socket", &serve.socket_arg()?, "--json"])?;
    ensure!(plain["destroyed"] == 6 && plain.get("reviving").is_none(), "{plain}");
    drop(ten);
    serve.finish()
}

fn a_service_may_refuse_it() -> Result<()> {
    let serve = Serve::start_with("cli-no-revive", &["--no-revive"])?;
    let ten = Ten::new(&serve)?;
    let mut client = serve.client()?;
    client.send(&event("r1", 0))?;
    let report = client.answer()?.context("closed")?;
    ensure!(report["error"].as_str().is_some_and(|error| error.contains("--no-revive")), "{report}");
    ensure!(report["destroyed"] == 0 && report.get("reviving").is_none(), "{report}");
    drop(ten);
    serve.finish()?;
    // One that would refuse every event does not start.
    for action in ["revive", "move"] {
        let ended = run(&["serve", "--no-revive", "--action", action, "--to", ELSEWHERE])?;
        let says = format!(
            "skreap: --no-revive: --action {action} has sockets connected; leave one of the two out\n"
        );
        ensure!(ended.code == Some(2) && ended.err == says, "{ended:?}");
    }
    Ok(())
}

fn bad_options_are_refused() -> Result<()> {
    for (args, why) in [
        (&["--action", "revive"][..], "\"to\" is empty"),
        (&["--action", "revive", "--to", TCP], "is no UDP backend"),
        (&["--action", "revive", "--to", UDP], "is deleted by this event"),
        (
            &["--action", "revive", "--to", "udp://[fd77::9]:53"],
            "have no destination of their address family",
        ),
        (&["--action", "none", "--to", ELSEWHERE], "leave --to out"),
        (&["--action", "destroy", "--after-ms", "5"], "leave --after-ms out"),
        (&["--to", ELSEWHERE], "--action"),
        (&["--action", "revive", "--to", ELSEWHERE, "--once"], "--once"),
    ] {
        let ended = run(&[&["reap", UDP], args].concat())?;
        ensure!(ended.code == Some(2) && ended.err.contains(why), "{args:?}: {ended:?}");
    }
    Ok(())
}

fn what_a_killed_service_has_left_is_told_by_the_next() -> Result<()> {
    let bpffs = Bpffs::create()?;
    let pins = bpffs.path("skreap").to_str().context("not UTF-8")?.to_owned();
    let mut serve = Serve::start_with("cli-revive-killed", &["--max-sockets", "2000", "--pin", &pins])?;
    let mut ten = Ten::new(&serve)?;
    let socket = serve.socket_arg()?;
    let status = || good_json(&["status", "--socket", &socket, "--json"]);
    let mut client = serve.client()?;
    client.send(&event("r1", 3_600_000))?;
    let report = client.answer()?.context("closed")?;
    ensure!(report["reviving"]["sockets"] == 6, "{report}");
    until("sockets to wait", || status().is_ok_and(|status| status["reviving"] == 6))?;
    serve.replace()?;
    let now = status()?;
    ensure!(now["reviving"] == 0 && now["totals"]["revived"]["lost"] == 6, "{now}");
    ensure!(now["totals"]["revived"]["sockets"] == 6, "{now}");
    serve.signal(libc::SIGTERM)?;
    let said = serve.ended()?.err;
    ensure!(
        said.contains("6 sockets that the service before this one has destroyed are not looked at again"),
        "{said}"
    );
    // It is told once. What a service itself tells to be lost is not told by the next one.
    serve.restart()?;
    ensure!(status()?["totals"]["revived"]["lost"] == 0);
    ten.connect(UDP, 2)?;
    let mut client = serve.client()?;
    client.send(&event("r2", 3_600_000))?;
    client.answer()?.context("closed")?;
    serve.signal(libc::SIGTERM)?;
    serve.ended()?;
    let later = client.answer()?.context("closed")?;
    ensure!(later["revived"]["lost"] == 2, "{later}");
    serve.restart()?;
    ensure!(status()?["totals"]["revived"]["lost"] == 0);
    drop(ten);
    serve.signal(libc::SIGTERM)?;
    let said = serve.ended()?.err;
    ensure!(!said.contains("looked at again"), "{said}");
    good(&["unload", "--pin", &pins])?;
    ensure!(!std::path::Path::new(&pins).exists(), "something is left in {pins}");
    serve.nothing_left()
}
