//! Scripts: a world and a list of operations, as text with one operation a line.
//!
//! An operation names its socket by a slot that the script chooses. One that does not fit the state of things (a
//! slot that is empty, or taken) is passed over, so every part of a script is a script again. That is what makes
//! shrinking possible.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use anyhow::{Context as _, Result, bail, ensure};
use skreap::core::{Backend, Protocol};
use skreap_testbed::Family;

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
    /// There is no route to it.
    Nowhere,
    /// The addresses that stand for another one, which the socket's own address decides; no backend has them.
    Zero,
    Zero6,
}

impl Place {
    pub const ALL: [Self; 11] = [
        Self::A,
        Self::B,
        Self::C,
        Self::D,
        Self::E,
        Self::Lo,
        Self::Lo6,
        Self::Own,
        Self::Nowhere,
        Self::Zero,
        Self::Zero6,
    ];
    /// The ones at which a backend answers.
    pub const SERVED: [Self; 7] = [Self::A, Self::B, Self::C, Self::D, Self::E, Self::Lo, Self::Lo6];
    /// The ones whose address a new netns does not have by itself.
    pub const ADDED: [Self; 6] = [Self::A, Self::B, Self::C, Self::D, Self::E, Self::Own];

    const fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::C => "c",
            Self::D => "d",
            Self::E => "e",
            Self::Lo => "lo",
            Self::Lo6 => "lo6",
            Self::Own => "own",
            Self::Nowhere => "nowhere",
            Self::Zero => "zero",
            Self::Zero6 => "zero6",
        }
    }

    /// True if it stands for another one.
    pub fn is_zero(self) -> bool {
        matches!(self, Self::Zero | Self::Zero6)
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
            Self::Nowhere => SocketAddr::new(IpAddr::from([203, 0, 113, 1]), 53),
            Self::Zero => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 53),
            Self::Zero6 => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 53),
        }
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
    Gone(Vec<Named>),
    DryRun(Vec<Named>),
    /// A reconcile: all other backends are gone.
    Living(Vec<Named>),
    /// The reaper goes and another takes over its pins.
    Restart,
    /// The reaper and its pins go, and another looks for the sockets that are older than its hooks.
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

// ---- to text ----

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.raw { "raw " } else { "" }, self.place)
    }
}

fn named(f: &mut fmt::Formatter<'_>, word: &str, backends: &[Named]) -> fmt::Result {
    f.write_str(word)?;
    backends.iter().try_for_each(|named| write!(f, " {} {}", named.protocol, named.place))
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(Open { slot, client, protocol, family, netns, bound, nonblocking }) => {
                let family = if *family == Family::V4 { "v4" } else { "v6" };
                write!(f, "open {slot} client {client} {protocol} {family} netns {netns}")?;
                f.write_str(if *bound { " bound" } else { "" })?;
                f.write_str(if *nonblocking { " nonblocking" } else { "" })
            }
            Self::Serve { slot, client, netns } => write!(f, "serve {slot} client {client} netns {netns}"),
            Self::Accept { listener, slot } => write!(f, "accept {listener} as {slot}"),
            Self::Connect { slot, to } => write!(f, "connect {slot} {to}"),
            Self::Disconnect { slot } => write!(f, "disconnect {slot}"),
            Self::Race { slot, a, b } => write!(f, "race {slot} {a} {b}"),
            Self::Send { slot } => write!(f, "send {slot}"),
            Self::SendTo { slot, to } => write!(f, "sendto {slot} {to}"),
            Self::SendMany { slot, to } => {
                write!(f, "sendmany {slot}")?;
                to.iter().try_for_each(|to| write!(f, " {to}"))
            }
            Self::Shutdown { slot } => write!(f, "shutdown {slot}"),
            Self::Dup { slot } => write!(f, "dup {slot}"),
            Self::Fly { slot } => write!(f, "fly {slot}"),
            Self::Land { slot } => write!(f, "land {slot}"),
            Self::Close { slot } => write!(f, "close {slot}"),
            Self::Fork { client } => write!(f, "fork client {client}"),
            Self::EndFork { client } => write!(f, "endfork client {client}"),
            Self::Kill { client } => write!(f, "kill client {client}"),
            Self::NewNetns { netns } => write!(f, "netns {netns}"),
            Self::Unname { netns } => write!(f, "unname {netns}"),
            Self::Gone(backends) => named(f, "gone", backends),
            Self::DryRun(backends) => named(f, "dry-run", backends),
            Self::Living(backends) => named(f, "living", backends),
            Self::Restart => f.write_str("restart"),
            Self::Anew => f.write_str("anew"),
            Self::Insmod => f.write_str("insmod"),
            Self::Rmmod => f.write_str("rmmod"),
        }
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "world {}", self.world)?;
        self.ops.iter().try_for_each(|op| writeln!(f, "{op}"))
    }
}

// ---- from text ----

struct Words<'a>(std::iter::Peekable<std::str::SplitWhitespace<'a>>);

impl Words<'_> {
    fn word(&mut self) -> Result<&str> {
        self.0.next().context("the line is too short")
    }

    fn expect(&mut self, expected: &str) -> Result<()> {
        let word = self.word()?;
        ensure!(word == expected, "{word:?} is not {expected:?}");
        Ok(())
    }

    fn flag(&mut self, flag: &str) -> bool {
        self.0.next_if_eq(&flag).is_some()
    }

    fn number(&mut self, below: u8) -> Result<u8> {
        let number: u8 = self.word()?.parse()?;
        ensure!(number < below, "{number} is not below {below}");
        Ok(number)
    }

    fn slot(&mut self) -> Result<u8> {
        self.number(SLOTS)
    }

    fn client(&mut self) -> Result<u8> {
        self.expect("client")?;
        self.number(CLIENTS)
    }

    fn netns(&mut self) -> Result<u8> {
        self.expect("netns")?;
        self.number(NETNS)
    }

    fn protocol(&mut self) -> Result<Protocol> {
        match self.word()? {
            "udp" => Ok(Protocol::Udp),
            "tcp" => Ok(Protocol::Tcp),
            other => bail!("{other:?} is neither udp nor tcp"),
        }
    }

    fn family(&mut self) -> Result<Family> {
        match self.word()? {
            "v4" => Ok(Family::V4),
            "v6" => Ok(Family::V6),
            other => bail!("{other:?} is neither v4 nor v6"),
        }
    }

    fn place(&mut self) -> Result<Place> {
        let word = self.word()?;
        Place::ALL
            .into_iter()
            .find(|place| place.name() == word)
            .with_context(|| format!("no place {word:?}"))
    }

    fn to(&mut self) -> Result<To> {
        Ok(To { raw: self.flag("raw"), place: self.place()? })
    }

    /// One or more, to the end of the line.
    fn rest<T>(&mut self, one: impl Fn(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut all = vec![one(self)?];
        while self.0.peek().is_some() {
            all.push(one(self)?);
        }
        Ok(all)
    }

    fn named(&mut self) -> Result<Vec<Named>> {
        self.rest(|words| {
            let named = Named { protocol: words.protocol()?, place: words.place()? };
            ensure!(!named.place.is_zero(), "there is no backend at {}", named.place);
            Ok(named)
        })
    }
}

impl FromStr for Op {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let mut words = Words(line.split_whitespace().peekable());
        let w = &mut words;
        let op = match w.word()? {
            "open" => Self::Open(Open {
                slot: w.slot()?,
                client: w.client()?,
                protocol: w.protocol()?,
                family: w.family()?,
                netns: w.netns()?,
                bound: w.flag("bound"),
                nonblocking: w.flag("nonblocking"),
            }),
            "serve" => Self::Serve { slot: w.slot()?, client: w.client()?, netns: w.netns()? },
            "accept" => {
                let listener = w.slot()?;
                w.expect("as")?;
                Self::Accept { listener, slot: w.slot()? }
            }
            "connect" => Self::Connect { slot: w.slot()?, to: w.to()? },
            "disconnect" => Self::Disconnect { slot: w.slot()? },
            "race" => Self::Race { slot: w.slot()?, a: w.to()?, b: w.to()? },
            "send" => Self::Send { slot: w.slot()? },
            "sendto" => Self::SendTo { slot: w.slot()?, to: w.to()? },
            "sendmany" => Self::SendMany { slot: w.slot()?, to: w.rest(Words::to)? },
            "shutdown" => Self::Shutdown { slot: w.slot()? },
            "dup" => Self::Dup { slot: w.slot()? },
            "fly" => Self::Fly { slot: w.slot()? },
            "land" => Self::Land { slot: w.slot()? },
            "close" => Self::Close { slot: w.slot()? },
            "fork" => Self::Fork { client: w.client()? },
            "endfork" => Self::EndFork { client: w.client()? },
            "kill" => Self::Kill { client: w.client()? },
            "netns" => Self::NewNetns { netns: w.number(NETNS)? },
            "unname" => Self::Unname { netns: w.number(NETNS)? },
            "gone" => Self::Gone(w.named()?),
            "dry-run" => Self::DryRun(w.named()?),
            "living" => Self::Living(w.named()?),
            "restart" => Self::Restart,
            "anew" => Self::Anew,
            "insmod" => Self::Insmod,
            "rmmod" => Self::Rmmod,
            other => bail!("no operation {other:?}"),
        };
        match words.0.next() {
            Some(word) => bail!("{word:?} is one word too many"),
            None => Ok(op),
        }
    }
}

impl FromStr for Script {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let code = |line: &str| line.split('#').next().unwrap_or_default().trim().to_owned();
        let mut lines = text.lines().map(code).enumerate().filter(|(_, line)| !line.is_empty());
        let (_, first) = lines.next().context("the script is empty")?;
        let world = first.strip_prefix("world ").context("the first line is not \"world NAME\"")?.to_owned();
        let ops = lines
            .map(|(at, line)| line.parse().with_context(|| format!("line {}: {line}", at + 1)))
            .collect::<Result<_>>()?;
        Ok(Self { world, ops })
    }
}
