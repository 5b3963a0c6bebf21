//! The truth: which socket is connected where, by the rules of the kernel, and so whom an event must destroy.
//!
//! It is told of every operation and of what the kernel answered, and knows nothing of skreap. Sockets are named by
//! their cookies.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use skreap::core::{Backend, Protocol, Unconnected};
use skreap_testbed::Family;

use crate::chosen::Chosen;
use crate::frontends::{BEHIND, Ours, Way, Ways};
use crate::script::{Link, Place};

/// What a system call returned: 0 or an errno.
pub type Errno = i32;

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It may connect.
    Client,
    /// It listens, or a listener has made it. Never a victim.
    Server,
}

/// A link, and the netns that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct On {
    pub netns: u8,
    pub link: Link,
}

/// Which backends an event says are gone.
#[derive(Clone, Copy, Debug)]
pub enum Gone<'a> {
    These(&'a [Backend]),
    /// A reconcile, which passes over link-local addresses.
    AllBut(&'a [Backend]),
    /// The host on this link.
    OnLink(On),
    /// No backends, but whom a selector means.
    Chosen(&'a Chosen),
    /// Everything that a policy does not allow.
    Forbidden(&'a [Backend]),
}

impl Gone<'_> {
    fn contains(self, protocol: Protocol, addr: SocketAddr, link: Option<On>) -> bool {
        let named = |backends: &[Backend]| {
            backends.iter().any(|backend| backend.protocol() == protocol && backend.socket_addr() == addr)
        };
        match self {
            Self::These(backends) => named(backends),
            Self::AllBut(backends) => link.is_none() && !named(backends),
            Self::Chosen(chosen) => chosen.holds(protocol, addr),
            Self::Forbidden(allowed) => !named(allowed),
            Self::OnLink(on) => protocol == Protocol::Udp && addr == Link::addr() && link == Some(on),
        }
    }
}

/// One socket.
#[derive(Clone, Debug)]
pub struct Socket {
    pub protocol: Protocol,
    pub role: Role,
    /// Descriptors, processes and messages that keep it.
    holders: u32,
    /// Where it is connected to, without the zone of a link-local address.
    peer: Option<SocketAddr>,
    /// The link on which that address is, if it is link-local.
    link: Option<On>,
    /// Bound by its owner, so that it keeps its port.
    bound: bool,
    /// Has a local port, without which it can neither send nor be named.
    port: bool,
    /// `None` after a race, which may have ended either way.
    own: Option<Own>,
    /// Where it has ever sent to by name.
    sent: BTreeSet<SocketAddr>,
    /// By backend, how it has gone there, whatever came of it.
    ways: BTreeMap<SocketAddr, Ways>,
    /// It has named a zero address, and nobody records any more where it goes.
    wildcard: bool,
    /// How it came to where it is connected; `None`: nobody knows.
    came_by: Option<Way>,
}

/// All sockets, and what is done with those that only ever sent.
#[derive(Debug)]
pub struct Truth {
    sockets: BTreeMap<u64, Socket>,
    unconnected: Unconnected,
    /// Sockets whose last holder is gone.
    pub closed: u64,
}

/// IPv4-mapped addresses are IPv4 addresses.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// What a socket that was bound to none has taken as its own addresses: for each kind of address the first that it
/// connected to, since every place is on its own machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Own {
    /// What IPv4 goes by.
    v4: Option<IpAddr>,
    /// What IPv6 goes by, which may be an IPv4 address too.
    v6: Option<IpAddr>,
}

impl Own {
    fn take(&mut self, peer: IpAddr) {
        if peer.is_ipv4() {
            self.v4.get_or_insert(peer);
        }
        self.v6.get_or_insert(peer);
    }

    /// Where a zero address leads. One of IPv4 leads to the socket itself, or to loopback without an address of its
    /// own; one of IPv6 to loopback, which is that of IPv4 if the socket goes by an IPv4 address there.
    fn leads_to(self, zero: SocketAddr) -> SocketAddr {
        let place = match zero.ip() {
            IpAddr::V4(_) => self.v4.unwrap_or(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(_) if self.v6.is_some_and(|own| own.is_ipv4()) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        SocketAddr::new(place, zero.port())
    }
}

impl Socket {
    /// True if it has ever sent to an address that it named.
    pub fn has_sent(&self) -> bool {
        self.wildcard || !self.sent.is_empty()
    }

    fn forget_ways(&mut self) {
        self.ways.values_mut().for_each(|ways| *ways = Ways::Several);
    }
}

/// How a call comes to the backend of the address that it names.
fn way_to(named: SocketAddr) -> Way {
    let vips = [Place::Vip, Place::Vip2].into_iter();
    vips.filter(|vip| vip.addr() == named).map(Way::Through).next().unwrap_or(Way::Direct)
}

impl Truth {
    pub fn new(unconnected: Unconnected) -> Self {
        Self { sockets: BTreeMap::new(), unconnected, closed: 0 }
    }

    pub fn get(&self, cookie: u64) -> Option<&Socket> {
        self.sockets.get(&cookie)
    }

    pub fn peer(&self, cookie: u64) -> Option<SocketAddr> {
        self.get(cookie)?.peer
    }

    /// Where this address leads the socket; `None`: nobody knows.
    pub fn leads_to(&self, cookie: u64, to: SocketAddr) -> Option<SocketAddr> {
        let to = canonical(to);
        if to.ip().is_unspecified() {
            return Some(self.get(cookie)?.own?.leads_to(to));
        }
        Some(if way_to(to) == Way::Direct { to } else { BEHIND.addr() })
    }

    pub fn cookies(&self) -> impl Iterator<Item = u64> {
        self.sockets.keys().copied()
    }

    fn change(&mut self, cookie: u64, change: impl FnOnce(&mut Socket)) {
        if let Some(socket) = self.sockets.get_mut(&cookie) {
            change(socket);
        }
    }

    /// A socket was made; it has one holder.
    pub fn opened(&mut self, cookie: u64, protocol: Protocol, role: Role, bound: bool) {
        let socket = Socket {
            protocol,
            role,
            holders: 1,
            peer: None,
            link: None,
            bound,
            port: bound,
            own: Some(Own::default()),
            sent: BTreeSet::new(),
            ways: BTreeMap::new(),
            wildcard: false,
            came_by: None,
        };
        self.sockets.insert(cookie, socket);
    }

    /// One holder more.
    pub fn held(&mut self, cookie: u64) {
        self.change(cookie, |socket| socket.holders += 1);
    }

    /// One holder less; with the last one the socket is gone.
    pub fn released(&mut self, cookie: u64) {
        self.change(cookie, |socket| socket.holders -= 1);
        if self.sockets.get(&cookie).is_some_and(|socket| socket.holders == 0) {
            self.sockets.remove(&cookie);
            self.closed += 1;
        }
    }

    /// `connect(2)`, to where the address leads. A UDP socket goes to the new peer, or keeps the old one if that fails. A TCP socket has one peer
    /// until it loses it: another connect may succeed (it tells that the first one is over) and changes nothing.
    pub fn connected(&mut self, cookie: u64, to: SocketAddr, errno: Errno) {
        let to = canonical(to);
        self.change(cookie, |socket| {
            // The port is taken before the route is looked for.
            socket.port = true;
            match socket.protocol {
                Protocol::Udp if errno == 0 => {
                    (socket.peer, socket.link) = (Some(to), None);
                    socket.own.iter_mut().for_each(|own| own.take(to.ip()));
                }
                Protocol::Tcp if errno == 0 && socket.peer.is_none() => socket.peer = Some(to),
                Protocol::Udp | Protocol::Tcp => {}
            }
        });
    }

    /// Somebody else has connected it, directly.
    pub fn connected_anew(&mut self, cookie: u64, to: SocketAddr) {
        self.gone_to(cookie, to, to);
        self.connected(cookie, to, 0);
        self.connected_by(cookie, to, 0);
    }

    /// As [`connected`](Self::connected), to the host on a link. That binds the socket to the link, also if it fails:
    /// what it takes as its own address later is any of its machine.
    pub fn connected_on(&mut self, cookie: u64, on: On, errno: Errno) {
        self.connected(cookie, Link::addr(), errno);
        self.change(cookie, |socket| socket.own = None);
        if errno == 0 {
            self.change(cookie, |socket| socket.link = Some(on));
        }
    }

    /// Two threads have connected a UDP socket; `peer` is what the kernel says of it. False: that cannot be.
    #[must_use]
    pub fn raced(&mut self, cookie: u64, possible: &[SocketAddr], peer: Option<SocketAddr>) -> bool {
        let peer = peer.map(canonical);
        let possible: Vec<SocketAddr> = possible.iter().copied().map(canonical).collect();
        let mut right = false;
        self.change(cookie, |socket| {
            socket.port = true;
            right = if possible.is_empty() {
                peer == socket.peer
            } else {
                peer.is_some_and(|peer| possible.contains(&peer))
            };
            if !possible.is_empty() {
                (socket.peer, socket.link) = (peer, None);
            }
            socket.own = None;
            // No virtual address takes part in a race.
            if !possible.is_empty() {
                socket.came_by = Some(Way::Direct);
            }
        });
        right
    }

    /// `connect(2)` to AF_UNSPEC. A UDP socket also gives up a port that it was not bound to.
    pub fn disconnected(&mut self, cookie: u64, errno: Errno) {
        if errno == 0 {
            self.lose_peer(cookie);
        }
    }

    /// `send(2)`. A UDP socket takes a port before anyone looks whether it has a peer. One of IPv6 that has an IPv4 peer
    /// hands the datagram on to IPv4 with the peer's name: a `sendto`, for all that happens there.
    pub fn sent(&mut self, cookie: u64, family: Family) {
        self.change(cookie, |socket| {
            if socket.protocol == Protocol::Udp {
                socket.port = true;
                let by_name = socket.peer.filter(|peer| family == Family::V6 && peer.is_ipv4());
                socket.sent.extend(by_name);
            }
        });
    }

    /// The end of a datagram that was begun before. It goes where that was to go, and the kernel asks nobody.
    pub fn took_port(&mut self, cookie: u64) {
        self.change(cookie, |socket| socket.port = true);
    }

    /// `sendto(2)`, to where the address leads. It is noted before the kernel looks whether the datagram can leave, unless the address does not
    /// fit the socket at all. An IPv6 socket that has taken an IPv4 address at its own end finds only later that an IPv6
    /// address does not go with that.
    pub fn sent_to(&mut self, cookie: u64, family: Family, to: SocketAddr, errno: Errno) {
        let to = canonical(to);
        let fits = errno != libc::EINVAL && (errno != libc::EAFNOSUPPORT || family == Family::V6);
        self.change(cookie, |socket| {
            if socket.protocol == Protocol::Udp {
                socket.port = true;
                if fits {
                    socket.sent.insert(to);
                }
            }
        });
    }

    /// A call that names an address has gone to the hooks, whatever comes of it.
    pub fn gone_to(&mut self, cookie: u64, named: SocketAddr, leads: SocketAddr) {
        let named = canonical(named);
        self.change(cookie, |socket| {
            if named.ip().is_unspecified() {
                socket.wildcard = true;
                socket.forget_ways();
            }
            let way = way_to(named);
            let ways = socket.ways.entry(leads).or_insert(Ways::One(way));
            if socket.wildcard || *ways != Ways::One(way) {
                *ways = Ways::Several;
            }
        });
    }

    /// After [`connected`](Self::connected): by the address that was named.
    pub fn connected_by(&mut self, cookie: u64, named: SocketAddr, errno: Errno) {
        if errno == 0 {
            self.change(cookie, |socket| socket.came_by = Some(way_to(canonical(named))));
        }
    }

    /// Of what there is now, the next reaper may know how it came or not.
    pub fn forget_ways(&mut self) {
        self.sockets.values_mut().for_each(Socket::forget_ways);
    }

    /// The clients that are connected to the backend and came by this way.
    pub fn came_by(&self, way: Way, backend: &Backend) -> Ours {
        let mut ours = Ours::default();
        let addr = backend.socket_addr();
        for (cookie, socket) in &self.sockets {
            let is_client = socket.role == Role::Client && socket.protocol == backend.protocol();
            if !is_client || socket.peer != Some(addr) {
                continue;
            }
            ours.connected += 1;
            let may_be = socket.came_by.is_none_or(|came| came == way);
            let cookie = *cookie;
            match socket.ways.get(&addr) {
                Some(Ways::One(one)) => ours.certain.extend((*one == way).then_some(cookie)),
                Some(Ways::Several) | None => ours.possible.extend(may_be.then_some(cookie)),
            }
        }
        ours
    }

    /// Whoever begins to look now does not know who has sent where.
    pub fn forget_senders(&mut self) {
        self.sockets.values_mut().for_each(|socket| socket.sent.clear());
    }

    /// The other end of a TCP connection has ended it.
    pub fn ended(&mut self, cookie: u64) {
        self.lose_peer(cookie);
    }

    /// The socket was destroyed.
    pub fn destroyed(&mut self, cookie: u64) {
        self.lose_peer(cookie);
    }

    fn lose_peer(&mut self, cookie: u64) {
        self.change(cookie, |socket| {
            (socket.peer, socket.link) = (None, None);
            if socket.protocol == Protocol::Udp {
                socket.port = socket.bound;
                socket.own = Some(Own::default());
            }
        });
    }

    /// Whom an event must destroy: the sockets that are connected to one of the backends, and, if so wanted, those
    /// that are connected to nothing and have sent to one.
    pub fn victims(&self, gone: Gone<'_>) -> BTreeSet<u64> {
        let is_victim = |socket: &Socket| {
            let is_gone = |addr: SocketAddr, link| gone.contains(socket.protocol, addr, link);
            let has_sent = || socket.sent.iter().any(|addr| is_gone(*addr, None));
            let sender = || self.unconnected == Unconnected::Destroy && socket.port && has_sent();
            socket.role == Role::Client && socket.peer.map_or_else(sender, |peer| is_gone(peer, socket.link))
        };
        self.sockets.iter().filter(|(_, socket)| is_victim(socket)).map(|(cookie, _)| *cookie).collect()
    }
}
