//! The other side of an audit: the client sockets, from sock_diag and no other source.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::Path;

use skreap_bpf::Victim;
use skreap_core::{Backend, Protocol};

use crate::engine::{EngineError, Membership, Place};
use crate::sys::netns::NetnsId;
use crate::sys::sock_diag::{DiagSockets, Dump, InetDiag};

use super::origin::{Origin, origin};

// net/tcp_states.h
const TCP_TIME_WAIT: u8 = 6;
const TCP_LISTEN: u8 = 10;
const TCP_NEW_SYN_RECV: u8 = 12;
/// All but the two that are no whole sockets.
const STATES: u32 = !(1 << TCP_TIME_WAIT | 1 << TCP_NEW_SYN_RECV);

/// The sockets that sock_diag shows at one time.
#[derive(Debug, Default)]
pub(super) struct Census {
    /// Sockets that should be in the index, by the backend they are connected to.
    pub(super) clients: BTreeMap<Backend, Vec<Victim>>,
    /// Cookies of all sockets there are, with or without a peer.
    pub(super) alive: HashSet<u64>,
    /// TCP sockets of the cgroup that a listener has accepted.
    pub(super) accepted: u64,
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
        Ok(Self { diag, membership: Membership::new(cgroup)?, buffer: Vec::new() })
    }

    /// Looks at these netns, one after the other.
    pub(super) fn take(&mut self, netns: &[NetnsId]) -> Census {
        let mut census = Census::default();
        let mut rest = netns;
        while !rest.is_empty() {
            let (opened, failed) = self.diag.open_some(rest);
            let (some, others) = rest.split_at(opened);
            rest = others;
            for id in some {
                let looked = match failed.get(&id.cookie) {
                    Some(&errno) => Err(io::Error::from_raw_os_error(errno)),
                    None => self.one(*id, &mut census),
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
        census
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
                    info: protocol == Protocol::Tcp,
                };
                let Self { diag, membership, buffer } = self;
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
                        Place::Inside => {}
                        Place::Outside => return,
                        Place::Unknown(_) => {
                            census.undecided += 1;
                            return;
                        }
                    }
                    let origin = match protocol {
                        // Nothing but connect() gives a UDP socket a peer.
                        Protocol::Udp => Origin::Connected,
                        Protocol::Tcp => origin(&message, victim.state()),
                    };
                    match origin {
                        Origin::Connected => census.add_client(victim),
                        Origin::Accepted => census.accepted += 1,
                        Origin::Unclear => unclear.push(victim),
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

    fn add_client(&mut self, victim: Victim) {
        match victim.backend() {
            Some(backend) => self.clients.entry(backend).or_default().push(victim),
            // A multicast or broadcast address, say: no event can name it.
            None => self.undecided += 1,
        }
    }
}

fn place(membership: Option<&mut Membership>, message: &InetDiag<'_>) -> Place {
    match (membership, message.cgroup()) {
        (Some(membership), Some(cgroup)) => membership.place(cgroup),
        (Some(_), None) => Place::Unknown(libc::ENOTSUP),
        (None, _) => Place::Inside,
    }
}
