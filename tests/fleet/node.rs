//! A node: `skreap serve`, `skreap-watch`, a load balancer as dataplane, and clients.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;
use skreap_testbed::bpf::LoadBalancer;
use skreap_testbed::{
    Cgroup, Client, Netns, NetnsRef, Op, OpenMany, Protocol, Reply, Selection, SpawnOptions,
};

use crate::cluster::{Cluster, Pod};
use crate::kubelet;
use crate::process::{LONG, Process, until};

/// Where pods listen; their Service listens at 53.
const PORT: u16 = 5353;
/// How long those are waited for that must not come: longer than the settle time.
const QUIET: Duration = Duration::from_millis(1500);
const SETTLE_MS: &str = "500";

/// What was seen at all looks at the clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Sockets of pods that are gone, and destroyed.
    pub destroyed: usize,
    /// Sockets of pods that live, and not touched, at the last look.
    pub kept: usize,
    /// Sockets of pods that are gone which are still connected.
    pub missed: usize,
    /// Sockets of pods that live which were destroyed.
    pub wrong: usize,
}

/// One machine of the fleet.
pub struct Node {
    folder: PathBuf,
    arguments: Vec<String>,
    serve: Option<Process>,
    watch: Option<Process>,
    client: Client,
    balancer: LoadBalancer,
    /// Sockets that were opened and are neither destroyed nor missed, by the pod's address.
    open: BTreeMap<Ipv4Addr, usize>,
    pub totals: Totals,
    cgroup: Cgroup,
    _netns: Netns,
}

impl Node {
    /// A node with the service.
    pub fn new(cluster: &Cluster, label: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut node = Self::bare(cluster, label, arguments)?;
        node.serve()?;
        Ok(node)
    }

    /// A node with nothing but clients, which have no sockets yet.
    pub fn bare(cluster: &Cluster, label: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        let (cgroup, netns) = (Cgroup::create(label)?, Netns::create(label)?);
        for n in 1..=kubelet::ADDRESSES {
            netns.add_address(IpAddr::V4(kubelet::address(n)))?;
        }
        let client = Client::spawn(&SpawnOptions { label, cgroup: Some(&cgroup), netns: Some(&netns) })?;
        let balancer = LoadBalancer::attach(&[], cgroup.open()?.as_fd())?;
        Ok(Self {
            folder: cluster.folder.path().to_owned(),
            arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
            serve: None,
            watch: None,
            client,
            balancer,
            open: BTreeMap::new(),
            totals: Totals::default(),
            cgroup,
            _netns: netns,
        })
    }

    /// Where the clients are.
    pub fn cgroup(&self) -> &Path {
        self.cgroup.path()
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("skreap.sock")
    }

    pub fn serve(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(crate::skreap());
        command.arg("serve").arg("--frontends").arg("--cgroup").arg(self.cgroup.path());
        command.arg("--source").arg(format!("unix:{}", self.socket().display()));
        let log = fs::File::options().create(true).append(true).open(self.folder.join("serve.log"))?;
        self.serve = Some(Process::start(command.stdout(Stdio::null()).stderr(log))?);
        until("the service listens", || UnixStream::connect(self.socket()).is_ok())
    }

    /// Starts the watcher; it need not reach anybody.
    pub fn start_watch(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skreap-watch"));
        command.arg("kubernetes").args(&self.arguments);
        if !self.arguments.iter().any(|text| text == "--settle-ms") {
            command.args(["--settle-ms", SETTLE_MS]);
        }
        command.arg("--kubeconfig").arg(self.folder.join("watch.conf")).arg("--socket").arg(self.socket());
        let log = fs::File::options().create(true).append(true).open(self.folder.join("watch.log"))?;
        self.watch = Some(Process::start(command.stderr(log))?);
        Ok(())
    }

    /// Starts the watcher, and waits for its first list.
    pub fn watch(&mut self) -> anyhow::Result<()> {
        let before = self.lists();
        self.start_watch()?;
        until("the slices are listed", || self.lists() > before)
    }

    pub fn watch_pid(&self) -> Option<u32> {
        self.watch.as_ref().map(Process::id)
    }

    /// Has the clients do something; [`receive`](Self::receive) waits for it.
    pub fn send(&mut self, op: &Op) -> anyhow::Result<()> {
        Ok(self.client.send(op)?)
    }

    pub fn receive(&mut self) -> anyhow::Result<Reply> {
        Ok(self.client.receive()?)
    }

    /// Lists that watchers of this node have made.
    pub fn lists(&self) -> usize {
        self.log().matches(" slices listed").count()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("watch.log")).unwrap_or_default()
    }

    pub fn kill_watch(&mut self) -> anyhow::Result<()> {
        self.watch.take().context("no watcher")?.end(Signal::SIGKILL)?;
        Ok(())
    }

    pub fn kill_serve(&mut self) -> anyhow::Result<()> {
        self.serve.take().context("no service")?.end(Signal::SIGKILL)?;
        Ok(())
    }

    /// Opens clients of a Service that the load balancer leads to this pod.
    pub fn open(&mut self, service: &str, pod: Ipv4Addr, count: u32) -> anyhow::Result<()> {
        let pair = (format!("udp://{service}:53").parse()?, format!("udp://{pod}:{PORT}").parse()?);
        self.balancer.exchange(&[pair])?;
        let connect: SocketAddr = format!("{service}:53").parse()?;
        let (netns, protocol) = (NetnsRef::Own, Protocol::Udp);
        let many = OpenMany { netns, protocol, count, connect, timeout_ms: 10_000 };
        let Reply::OpenedMany(opened) = self.client.call(&Op::OpenMany(many))? else { bail!("not opened") };
        anyhow::ensure!(opened.failed == 0, "{:?}", opened.first_error);
        *self.open.entry(pod).or_default() += count as usize;
        Ok(())
    }

    /// As [`open`](Self::open), if the pod has no clients.
    pub fn refill(&mut self, service: &str, pod: Ipv4Addr, count: u32) -> anyhow::Result<()> {
        if self.open.contains_key(&pod) { Ok(()) } else { self.open(service, pod, count) }
    }

    /// Sockets that still have this peer.
    pub fn of(&mut self, pod: Ipv4Addr) -> anyhow::Result<usize> {
        Ok(self.connected()?.get(&pod).copied().unwrap_or(0))
    }

    /// Addresses of pods that lived at the last look and have clients.
    pub fn living(&self) -> Vec<Ipv4Addr> {
        self.open.keys().copied().collect()
    }

    /// Sockets that still have their peer, by the pod's address.
    fn connected(&mut self) -> anyhow::Result<BTreeMap<Ipv4Addr, usize>> {
        let Reply::States(states) = self.client.call(&Op::States { sockets: Selection::All })? else {
            bail!("no states")
        };
        let mut connected = BTreeMap::new();
        for peer in states.into_iter().filter_map(|state| state.peer) {
            if let (IpAddr::V4(address), PORT) = (peer.ip(), peer.port()) {
                *connected.entry(address).or_default() += 1;
            }
        }
        Ok(connected)
    }

    /// Waits until the sockets of all pods but these are destroyed, and a little longer for those of these. What is wrong
    /// is counted once.
    pub fn look(&mut self, living: &[Pod]) -> anyhow::Result<()> {
        let living: BTreeSet<Ipv4Addr> = living.iter().map(|pod| pod.address).collect();
        let end = Instant::now() + LONG;
        while self.connected()?.keys().any(|address| !living.contains(address)) && Instant::now() < end {
            thread::sleep(Duration::from_millis(20));
        }
        thread::sleep(QUIET);
        let connected = self.connected()?;
        self.totals.kept = 0;
        for (address, opened) in std::mem::take(&mut self.open) {
            let left = connected.get(&address).copied().unwrap_or(0);
            if living.contains(&address) {
                self.totals.kept += left;
                self.totals.wrong += opened - left;
                self.open.insert(address, left);
            } else {
                self.totals.missed += left;
                self.totals.destroyed += opened - left;
            }
        }
        Ok(())
    }
}
