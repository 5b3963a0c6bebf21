//! Carries a script out on real sockets, tells the truth of it, and holds every event against that.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use skreap::core::{Action, Backend, Event, Protocol, Report, Unconnected};
use skreap_testbed::{CallError, Family, Netns, NetnsRef, Op as LabOp, OpenSpec, SocketState};

use crate::holds::Held;
use crate::multipath::{Multipath, may_be_mptcp};
use crate::script::{CLIENTS, Named, Op, Open, Place, SLOTS, Script, To};
use crate::truth::{Errno, Gone, Role, Truth};
use crate::world::{Removed, World};

/// `tcpi_state`
const SYN_SENT: u8 = 2;
pub const CLOSE: u8 = 7;

/// How long the other end may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What scripts have done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub scripts: u64,
    /// That were carried out, and not passed over.
    pub ops: u64,
    pub events: u64,
    pub victims: u64,
    pub restarts: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scripts, ops, events, victims, restarts } = self;
        write!(
            f,
            "{scripts} scripts, {ops} operations, {events} events, {victims} victims, {restarts} restarts"
        )
    }
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        self.scripts += other.scripts;
        self.ops += other.ops;
        self.events += other.events;
        self.victims += other.victims;
        self.restarts += other.restarts;
    }
}

/// One socket of the script, as long as a client can name it.
pub struct Slot {
    pub client: u8,
    pub cookie: u64,
    pub protocol: Protocol,
    pub family: Family,
    /// The cookie of the netns it is in.
    pub netns: u64,
    pub handles: Vec<u32>,
    /// Handles that are in flight.
    pub flights: Vec<u32>,
    /// A send holds its lock.
    pub held: Option<Held>,
    /// It is of MPTCP.
    pub multipath: Option<Multipath>,
    /// Its owner has shut it down, so that both ends may have ended it in good order.
    pub shut: bool,
    /// It has connected to an IPv4-mapped address.
    mapped: bool,
}

/// What a socket is.
struct Kind {
    protocol: Protocol,
    family: Family,
    /// Its cookie.
    netns: u64,
}

/// A process that holds sockets.
pub struct Fork {
    pub client: u8,
    pub pid: u32,
    pub cookies: Vec<u64>,
}

pub struct Driver<'a> {
    pub world: &'a mut World,
    pub truth: Truth,
    pub slots: BTreeMap<u8, Slot>,
    pub forks: Vec<Fork>,
    pub coming: BTreeMap<u8, Netns>,
    /// Sockets that were made and closed within one operation.
    pub short_lived: u64,
    /// The netns of each socket there was, by cookies.
    pub places: BTreeMap<u64, u64>,
    /// Releases that the index had counted before; less than 0 if it is younger than the script.
    pub releases: i64,
    /// Sockets that were connected here after their destroy, or left without a peer: they show which.
    pub undecided: BTreeMap<u64, SocketAddr>,
    /// Some socket may be in a netns that nothing but the socket leads to.
    pub unnamed: bool,
    pub tally: Tally,
}

/// 0 or the errno of a call that only the kernel can refuse.
pub fn errno<T>(result: Result<T, CallError>) -> Result<Errno> {
    match result {
        Ok(_) => Ok(0),
        Err(error) => Ok(error.errno().ok_or(error)?),
    }
}

/// `Some` if the kernel did not refuse.
fn granted<T>(result: Result<T, CallError>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.errno().is_some() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

fn backends(named: &[Named]) -> Result<Vec<Backend>> {
    named.iter().map(|named| named.backend()).collect()
}

/// Runs a script; the world is empty afterwards, if that is `Ok`. Notes the operations that fitted.
pub fn run(world: &mut World, script: &Script, carried_out: &mut Vec<Op>) -> Result<Tally> {
    let mut driver = Driver::new(world)?;
    for (at, op) in script.ops.iter().enumerate() {
        carried_out.push(op.clone());
        let fitted = driver.carry_out(op).with_context(|| format!("operation {}: {op}", at + 1))?;
        if fitted.is_none() {
            carried_out.pop();
        }
        driver.tally.ops += u64::from(fitted.is_some());
    }
    driver.finish().context("after the last operation")
}

impl<'a> Driver<'a> {
    fn new(world: &'a mut World) -> Result<Self> {
        let truth = Truth::new(world.kind().unconnected);
        let releases = seen_releases(world)?;
        Ok(Self {
            world,
            truth,
            slots: BTreeMap::new(),
            forks: Vec::new(),
            coming: BTreeMap::new(),
            short_lived: 0,
            places: BTreeMap::new(),
            releases,
            undecided: BTreeMap::new(),
            unnamed: false,
            tally: Tally { scripts: 1, ..Tally::default() },
        })
    }

    /// `None` if the operation does not fit the state of things.
    fn carry_out(&mut self, op: &Op) -> Result<Option<()>> {
        match *op {
            Op::Open(open) => self.open(open),
            Op::Serve { slot, client, netns } => self.serve(slot, client, netns),
            Op::Accept { listener, slot } => self.accept(listener, slot),
            Op::Connect { slot, to } => self.connect(slot, to),
            Op::Disconnect { slot } => self.disconnect(slot),
            Op::Race { slot, a, b } => self.race(slot, a, b),
            Op::Send { slot } => self.send(slot),
            Op::SendTo { slot, to } => self.send_to(slot, to),
            Op::SendMany { slot, ref to } => self.send_many(slot, to),
            Op::SendMarked { slot } => self.send_marked(slot),
            Op::Hold { slot } => self.hold(slot),
            Op::LetGo { slot } => self.let_go(slot),
            Op::ConnectLink { slot, link } => self.connect_link(slot, link),
            Op::Shutdown { slot } => self.shutdown(slot),
            Op::Dup { slot } => self.dup(slot),
            Op::Fly { slot } => self.fly(slot),
            Op::Land { slot } => self.land(slot),
            Op::Close { slot } => self.close(slot),
            Op::Fork { client } => self.fork(client),
            Op::EndFork { client } => self.end_fork(client),
            Op::Kill { client } => self.kill(client).map(Some),
            Op::NewNetns { netns } => self.new_netns(netns),
            Op::Unname { netns } => self.unname(netns),
            Op::EndNetns { netns, gone } => self.end_netns(netns, gone),
            Op::GoneLink { link, netns } => self.gone_link(link, netns),
            Op::Move { gone, to } => self.move_to(gone, to),
            Op::Revive { gone, to } => self.revive(gone, to),
            Op::GoneBy { way, gone } => self.gone_by(way, gone),
            Op::Gone(ref gone) => self.event(gone, false).map(Some),
            Op::DryRun(ref gone) => self.event(gone, true).map(Some),
            Op::Living(ref living) => self.reconcile(living).map(Some),
            Op::Terminate(ref chosen) => self.terminate(chosen),
            Op::Policy { netns, ref allowed } => self.policy(netns, allowed),
            Op::Restart => {
                self.tally.restarts += 1;
                self.truth.forget_ways();
                self.world.restart().map(Some)
            }
            Op::Anew => self.anew(),
            Op::Insmod => self.world.insmod(),
            Op::Rmmod => self.rmmod(),
        }
    }

    // ---- sockets ----

    /// The newest handle of a socket that has one. None of one whose lock is held: nearly every call would wait.
    pub fn handle(&self, slot: u8) -> Option<(&Slot, u32)> {
        let slot = self.slots.get(&slot).filter(|slot| slot.held.is_none())?;
        Some((slot, *slot.handles.last()?))
    }

    /// How a client finds it, and its cookie.
    fn netns(&self, netns: u8) -> Result<Option<(NetnsRef, u64)>> {
        let found = self.world.netns(netns).or_else(|| self.coming.get(&netns));
        let found = found.filter(|netns| netns.fd().is_some());
        found.map(|netns| Ok((netns.reference()?, netns.cookie()))).transpose()
    }

    fn add(&mut self, slot: u8, client: u8, handle: u32, kind: Kind) -> Result<u64> {
        let cookie = self.world.client(client)?.cookie(handle)?;
        let Kind { protocol, family, netns } = kind;
        self.places.insert(cookie, netns);
        let handles = vec![handle];
        let flights = Vec::new();
        self.slots.insert(
            slot,
            Slot {
                client,
                cookie,
                protocol,
                family,
                netns,
                handles,
                flights,
                held: None,
                multipath: None,
                shut: false,
                mapped: false,
            },
        );
        Ok(cookie)
    }

    fn open(&mut self, open: Open) -> Result<Option<()>> {
        let Open { slot, client, protocol, family, netns, bound, nonblocking, mptcp } = open;
        if self.slots.contains_key(&slot) || mptcp && !may_be_mptcp(&open) {
            return Ok(None);
        }
        let Some((place, netns)) = self.netns(netns)? else { return Ok(None) };
        let port = 20_000 + u16::from(slot);
        let any: SocketAddr = match family {
            Family::V4 => ([0, 0, 0, 0], port).into(),
            Family::V6 => ([0_u16; 8], port).into(),
        };
        let mut spec = OpenSpec::new(protocol, family).inside(place);
        spec.bind = bound.then_some(any);
        spec.nonblocking = nonblocking;
        spec.mptcp = mptcp;
        let Some(handle) = granted(self.world.client(client)?.open(spec))? else {
            // It was made, and closed because the port was taken.
            self.short_lived += 1;
            return Ok(None);
        };
        let cookie = self.add(slot, client, handle, Kind { protocol, family, netns })?;
        self.truth.opened(cookie, protocol, Role::Client, bound);
        if mptcp {
            self.slots.entry(slot).and_modify(|slot| slot.multipath = Some(Multipath::default()));
        }
        Ok(Some(()))
    }

    fn serve(&mut self, slot: u8, client: u8, netns: u8) -> Result<Option<()>> {
        if self.slots.contains_key(&slot) {
            return Ok(None);
        }
        let Some((place, netns)) = self.netns(netns)? else { return Ok(None) };
        let mut spec = OpenSpec::new(Protocol::Tcp, Family::V4).inside(place);
        spec.bind = Some(Place::Own.addr());
        spec.nonblocking = true;
        let process = self.world.client(client)?;
        let Some(handle) = granted(process.open(spec))? else {
            self.short_lived += 1;
            return Ok(None);
        };
        process.listen(handle, 64)?;
        let kind = Kind { protocol: Protocol::Tcp, family: Family::V4, netns };
        let cookie = self.add(slot, client, handle, kind)?;
        self.truth.opened(cookie, Protocol::Tcp, Role::Server, true);
        Ok(Some(()))
    }

    fn accept(&mut self, listener: u8, slot: u8) -> Result<Option<()>> {
        let Some((from, handle)) = self.handle(listener) else { return Ok(None) };
        let (client, netns) = (from.client, from.netns);
        let is_listener = self.truth.get(from.cookie).is_some_and(|socket| socket.role == Role::Server);
        if !is_listener || self.slots.contains_key(&slot) {
            return Ok(None);
        }
        let Some(handle) = granted(self.world.client(client)?.accept(handle, 0))? else { return Ok(None) };
        let kind = Kind { protocol: Protocol::Tcp, family: Family::V4, netns };
        let cookie = self.add(slot, client, handle, kind)?;
        self.truth.opened(cookie, Protocol::Tcp, Role::Server, true);
        Ok(Some(()))
    }

    /// A socket of the script that may connect, its handle and client.
    pub fn connecting(&self, slot: u8) -> Option<(&Slot, u32)> {
        self.handle(slot)
            .filter(|(slot, _)| self.truth.get(slot.cookie).is_some_and(|socket| socket.role == Role::Client))
    }

    fn connect(&mut self, slot: u8, to: To) -> Result<Option<()>> {
        let Some((socket, handle)) = self.connecting(slot) else { return Ok(None) };
        if socket.multipath.is_some() {
            return self.connect_multipath(slot, to);
        }
        if to.place == Place::Multi || !self.fits(socket, to) {
            return Ok(None);
        }
        let (client, cookie, protocol) = (socket.client, socket.cookie, socket.protocol);
        if to.place.is_zero() && self.world.kind().unconnected == Unconnected::Destroy {
            // It makes the socket a wildcard, and whom a wildcard socket has sent to is not known.
            return Ok(None);
        }
        let addr = to.addr(socket.family);
        let mapped = matches!(addr, SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some());
        if protocol == Protocol::Tcp && socket.mapped && !mapped {
            // Linux (6.18) goes on to send IPv4 packets for such a socket: its SYN is lost for two minutes.
            return Ok(None);
        }
        let before = self.truth.peer(cookie);
        let Some(leads) = self.truth.leads_to(cookie, addr) else { return Ok(None) };
        self.world.unsure |= to.place.is_zero() && self.world.kind().is_small();
        let process = self.world.client(client)?;
        let mut errno = errno(process.connect(handle, addr))?;
        if errno == libc::EINPROGRESS {
            let state = wait_state(self.world, client, handle, |state| state != SYN_SENT)?;
            errno = if state.tcp_state == Some(CLOSE) { libc::ECONNREFUSED } else { 0 };
        }
        self.truth.gone_to(cookie, addr, leads);
        self.truth.connected(cookie, leads, errno);
        self.truth.connected_by(cookie, addr, errno);
        self.slots.entry(slot).and_modify(|slot| {
            slot.mapped |= mapped;
            slot.shut &= before.is_some() || errno != 0;
        });
        Ok(Some(()))
    }

    fn disconnect(&mut self, slot: u8) -> Result<Option<()>> {
        let Some((socket, handle)) = self.connecting(slot) else { return Ok(None) };
        if socket.multipath.is_some() {
            return Ok(None);
        }
        let (client, cookie) = (socket.client, socket.cookie);
        let result = self.world.client(client)?.call(&LabOp::Disconnect { socket: handle });
        self.truth.disconnected(cookie, errno(result)?);
        Ok(Some(()))
    }

    fn shutdown(&mut self, slot: u8) -> Result<Option<()>> {
        let Some((socket, handle)) = self.handle(slot) else { return Ok(None) };
        if socket.multipath.is_some() {
            return Ok(None);
        }
        let (client, cookie, protocol) = (socket.client, socket.cookie, socket.protocol);
        if self.truth.get(cookie).is_some_and(|socket| socket.role == Role::Server)
            && protocol == Protocol::Tcp
        {
            return Ok(None);
        }
        let errno = errno(self.world.client(client)?.shutdown_write(handle))?;
        if errno == 0 && protocol == Protocol::Tcp {
            self.slots.entry(slot).and_modify(|slot| slot.shut = true);
            // A backend that answers closes its end too. The script's own listener does not.
            if self.truth.peer(cookie).is_some_and(|peer| peer != Place::Own.addr()) {
                wait_state(self.world, client, handle, |state| state == CLOSE)?;
                self.truth.ended(cookie);
            }
        }
        Ok(Some(()))
    }

    // ---- reapers ----

    fn anew(&mut self) -> Result<Option<()>> {
        if self.unnamed || self.world.kind().unconnected == Unconnected::Destroy {
            // But on Linux 6.18 nobody finds a netns that only a socket in flight is in. And whom a pre-existing socket has sent
            // to is not known to anyone.
            return Ok(None);
        }
        self.world.anew()?;
        self.begun_anew()
    }

    fn rmmod(&mut self) -> Result<Option<()>> {
        match self.world.rmmod()? {
            Some(Removed { anew: true }) => self.begun_anew(),
            removed => Ok(removed.map(drop)),
        }
    }

    /// The index is a new one.
    fn begun_anew(&mut self) -> Result<Option<()>> {
        self.tally.restarts += 1;
        self.truth.forget_senders();
        self.truth.forget_ways();
        // The search for pre-existing sockets notes them too.
        self.world.noted = self.has_connected_multipath();
        self.releases = seen_releases(self.world)? - self.closed();
        self.check_index()?;
        Ok(Some(()))
    }

    // ---- events ----

    pub fn event(&mut self, gone: &[Named], dry_run: bool) -> Result<()> {
        self.see_what_others_ended()?;
        let backends = backends(gone)?;
        let victims = self.truth.victims(Gone::These(&backends));
        let action = match *backends.as_slice() {
            [backend] => Action::BackendDeleted { backend },
            _ => Action::BackendsDeleted { backends },
        };
        let report = self.tell(action, None, dry_run)?;
        self.check(&report, &victims, true)
    }

    /// A reconcile, after a dry run of it. The index names the backends: one none of whose sockets had room is not
    /// known, nor one that only the kernel's own sockets are connected to, and the report says so.
    fn reconcile(&mut self, living: &[Named]) -> Result<()> {
        self.see_what_others_ended()?;
        let backends = backends(living)?;
        let mut victims = self.truth.victims(Gone::AllBut(&backends));
        let action = Action::Reconcile { backends, within: Vec::new(), max_victims: None };
        let listed = self.tell(action.clone(), None, true)?;
        let complete = listed.complete || !self.world.kind().is_small() && !self.world.noted;
        if !complete {
            let has_node = |cookie| !self.world.kind().is_small() && !self.is_multipath(cookie);
            victims.retain(|cookie| has_node(*cookie) || self.is_known(&listed, *cookie));
        }
        self.check(&listed, &victims, complete)?;
        let report = self.tell(action, None, false)?;
        self.check(&report, &victims, complete)
    }

    /// True if the report names the backend of this socket.
    fn is_known(&self, report: &Report, cookie: u64) -> bool {
        let Some(socket) = self.truth.get(cookie) else { return false };
        let peer = self.truth.peer(cookie);
        let names =
            |backend: &Backend| backend.protocol() == socket.protocol && Some(backend.socket_addr()) == peer;
        report.by_backend.iter().any(|one| names(&one.backend))
    }

    pub fn tell(&mut self, action: Action, netns: Option<String>, dry_run: bool) -> Result<Report> {
        let mut event = Event::new(format!("e{}", self.tally.events), action).with_dry_run(dry_run);
        event.netns = netns;
        self.handle_event(event)
    }

    pub fn handle_event(&mut self, event: Event) -> Result<Report> {
        self.tally.events += 1;
        Ok(self.world.reaper()?.handle(&event))
    }

    // ---- the end ----

    fn finish(mut self) -> Result<Tally> {
        for client in 0..CLIENTS {
            let of_client = |slot: &&Slot| slot.client == client;
            let invisible = self.slots.values().filter(of_client).any(|slot| !slot.flights.is_empty());
            if invisible || self.forks.iter().any(|fork| fork.client == client) {
                self.kill(client)?;
                continue;
            }
            for slot in 0..SLOTS {
                if self.slots.get(&slot).is_some_and(|slot| slot.client == client) {
                    self.let_go(slot)?;
                }
                while self.slots.get(&slot).is_some_and(|slot| slot.client == client) {
                    self.close(slot)?;
                }
            }
        }
        self.coming.clear();
        let left: Vec<u64> = self.truth.cookies().collect();
        ensure!(left.is_empty(), "the truth itself has sockets left: {left:?}");
        self.check_nothing_awaited()?;
        self.world.check_empty()?;
        self.check_releases()?;
        self.world.renew()?;
        Ok(self.tally)
    }
}

/// Closes of sockets of the cgroup that the index was told of.
pub fn seen_releases(world: &mut World) -> Result<i64> {
    let counters = world.counters()?;
    Ok((counters.releases + counters.releases_without_node + counters.releases_without_cookie) as i64)
}

/// The state of a TCP socket, once it is as wanted.
fn wait_state(
    world: &mut World,
    client: u8,
    handle: u32,
    wanted: impl Fn(u8) -> bool,
) -> Result<SocketState> {
    let mut last = None;
    wait_for("a TCP state", || {
        let state = world.client(client)?.state(handle)?;
        let reached = state.tcp_state.is_some_and(&wanted);
        last = Some(state);
        Ok(reached)
    })?;
    last.context("no state")
}

pub fn wait_for(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done()? {
        ensure!(Instant::now() < deadline, "{what} never came");
        thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}
