//! `reap --netns`: the netns of a link by its name, its path, or a process in it.

use std::process::Stdio;

use anyhow::{Result, ensure};
use skreap_testbed::{Client, Netns, SpawnOptions};

use crate::commands::UDP;
use crate::process::{Ended, collect, run, skreap};
use crate::serve::Serve;

crate::tests![
    a_name_a_path_and_a_pid,
    what_is_no_netns,
    a_link_local_backend_alone,
    a_link_local_backend_with_another,
];

/// A link that no other netns has.
const DEVICE: &str = "skreaparg0";

fn link_local() -> String {
    format!("udp://[fe80::1%{DEVICE}]:53")
}

fn reap_in(directory: &str, socket: &str, netns: &str) -> Result<Ended> {
    let mut command = skreap(&["reap", &link_local(), "--netns", netns, "--socket", socket]);
    command.current_dir(directory).stdout(Stdio::piped()).stderr(Stdio::piped());
    collect(&mut command.spawn()?)
}

fn a_name_a_path_and_a_pid() -> Result<()> {
    let serve = Serve::start("cli-netns")?;
    let socket = serve.socket_arg()?;
    let (here, far) = (Netns::create("cli-netns-here")?, Netns::create("cli-netns-far")?);
    here.join(DEVICE, "fe80::a".parse()?, &far, "fe80::1".parse()?, 64)?;
    let inside = Client::spawn(&SpawnOptions { label: "inside", cgroup: None, netns: Some(&here) })?;
    let name = here.name();
    for (directory, netns) in [
        ("/", name.to_owned()),
        ("/", format!("/run/netns/{name}")),
        ("/", inside.pid().to_string()),
        ("/", format!("/proc/{}/ns/net", inside.pid())),
        ("/run", format!("netns/{name}")),
        ("/run/netns", format!("./{name}")),
        ("/proc", format!("{}/ns/net", inside.pid())),
    ] {
        let ended = reap_in(directory, &socket, &netns)?;
        let none = format!("{}: 0 of 0 sockets destroyed by engine ", link_local());
        ensure!(ended.code == Some(0) && ended.out.starts_with(&none), "{netns} in {directory}: {ended:?}");
    }
    drop(inside);
    serve.finish()
}

/// What cannot be found is a failure of the event, and what makes no sense is wrong usage.
fn what_is_no_netns() -> Result<()> {
    let serve = Serve::start("cli-no-netns")?;
    let socket = serve.socket_arg()?;
    let far = format!("/{}", "x".repeat(5000));
    let cut = format!("netns {:?}: File name too long", format!("{}…", &far[..64]));
    for (netns, says) in [
        ("nosuch", "netns \"/run/netns/nosuch\": No such file"),
        ("4194305", "netns \"/proc/4194305/ns/net\": No such file"),
        ("./nosuch", "netns \"/proc/nosuch\": No such file"),
        ("/proc/self/comm", "netns \"/proc/self/comm\": this is no namespace;"),
        ("/proc/self/ns/net", &format!("netns \"/proc/self/ns/net\" has no interface {DEVICE};")),
        (&far, &cut),
    ] {
        let ended = reap_in("/proc", &socket, netns)?;
        let out = format!("{}: {says}", link_local());
        ensure!(ended.code == Some(1) && ended.err.is_empty() && ended.out.starts_with(&out), "{ended:?}");
    }
    let ended = reap_in("/", &socket, "")?;
    ensure!(ended.code == Some(2) && ended.err.contains("a name, a path or a pid"), "{ended:?}");
    // Any other backend is in every netns, and this says in which one it is meant.
    let ended = run(&["reap", UDP, "--netns", "nosuch", "--socket", &socket])?;
    let says = format!("{UDP} where netns nosuch: netns nosuch: No such file");
    ensure!(ended.code == Some(1) && ended.out.starts_with(&says), "{ended:?}");
    let ended = run(&["reap", &link_local(), "--netns", "cookie:7", "--socket", &socket])?;
    ensure!(ended.code == Some(2) && ended.err.contains("write its name, a path or a pid"), "{ended:?}");
    serve.finish()
}

/// It is refused without asking anybody, and the refusal names both that it lacks.
fn a_link_local_backend_alone() -> Result<()> {
    for backend in ["udp://[fe80::1]:53", "udp://[fe80::1%eth0]:53"] {
        let ended = run(&["reap", backend, "--socket", "/nowhere"])?;
        ensure!(ended.code == Some(2) && ended.err.starts_with(&format!("skreap: {backend} ")), "{ended:?}");
        ensure!(ended.err.contains("(--netns blue)"), "{ended:?}");
        ensure!(backend.contains('%') || ended.err.contains("udp://[fe80::1%eth0]:53"), "{ended:?}");
    }
    Ok(())
}

fn a_link_local_backend_with_another() -> Result<()> {
    let on_link = "udp://[fe80::1%eth0]:53";
    let ended = run(&["reap", UDP, on_link, "--netns", "blue", "--socket", "/nowhere"])?;
    let says = format!(
        "skreap: --netns says where the link of {on_link} is, and which sockets of {UDP} are meant: reap the two one after \
         the other\n"
    );
    ensure!(ended.code == Some(2) && ended.err == says, "{ended:?}");
    Ok(())
}
