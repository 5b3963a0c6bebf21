//! What scripts run in: a cgroup, two standing namespaces with backends, client processes, and a reaper whose hooks
//! and index are pinned. A world is used by many scripts, one after the other; each has to leave it empty.

use std::env;
use std::os::fd::AsFd as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use skreap::Reaper;
use skreap::bpf::pin::Pins;
use skreap::bpf::{Config, Counters};
use skreap::choice::EngineChoice;
use skreap::core::{EngineName, Protocol, Unconnected};
use skreap_testbed::bpf::LoadBalancer;
use skreap_testbed::{self as testbed, Bpffs, Cgroup, Client, Echo, Mode, Netns, SpawnOptions};

use crate::frontends::BEHIND;
use crate::module::Module;
use crate::multipath;
use crate::script::{CLIENTS, Link, Named, Place, SLOTS, STANDING};

/// How long the kernel may take to close what a killed process had.
const PATIENCE: Duration = Duration::from_secs(10);

/// Long enough for all whose locks nobody holds, on a machine that is busy.
const VICTIM_TIMEOUT: Duration = Duration::from_millis(300);

/// A kind of world.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub name: &'static str,
    /// How often, among the others: a scan of everything takes a hundred times as long as a walk.
    pub weight: u32,
    pub engine: EngineName,
    pub unconnected: Unconnected,
    pub max_sockets: u32,
    pub max_memberships: u32,
    /// The module comes and goes, so there may be references or not.
    pub module: bool,
    /// Room for so many frontends; 0: none are recorded, and nothing translates.
    pub frontends: u32,
}

const PLAIN: Kind = Kind {
    name: "plain",
    weight: 6,
    engine: EngineName::Netlink,
    unconnected: Unconnected::Preserve,
    max_sockets: 1024,
    max_memberships: 63,
    module: false,
    frontends: 0,
};

const KFUNC: Kind = Kind { name: "kfunc", engine: EngineName::Kfunc, ..PLAIN };

/// Name of the world in which the module comes and goes.
pub const MODULE: &str = "module";

/// Every kind. `full`: the index holds less than the scripts open. `wildcard`: a socket with more than two peers is in
/// the bucket that every walk visits.
pub const KINDS: [Kind; 14] = [
    PLAIN,
    Kind { name: "full", weight: 2, max_sockets: 6, ..PLAIN },
    Kind { name: "wildcard", max_memberships: 2, ..PLAIN },
    Kind { name: "unconnected", unconnected: Unconnected::Destroy, ..PLAIN },
    Kind { name: "sharded", max_sockets: 32_768, ..PLAIN },
    Kind { name: "frontends", weight: 3, frontends: 64, ..PLAIN },
    Kind { name: "iter", weight: 1, engine: EngineName::Iter, ..PLAIN },
    Kind { name: "diag", weight: 1, engine: EngineName::Diag, ..PLAIN },
    KFUNC,
    Kind { name: "kfunc-full", weight: 3, max_sockets: 6, ..KFUNC },
    Kind { name: "kfunc-wildcard", weight: 3, max_memberships: 2, ..KFUNC },
    Kind { name: "kfunc-unconnected", weight: 3, unconnected: Unconnected::Destroy, ..KFUNC },
    Kind { name: "kfunc-sharded", weight: 3, max_sockets: 32_768, ..KFUNC },
    Kind { name: MODULE, weight: 1, module: true, ..KFUNC },
];

impl Kind {
    pub fn named(name: &str) -> Result<Self> {
        KINDS.into_iter().find(|kind| kind.name == name).with_context(|| format!("no world {name:?}"))
    }

    /// The same with engine `kfunc`, if there is one.
    pub fn with_kfunc(name: &str) -> Option<Self> {
        let name = if name == PLAIN.name { KFUNC.name.to_owned() } else { format!("kfunc-{name}") };
        KINDS.into_iter().find(|kind| kind.name == name)
    }

    /// The kinds that `SKREAP_MODEL_WORLDS` names, with commas; all without it.
    pub fn wanted() -> Result<Vec<Self>> {
        let Some(names) = env::var_os("SKREAP_MODEL_WORLDS") else { return Ok(KINDS.to_vec()) };
        let names = names.to_str().context("SKREAP_MODEL_WORLDS is not UTF-8")?;
        names.split(',').map(Self::named).collect()
    }

    /// True if scripts open more than its index has room for.
    pub fn is_small(&self) -> bool {
        self.max_sockets < u32::from(SLOTS)
    }

    /// True if it is the kernel module that it needs.
    pub fn needs_module(&self) -> bool {
        self.engine == EngineName::Kfunc
    }

    /// What this machine lacks for it.
    pub fn missing(&self) -> Option<String> {
        if self.frontends > 0 {
            let findings = skreap::probe::all();
            let lacks =
                findings.features.into_iter().find(|found| found.feature == "frontends" && !found.works);
            return lacks.map(|found| found.detail);
        }
        if self.engine != EngineName::Kfunc {
            return None;
        }
        match skreap::bpf::module::look() {
            Err(error) => Some(error.to_string()),
            Ok(_) => self.module.then(Module::find).and_then(Result::err).map(|error| error.to_string()),
        }
    }
}

pub struct World {
    // Dropped in this order: nothing may be inside the cgroup when its turn comes.
    reaper: Option<Reaper>,
    /// Translates virtual addresses where frontends are recorded.
    _balancer: Option<LoadBalancer>,
    clients: [Option<Client>; CLIENTS as usize],
    _echoes: Vec<Echo>,
    netns: Vec<Netns>,
    /// What is at the other ends of their links.
    _hosts: Vec<Netns>,
    /// Has the listeners of MPTCP.
    _server: Option<Client>,
    cgroup: Cgroup,
    bpffs: Bpffs,
    kind: Kind,
    spawned: u32,
    /// Where it comes and goes.
    module: Option<Module>,
    /// The index was made with the module.
    held: bool,
    /// A socket that connected to a zero address may have found no room, so the index may lack one of any backend.
    pub unsure: bool,
    /// A socket of MPTCP may have connected since the index was made: it notes the backend, and for ever.
    pub noted: bool,
    /// The reaper has found the module when it started, so its programs use it, whether they have a need for it or not.
    found: bool,
}

/// The module has gone.
#[derive(Clone, Copy, Debug)]
pub struct Removed {
    /// For that the index was made anew.
    pub anew: bool,
}

impl World {
    pub fn new(kind: Kind) -> Result<Self> {
        let cgroup = Cgroup::create(&format!("model-{}", kind.name))?;
        let netns: Vec<Netns> =
            (0..STANDING).map(|i| fresh_netns(&format!("model-{}-{i}", kind.name))).collect::<Result<_>>()?;
        let all: Vec<&Netns> = netns.iter().collect();
        let mut echoes = Vec::new();
        for place in Place::SERVED {
            for protocol in [Protocol::Udp, Protocol::Tcp] {
                echoes.push(Echo::start(protocol, place.addr(), &all, Mode::Echo)?);
            }
        }
        let server = multipath::has_mptcp().then(|| multipath::serve(kind.name, &netns)).transpose()?;
        let hosts = netns.iter().map(links).collect::<Result<Vec<_>>>()?;
        let balancer = (kind.frontends > 0).then(|| balance(&cgroup)).transpose()?;
        let mut world = Self {
            reaper: None,
            _balancer: balancer,
            clients: [const { None }; CLIENTS as usize],
            _echoes: echoes,
            netns,
            _server: server,
            _hosts: hosts.into_iter().flatten().collect(),
            cgroup,
            bpffs: Bpffs::create()?,
            kind,
            spawned: 0,
            module: kind.module.then(Module::find).transpose()?,
            held: kind.engine == EngineName::Kfunc,
            unsure: false,
            noted: false,
            found: false,
        };
        world.restart()?;
        Ok(world)
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn netns(&self, netns: u8) -> Option<&Netns> {
        self.netns.get(usize::from(netns))
    }

    /// Another reaper takes over what the last one has pinned.
    pub fn restart(&mut self) -> Result<()> {
        self.reaper = None;
        let reaper = Reaper::builder()
            .cgroup(self.cgroup.path())
            .config(
                Config::default()
                    .max_sockets(self.kind.max_sockets)
                    .buckets(64)
                    .max_memberships(self.kind.max_memberships)
                    .frontends(self.kind.frontends),
            )
            .engine(if self.kind.module { EngineChoice::Auto } else { EngineChoice::Named(self.kind.engine) })
            .unconnected(self.kind.unconnected)
            .pending_wait(Duration::from_millis(1))
            .victim_timeout(VICTIM_TIMEOUT)
            .pin(self.bpffs.path("pins"))
            .build()?;
        let (engine, held) = (reaper.engine(), self.held);
        ensure!(!self.kind.module || (engine == EngineName::Kfunc) == held, "{engine}, references: {held}");
        self.reaper = Some(reaper);
        self.found = self.module.as_ref().is_some_and(|module| module.loaded);
        Ok(())
    }

    /// Another reaper starts from nothing.
    pub fn anew(&mut self) -> Result<()> {
        self.unload()?;
        self.held = self.module.as_ref().map_or(self.held, |module| module.loaded);
        self.restart()
    }

    fn unload(&mut self) -> Result<()> {
        self.reaper = None;
        (self.unsure, self.noted) = (false, false);
        ensure!(Pins::lock(&self.bpffs.path("pins"))?.remove()?, "there were no pins");
        Ok(())
    }

    /// `None` if it is there, or does not come and go.
    pub fn insmod(&mut self) -> Result<Option<()>> {
        let Some(module) = self.module.as_mut().filter(|module| !module.loaded) else { return Ok(None) };
        module.load().map(Some)
    }

    /// `None` if it is not there, or does not come and go.
    pub fn rmmod(&mut self) -> Result<Option<Removed>> {
        let Some(module) = self.module.as_mut().filter(|module| module.loaded) else { return Ok(None) };
        let anew = self.found;
        if anew {
            ensure!(!module.unload()?, "the module went though a reaper uses it");
            self.reaper = None;
            ensure!(!module.unload()?, "the module went though pinned programs use it");
            self.unload()?;
        }
        let deadline = Instant::now() + PATIENCE;
        let Some(module) = &mut self.module else { return Ok(None) };
        // Maps are freed a moment after the last process that had them.
        while !module.unload()? {
            ensure!(Instant::now() < deadline, "nothing uses the module, and it does not go");
            thread::sleep(Duration::from_millis(10));
        }
        if anew {
            self.held = false;
            self.restart()?;
        }
        Ok(Some(Removed { anew }))
    }

    /// As every script finds it: with the module, and an index that was made with it.
    pub fn renew(&mut self) -> Result<()> {
        self.insmod()?;
        if self.kind.module && !self.held {
            self.anew()?;
        }
        Ok(())
    }

    pub fn reaper(&mut self) -> Result<&mut Reaper> {
        self.reaper.as_mut().context("no reaper")
    }

    pub fn counters(&mut self) -> Result<Counters> {
        Ok(self.reaper()?.counters()?)
    }

    /// The process, made anew if it was killed.
    pub fn client(&mut self, client: u8) -> Result<&mut Client> {
        let slot = &mut self.clients[usize::from(client % CLIENTS)];
        if slot.is_none() {
            self.spawned += 1;
            let netns = &self.netns[usize::from(client) % self.netns.len()];
            *slot = Some(Client::spawn(&SpawnOptions {
                label: &format!("model{client}-{}", self.spawned),
                cgroup: Some(&self.cgroup),
                netns: Some(netns),
            })?);
        }
        slot.as_mut().context("no client")
    }

    /// Kills it, if it is there.
    pub fn kill(&mut self, client: u8) -> Result<()> {
        self.clients[usize::from(client % CLIENTS)].take().map_or(Ok(()), Client::kill)
    }

    /// The cookies of the sockets in the index, once for each node.
    pub fn recorded(&mut self) -> Result<Vec<u64>> {
        let mut cookies = Vec::new();
        let counts = self
            .reaper()?
            .index()
            .walker()?
            .walk_all(|batch| cookies.extend(batch.iter().map(|v| v.cookie())))?;
        ensure!(counts.stale == 0, "nodes without their sockets: {counts:?}");
        Ok(cookies)
    }

    /// As [`check_counters`](Self::check_counters), and the audit agrees.
    pub fn check_index(&mut self) -> Result<Counters> {
        let counters = self.check_counters()?;
        let audit = self.reaper()?.audit()?;
        ensure!(audit.agrees && audit.missed == 0, "the audit differs: {audit:?}");
        ensure!(audit.incomplete == 0 || self.kind.is_small(), "not indexed: {audit:?}");
        Ok(counters)
    }

    /// What must hold at any time: no node is lost, counted twice, or without its socket.
    pub fn check_counters(&mut self) -> Result<Counters> {
        let nodes = self.recorded()?.len() as u64;
        let counters = self.counters()?;
        ensure!(counters.live() == nodes, "{nodes} nodes are not inserts without removals: {counters:?}");
        ensure!(counters.balanced(), "a node is lost or counted twice: {counters:?}");
        ensure!(counters.stale == 0 && counters.dropped_chain == 0, "alarm: {counters:?}");
        Ok(counters)
    }

    /// Ends everything that a failed script has left.
    pub fn clear(&mut self) -> Result<()> {
        (0..CLIENTS).try_for_each(|client| self.kill(client))?;
        self.check_empty()?;
        self.renew()
    }

    /// Waits until the index holds nothing, and checks that it is whole.
    pub fn check_empty(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.counters()?.live() > 0 {
            if Instant::now() > deadline {
                bail!(
                    "sockets that are gone are still recorded: {:?}, {:?}",
                    self.recorded()?,
                    self.counters()?
                );
            }
            thread::sleep(Duration::from_millis(1));
        }
        let counters = self.check_index()?;
        ensure!(counters.free_nodes == counters.capacity, "the free list is not complete: {counters:?}");
        Ok(())
    }
}

/// Attached before the hooks.
fn balance(cgroup: &Cgroup) -> Result<LoadBalancer> {
    let named = |place| Named { protocol: Protocol::Udp, place }.backend();
    let entries = [(named(Place::Vip)?, named(BEHIND)?), (named(Place::Vip2)?, named(BEHIND)?)];
    Ok(LoadBalancer::attach(&entries, cgroup.open()?.as_fd())?)
}

/// A netns in which every place has its address.
pub fn fresh_netns(label: &str) -> Result<Netns> {
    let netns = Netns::create(label)?;
    for place in Place::ADDED {
        netns.add_address(place.addr().ip())?;
    }
    // The routes of IPv6 addresses are put in place from a work queue.
    for place in [Place::D, Place::E] {
        let deadline = Instant::now() + PATIENCE;
        let arrives = || -> std::io::Result<()> {
            let receiver = std::net::UdpSocket::bind((place.addr().ip(), 0))?;
            receiver.set_read_timeout(Some(Duration::from_millis(20)))?;
            let sender = std::net::UdpSocket::bind((place.addr().ip(), 0))?;
            sender.connect(receiver.local_addr()?)?;
            sender.send(b"there?")?;
            receiver.recv(&mut [0; 8]).map(drop)
        };
        netns.run(|| {
            while let Err(error) = arrives() {
                ensure!(Instant::now() < deadline, "nothing arrives at {}: {error}", place.addr());
                thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        })??;
    }
    Ok(netns)
}

/// Gives a netns its links, and returns the netns at the other ends.
fn links(netns: &Netns) -> Result<Vec<Netns>> {
    let label = netns.name().split_once("model").map_or(netns.name(), |(_, rest)| rest);
    let one = |link: Link| {
        let far = Netns::create(&format!("model{label}-{}", link.name()))?;
        netns.join(link.name(), "fe80::a".parse()?, &far, Link::addr().ip(), 64)?;
        Ok(far)
    };
    Link::ALL.into_iter().map(one).collect()
}

/// What this machine lacks to run scripts, in one line.
pub fn missing() -> Option<String> {
    let findings = skreap::probe::all();
    let lacks = findings.features.iter().find(|finding| finding.required && !finding.works);
    if let Some(finding) = lacks {
        return Some(format!("{}: {}", finding.feature, finding.detail));
    }
    testbed::raise_nofile_limit().err().map(|error| format!("descriptors: {error}"))
}
