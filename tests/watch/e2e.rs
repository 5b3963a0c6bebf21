//! The whole way: a key of a real etcd, `skreap-watch`, `skreap serve`, and real sockets in a network namespace.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use nix::sys::signal::Signal;
use skreap_testbed::{
    Cgroup, Client, Netns, NetnsRef, Op, OpenMany, Protocol, Reply, Selection, SpawnOptions,
};
use tempfile::TempDir;

use crate::etcd_server::{self, Etcd};
use crate::process::{LONG, Process, until};

crate::tests!(
    a_deleted_key_destroys_its_sockets_and_no_others,
    a_watcher_that_was_killed_is_followed_by_another,
    the_service_is_killed_and_told_again,
);

/// What is missing, beside etcd.
pub fn lacks() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root: sockets are destroyed".to_owned());
    }
    if !skreap().exists() {
        return Some(format!("{} is missing: build the package skreap first", skreap().display()));
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Some("the kernel has no BTF".to_owned());
    }
    etcd_server::lacks()
}

/// The command beside ours.
fn skreap() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_skreap-watch")).with_file_name("skreap")
}

pub const A: (&str, &str) = ("/skreap/udp/10.0.0.1:53", "10.0.0.1:53");
const B: (&str, &str) = ("/skreap/tcp/10.0.0.2:80", "10.0.0.2:80");
const C: (&str, &str) = ("/skreap/udp/10.0.0.3:53", "10.0.0.3:53");

/// Everything on the way, and clients.
pub struct World {
    pub etcd: Etcd,
    watch: Option<Process>,
    serve: Option<Process>,
    client: Client,
    pub folder: TempDir,
    cgroup: Cgroup,
    /// Where the service and the watcher serve metrics.
    metrics: Option<[SocketAddr; 2]>,
    _netns: Netns,
}

impl World {
    /// 23 UDP sockets of A, 5 of C; all three keys are there.
    fn new(label: &str) -> anyhow::Result<Self> {
        Self::with_metrics(label, None)
    }

    pub fn with_metrics(label: &str, metrics: Option<[SocketAddr; 2]>) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let etcd = Etcd::start(folder.path())?;
        etcd.put(&[A.0, B.0, C.0])?;
        let (cgroup, netns) = (Cgroup::create(label)?, Netns::create(label)?);
        for (_, address) in [A, B, C] {
            netns.add_address(address.parse::<SocketAddr>()?.ip())?;
        }
        let options = SpawnOptions { label, cgroup: Some(&cgroup), netns: Some(&netns) };
        let client = Client::spawn(&options)?;
        let mut world =
            Self { etcd, watch: None, serve: None, client, folder, cgroup, metrics, _netns: netns };
        world.open(23, A.1)?;
        world.open(5, C.1)?;
        world.serve()?;
        world.watch()?;
        Ok(world)
    }

    fn open(&mut self, count: u32, address: &str) -> anyhow::Result<()> {
        let connect = address.parse()?;
        let (netns, protocol) = (NetnsRef::Own, Protocol::Udp);
        let many = OpenMany { netns, protocol, count, connect, timeout_ms: 10_000 };
        let Reply::OpenedMany(_) = self.client.call(&Op::OpenMany(many))? else { bail!("not opened") };
        Ok(())
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("skreap.sock")
    }

    fn serve(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(skreap());
        command.arg("serve").arg("--cgroup").arg(self.cgroup.path());
        command.arg("--source").arg(format!("unix:{}", self.socket().display()));
        if let Some([metrics, _]) = self.metrics {
            command.arg("--metrics").arg(metrics.to_string());
        }
        command.stdout(Stdio::null()).stderr(Stdio::null());
        self.serve = Some(Process::start(&mut command)?);
        until("the service listens", || UnixStream::connect(self.socket()).is_ok())
    }

    fn watch(&mut self) -> anyhow::Result<()> {
        let log = self.folder.path().join("log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_skreap-watch"));
        command.args(["etcd", "--settle-ms", "300", "--endpoints", &self.etcd.endpoint()]);
        command.arg("--socket").arg(self.socket()).stderr(std::fs::File::create(&log)?);
        if let Some([_, metrics]) = self.metrics {
            command.arg("--metrics").arg(metrics.to_string());
        }
        self.watch = Some(Process::start(&mut command)?);
        let read = || std::fs::read_to_string(&log).unwrap_or_default();
        until("the keys are listed", || read().contains("listed") && read().contains("connected"))
    }

    pub fn kill_watch(&mut self) -> anyhow::Result<()> {
        Self::kill(&mut self.watch)
    }

    fn kill(process: &mut Option<Process>) -> anyhow::Result<()> {
        if let Some(process) = process.take() {
            process.end(Signal::SIGKILL)?;
        }
        Ok(())
    }

    /// Waits until so many sockets are destroyed, and a second longer for those that should not be. Returns how many
    /// of each backend still have their peer.
    pub fn destroyed(&mut self, expected: usize) -> anyhow::Result<(usize, usize)> {
        let all = self.peers()?.len();
        let end = Instant::now() + LONG;
        while all - self.peers()?.iter().flatten().count() < expected && Instant::now() < end {
            thread::sleep(Duration::from_millis(20));
        }
        thread::sleep(Duration::from_secs(1));
        let peers = self.peers()?;
        let of = |address: &str| peers.iter().flatten().filter(|peer| peer.to_string() == address).count();
        Ok((of(A.1), of(C.1)))
    }

    /// The peer of each socket; a destroyed one has none.
    fn peers(&mut self) -> anyhow::Result<Vec<Option<SocketAddr>>> {
        match self.client.call(&Op::States { sockets: Selection::All })? {
            Reply::States(states) => Ok(states.into_iter().map(|state| state.peer).collect()),
            other => bail!("no states: {other:?}"),
        }
    }
}

fn a_deleted_key_destroys_its_sockets_and_no_others() -> anyhow::Result<()> {
    let mut world = World::new("watch-e2e")?;
    world.etcd.delete(A.0)?;
    let left = world.destroyed(23)?;
    ensure!(left == (0, 5), "sockets of A and C: {left:?}");
    Ok(())
}

fn a_watcher_that_was_killed_is_followed_by_another() -> anyhow::Result<()> {
    let mut world = World::new("watch-kill")?;
    World::kill(&mut world.watch)?;
    world.watch()?;
    world.etcd.delete(C.0)?;
    let left = world.destroyed(5)?;
    ensure!(left == (23, 0), "sockets of A and C: {left:?}");
    Ok(())
}

fn the_service_is_killed_and_told_again() -> anyhow::Result<()> {
    let mut world = World::new("watch-serve")?;
    World::kill(&mut world.serve)?;
    world.etcd.delete(A.0)?;
    let log = world.folder.path().join("log");
    until("it is decided", || {
        std::fs::read_to_string(&log).unwrap_or_default().contains("10.0.0.1:53 is gone")
    })?;
    world.serve()?;
    let left = world.destroyed(23)?;
    ensure!(left == (0, 5), "sockets of A and C: {left:?}");
    Ok(())
}
