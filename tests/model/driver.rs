//! Carries a script out on real sockets, tells the truth of it, and holds every event against that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use skreap::core::{Action, Backend, Event, Incomplete, Protocol, Report, Unconnected};
use skreap_testbed::{
    CallError, Family, Netns, NetnsRef, Op as LabOp, OpenSpec, Reply, Selection, SocketState,
};

use crate::script::{CLIENTS, NETNS, Named, Op, Open, Place, SLOTS, STANDING, Script, To};
use crate::truth::{Errno, Gone, Role, Truth};
use crate::world::{Removed, World, fresh_netns};

/// `tcpi_state`
const SYN_SENT: u8 = 2;
const CLOSE: u8 = 7;

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
struct Slot {
    client: u8,
    cookie: u64,
    protocol: Protocol,
    family: Family,
    handles: Vec<u32>,
    /// Handles that are in flight.
    flights: Vec<u32>,
    /// Its owner has shut it down, so that both ends may have ended it in good order.
    shut: bool,
    /// It has connected to an IPv4-mapped address.
    mapped: bool,
}

/// A process that holds sockets.
struct Fork {
    client: u8,
    pid: u32,
    cookies: Vec<u64>,
}

pub struct Driver<'a> {
    world: &'a mut World,
    truth: Truth,
    slots: BTreeMap<u8, Slot>,
    forks: Vec<Fork>,
    coming: BTreeMap<u8, Netns>,
    /// Sockets that were made and closed within one operation.
    short_lived: u64,
    /// Releases that the index had counted before; less than 0 if it is younger than the script.
    releases: i64,
    /// Some socket may be in a netns that nothing but the socket leads to.
    unnamed: bool,
    pub tally: Tally,
}

/// 0 or the errno of a call that only the kernel can refuse.
fn errno<T>(result: Result<T, CallError>) -> Result<Errno> {
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

fn canonical(addr: SocketAddr) -> SocketAddr {
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
            releases,
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
            Op::Gone(ref gone) => self.event(gone, false).map(Some),
            Op::DryRun(ref gone) => self.event(gone, true).map(Some),
            Op::Living(ref living) => self.reconcile(living).map(Some),
            Op::Restart => {
                self.tally.restarts += 1;
                self.world.restart().map(Some)
            }
            Op::Anew => self.anew(),
            Op::Insmod => self.world.insmod(),
            Op::Rmmod => self.rmmod(),
        }
    }

    // ---- sockets ----

    /// The newest handle of a socket that has one.
    fn handle(&self, slot: u8) -> Option<(&Slot, u32)> {
        let slot = self.slots.get(&slot)?;
        Some((slot, *slot.handles.last()?))
    }

    fn netns(&self, netns: u8) -> Result<Option<NetnsRef>> {
        let found = self.world.netns(netns).or_else(|| self.coming.get(&netns));
        found.filter(|netns| netns.fd().is_some()).map(Netns::reference).transpose()
    }

    fn add(&mut self, slot: u8, client: u8, handle: u32, spec: (Protocol, Family)) -> Result<u64> {
        let cookie = self.world.client(client)?.cookie(handle)?;
        let (protocol, family) = spec;
        let handles = vec![handle];
        let flights = Vec::new();
        self.slots.insert(
            slot,
            Slot { client, cookie, protocol, family, handles, flights, shut: false, mapped: false },
        );
        Ok(cookie)
    }

    fn open(&mut self, open: Open) -> Result<Option<()>> {
        let Open { slot, client, protocol, family, netns, bound, nonblocking } = open;
        if self.slots.contains_key(&slot) {
            return Ok(None);
        }
        let Some(place) = self.netns(netns)? else { return Ok(None) };
        let port = 20_000 + u16::from(slot);
        let any: SocketAddr = match family {
            Family::V4 => ([0, 0, 0, 0], port).into(),
            Family::V6 => ([0_u16; 8], port).into(),
        };
        let mut spec = OpenSpec::new(protocol, family).inside(place);
        spec.bind = bound.then_some(any);
        spec.nonblocking = nonblocking;
        let Some(handle) = granted(self.world.client(client)?.open(spec))? else {
            // It was made, and closed because the port was taken.
            self.short_lived += 1;
            return Ok(None);
        };
        let cookie = self.add(slot, client, handle, (protocol, family))?;
        self.truth.opened(cookie, protocol, Role::Client, bound);
        Ok(Some(()))
    }

    fn serve(&mut self, slot: u8, client: u8, netns: u8) -> Result<Option<()>> {
        if self.slots.contains_key(&slot) {
            return Ok(None);
        }
        let Some(place) = self.netns(netns)? else { return Ok(None) };
        let mut spec = OpenSpec::new(Protocol::Tcp, Family::V4).inside(place);
        spec.bind = Some(Place::Own.addr());
        spec.nonblocking = true;
        let process = self.world.client(client)?;
        let Some(handle) = granted(process.open(spec))? else {
            self.short_lived += 1;
            return Ok(None);
        };
        process.listen(handle, 64)?;
        let cookie = self.add(slot, client, handle, (Protocol::Tcp, Family::V4))?;
        self.truth.opened(cookie, Protocol::Tcp, Role::Server, true);
        Ok(Some(()))
    }

    fn accept(&mut self, listener: u8, slot: u8) -> Result<Option<()>> {
        let Some((from, handle)) = self.handle(listener) else { return Ok(None) };
        let client = from.client;
        let is_listener = self.truth.get(from.cookie).is_some_and(|socket| socket.role == Role::Server);
        if !is_listener || self.slots.contains_key(&slot) {
            return Ok(None);
        }
        let Some(handle) = granted(self.world.client(client)?.accept(handle, 0))? else { return Ok(None) };
        let cookie = self.add(slot, client, handle, (Protocol::Tcp, Family::V4))?;
        self.truth.opened(cookie, Protocol::Tcp, Role::Server, true);
        Ok(Some(()))
    }

    /// A socket of the script that may connect, its handle and client.
    fn connecting(&self, slot: u8) -> Option<(&Slot, u32)> {
        self.handle(slot)
            .filter(|(slot, _)| self.truth.get(slot.cookie).is_some_and(|socket| socket.role == Role::Client))
    }

    fn connect(&mut self, slot: u8, to: To) -> Result<Option<()>> {
        let Some((socket, handle)) = self.connecting(slot) else { return Ok(None) };
        let (client, cookie, protocol) = (socket.client, socket.cookie, socket.protocol);
        if to.place.is_zero() && self.world.kind().unconnected == Unconnected::Destroy {
            // It makes the socket wide, and whom a wide socket has sent to is not known.
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
            let state = settled(self.world, client, handle, |state| state != SYN_SENT)?;
            errno = if state.tcp_state == Some(CLOSE) { libc::ECONNREFUSED } else { 0 };
        }
        self.truth.connected(cookie, leads, errno);
        self.slots.entry(slot).and_modify(|slot| {
            slot.mapped |= mapped;
            slot.shut &= before.is_some() || errno != 0;
        });
        Ok(Some(()))
    }

    fn disconnect(&mut self, slot: u8) -> Result<Option<()>> {
        let Some((socket, handle)) = self.connecting(slot) else { return Ok(None) };
        let (client, cookie) = (socket.client, socket.cookie);
        let result = self.world.client(client)?.call(&LabOp::Disconnect { socket: handle });
        self.truth.disconnected(cookie, errno(result)?);
        Ok(Some(()))
    }

    fn race(&mut self, slot: u8, a: To, b: To) -> Result<Option<()>> {
        let Some((socket, handle)) = self.connecting(slot) else { return Ok(None) };
        if socket.protocol == Protocol::Tcp || a.place.is_zero() || b.place.is_zero() {
            return Ok(None);
        }
        let (client, cookie) = (socket.client, socket.cookie);
        let (a, b) = (a.addr(socket.family), b.addr(socket.family));
        let op = LabOp::ConnectFromTwoThreads { socket: handle, a, b, rounds: 3 };
        let Reply::Raced(raced) = self.world.client(client)?.call(&op)? else { bail!("not a race") };
        let possible: Vec<SocketAddr> = [(raced.connected_a, a), (raced.connected_b, b)]
            .into_iter()
            .filter_map(|(connected, addr)| (connected > 0).then_some(addr))
            .collect();
        ensure!(self.truth.raced(cookie, &possible, raced.peer), "an impossible peer: {raced:?}");
        Ok(Some(()))
    }

    fn send(&mut self, slot: u8) -> Result<Option<()>> {
        let Some((socket, handle)) = self.handle(slot) else { return Ok(None) };
        let (client, cookie, family) = (socket.client, socket.cookie, socket.family);
        errno(self.world.client(client)?.send_bytes(handle, b"hello"))?;
        self.truth.sent(cookie, family);
        Ok(Some(()))
    }

    fn send_to(&mut self, slot: u8, to: To) -> Result<Option<()>> {
        let Some((socket, handle)) = self.connecting(slot) else { return Ok(None) };
        if socket.protocol == Protocol::Tcp {
            return Ok(None);
        }
        let (client, cookie, family) = (socket.client, socket.cookie, socket.family);
        let addr = to.addr(family);
        let Some(leads) = self.truth.leads_to(cookie, addr) else { return Ok(None) };
        let errno = errno(self.world.client(client)?.send_to(handle, addr, b"hello"))?;
        self.truth.sent_to(cookie, family, leads, errno);
        Ok(Some(()))
    }

    fn send_many(&mut self, slot: u8, to: &[To]) -> Result<Option<()>> {
        let Some((socket, handle)) = self.connecting(slot) else { return Ok(None) };
        if socket.protocol == Protocol::Tcp {
            return Ok(None);
        }
        let (client, cookie, family) = (socket.client, socket.cookie, socket.family);
        let addrs: Vec<SocketAddr> = to.iter().map(|to| to.addr(family)).collect();
        let leads: Option<Vec<SocketAddr>> =
            addrs.iter().map(|addr| self.truth.leads_to(cookie, *addr)).collect();
        let Some(leads) = leads else { return Ok(None) };
        let op = LabOp::SendToMany { socket: handle, addrs, payload: b"hello".to_vec() };
        let reply = self.world.client(client)?.call(&op)?;
        let Reply::SentMany { sent, first_error } = reply else { bail!("not sent: {reply:?}") };
        for addr in leads.iter().take(sent as usize) {
            self.truth.sent_to(cookie, family, *addr, 0);
        }
        if let (Some(error), Some(addr)) = (first_error, leads.get(sent as usize)) {
            self.truth.sent_to(cookie, family, *addr, error.errno);
        }
        Ok(Some(()))
    }

    fn shutdown(&mut self, slot: u8) -> Result<Option<()>> {
        let Some((socket, handle)) = self.handle(slot) else { return Ok(None) };
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
                settled(self.world, client, handle, |state| state == CLOSE)?;
                self.truth.ended(cookie);
            }
        }
        Ok(Some(()))
    }

    // ---- who holds a socket ----

    fn dup(&mut self, slot: u8) -> Result<Option<()>> {
        let Some((socket, handle)) = self.handle(slot) else { return Ok(None) };
        let (client, cookie) = (socket.client, socket.cookie);
        let copy = self.world.client(client)?.dup(handle)?;
        self.truth.held(cookie);
        self.slots.entry(slot).and_modify(|slot| slot.handles.push(copy));
        Ok(Some(()))
    }

    /// True if what the other end does to the socket has to be seen: somebody must keep a descriptor.
    fn must_stay_visible(&self, slot: &Slot) -> bool {
        slot.protocol == Protocol::Tcp && self.truth.peer(slot.cookie) == Some(Place::Own.addr())
    }

    fn fly(&mut self, slot: u8) -> Result<Option<()>> {
        let Some((socket, handle)) = self.handle(slot) else { return Ok(None) };
        if socket.handles.len() == 1 && self.must_stay_visible(socket) {
            return Ok(None);
        }
        let client = socket.client;
        self.world.client(client)?.start_flight(handle)?;
        self.slots.entry(slot).and_modify(|slot| {
            slot.handles.pop();
            slot.flights.push(handle);
        });
        Ok(Some(()))
    }

    fn land(&mut self, slot: u8) -> Result<Option<()>> {
        let Some(socket) = self.slots.get_mut(&slot) else { return Ok(None) };
        let Some(flight) = socket.flights.pop() else { return Ok(None) };
        let process = self.world.client(socket.client)?;
        let handle = process.land_flight(flight)?;
        socket.handles.push(handle);
        // If it was destroyed meanwhile, that was counted then: the error is not news.
        process.state(handle)?;
        Ok(Some(()))
    }

    fn close(&mut self, slot: u8) -> Result<Option<()>> {
        let Some((socket, handle)) = self.handle(slot) else { return Ok(None) };
        let (client, cookie) = (socket.client, socket.cookie);
        let last = socket.handles.len() == 1;
        let forked = self.forks.iter().any(|fork| fork.cookies.contains(&cookie));
        if last && (forked || !socket.flights.is_empty()) && self.must_stay_visible(socket) {
            return Ok(None);
        }
        self.world.client(client)?.close(handle)?;
        self.truth.released(cookie);
        if let Some(socket) = self.slots.get_mut(&slot) {
            socket.handles.pop();
            if socket.handles.is_empty() && socket.flights.is_empty() {
                self.slots.remove(&slot);
            }
        }
        Ok(Some(()))
    }

    fn fork(&mut self, client: u8) -> Result<Option<()>> {
        if self.forks.iter().any(|fork| fork.client == client) {
            return Ok(None);
        }
        let pid = self.world.client(client)?.fork()?;
        let visible = self.slots.values().filter(|slot| slot.client == client && !slot.handles.is_empty());
        let cookies: Vec<u64> = visible.map(|slot| slot.cookie).collect();
        cookies.iter().for_each(|cookie| self.truth.held(*cookie));
        self.forks.push(Fork { client, pid, cookies });
        Ok(Some(()))
    }

    fn end_fork(&mut self, client: u8) -> Result<Option<()>> {
        let Some(at) = self.forks.iter().position(|fork| fork.client == client) else { return Ok(None) };
        let fork = self.forks.swap_remove(at);
        self.world.client(client)?.reap_fork(fork.pid)?;
        fork.cookies.iter().for_each(|cookie| self.truth.released(*cookie));
        Ok(Some(()))
    }

    fn kill(&mut self, client: u8) -> Result<()> {
        self.world.kill(client)?;
        for (_, gone) in self.slots.extract_if(.., |_, slot| slot.client == client) {
            (0..gone.handles.len() + gone.flights.len()).for_each(|_| self.truth.released(gone.cookie));
        }
        // Its fork is killed by the kernel, a moment later.
        while let Some(at) = self.forks.iter().position(|fork| fork.client == client) {
            let fork = self.forks.swap_remove(at);
            wait_for("the fork of a killed client to end", || Ok(!has_descriptors(fork.pid)))?;
            fork.cookies.iter().for_each(|cookie| self.truth.released(*cookie));
        }
        Ok(())
    }

    // ---- namespaces ----

    fn new_netns(&mut self, netns: u8) -> Result<Option<()>> {
        if !(STANDING..NETNS).contains(&netns) || self.coming.contains_key(&netns) {
            return Ok(None);
        }
        let fresh = fresh_netns(&format!("model-{}-new{netns}", self.world.kind().name))?;
        self.coming.insert(netns, fresh);
        Ok(Some(()))
    }

    fn unname(&mut self, netns: u8) -> Result<Option<()>> {
        if self.world.kind().module {
            // Without the module a socket is named to its netns, which has to be found for that (but on Linux 6.18).
            return Ok(None);
        }
        let Some(mut netns) = self.coming.remove(&netns) else { return Ok(None) };
        netns.forget_name()?;
        self.unnamed = true;
        Ok(Some(()))
    }

    // ---- reapers ----

    fn anew(&mut self) -> Result<Option<()>> {
        if self.unnamed || self.world.kind().unconnected == Unconnected::Destroy {
            // But on Linux 6.18 nobody finds a netns that only a socket in flight is in. And whom an older socket has sent
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
        self.releases = seen_releases(self.world)? - self.closed();
        self.world.check_index()?;
        Ok(Some(()))
    }

    // ---- events ----

    fn event(&mut self, gone: &[Named], dry_run: bool) -> Result<()> {
        self.see_what_others_ended()?;
        let backends = backends(gone)?;
        let victims = self.truth.victims(Gone::These(&backends));
        let action = match *backends.as_slice() {
            [backend] => Action::BackendDeleted { backend },
            _ => Action::BackendsDeleted { backends },
        };
        let report = self.tell(action, dry_run)?;
        self.check(&report, &victims, true)
    }

    /// A reconcile, after a dry run of it. The index names the backends: one none of whose sockets had room is not
    /// known, and the report says so.
    fn reconcile(&mut self, living: &[Named]) -> Result<()> {
        self.see_what_others_ended()?;
        let backends = backends(living)?;
        let mut victims = self.truth.victims(Gone::AllBut(&backends));
        let action = Action::Reconcile { backends, within: Vec::new(), max_victims: None };
        let listed = self.tell(action.clone(), true)?;
        let complete = listed.complete || !self.world.kind().is_small();
        if !complete {
            victims.retain(|cookie| self.is_known(&listed, *cookie));
        }
        self.check(&listed, &victims, complete)?;
        let report = self.tell(action, false)?;
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

    fn tell(&mut self, action: Action, dry_run: bool) -> Result<Report> {
        self.tally.events += 1;
        let event = Event { dry_run, ..Event::new(format!("e{}", self.tally.events), action) };
        Ok(self.world.reaper()?.handle(&event))
    }

    fn check_releases(&mut self) -> Result<()> {
        let (seen, closed) = (seen_releases(self.world)? - self.releases, self.closed());
        ensure!(seen == closed, "{closed} sockets were closed, and {seen} were seen to be");
        Ok(())
    }

    fn closed(&self) -> i64 {
        (self.truth.closed + self.short_lived) as i64
    }

    /// The report says it, the sockets say it, nobody else was touched, and the index is sound.
    fn check(&mut self, report: &Report, victims: &BTreeSet<u64>, complete: bool) -> Result<()> {
        let destroyed = if report.dry_run { &BTreeSet::new() } else { victims };
        destroyed.iter().for_each(|cookie| self.truth.destroyed(*cookie));
        self.tally.victims += victims.len() as u64;
        self.check_report(report, victims, complete)
            .and_then(|()| self.check_sockets(destroyed))
            .with_context(|| format!("{report:?}; victims should be {victims:?}"))?;
        self.world.check_index()?;
        self.check_releases()
    }

    fn check_report(&self, report: &Report, victims: &BTreeSet<u64>, complete: bool) -> Result<()> {
        ensure!(report.error.is_none() && report.failed.total() == 0, "it failed");
        ensure!(report.complete == complete, "not complete: {complete}");
        let because = &report.incomplete_because;
        let may_be = |why: &Incomplete| match why {
            Incomplete::IndexFull => true,
            Incomplete::IndexUnsure => self.world.unsure,
            _ => false,
        };
        ensure!(complete || because.iter().all(may_be), "there is another reason");
        let victims_count = victims.len() as u64;
        ensure!(report.victims == victims_count, "not {victims_count} victims");
        let destroyed = if report.dry_run { 0 } else { victims_count };
        ensure!(report.destroyed == destroyed, "not {destroyed} destroyed");
        if let Some(listed) = &report.sockets {
            let mut listed: Vec<u64> = listed.iter().map(|socket| socket.cookie).collect();
            listed.sort_unstable();
            ensure!(listed.iter().eq(victims), "listed are {listed:?}");
        }
        Ok(())
    }

    fn check_sockets(&mut self, destroyed: &BTreeSet<u64>) -> Result<()> {
        let states = self.states()?;
        let died: BTreeSet<u64> =
            states.iter().filter(|state| state.errno == libc::ECONNABORTED).map(|s| s.cookie).collect();
        let seen: BTreeSet<u64> = states.iter().map(|state| state.cookie).collect();
        let expected: BTreeSet<u64> = destroyed.intersection(&seen).copied().collect();
        ensure!(died == expected, "those that died are {died:?}, and should be {expected:?}");
        for state in &states {
            let Some(socket) = self.truth.get(state.cookie) else { bail!("nobody knows {state:?}") };
            if socket.role == Role::Client {
                let (found, expected) = (state.peer.map(canonical), self.truth.peer(state.cookie));
                ensure!(found == expected, "its peer should be {expected:?}: {state:?}");
            }
        }
        Ok(())
    }

    /// The states of all sockets that a client can name.
    fn states(&mut self) -> Result<Vec<SocketState>> {
        let mut states = Vec::new();
        for client in 0..CLIENTS {
            if self.slots.values().any(|slot| slot.client == client && !slot.handles.is_empty()) {
                states.extend(self.world.client(client)?.states(Selection::All)?);
            }
        }
        Ok(states)
    }

    /// Connections to the script's own listeners end when the script ends the other side: only the sockets can tell
    /// in which way. Nobody has destroyed them, or they would say so.
    fn see_what_others_ended(&mut self) -> Result<()> {
        for state in self.states()? {
            let is_closed = state.tcp_state == Some(CLOSE);
            if !is_closed || self.truth.peer(state.cookie) != Some(Place::Own.addr()) {
                continue;
            }
            let shut = self.slots.values().any(|slot| slot.cookie == state.cookie && slot.shut);
            ensure!(
                matches!(state.errno, libc::ECONNRESET | libc::EPIPE) || state.errno == 0 && shut,
                "nobody has ended this connection: {state:?}"
            );
            self.truth.ended(state.cookie);
        }
        Ok(())
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
                while self.slots.get(&slot).is_some_and(|slot| slot.client == client) {
                    self.close(slot)?;
                }
            }
        }
        self.coming.clear();
        let left: Vec<u64> = self.truth.cookies().collect();
        ensure!(left.is_empty(), "the truth itself has sockets left: {left:?}");
        self.world.check_empty()?;
        self.check_releases()?;
        self.world.renew()?;
        Ok(self.tally)
    }
}

/// Closes of sockets of the cgroup that the index was told of.
fn seen_releases(world: &mut World) -> Result<i64> {
    let counters = world.counters()?;
    Ok((counters.releases + counters.releases_without_node + counters.releases_without_cookie) as i64)
}

/// The state of a TCP socket, once it is as wanted.
fn settled(world: &mut World, client: u8, handle: u32, wanted: impl Fn(u8) -> bool) -> Result<SocketState> {
    let mut last = None;
    wait_for("a TCP state", || {
        let state = world.client(client)?.state(handle)?;
        let is_settled = state.tcp_state.is_some_and(&wanted);
        last = Some(state);
        Ok(is_settled)
    })?;
    last.context("no state")
}

fn wait_for(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done()? {
        ensure!(Instant::now() < deadline, "{what} never came");
        thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// False once a process has closed everything: it is a zombie, or gone.
fn has_descriptors(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default().split_whitespace().next();
    !matches!(state, None | Some("Z" | "X"))
}
