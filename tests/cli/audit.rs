//! `audit` and the self-check of `serve`, where the index cannot know all.

use std::fs::{self, File};
use std::net::UdpSocket;
use std::process::Stdio;

use anyhow::{Result, ensure};
use skreap_testbed::{Cgroup, Client, Family, OpenSpec, Protocol, SpawnOptions};
use tempfile::TempDir;

use crate::process::{collect, run, signal, until};
use crate::serve::command;

crate::tests![preexisting_and_full, the_self_check_speaks_up];

/// A client in the cgroup that can connect to this process.
fn client(cgroup: &Cgroup) -> Result<Client> {
    Client::spawn(&SpawnOptions { label: "audited", cgroup: Some(cgroup), netns: None })
}

fn connect(client: &mut Client, server: &UdpSocket, count: usize) -> Result<()> {
    for _ in 0..count {
        let socket = client.open(OpenSpec::new(Protocol::Udp, Family::V4))?;
        client.connect(socket, server.local_addr()?)?;
    }
    Ok(())
}

/// Pre-existing sockets that nobody has searched for are no difference, and neither are those a full index had no room for.
fn preexisting_and_full() -> Result<()> {
    let (cgroup, directory) = (Cgroup::create("cli-audit")?, TempDir::new()?);
    let server = UdpSocket::bind("127.0.0.1:0")?;
    let mut client = client(&cgroup)?;
    connect(&mut client, &server, 3)?;
    let path = directory.path().join("socket");
    let path = path.display().to_string();
    let mut serve = command(&cgroup, &[&format!("unix:{path}")]);
    serve.args(["--max-sockets", "4", "--no-bootstrap", "--log", "skreap=info"]);
    let mut serve = serve.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let done = (|| {
        until("the service to answer", || {
            run(&["audit", "--socket", &path]).is_ok_and(|e| e.code == Some(0))
        })?;
        connect(&mut client, &server, 6)?;
        let ended = run(&["audit", "--socket", &path, "--json"])?;
        let audit = ended.json()?.pop().unwrap_or_default();
        ensure!(ended.code == Some(0) && audit["agrees"] == true, "{ended:?}");
        ensure!(audit["preexisting"] == 3 && audit["sockets"] == 9 && audit["nodes"] == 4, "{audit}");
        ensure!(
            audit["incomplete"] == 2 && audit["differences"].as_array().map(Vec::len) == Some(2),
            "{audit}"
        );
        let ended = run(&["audit", "--socket", &path])?;
        ensure!(
            ended.out.contains("\n2 incomplete: ")
                && ended.out.contains("\nnot compared: 3 sockets pre-existing"),
            "{ended:?}"
        );
        Ok(())
    })();
    signal(&serve, libc::SIGTERM)?;
    let ended = collect(&mut serve)?;
    ensure!(ended.code == Some(0) && ended.err.contains("preexisting=3"), "{ended:?}");
    done
}

/// Without anybody asking, and into the log.
fn the_self_check_speaks_up() -> Result<()> {
    let (cgroup, directory) = (Cgroup::create("cli-check")?, TempDir::new()?);
    let source = format!("unix:{}", directory.path().join("socket").display());
    let log = directory.path().join("log");
    let mut serve = command(&cgroup, &[&source]);
    serve.args(["--audit-interval", "1", "--log", "skreap=info"]);
    let mut serve = serve.stdout(Stdio::null()).stderr(File::create(&log)?).spawn()?;
    let said = || fs::read_to_string(&log).unwrap_or_default();
    let spoke =
        until("two self-checks", || said().matches("audit: the index agrees with the sockets").count() >= 2);
    signal(&serve, libc::SIGTERM)?;
    let ended = collect(&mut serve)?;
    ensure!(ended.code == Some(0), "{ended:?}: {}", said());
    spoke
}
