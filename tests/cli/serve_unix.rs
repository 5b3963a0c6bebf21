//! `serve --source unix:PATH`: clients do not disturb each other.

use std::net::Shutdown;
use std::thread;

use anyhow::{Context as _, Result, ensure};

use crate::process::run;
use crate::serve::{Serve, event};

crate::tests![
    eight_clients_at_once,
    a_client_that_leaves_without_reading,
    a_client_that_leaves_in_the_middle_of_a_line,
    a_client_that_only_stops_sending_gets_all_answers,
    bad_lines_go_back_to_their_client,
    a_stale_socket_is_replaced,
    a_living_socket_is_not,
    a_path_that_is_no_socket_is_kept,
];

/// Sends and reads at the same time; what comes back must be its own, in order.
fn talk(serve: &Serve, who: usize) -> Result<()> {
    const EVENTS: usize = 1000;
    let mut client = serve.client()?;
    let mut writer = client.stream.try_clone()?;
    let input: String = (0..EVENTS).map(|i| event(&format!("c{who}-{i}"))).collect();
    let sender = thread::spawn(move || std::io::Write::write_all(&mut writer, input.as_bytes()));
    for i in 0..EVENTS {
        let report = client.answer()?.context("closed")?;
        ensure!(report["id"] == format!("c{who}-{i}"), "client {who}: {report} instead of {i}");
    }
    ensure!(sender.join().is_ok_and(|sent| sent.is_ok()), "client {who} could not send");
    client.stream.shutdown(Shutdown::Write)?;
    ensure!(client.answer()?.is_none(), "client {who} got more than it asked for");
    Ok(())
}

fn eight_clients_at_once() -> Result<()> {
    let serve = Serve::start("cli-eight")?;
    thread::scope(|scope| {
        let serve = &serve;
        let clients: Vec<_> = (0..8).map(|who| scope.spawn(move || talk(serve, who))).collect();
        for client in clients {
            client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        anyhow::Ok(())
    })?;
    serve.finish()
}

fn a_client_that_leaves_without_reading() -> Result<()> {
    let serve = Serve::start("cli-leaves")?;
    let mut other = serve.client()?;
    for round in 0..20 {
        let mut rude = serve.client()?;
        rude.send(&(0..50).map(|i| event(&format!("r{i}"))).collect::<String>())?;
        drop(rude);
        other.ask(&format!("o{round}"))?;
    }
    serve.finish()
}

fn a_client_that_leaves_in_the_middle_of_a_line() -> Result<()> {
    let serve = Serve::start("cli-half")?;
    let mut half = serve.client()?;
    half.send("{\"id\":\"half\",\"type\":\"backend-del")?;
    drop(half);
    serve.client()?.ask("whole")?;
    // One that waits for the answer gets it.
    let mut half = serve.client()?;
    half.send("{\"id\":\"half\",")?;
    half.stream.shutdown(Shutdown::Write)?;
    let refusal = half.answer()?.context("closed")?;
    ensure!(refusal["error"]["line"] == 1, "{refusal}");
    ensure!(half.answer()?.is_none(), "a second answer to half a line");
    serve.finish()
}

fn a_client_that_only_stops_sending_gets_all_answers() -> Result<()> {
    let serve = Serve::start("cli-done")?;
    let mut client = serve.client()?;
    client.send(&(0..100).map(|i| event(&format!("e{i}"))).collect::<String>())?;
    client.stream.shutdown(Shutdown::Write)?;
    for i in 0..100 {
        let report = client.answer()?.context("closed")?;
        ensure!(report["id"] == format!("e{i}"), "{report}");
    }
    ensure!(client.answer()?.is_none(), "more answers than questions");
    serve.finish()
}

fn bad_lines_go_back_to_their_client() -> Result<()> {
    let serve = Serve::start("cli-own")?;
    let (mut one, mut two) = (serve.client()?, serve.client()?);
    two.ask("two-1")?;
    two.send("\nnonsense\n")?;
    one.send("nonsense\n")?;
    // Lines are counted for each client alone.
    ensure!(one.answer()?.context("closed")?["error"]["line"] == 1, "not line 1");
    ensure!(two.answer()?.context("closed")?["error"]["line"] == 3, "not line 3");
    one.ask("one-2")?;
    two.ask("two-4")?;
    serve.finish()
}

fn a_stale_socket_is_replaced() -> Result<()> {
    let mut serve = Serve::start("cli-stale")?;
    serve.client()?.ask("before")?;
    serve.replace()?;
    serve.client()?.ask("after")?;
    serve.finish()
}

fn a_living_socket_is_not() -> Result<()> {
    let serve = Serve::start("cli-living")?;
    let (path, cgroup) = (serve.socket_arg()?, serve.cgroup.path().to_str().context("not UTF-8")?);
    let ended = run(&["serve", "--cgroup", cgroup, "--source", &format!("unix:{path}")])?;
    ensure!(ended.code == Some(1) && ended.out.is_empty(), "{ended:?}");
    ensure!(ended.err.contains(&path) && ended.err.contains("already"), "{ended:?}");
    ensure!(ended.err.lines().count() == 1, "{ended:?}");
    serve.client()?.ask("still there")?;
    serve.finish()
}

fn a_path_that_is_no_socket_is_kept() -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), "precious")?;
    let path = file.path().to_str().context("not UTF-8")?;
    let cgroup = skreap_testbed::Cgroup::create("cli-file")?;
    let cgroup = cgroup.path().to_str().context("not UTF-8")?;
    let ended = run(&["serve", "--cgroup", cgroup, "--source", &format!("unix:{path}")])?;
    ensure!(ended.code == Some(1) && ended.err.contains(path), "{ended:?}");
    ensure!(std::fs::read_to_string(file.path())? == "precious", "the file was changed");
    Ok(())
}
