//! Scripts: a world and a list of operations, as text with one operation a line.
//!
//! An operation names its socket by a slot that the script chooses. One that does not fit the state of things (a
//! slot that is empty, or taken) is passed over, so every part of a script is a script again. That is what makes
//! shrinking possible.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result};
use skreap::core::{Backend, Protocol};
use skreap_testbed::Family;

use crate::chosen::Chosen;
use crate::frontends::Way;

/// Slots for sockets.
pub const SLOTS: u8 = 10;
/// Client processes.
pub const CLIENTS: u8 = 3;
/// Namespaces that are always there; the ones after them come and go.
pub const STANDING: u8 = 2;
/// All namespaces.
pub const NETNS: u8 = 4;

/// Where a socket may connect or send to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    A,
    B,
    C,
    D,
    E,
    /// Loopback, of IPv4 and of IPv6.
    Lo,
    Lo6,
    /// Where a listener of the script may be.
    Own,
    /// Where a listener of MPTCP is, for sockets of MPTCP. At the other places they fall back to TCP.
    Multi,
    /// There is no route to it.
    Nowhere,
    /// The addresses that stand for another one, which the socket's own address decides; no backend has them.
    Zero,
    Zero6,
    /// Virtual addresses, which a load balancer translates to [`BEHIND`](crate::frontends::BEHIND).
    Vip,
    Vip2,
}

impl Place {
    pub const ALL: [Self; 14] = [
        Self::A,
        Self::B,
        Self::C,
        Self::D,
        Self::E,
        Self::Lo,
        Self::Lo6,
        Self::Own,
        Self::Multi,
        Self::Nowhere,
        Self::Zero,
        Self::Zero6,
        Self::Vip,
        Self::Vip2,
    ];
    /// The ones at which a backend answers.
    pub const SERVED: [Self; 7] = [Self::A, Self::B, Self::C, Self::D, Self::E, Self::Lo, Self::Lo6];
    /// The ones whose address a new netns does not have by itself.
    pub const ADDED: [Self; 7] = [Self::A, Self::B, Self::C, Self::D, Self::E, Self::Own, Self::Multi];

    pub const fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::C => "c",
            Self::D => "d",
            Self::E => "e",
            Self::Lo => "lo",
            Self::Lo6 => "lo6",
            Self::Own => "own",
            Self::Multi => "multi",
            Self::Nowhere => "nowhere",
            Self::Zero => "zero",
            Self::Zero6 => "zero6",
            Self::Vip => "vip",
            Self::Vip2 => "vip2",
        }
    }

    /// True if it stands for another one.
    pub fn is_zero(self) -> bool {
        matches!(self, Self::Zero | Self::Zero6)
    }

    /// True if nothing but a load balancer knows it.
    pub fn is_virtual(self) -> bool {
        matches!(self, Self::Vip | Self::Vip2)
    }

    /// Addresses that are nobody else's.
    pub fn addr(self) -> SocketAddr {
        let v4 = |last| SocketAddr::new(IpAddr::from([10, 179, 0, last]), 53);
        let v6 = |last| SocketAddr::new(IpAddr::from([0xfd79, 0, 0, 0, 0, 0, 0, last]), 53);
        match self {
            Self::A => v4(1),
            Self::B => v4(2),
            Self::C => v4(3),
            Self::D => v6(1),
            Self::E => v6(2),
            Self::Lo => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53),
            Self::Lo6 => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 53),
            Self::Own => v4(9),
            Self::Multi => v4(10),
            Self::Vip => v4(20),
            Self::Vip2 => v4(21),
            Self::Nowhere => SocketAddr::new(IpAddr::from([203, 0, 113, 1]), 53),
            Self::Zero => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 53),
            Self::Zero6 => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 53),
        }
    }
}

/// A link of a standing netns. At the other end of each is a host with the same link-local address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    Left,
    Right,
}

impl Link {
    pub const ALL: [Self; 2] = [Self::Left, Self::Right];

    /// The name of its device, too.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Right => "right",
        }
    }

    /// The address of the host, without a zone.
    pub fn addr() -> SocketAddr {
        SocketAddr::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into(), 53)
    }
}

/// An address as a socket is given it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct To {
    pub place: Place,
    /// An IPv4 address is given to an IPv6 socket as it is, not as an IPv4-mapped one.
    pub raw: bool,
}

impl To {
    pub fn addr(self, family: Family) -> SocketAddr {
        match self.place.addr() {
            SocketAddr::V4(v4) if family == Family::V6 && !self.raw => {
                SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
            }
            addr => addr,
        }
    }
}

/// A backend that an event names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    pub protocol: Protocol,
    pub place: Place,
}

impl Named {
    pub fn backend(self) -> Result<Backend> {
        let addr = self.place.addr();
        Backend::new(self.protocol, addr.ip(), addr.port()).context("not a backend")
    }
}

/// A socket to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    pub slot: u8,
    pub client: u8,
    pub protocol: Protocol,
    pub family: Family,
    pub netns: u8,
    /// To a port of its own.
    pub bound: bool,
    pub nonblocking: bool,
    /// MPTCP in place of TCP.
    pub mptcp: bool,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Open(Open),
    /// A TCP socket that listens at [`Place::Own`].
    Serve {
        slot: u8,
        client: u8,
        netns: u8,
    },
    Accept {
        listener: u8,
        slot: u8,
    },
    Connect {
        slot: u8,
        to: To,
    },
    Disconnect {
        slot: u8,
    },
    /// Two threads connect a UDP socket at once.
    Race {
        slot: u8,
        a: To,
        b: To,
    },
    Send {
        slot: u8,
    },
    SendTo {
        slot: u8,
        to: To,
    },
    SendMany {
        slot: u8,
        to: Vec<To>,
    },
    /// A send without a name and with a control message.
    SendMarked {
        slot: u8,
    },
    /// A send that takes the lock of the socket and keeps it.
    Hold {
        slot: u8,
    },
    /// That send ends.
    LetGo {
        slot: u8,
    },
    /// A UDP socket of IPv6 connects to the host at the other end of a link.
    ConnectLink {
        slot: u8,
        link: Link,
    },
    Shutdown {
        slot: u8,
    },
    Dup {
        slot: u8,
    },
    Fly {
        slot: u8,
    },
    Land {
        slot: u8,
    },
    Close {
        slot: u8,
    },
    Fork {
        client: u8,
    },
    EndFork {
        client: u8,
    },
    Kill {
        client: u8,
    },
    NewNetns {
        netns: u8,
    },
    /// Takes away everything that leads to a netns but the sockets in it.
    Unname {
        netns: u8,
    },
    /// An event on a backend, and at once the end of a netns: its sockets are closed and its name is taken away.
    EndNetns {
        netns: u8,
        gone: Named,
    },
    Gone(Vec<Named>),
    /// An event on the host at the other end of a link of this netns, after a dry run of it.
    GoneLink {
        link: Link,
        netns: u8,
    },
    DryRun(Vec<Named>),
    /// An event that connects the UDP sockets of a place to another one.
    Move {
        gone: Place,
        to: Place,
    },
    /// An event that destroys the UDP sockets of a place, and connects those without a peer to another one.
    Revive {
        gone: Place,
        to: Place,
    },
    /// A reconcile: all other backends are gone.
    Living(Vec<Named>),
    /// An event on those who came to a backend by one way, after a dry run of it.
    GoneBy {
        way: Way,
        gone: Named,
    },
    /// A selector says whom an event means.
    Terminate(Chosen),
    /// The sockets in this netns may be connected to these only.
    Policy {
        netns: u8,
        allowed: Vec<Named>,
    },
    /// The reaper goes and another takes over its pins.
    Restart,
    /// The reaper and its pins go, and another looks for the pre-existing sockets.
    Anew,
    /// The kernel module is loaded while the reaper is at work.
    Insmod,
    /// The kernel module goes. If the reaper has found it at its start, that is refused until the reaper and its pins are
    /// gone; the next one then starts without it.
    Rmmod,
}

/// A world and what happens in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    pub world: String,
    pub ops: Vec<Op>,
}
