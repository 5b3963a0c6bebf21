//! What every test starts from, and what must hold at its end.

use std::net::IpAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use skreap::bpf::{Config, Counters, Victim, WalkCounts};
use skreap::choice::EngineChoice;
use skreap::core::{
    Action, Backend, EngineName, Event, Outcome, Report, Target, Through, Unconnected, VictimAction,
};
use skreap::listing::Listing;
use skreap::{Batch, Reaper};
use skreap_testbed::bpf::{Delay, LoadBalancer};
use skreap_testbed::{self as testbed, Cgroup, Client, Echo, Mode, Netns, NetnsRef, SpawnOptions};

use crate::case::uses_index;

/// How long a killed process may take until its last socket is released.
const RELEASE: Duration = Duration::from_secs(5);

/// What a test wants to start from.
#[derive(Clone, Copy, Debug)]
pub struct WorldOptions {
    /// Size of the index; below 16384 it has one shard and is exact to the node.
    pub max_sockets: u32,
    /// Buckets in each shard.
    pub buckets: u32,
    /// Peers of one socket before it is a wildcard.
    pub max_memberships: u32,
    /// What is done with sockets that only sent to the backend.
    pub unconnected: Unconnected,
    /// How many network namespaces.
    pub netns: usize,
    /// A load balancer attached before the hooks: virtual address and backend.
    pub balancer: &'static [(&'static str, &'static str)],
    /// How many releases the kernel may keep from us: about one in 10^7 sockets is closed without
    /// cgroup/sock_release running (see docs/architecture.md, *What is counted*). A walk has to find each of
    /// them and remove its nodes, so that everything else still holds exactly.
    pub missed_releases: u64,
    /// Most victims of one event.
    pub max_victims: Option<u64>,
    /// Most destroys per second.
    pub max_rate: Option<u64>,
    /// How long an event waits for pending connects.
    pub pending_wait: Duration,
    /// How long an event waits for a socket whose owner holds its lock.
    pub victim_timeout: Duration,
    /// Most threads that destroy, with those that wait.
    pub destroyers_max: NonZeroUsize,
    /// The hooks stay where they are, whatever is attached behind them.
    pub leave_order: bool,
    /// An RCU grace period before each event.
    pub grace: bool,
    /// Reports say whose the victims are.
    pub attribute: bool,
    /// Room for so many frontends; 0: none are recorded.
    pub frontends: u32,
    /// Sockets that may wait for a second look.
    pub reviving_max: u64,
}

impl Default for WorldOptions {
    fn default() -> Self {
        Self {
            max_sockets: 32_768,
            buckets: 1024,
            max_memberships: 63,
            unconnected: Unconnected::Preserve,
            netns: 1,
            balancer: &[],
            missed_releases: 0,
            max_victims: None,
            max_rate: None,
            pending_wait: Duration::from_millis(1),
            victim_timeout: skreap::VICTIM_TIMEOUT,
            destroyers_max: NonZeroUsize::new(skreap::engine::DESTROYERS_MAX).unwrap_or(NonZeroUsize::MIN),
            leave_order: false,
            grace: false,
            attribute: false,
            frontends: 0,
            reviving_max: skreap::REVIVING_MAX,
        }
    }
}

/// A cgroup with the hooks, a reaper, network namespaces and backends.
pub struct World {
    // Dropped in this order: nothing may be inside a cgroup when its turn comes.
    reaper: Reaper,
    balancer: Option<LoadBalancer>,
    echoes: Vec<Echo>,
    netns: Vec<Netns>,
    inside: Cgroup,
    outside: Cgroup,
    addresses: Vec<IpAddr>,
    unconnected: Unconnected,
    missed_releases: u64,
    events: u32,
}

impl World {
    /// Removes what killed runs have left, makes everything, attaches the hooks.
    pub fn new(options: &WorldOptions, engine: EngineName) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        testbed::sweep()?;
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let inside = Cgroup::create(&format!("world{id}-in"))?;
        let outside = Cgroup::create(&format!("world{id}-out"))?;
        let netns = (0..options.netns)
            .map(|i| Netns::create(&format!("world{id}-{i}")))
            .collect::<Result<Vec<_>>>()?;
        let balancer = if options.balancer.is_empty() {
            None
        } else {
            let entries = parse_entries(options.balancer)?;
            Some(LoadBalancer::attach(&entries, inside.open()?.as_fd())?)
        };
        let config = Config::default()
            .max_sockets(options.max_sockets)
            .buckets(options.buckets)
            .max_memberships(options.max_memberships)
            .frontends(options.frontends);
        let reaper = Reaper::builder()
            .cgroup(inside.path())
            .config(config)
            .engine(EngineChoice::Named(engine))
            .unconnected(options.unconnected)
            .max_victims(options.max_victims)
            .pending_wait(options.pending_wait)
            .victim_timeout(options.victim_timeout)
            .destroyers_max(options.destroyers_max)
            .leave_order(options.leave_order)
            .grace(options.grace)
            .attribute(options.attribute)
            .reviving_max(options.reviving_max)
            .max_rate(options.max_rate.and_then(NonZeroU64::new))
            // Nothing is older; and what is found elsewhere would be counted.
            .bootstrap(false)
            .build()?;
        let mut world = Self {
            reaper,
            balancer,
            echoes: Vec::new(),
            netns,
            inside,
            outside,
            addresses: Vec::new(),
            unconnected: options.unconnected,
            missed_releases: options.missed_releases,
            events: 0,
        };
        world.expect_empty().context("before the test")?;
        Ok(world)
    }

    // ---- backends ----

    /// Starts these backends in every netns; each answers with its name.
    pub fn serve(&mut self, backends: &[Backend]) -> Result<()> {
        backends.iter().try_for_each(|backend| self.serve_as(*backend, Mode::Echo))
    }

    /// Starts a backend that does something else than to answer.
    pub fn serve_as(&mut self, backend: Backend, mode: Mode) -> Result<()> {
        self.add_address(backend.addr())?;
        let netns: Vec<&Netns> = self.netns.iter().collect();
        let echo = Echo::start(backend.protocol(), backend.socket_addr(), &netns, mode)?;
        self.echoes.push(echo);
        Ok(())
    }

    /// Puts an address on `lo` in every netns, once.
    pub fn add_address(&mut self, addr: IpAddr) -> Result<()> {
        if !self.addresses.contains(&addr) {
            for netns in &self.netns {
                netns.add_address(addr)?;
            }
            self.addresses.push(addr);
        }
        Ok(())
    }

    // ---- clients ----

    /// A process in the cgroup, living in the first netns.
    pub fn client(&self, label: &str) -> Result<Client> {
        self.client_in(label, 0)
    }

    /// A process in the cgroup, living in this netns.
    pub fn client_in(&self, label: &str, netns: usize) -> Result<Client> {
        Client::spawn(&SpawnOptions { label, cgroup: Some(&self.inside), netns: Some(&self.netns[netns]) })
    }

    /// A process in another cgroup, living in the first netns.
    pub fn outsider(&self, label: &str) -> Result<Client> {
        Client::spawn(&SpawnOptions { label, cgroup: Some(&self.outside), netns: Some(&self.netns[0]) })
    }

    /// How a client finds a netns.
    pub fn place(&self, netns: usize) -> Result<NetnsRef> {
        self.netns[netns].reference()
    }

    pub fn netns(&self, netns: usize) -> &Netns {
        &self.netns[netns]
    }

    /// Deletes the name of a netns, and every reference this process has to it.
    pub fn forget_netns(&mut self, netns: usize) -> Result<()> {
        self.netns[netns].forget_name()
    }

    /// A fresh netns with this address, that belongs to the caller.
    pub fn fresh_netns(&self, label: &str, addr: IpAddr) -> Result<Netns> {
        let netns = Netns::create(label)?;
        netns.add_address(addr)?;
        Ok(netns)
    }

    /// A process in the cgroup, living in a netns of the caller's.
    pub fn client_at(&self, label: &str, netns: &Netns) -> Result<Client> {
        Client::spawn(&SpawnOptions { label, cgroup: Some(&self.inside), netns: Some(netns) })
    }

    // ---- the reaper ----

    /// Tells the reaper that the backend is gone.
    pub fn reap(&mut self, backend: Backend) -> Result<Report> {
        self.handle(backend, false)
    }

    /// Asks whom it would destroy.
    pub fn dry_run(&mut self, backend: Backend) -> Result<Report> {
        self.handle(backend, true)
    }

    fn handle(&mut self, backend: Backend, dry_run: bool) -> Result<Report> {
        self.tell(Action::BackendDeleted { backend }, dry_run)
    }

    /// Has an event handled, which must be possible.
    pub fn tell(&mut self, action: Action, dry_run: bool) -> Result<Report> {
        let event = self.event(action, dry_run);
        let report = self.reaper.handle(&event);
        if let Some(error) = &report.error {
            bail!("{}: {error}", event.action.name());
        }
        self.check(&event, report)
    }

    /// Has this event handled, which must be possible.
    pub fn tell_event(&mut self, event: &Event) -> Result<Report> {
        let report = self.reaper.handle(event);
        if let Some(error) = &report.error {
            bail!("{}: {error}", event.action.name());
        }
        self.check(event, report)
    }

    /// Has an event handled, whatever comes of it.
    pub fn attempt(&mut self, action: Action, dry_run: bool) -> Report {
        let event = self.event(action, dry_run);
        self.reaper.handle(&event)
    }

    /// Has an event handled that means only the clients of some frontends, which must be possible.
    pub fn tell_through(&mut self, action: Action, through: Through, dry_run: bool) -> Result<Report> {
        let event = self.event(action, dry_run).with_through(through);
        let report = self.reaper.handle(&event);
        if let Some(error) = &report.error {
            bail!("{}: {error}", event.action.name());
        }
        self.check(&event, report)
    }

    /// As [`tell_through`](Self::tell_through), whatever comes of it.
    pub fn attempt_through(&mut self, action: Action, through: Through, dry_run: bool) -> Report {
        let event = self.event(action, dry_run).with_through(through);
        self.reaper.handle(&event)
    }

    /// Has an event handled whose links are in this netns, which must be possible.
    pub fn tell_in(&mut self, action: Action, netns: &str, dry_run: bool) -> Result<Report> {
        let event = self.event(action, dry_run).with_netns(netns);
        let report = self.reaper.handle(&event);
        if let Some(error) = &report.error {
            bail!("{}: {error}", event.action.name());
        }
        self.check(&event, report)
    }

    /// As [`attempt`](Self::attempt), with the netns of links or without.
    pub fn attempt_in(&mut self, action: Action, netns: Option<&str>, dry_run: bool) -> Report {
        let mut event = self.event(action, dry_run);
        event.netns = netns.map(str::to_owned);
        self.reaper.handle(&event)
    }

    /// Has an event handled whose victims are not only destroyed; it must be possible.
    #[allow(dead_code, reason = "shared with the fault tests, which do not")]
    pub fn tell_to(&mut self, action: Action, victim_action: VictimAction) -> Result<Report> {
        let mut event = self.event(action, false);
        event.victim_action = Some(victim_action);
        let report = self.reaper.handle(&event);
        if let Some(error) = &report.error {
            bail!("{}: {error}", event.action.name());
        }
        event.dry_run = report.dry_run;
        self.check(&event, report)
    }

    /// Has events handled that were all received before the first.
    pub fn tell_together(&mut self, actions: &[Action]) -> Result<Vec<Report>> {
        let events: Vec<Event> = actions.iter().map(|action| self.event(action.clone(), false)).collect();
        self.tell_events_together(&events)
    }

    /// The same for whole events.
    pub fn tell_events_together(&mut self, events: &[Event]) -> Result<Vec<Report>> {
        let mut batch = Batch::default();
        let received = Instant::now();
        events
            .iter()
            .map(|event| {
                let report = self.reaper.handle_in(&mut batch, event, received);
                self.check(event, report)
            })
            .collect()
    }

    fn event(&mut self, action: Action, dry_run: bool) -> Event {
        self.events += 1;
        Event::new(format!("event-{}", self.events), action).with_dry_run(dry_run)
    }

    /// What must hold of every report.
    pub fn check(&self, event: &Event, report: Report) -> Result<Report> {
        let dry_run = event.dry_run;
        ensure!(report.id == event.id && report.dry_run == dry_run, "not this event's report: {report:?}");
        as_outcome(&report).balanced(dry_run).with_context(|| format!("{report:?}"))?;
        let ns = &report.ns;
        let phases = [ns.queue_ns, ns.order_ns, ns.pending_ns, ns.walk_ns, ns.destroy_ns, ns.other_ns];
        ensure!(phases.iter().sum::<u64>() == ns.total_ns, "the phases are not the total: {report:?}");
        ensure!(report.skipped.stale <= self.missed_releases, "nodes without their sockets: {report:?}");
        Ok(report)
    }

    /// The cgroup that the hooks are attached to.
    pub fn cgroup(&self) -> &Cgroup {
        &self.inside
    }

    /// What `serve` does about once a second.
    pub fn tidy(&mut self) {
        self.reaper.tidy();
    }

    /// True if the engine finds sockets through the index, so that `visited` and `skipped` count its nodes.
    pub fn uses_index(&self) -> bool {
        uses_index(self.reaper.engine())
    }

    pub fn reaper_mut(&mut self) -> &mut Reaper {
        &mut self.reaper
    }

    pub fn reaper(&self) -> &Reaper {
        &self.reaper
    }

    pub fn listing(&mut self) -> Result<Listing> {
        Ok(self.reaper.listing()?)
    }

    pub fn counters(&self) -> Result<Counters> {
        Ok(self.reaper.counters()?)
    }

    /// One walk for this backend, without any destroying.
    pub fn walk(&self, backend: Backend) -> Result<(WalkCounts, Vec<Victim>)> {
        let mut victims = Vec::new();
        let target = Target { backend, unconnected: self.unconnected, dry_run: true };
        let counts = self.reaper.index().walker()?.walk(&target, &mut victims)?;
        Ok((counts, victims))
    }

    /// Waits until the index holds this many nodes: the sockets of a killed process go when it is reaped.
    pub fn wait_for_nodes(&self, nodes: u64) -> Result<()> {
        let deadline = Instant::now() + RELEASE;
        while self.counters()?.live() != nodes {
            if Instant::now() > deadline {
                let mut left = Vec::new();
                self.reaper.index().walker()?.walk_all(|batch| left.extend_from_slice(batch))?;
                left.truncate(8);
                bail!(
                    "{} nodes in the index, not {nodes}: {:?}; the first of them: {left:?}",
                    self.counters()?.live(),
                    self.counters()?
                );
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Gives the load balancer other backends for its virtual addresses.
    pub fn exchange_balancer(&self, entries: &[(&str, &str)]) -> Result<()> {
        let balancer = self.balancer.as_ref().context("no load balancer")?;
        Ok(balancer.exchange(&parse_entries(entries)?)?)
    }

    /// From now on it takes a connect over IPv4 long to come from the hooks to its effect; those that have
    /// begun by the end of what is returned are still held up.
    pub fn delay_connects(&self) -> Result<Delay> {
        Ok(Delay::attach(self.inside.open()?.as_fd())?)
    }

    // ---- the end ----

    /// What must hold when all clients are gone.
    pub fn finish(mut self) -> Result<()> {
        if self.missed_releases == 0 {
            self.wait_for_nodes(0)?;
        } else if self.wait_for_nodes(0).is_err() {
            eprintln!("a release was missed; the walk has to find it");
        }
        self.expect_empty().context("after the test")
    }

    fn expect_empty(&mut self) -> Result<()> {
        let mut emitted = 0;
        let counts = self.reaper.index().walker()?.walk_all(|batch| emitted += batch.len() as u64)?;
        ensure!(
            emitted == counts.stale && counts.visited == counts.stale,
            "{emitted} nodes in the index: {counts:?}"
        );
        let counters = self.counters()?;
        ensure!(counters.inserts == counters.removals, "inserts are not removals: {counters:?}");
        ensure!(counters.balanced(), "a node is lost or counted twice: {counters:?}");
        ensure!(counters.free_nodes == counters.capacity, "the free list is not complete: {counters:?}");
        ensure!(counters.stale <= self.missed_releases, "walks met nodes without their socket: {counters:?}");
        ensure!(counters.dropped_chain == 0, "record chains were too long: {counters:?}");
        Ok(())
    }
}

fn parse_entries(entries: &[(&str, &str)]) -> Result<Vec<(Backend, Backend)>> {
    entries.iter().map(|(vip, backend)| Ok((vip.parse()?, backend.parse()?))).collect()
}

/// The outcome a report was made of.
fn as_outcome(report: &Report) -> Outcome {
    let mut outcome = Outcome::new(report.engine);
    outcome.visited = report.visited;
    outcome.victims = report.victims;
    outcome.destroyed = report.destroyed;
    outcome.skipped = report.skipped;
    outcome.failed = report.failed.clone();
    outcome.incomplete = report.incomplete_because.clone();
    outcome.walk_ns = report.ns.walk_ns;
    outcome.destroy_ns = report.ns.destroy_ns;
    outcome.victims_listed = report.sockets.clone();
    outcome
}

/// What this machine lacks to run the tests, in one line.
pub fn missing() -> Option<String> {
    let findings = skreap::probe::all();
    let mut missing: Vec<String> = findings
        .features
        .iter()
        .filter(|finding| finding.required && !finding.works)
        .map(|finding| format!("{}: {}", finding.feature, finding.detail))
        .collect();
    if missing.is_empty() {
        if let Err(error) = Netns::create("needs").and_then(|_| Cgroup::create("needs")) {
            missing.push(format!("namespaces and cgroups: {error:#}"));
        }
        if let Err(error) = testbed::raise_nofile_limit() {
            missing.push(format!("descriptors: {error}"));
        }
    }
    (!missing.is_empty()).then(|| missing.join("; "))
}
