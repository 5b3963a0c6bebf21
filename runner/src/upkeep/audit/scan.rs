//! The other side of an audit: the client sockets, from the kernel and no other source. Nothing of the index is read.
//!
//! The kernel's tables of sockets are read, which takes no lock and enters no netns. Where they cannot be read, every netns is
//! dumped with sock_diag. That takes no lock of a socket either, because nothing is asked that would (`INET_DIAG_INFO`); so
//! it does not show which side has opened a TCP connection.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::path::Path;

use skreap_bpf::{Question, TableSocket, Tables, Victim};
use skreap_core::{Backend, Protocol};

use crate::engine::{CgroupRelation, EngineError, Membership, membership, netns_id};
use crate::sys::netns::NetnsId;
use crate::sys::sock_diag::{DiagSockets, Dump, InetDiag};

// net/tcp_states.h
const TCP_SYN_SENT: u8 = 2;
const TCP_TIME_WAIT: u8 = 6;
const TCP_LISTEN: u8 = 10;
const TCP_NEW_SYN_RECV: u8 = 12;
/// All but the two that are no whole sockets.
const STATES: u32 = !(1 << TCP_TIME_WAIT | 1 << TCP_NEW_SYN_RECV);
/// Attempts to read the tables, while a part of them changes too fast.
const READS_MAX: usize = 8;
/// Every socket there is, whatever it is.
const ALL: Question = Question { backend: None, peerless: true, outside: true, closed: true };

/// The sockets there are at one time.
#[derive(Debug, Default)]
pub(super) struct Census {
    /// Sockets that should be in the index, by the backend they are connected to.
    pub(super) clients: BTreeMap<Backend, Vec<Victim>>,
    /// Cookies of all sockets there are, with or without a peer.
    pub(super) alive: HashSet<u64>,
    /// TCP sockets of the cgroup that a listener has accepted.
    pub(super) accepted: u64,
    /// Sockets of the cgroup that the kernel has opened for itself. A dump counts them as clients.
    pub(super) kernel: u64,
    /// Sockets with a peer for which it is undecided whether they should be in the index.
    pub(super) undecided: u64,
    /// Checked netns, by cookie.
    pub(super) netns: HashSet<u64>,
    /// Netns that exist and could not be checked.
    pub(super) unreachable: u64,
}

/// Takes a [`Census`].
#[derive(Debug)]
pub(super) struct Scan {
    /// Id of the cgroup; `None`: the root.
    cgroup: Option<u64>,
    /// Loaded on first use.
    tables: Option<Tables>,
    /// The first pass of the audit had to dump.
    dumps: bool,
    diag: DiagSockets,
    membership: Option<Membership>,
    buffer: Vec<u8>,
}

impl Scan {
    /// A scan of the sockets of this cgroup, and of those below it.
    ///
    /// # Errors
    /// [`EngineError`] if the cgroup cannot be opened, or the thread that visits namespaces cannot
    /// be created.
    pub(super) fn new(cgroup: &Path) -> Result<Self, EngineError> {
        let diag = DiagSockets::new()
            .map_err(|source| EngineError::Io { what: "cannot start the netns thread".to_owned(), source })?;
        let (cgroup, membership) = (membership::id_of(cgroup)?, Membership::new(cgroup)?);
        Ok(Self { cgroup, tables: None, dumps: false, diag, membership, buffer: Vec::new() })
    }

    /// Looks at these netns. `again`: for a further pass of the same audit, which must not see less than the first.
    ///
    /// # Errors
    /// [`EngineError`] if the tables could be read in the first pass, and not in this one.
    pub(super) fn take(&mut self, netns: &[NetnsId], again: bool) -> Result<Census, EngineError> {
        match self.take_tables(netns) {
            Ok(census) => {
                self.dumps &= again;
                Ok(census)
            }
            Err(e) if again && !self.dumps => Err(e.into()),
            Err(e) => {
                tracing::warn!(
                    "cannot read the kernel's tables of sockets, so the audit dumps every netns, and does not compare \
                     most TCP sockets: {e}"
                );
                self.dumps = true;
                let mut census = Census::default();
                self.dump(netns, &mut census);
                Ok(census)
            }
        }
    }

    fn take_tables(&mut self, netns: &[NetnsId]) -> Result<Census, skreap_bpf::Error> {
        let mut census = Census::default();
        let mut sockets = self.read()?;
        let unnamed: BTreeSet<NetnsId> =
            sockets.iter().filter(|s| is_unnamed_client(s)).map(|s| netns_id(&s.victim)).collect();
        if !unnamed.is_empty() {
            // Nobody has asked for their cookies yet. A dump does.
            let unnamed: Vec<NetnsId> = unnamed.into_iter().collect();
            let mut dumped = Census::default();
            self.dump(&unnamed, &mut dumped);
            census.unreachable = dumped.unreachable;
            sockets = self.read()?;
        }
        census.netns.extend(netns.iter().map(|id| id.cookie));
        for socket in &sockets {
            census.add(socket);
        }
        Ok(census)
    }

    fn read(&mut self) -> Result<Vec<TableSocket>, skreap_bpf::Error> {
        let mut read = self.read_once();
        for _ in 1..READS_MAX {
            if !matches!(&read, Err(skreap_bpf::Error::Object { source, .. }) if source.raw_os_error() == Some(libc::EBUSY))
            {
                break;
            }
            read = self.read_once();
        }
        read
    }

    fn read_once(&mut self) -> Result<Vec<TableSocket>, skreap_bpf::Error> {
        let tables = match &mut self.tables {
            Some(tables) => tables,
            none => none.insert(Tables::load(self.cgroup)?),
        };
        let mut sockets = Vec::new();
        for protocol in Protocol::ALL {
            sockets.append(&mut tables.read(protocol, &ALL)?);
        }
        Ok(sockets)
    }

    /// Dumps these netns, one after the other.
    fn dump(&mut self, netns: &[NetnsId], census: &mut Census) {
        let mut rest = netns;
        while !rest.is_empty() {
            let (opened, failed) = self.diag.open_some(rest);
            let (some, others) = rest.split_at(opened);
            rest = others;
            for id in some {
                let looked = match failed.get(&id.cookie) {
                    Some(&errno) => Err(io::Error::from_raw_os_error(errno)),
                    None => self.one(*id, census),
                };
                // An open diag socket keeps the netns alive.
                self.diag.forget(id.cookie);
                match looked {
                    Ok(()) => {
                        census.netns.insert(id.cookie);
                    }
                    // It is gone, and its sockets with it.
                    Err(e) if e.raw_os_error() == Some(libc::ESTALE) => {}
                    Err(e) => {
                        tracing::warn!(cookie = id.cookie, inum = id.inum, "cannot audit netns: {e}");
                        census.unreachable += 1;
                    }
                }
            }
        }
    }

    fn one(&mut self, id: NetnsId, census: &mut Census) -> io::Result<()> {
        let mut listening = HashSet::new();
        let mut unclear = Vec::new();
        for protocol in Protocol::ALL {
            for family in [libc::AF_INET, libc::AF_INET6] {
                let dump = Dump {
                    family: family as u8,
                    protocol,
                    states: STATES,
                    filter: None,
                    // It would wait for the lock of each TCP socket that is shown.
                    info: false,
                };
                let Self { diag, membership, buffer, .. } = self;
                let socket = diag.get(id.cookie).ok_or(io::ErrorKind::NotConnected)?;
                // A truncated dump can cause false suspects; the next pass discards them.
                socket.dump(&dump, buffer, |message| {
                    let Some(victim) = Victim::from_inet_diag(message.bytes(), protocol, id.cookie, id.inum)
                    else {
                        return;
                    };
                    census.alive.insert(victim.cookie());
                    if victim.state() == TCP_LISTEN && protocol == Protocol::Tcp {
                        listening.insert(victim.sport());
                    }
                    if victim.dport() == 0 || !message.has_owner() {
                        return;
                    }
                    match place(membership.as_mut(), &message) {
                        CgroupRelation::Inside => {}
                        CgroupRelation::Outside => return,
                        CgroupRelation::Unknown(_) => {
                            census.undecided += 1;
                            return;
                        }
                    }
                    // Nothing but connect() gives a UDP socket a peer, and sends a SYN.
                    if protocol == Protocol::Udp || victim.state() == TCP_SYN_SENT {
                        census.add_client(victim);
                    } else {
                        unclear.push(victim);
                    }
                })?;
            }
        }
        for victim in unclear {
            if listening.contains(&victim.sport()) {
                census.accepted += 1;
            } else {
                census.undecided += 1;
            }
        }
        Ok(())
    }
}

impl Census {
    /// All clients, of whatever backend.
    pub(super) fn sockets(&self) -> u64 {
        self.clients.values().map(|sockets| sockets.len() as u64).sum()
    }

    /// Adds a socket of the tables.
    fn add(&mut self, socket: &TableSocket) {
        let victim = socket.victim;
        if victim.cookie() != 0 {
            self.alive.insert(victim.cookie());
        }
        if victim.dport() == 0 || socket.is_closed() || socket.is_outside() {
            return;
        }
        if socket.is_accepted() {
            self.accepted += 1;
        } else if socket.is_kernel() {
            self.kernel += 1;
        } else if victim.cookie() == 0 {
            // It is so new that the dump has not shown it, or in a netns that cannot be dumped.
            self.undecided += 1;
        } else {
            self.add_client(victim);
        }
    }

    fn add_client(&mut self, victim: Victim) {
        match victim.backend() {
            Some(backend) => self.clients.entry(backend).or_default().push(victim),
            // A multicast or broadcast address, say: no event can name it.
            None => self.undecided += 1,
        }
    }
}

/// True for a client without a cookie, which nothing can be compared with.
fn is_unnamed_client(socket: &TableSocket) -> bool {
    socket.is_client() && socket.victim.cookie() == 0 && socket.victim.dport() != 0
}

fn place(membership: Option<&mut Membership>, message: &InetDiag<'_>) -> CgroupRelation {
    match (membership, message.cgroup()) {
        (Some(membership), Some(cgroup)) => membership.place(cgroup),
        (Some(_), None) => CgroupRelation::Unknown(libc::ENOTSUP),
        (None, _) => CgroupRelation::Inside,
    }
}
