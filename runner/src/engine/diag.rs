//! Full scan with sock_diag: dump every netns, choose, destroy each by its exact id.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Instant;

use skreap_bpf::{Owner, Question, Select, TableSocket, Tables, Victim, Walker};
use skreap_core::{Backend, EngineName, Incomplete, Outcome, Protocol, Target};

use super::destroy::Destroyer;
use super::in_tables::{self, Ends, InTables};
use super::membership::{CgroupRelation, Membership};
use super::named::tuple;
use super::scope::Finder;
use super::{
    Chosen, Engine, EngineError, EngineOptions, OwnerFinder, Scope, Selection, StateMask, nanos, scope,
};
use crate::sys::netns::{AllNetns, NetnsId};
use crate::sys::sock_diag::{DiagSockets, Dump, DumpEnd, Filter, InetDiag};

/// Looks at the tables after the dump. Each finds what the dump has missed, or confirms that it has missed nothing.
const LOOKS_MAX: usize = 8;

/// Engines `diag` and `diag-filter`: a dump of each netns, matched in user space or by bytecode in the
/// kernel, and `SOCK_DESTROY` for each match.
#[derive(Debug)]
pub struct Diag {
    name: EngineName,
    finder: Finder,
    scan: Scan,
    diag: DiagSockets,
    destroyer: Destroyer,
    owners: OwnerFinder,
    victims: Vec<Victim>,
    /// What confirms a dump: a dump skips sockets while others in their bucket come and go, and says nothing of it. None
    /// if one dump is to do.
    tables: Option<Tables>,
}

/// The parameters common to every netns and target.
#[derive(Debug)]
pub(super) struct Scan {
    filter_in_kernel: bool,
    states: StateMask,
    membership: Option<Membership>,
    buffer: Vec<u8>,
}

impl Diag {
    /// Matched in user space: the whole table crosses the border.
    ///
    /// # Errors
    /// [`EngineError`] if the cgroup cannot be opened, or the thread that visits namespaces cannot be made.
    pub fn new(walker: Walker, options: &EngineOptions) -> Result<Self, EngineError> {
        Self::make(EngineName::Diag, walker, options)
    }

    /// Matched by bytecode in the kernel, as `ss -K dst ADDR dport = PORT` does.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_filter(walker: Walker, options: &EngineOptions) -> Result<Self, EngineError> {
        Self::make(EngineName::DiagFilter, walker, options)
    }

    fn make(name: EngineName, walker: Walker, options: &EngineOptions) -> Result<Self, EngineError> {
        let scan = Scan { filter_in_kernel: name == EngineName::DiagFilter, ..Scan::filtered(options)? };
        let finder = Finder::new(walker, options.scope.clone());
        let diag = DiagSockets::new()
            .map_err(|source| EngineError::Io { what: "cannot start the netns thread".to_owned(), source })?;
        let (destroyer, owners) = (Destroyer::new(options)?, OwnerFinder::default());
        let tables = if options.single_dump { None } else { Some(in_tables::load(options)?) };
        Ok(Self { name, finder, scan, diag, destroyer, owners, victims: Vec::new(), tables })
    }

    /// Leaves the kernel's own sockets alone, as the index does. A socket that the index knows is a program's.
    fn drop_kernel_sockets(&mut self, target: &Target) -> Result<(), EngineError> {
        if self.victims.is_empty() {
            return Ok(());
        }
        let recorded = self.finder.recorded(target)?;
        let suspects: Vec<Victim> =
            self.victims.iter().filter(|v| !recorded.contains(&v.cookie())).copied().collect();
        let owners = self.owners.find(&suspects)?;
        self.victims.retain(|v| !matches!(owners.get(&v.cookie()), Some(Owner::Kernel | Owner::Subflow)));
        Ok(())
    }
}

impl Engine for Diag {
    fn name(&self) -> EngineName {
        self.name
    }

    fn run(&mut self, target: &Target, chosen: &mut Chosen) -> Result<Outcome, EngineError> {
        let start = Instant::now();
        let mut outcome = Outcome::new(self.name);
        if Chosen::matters(target) {
            // Only the index has the destinations of an unconnected socket.
            outcome.incomplete.insert(Incomplete::WildcardUnconnected);
        }
        let AllNetns { mut netns, whole } = self.finder.find(target)?;
        if !scope::keep(chosen.link().map(|link| link.netns), &mut netns) && !whole {
            outcome.incomplete.insert(Incomplete::NetnsUnreachable);
        }
        let confirm = Confirm { target, states: self.scan.states, netns: &netns };
        let present = self.present(&confirm, &mut outcome);
        let mut undecided = self.search(target, &netns, &mut outcome)?;
        // First those that no rule is about.
        self.leave_alone(&confirm, &mut outcome);
        // All are connected, so none was a victim before.
        let mut sifted = chosen.sift(target, &mut self.victims);
        undecided.retain(|(victim, _)| chosen.on_link(victim));
        sifted.spared += chosen.spare_of(target, &mut undecided, |(victim, _)| *victim);
        let mut handled: HashSet<u64> = self.victims.iter().map(Victim::cookie).collect();
        handled.extend(undecided.iter().map(|(victim, _)| victim.cookie()));
        let walked = Instant::now();
        outcome.victims = (self.victims.len() + undecided.len()) as u64;
        outcome.visited = outcome.victims + sifted.other_link + sifted.spared + outcome.skipped.accepted;
        sifted.note(&mut outcome.skipped);
        let (diag, scan) = (&mut self.diag, &mut self.scan);
        let tables = &mut self.tables;
        self.destroyer.finish(target.dry_run, &mut self.victims, &mut outcome, |victims| {
            if let Some(tables) = tables.as_mut() {
                // By cookie, and exact.
                victims.extend(confirm.look(tables)?.into_iter().map(|socket| socket.victim));
                return Ok(());
            }
            // Only those that were victims before are looked for, so what is undecided does no harm. What an
            // interrupted dump misses is taken for gone; but in a netns that cannot be asked all may still be there.
            let mut undecided = Vec::new();
            let missed = scan.all(diag, &netns, &target.backend, victims, &mut undecided);
            if missed.contains(&Incomplete::NetnsUnreachable) {
                let source = std::io::ErrorKind::NotConnected.into();
                return Err(EngineError::Io { what: "a netns could not be asked again".to_owned(), source });
            }
            victims.extend(undecided.into_iter().map(|(victim, _)| victim));
            Ok(())
        });
        for (victim, errno) in undecided {
            if let Some(listed) = &mut outcome.victims_listed {
                listed.push(tuple(&victim));
            } else {
                outcome.add_failure(tuple(&victim), errno);
            }
        }
        self.confirm(&confirm, chosen, &present, handled, &mut outcome);
        outcome.walk_ns = nanos(walked.duration_since(start));
        outcome.destroy_ns = nanos(walked.elapsed());
        Ok(outcome)
    }

    /// A dump knows neither prefixes nor places: the tables that confirm it are read with the filter instead.
    fn select(
        &mut self,
        selection: &Selection,
        _select: &mut Select,
        _chosen: &mut Chosen,
    ) -> Result<Outcome, EngineError> {
        let AllNetns { netns, whole } = self.finder.find_any()?;
        let Self { name, tables, scan, diag, destroyer, .. } = self;
        let tables = tables.as_mut().ok_or(EngineError::NoSelection(*name))?;
        let states = scan.states;
        let mut dump = |backend: &Backend| {
            let mut missed = scan.all(diag, &netns, backend, &mut Vec::new(), &mut Vec::new());
            missed.extend((!whole).then_some(Incomplete::NetnsUnreachable));
            missed
        };
        InTables { name: *name, tables, states, dump: &mut dump }.run(selection, destroyer)
    }

    fn set_scope(&mut self, scope: Scope) {
        self.finder.set_scope(scope);
    }
}

impl Diag {
    /// Dumps these netns, and leaves what belongs to the cgroup in `self.victims`. Returns the sockets of which it cannot be
    /// said.
    fn search(
        &mut self,
        target: &Target,
        netns: &[NetnsId],
        outcome: &mut Outcome,
    ) -> Result<Vec<(Victim, i32)>, EngineError> {
        self.victims.clear();
        let mut undecided = Vec::new();
        let (diag, scan) = (&mut self.diag, &mut self.scan);
        let missed = scan.all(diag, netns, &target.backend, &mut self.victims, &mut undecided);
        outcome.incomplete.extend(missed);
        if !undecided.is_empty() {
            // The cgroup was removed, for example. A recorded socket was in the right one when it
            // connected.
            let recorded = self.finder.recorded(target)?;
            undecided.retain(|(victim, _)| {
                let ours = recorded.contains(&victim.cookie());
                if ours {
                    self.victims.push(*victim);
                }
                !ours
            });
        }
        self.drop_kernel_sockets(target)?;
        Ok(undecided)
    }

    /// The sockets that are connected to the target now, before the dump.
    fn present(&mut self, confirm: &Confirm<'_>, outcome: &mut Outcome) -> Present {
        let Some(tables) = &mut self.tables else { return Present::default() };
        match confirm.look(tables) {
            Ok(sockets) => Present::new(&sockets),
            Err(e) => {
                tracing::warn!("cannot read the kernel's tables of sockets: {e}");
                outcome.incomplete.insert(Incomplete::DumpInterrupted);
                Present::default()
            }
        }
    }

    /// Takes those victims out that no engine touches: the server's side of a connection, and the kernel's own, which the
    /// reaper looks after.
    fn leave_alone(&mut self, confirm: &Confirm<'_>, outcome: &mut Outcome) {
        let Some(tables) = &mut self.tables else { return };
        let sockets = match confirm.look(tables) {
            Ok(sockets) => sockets,
            Err(e) => {
                tracing::warn!("cannot read the kernel's tables of sockets: {e}");
                outcome.incomplete.insert(Incomplete::DumpInterrupted);
                return;
            }
        };
        let known: HashMap<u64, &TableSocket> =
            sockets.iter().map(|socket| (socket.victim.cookie(), socket)).collect();
        self.victims.retain(|victim| {
            let Some(socket) = known.get(&victim.cookie()) else { return true };
            outcome.skipped.accepted += u64::from(socket.is_accepted() && !socket.is_kernel());
            !socket.is_accepted() && !socket.is_kernel()
        });
    }

    /// Looks for what the dump has missed, and destroys that too, until nothing is left that was `present` when the event
    /// began. Sockets that connect meanwhile, and again and again, have no end; a walk does not wait for them either.
    /// `handled`: cookies of the sockets that were victims already.
    fn confirm(
        &mut self,
        confirm: &Confirm<'_>,
        chosen: &mut Chosen,
        present: &Present,
        mut handled: HashSet<u64>,
        outcome: &mut Outcome,
    ) {
        let Some(tables) = &mut self.tables else { return };
        for _ in 0..LOOKS_MAX {
            let sockets = match confirm.look(tables) {
                Ok(sockets) => sockets,
                Err(e) => {
                    tracing::warn!("cannot read the kernel's tables of sockets: {e}");
                    break;
                }
            };
            let mut left: Vec<Victim> = sockets
                .iter()
                .filter(|socket| socket.is_client() && chosen.on_link(&socket.victim))
                .map(|socket| socket.victim)
                .filter(|victim| !handled.contains(&victim.cookie()))
                .collect();
            let before = chosen.left_alone();
            chosen.spare(confirm.target, &mut left);
            chosen.left_alone().note_since(before, outcome);
            if !left.iter().any(|victim| present.contains(victim)) {
                return;
            }
            if left.iter().any(|victim| victim.cookie() == 0) {
                // Nobody has asked for its cookie yet. A dump does.
                let (mut shown, mut undecided) = (Vec::new(), Vec::new());
                let backend = &confirm.target.backend;
                self.scan.all(&mut self.diag, confirm.netns, backend, &mut shown, &mut undecided);
                left.retain(|victim| victim.cookie() != 0);
            }
            handled.extend(left.iter().map(Victim::cookie));
            let mut more = Outcome::new(self.name);
            more.victims = left.len() as u64;
            more.visited = more.victims;
            self.destroyer.finish(confirm.target.dry_run, &mut left, &mut more, |victims| {
                victims.extend(confirm.look(tables)?.into_iter().map(|socket| socket.victim));
                Ok(())
            });
            if let (Some(listed), Some(more)) = (&mut outcome.victims_listed, more.victims_listed.take()) {
                listed.extend(more);
            }
            outcome.incomplete.append(&mut more.incomplete);
            outcome.add_victims(more);
        }
        outcome.incomplete.insert(Incomplete::DumpInterrupted);
    }
}

/// The sockets that an event must not miss.
#[derive(Default)]
struct Present {
    cookies: HashSet<u64>,
    /// Netns and both ends of those whose cookie nobody has asked for yet.
    names: HashSet<Ends>,
}

impl Present {
    fn new(sockets: &[TableSocket]) -> Self {
        let (unnamed, named): (Vec<_>, Vec<_>) =
            sockets.iter().map(|socket| &socket.victim).partition(|victim| victim.cookie() == 0);
        Self {
            cookies: named.into_iter().map(Victim::cookie).collect(),
            names: unnamed.into_iter().map(in_tables::ends).collect(),
        }
    }

    fn contains(&self, victim: &Victim) -> bool {
        self.cookies.contains(&victim.cookie()) || self.names.contains(&in_tables::ends(victim))
    }
}

/// Which sockets of the tables are the target's.
#[derive(Clone, Copy)]
pub(super) struct Confirm<'a> {
    pub(super) target: &'a Target,
    pub(super) states: StateMask,
    pub(super) netns: &'a [NetnsId],
}

impl Confirm<'_> {
    /// The sockets of the cgroup that are connected to the target.
    pub(super) fn look(&self, tables: &mut Tables) -> Result<Vec<TableSocket>, EngineError> {
        let backend = self.target.backend;
        let question = Question { backend: Some(backend), ..Question::default() };
        let mut sockets = tables.read(backend.protocol(), &question)?;
        let there: HashSet<u64> = self.netns.iter().map(|id| id.cookie).collect();
        let tcp = backend.protocol() == Protocol::Tcp;
        sockets.retain(|TableSocket { victim, .. }| {
            there.contains(&victim.netns()) && (!tcp || self.states.bits() >> (victim.state() & 31) & 1 != 0)
        });
        Ok(sockets)
    }
}

impl Scan {
    /// Matched by the kernel.
    ///
    /// # Errors
    /// [`EngineError`] if the cgroup cannot be opened.
    pub(super) fn filtered(options: &EngineOptions) -> Result<Self, EngineError> {
        let membership = match &options.cgroup {
            Some(path) => Membership::new(path)?,
            None => None,
        };
        Ok(Self { filter_in_kernel: true, states: options.states, membership, buffer: Vec::new() })
    }

    /// The states of TCP sockets that are looked for.
    pub(super) fn states(&self) -> StateMask {
        self.states
    }

    /// Appends the sockets of the backend in these netns to `victims`, and those of which it cannot be said
    /// whether they belong to the cgroup to `undecided`, each once. Returns why some may be missing.
    pub(super) fn all(
        &mut self,
        diag: &mut DiagSockets,
        netns: &[NetnsId],
        backend: &Backend,
        victims: &mut Vec<Victim>,
        undecided: &mut Vec<(Victim, i32)>,
    ) -> Vec<Incomplete> {
        let wanted = Wanted::new(backend, self.states);
        let filter = self.filter_in_kernel.then(|| Filter::destination(backend));
        let mut missed = Vec::new();
        let mut found = Vec::new();
        let mut rest = netns;
        while !rest.is_empty() {
            let (opened, unreachable) = diag.open_some(rest);
            let (some, others) = rest.split_at(opened);
            rest = others;
            // The netns is gone, and its sockets with it.
            for (cookie, &errno) in unreachable.iter().filter(|&(_, &errno)| errno != libc::ESTALE) {
                tracing::warn!(cookie, errno, "cannot open a diag socket in netns");
                missed.push(Incomplete::NetnsUnreachable);
            }
            for &id in some.iter().filter(|id| !unreachable.contains_key(&id.cookie)) {
                found.clear();
                match self.one(diag, id, &wanted, filter.as_ref(), &mut found, undecided) {
                    Ok(DumpEnd::Complete) => {}
                    Ok(DumpEnd::Interrupted) => missed.push(Incomplete::DumpInterrupted),
                    Err(e) => {
                        tracing::warn!(cookie = id.cookie, inum = id.inum, "cannot dump netns: {e}");
                        missed.push(Incomplete::NetnsUnreachable);
                    }
                }
                // An open diag socket keeps the netns alive.
                diag.forget(id.cookie);
                victims.append(&mut found);
            }
        }
        // A dump shows a socket twice if others have come into its bucket meanwhile.
        victims.sort_unstable_by_key(Victim::cookie);
        victims.dedup_by_key(|victim| victim.cookie());
        undecided.sort_unstable_by_key(|(victim, _)| victim.cookie());
        undecided.dedup_by_key(|(victim, _)| victim.cookie());
        missed
    }

    /// One netns.
    fn one(
        &mut self,
        diag: &mut DiagSockets,
        id: NetnsId,
        wanted: &Wanted,
        filter: Option<&Filter>,
        found: &mut Vec<Victim>,
        undecided: &mut Vec<(Victim, i32)>,
    ) -> std::io::Result<DumpEnd> {
        let socket = diag.get(id.cookie).ok_or(std::io::ErrorKind::NotConnected)?;
        let mut end = DumpEnd::Complete;
        for &family in wanted.families {
            let dump = Dump {
                family,
                protocol: wanted.protocol,
                states: wanted.states,
                filter,
                // It would take the lock of each TCP socket that is shown.
                info: false,
            };
            let ended = socket.dump(&dump, &mut self.buffer, |message| {
                if !wanted.matches(&message) {
                    return;
                }
                let victim = Victim::from_inet_diag(message.bytes(), wanted.protocol, id.cookie, id.inum);
                let Some(victim) = victim else {
                    return;
                };
                let place = match (&mut self.membership, message.cgroup()) {
                    (Some(membership), Some(cgroup)) => membership.place(cgroup),
                    (Some(_), None) => CgroupRelation::Unknown(libc::ENOTSUP),
                    (None, _) => CgroupRelation::Inside,
                };
                match place {
                    CgroupRelation::Inside => found.push(victim),
                    CgroupRelation::Outside => {}
                    CgroupRelation::Unknown(errno) => undecided.push((victim, errno)),
                }
            })?;
            if ended == DumpEnd::Interrupted {
                end = ended;
            }
        }
        Ok(end)
    }
}

/// The sockets of a backend, in the terms of `struct inet_diag_msg`.
struct Wanted {
    protocol: Protocol,
    families: &'static [u8],
    states: u32,
    dport: [u8; 2],
    /// In sockets of family `AF_INET`.
    ipv4: Option<[u8; 4]>,
    /// In sockets of family `AF_INET6`.
    ipv6: [u8; 16],
}

impl Wanted {
    fn new(backend: &Backend, states: StateMask) -> Self {
        const IPV4: u8 = libc::AF_INET as u8;
        const IPV6: u8 = libc::AF_INET6 as u8;
        let (families, ipv4, ipv6): (&[u8], _, _) = match backend.addr() {
            // A v6 socket reaches an IPv4 backend by its v4-mapped address.
            IpAddr::V4(a) => (&[IPV4, IPV6], Some(a.octets()), a.to_ipv6_mapped().octets()),
            IpAddr::V6(a) => (&[IPV6], None, a.octets()),
        };
        let states = match backend.protocol() {
            Protocol::Tcp => states.bits(),
            // UDP sockets with a peer
            Protocol::Udp => 1 << 1,
        };
        let dport = backend.port().to_be_bytes();
        Self { protocol: backend.protocol(), families, states, dport, ipv4, ipv6 }
    }

    fn matches(&self, message: &InetDiag<'_>) -> bool {
        if message.dport_be() != self.dport {
            return false;
        }
        let daddr = message.daddr();
        let same = if i32::from(message.family()) == libc::AF_INET6 {
            daddr == self.ipv6
        } else {
            self.ipv4.is_some_and(|ipv4| daddr.starts_with(&ipv4))
        };
        same && message.has_owner()
    }
}
