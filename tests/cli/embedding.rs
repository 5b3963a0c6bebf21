//! What docs/embedding.md shows: the pinned walk program, run by a program in another language.

use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use skreap_testbed::{
    Bpffs, Cgroup, Client, Echo, Mode, Netns, NetnsRef, OpenMany, Protocol, Selection, SpawnOptions,
};
use tempfile::TempDir;

use crate::process::{Ended, run, run_with};
use crate::serve::Serve;

crate::tests![the_walk_says_what_is_wrong, the_pinned_walk_from_c];

/// The example, compiled as its first lines say, with every warning an error.
struct Walk {
    _built: TempDir,
    binary: PathBuf,
}

impl Walk {
    fn build() -> Result<Self> {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/walk.c");
        let include = concat!(env!("CARGO_MANIFEST_DIR"), "/../bpf/include");
        let built = TempDir::new()?;
        let binary = built.path().join("walk");
        let mut compiler = Command::new("cc");
        compiler
            .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-I", include, source, "-o"])
            .arg(&binary);
        let compiled = run_with(compiler, Vec::new())?;
        ensure!(compiled.code == Some(0), "{compiled:?}");
        Ok(Self { _built: built, binary })
    }

    fn run(&self, pins: &Path, args: &[&str], netns: Option<&Netns>) -> Result<Ended> {
        let mut walk = Command::new(&self.binary);
        walk.arg(pins).args(args);
        if let Some(netns) = netns {
            let fd = netns.fd().context("the netns has no name")?.try_clone_to_owned()?;
            // SAFETY: setns takes no pointers, and the descriptor was opened before the fork.
            unsafe {
                walk.pre_exec(move || match libc::setns(fd.as_raw_fd(), libc::CLONE_NEWNET) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                })
            };
        }
        run_with(walk, Vec::new())
    }
}

/// Each failure names the thing and its errno.
fn the_walk_says_what_is_wrong() -> Result<()> {
    let walk = Walk::build()?;
    let usage = "usage: walk DIR udp|tcp ADDRESS PORT [destroy]\n";
    for args in [
        &[][..],
        &["udp", "10.0.0.1"],
        &["sctp", "10.0.0.1", "53"],
        &["udp", "10.0.0", "53"],
        &["udp", "10.0.0.1", "0"],
        &["udp", "10.0.0.1", "65536"],
        &["udp", "10.0.0.1", "53", "kill"],
        &["udp", "10.0.0.1", "53", "destroy", "now"],
    ] {
        let ended = walk.run(Path::new("/nowhere"), args, None)?;
        ensure!(ended.code == Some(2) && ended.out.is_empty() && ended.err == usage, "{args:?}: {ended:?}");
    }
    let ended = walk.run(Path::new("/nowhere"), &["tcp", "fd00::1", "80"], None)?;
    let expected = "walk: /nowhere/index/walk: No such file or directory (errno 2)\n";
    ensure!(ended.code == Some(1) && ended.out.is_empty() && ended.err == expected, "{ended:?}");
    // What lies there is no pin.
    let directory = TempDir::new()?;
    std::fs::create_dir(directory.path().join("index"))?;
    std::fs::write(directory.path().join("index/walk"), "")?;
    let ended = walk.run(directory.path(), &["udp", "10.0.0.1", "53"], None)?;
    let path = directory.path().display();
    let expected = format!("walk: {path}/index/walk: Permission denied (errno 13)\n");
    ensure!(ended.code == Some(1) && ended.err == expected, "{ended:?}");
    Ok(())
}

/// Three clients of each backend, and a server for each, in one netns.
struct Four {
    client: Client,
    netns: Netns,
    _servers: Vec<Echo>,
}

const ADDRESSES: [&str; 2] = ["10.96.7.1", "fd96:7::1"];
const EACH: u32 = 3;

impl Four {
    fn new(cgroup: &Cgroup) -> Result<Self> {
        let netns = Netns::create("walk")?;
        let options = SpawnOptions { label: "walk", cgroup: Some(cgroup), netns: Some(&netns) };
        let mut servers = Vec::new();
        let mut client = None;
        for (address, protocol) in kinds() {
            let addr = std::net::SocketAddr::new(address.parse()?, 53);
            if protocol == Protocol::Udp {
                netns.add_address(addr.ip())?;
            }
            servers.push(Echo::start(protocol, addr, &[&netns], Mode::Echo)?);
            let client = match &mut client {
                Some(client) => client,
                none => none.insert(Client::spawn(&options)?),
            };
            let many =
                OpenMany { netns: NetnsRef::Own, protocol, count: EACH, connect: addr, timeout_ms: 10_000 };
            ensure!(client.open_many(many)?.failed == 0, "cannot connect to {addr}");
        }
        Ok(Self { client: client.context("no client")?, netns, _servers: servers })
    }

    /// The cookies of the sockets of the `n`th kind.
    fn cookies(&mut self, n: usize) -> Result<Vec<u64>> {
        let first = u32::try_from(n)? * EACH;
        let mut cookies = self.client.cookies(Selection::Range { first, count: EACH })?;
        cookies.sort_unstable();
        Ok(cookies)
    }
}

/// Both families, UDP first.
fn kinds() -> impl Iterator<Item = (&'static str, Protocol)> {
    ADDRESSES.into_iter().flat_map(|address| [(address, Protocol::Udp), (address, Protocol::Tcp)])
}

/// The cookies of the lines, each of which ends like that.
fn found(walked: &Ended, end: &str) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    for line in walked.out.lines() {
        ensure!(line.ends_with(end), "{walked:?}");
        found.push(line.split(' ').nth(1).and_then(|cookie| cookie.parse().ok()).context("no cookie")?);
    }
    found.sort_unstable();
    Ok(found)
}

fn the_pinned_walk_from_c() -> Result<()> {
    let walk = Walk::build()?;
    let bpffs = Bpffs::create()?;
    let pins = bpffs.path("skreap");
    let pin = pins.to_str().context("not UTF-8")?;
    let mut serve = Serve::start_with("cli-walk", &["--max-sockets", "2000", "--pin", pin])?;
    let mut four = Four::new(&serve.cgroup)?;
    for (n, (address, protocol)) in kinds().enumerate() {
        let walked = walk.run(&pins, &[protocol.name(), address, "53"], None)?;
        ensure!(walked.code == Some(0) && walked.err.is_empty(), "{walked:?}");
        ensure!(found(&walked, "")? == four.cookies(n)?, "{address} {protocol}: {walked:?}");
    }
    // The IPv4-mapped spelling is the same backend.
    let walked = walk.run(&pins, &["udp", "::ffff:10.96.7.1", "53"], None)?;
    ensure!(walked.code == Some(0) && found(&walked, "")? == four.cookies(0)?, "{walked:?}");

    // From another netns nothing can be destroyed, and nothing is.
    let elsewhere = " NOT destroyed: it is in another netns, run this there";
    let walked = walk.run(&pins, &["udp", ADDRESSES[0], "53", "destroy"], None)?;
    ensure!(walked.code == Some(3) && found(&walked, elsewhere)? == four.cookies(0)?, "{walked:?}");
    ensure!(four.client.echo_all(Selection::All, 10_000)?.answered() == 4 * EACH, "a socket was touched");

    // One kind after the other; each time all others still get their answers.
    for (n, (address, protocol)) in kinds().enumerate() {
        let before = four.cookies(n)?;
        let walked = walk.run(&pins, &[protocol.name(), address, "53", "destroy"], Some(&four.netns))?;
        ensure!(walked.code == Some(0) && walked.err.is_empty(), "{walked:?}");
        ensure!(found(&walked, " destroyed")? == before, "{address} {protocol}: {walked:?}");
        let mut destroyed = four.client.destroyed(Selection::All)?;
        destroyed.sort_unstable();
        ensure!(destroyed == before, "{address} {protocol}: {destroyed:?} instead of {before:?}");
        let rest = (n as u32 + 1) * EACH..4 * EACH;
        let rest = Selection::Range { first: rest.start, count: rest.end - rest.start };
        ensure!(
            four.client.echo_all(rest, 10_000)?.lost.is_empty(),
            "{address} {protocol}: another was touched"
        );
        let walked = walk.run(&pins, &[protocol.name(), address, "53"], None)?;
        ensure!(walked.code == Some(0) && walked.out.is_empty(), "{walked:?}");
    }

    drop(four);
    serve.signal(libc::SIGTERM)?;
    ensure!(serve.ended()?.code == Some(0));
    ensure!(run(&["unload", "--pin", pin])?.code == Some(0));
    serve.nothing_left()
}
