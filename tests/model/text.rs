//! Scripts as text, one operation a line.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail, ensure};
use skreap::core::Protocol;
use skreap_testbed::Family;

use crate::chosen::{Chosen, Span};
use crate::frontends::Way;
use crate::script::{CLIENTS, Link, NETNS, Named, Op, Open, Place, SLOTS, STANDING, Script, To};

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
            Self::Open(Open { slot, client, protocol, family, netns, bound, nonblocking, mptcp }) => {
                let family = if *family == Family::V4 { "v4" } else { "v6" };
                write!(f, "open {slot} client {client} {protocol} {family} netns {netns}")?;
                f.write_str(if *bound { " bound" } else { "" })?;
                f.write_str(if *nonblocking { " nonblocking" } else { "" })?;
                f.write_str(if *mptcp { " mptcp" } else { "" })
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
            Self::SendMarked { slot } => write!(f, "sendmarked {slot}"),
            Self::Hold { slot } => write!(f, "hold {slot}"),
            Self::LetGo { slot } => write!(f, "letgo {slot}"),
            Self::ConnectLink { slot, link } => write!(f, "link {slot} {}", link.name()),
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
            Self::EndNetns { netns, gone } => named(f, &format!("end {netns}"), &[*gone]),
            Self::Gone(backends) => named(f, "gone", backends),
            Self::GoneLink { link, netns } => write!(f, "gone-link {} netns {netns}", link.name()),
            Self::GoneBy { way, gone } => named(f, &format!("gone-by {way}"), &[*gone]),
            Self::Move { gone, to } => write!(f, "move {gone} {to}"),
            Self::Revive { gone, to } => write!(f, "revive {gone} {to}"),
            Self::DryRun(backends) => named(f, "dry-run", backends),
            Self::Living(backends) => named(f, "living", backends),
            Self::Terminate(chosen) => write!(f, "terminate{chosen}"),
            Self::Policy { netns, allowed } => named(f, &format!("policy {netns} allow"), allowed),
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

    fn served(&mut self) -> Result<Place> {
        let place = self.place()?;
        ensure!(Place::SERVED.contains(&place), "nobody answers at {place}");
        Ok(place)
    }

    fn link(&mut self) -> Result<Link> {
        let word = self.word()?;
        Link::ALL.into_iter().find(|link| link.name() == word).with_context(|| format!("no link {word:?}"))
    }

    fn way(&mut self) -> Result<Way> {
        let word = self.word()?;
        Way::ALL.into_iter().find(|way| way.name() == word).with_context(|| format!("no way {word:?}"))
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

    fn one_named(&mut self) -> Result<Named> {
        let named = Named { protocol: self.protocol()?, place: self.place()? };
        let is_none = named.place.is_zero() || named.place.is_virtual();
        ensure!(!is_none, "there is no backend at {}", named.place);
        Ok(named)
    }

    fn named(&mut self) -> Result<Vec<Named>> {
        self.rest(Self::one_named)
    }

    fn span(&mut self) -> Result<Span> {
        let wide = Span::WIDE.into_iter().find(|span| self.flag(span.name()));
        wide.map_or_else(|| Ok(Span::One(self.place()?)), Ok)
    }

    /// To the end of the line.
    fn chosen(&mut self) -> Result<Chosen> {
        let protocol =
            if self.flag("udp") { Some(Protocol::Udp) } else { self.flag("tcp").then_some(Protocol::Tcp) };
        let netns = if self.flag("netns") { Some(self.number(STANDING)?) } else { None };
        let port = self.flag("port");
        let spans = if self.flag("to") { self.rest(Self::span)? } else { Vec::new() };
        ensure!(protocol.is_some() || netns.is_some() || port || !spans.is_empty(), "the selector is empty");
        Ok(Chosen { protocol, spans, port, netns })
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
                mptcp: w.flag("mptcp"),
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
            "sendmarked" => Self::SendMarked { slot: w.slot()? },
            "hold" => Self::Hold { slot: w.slot()? },
            "letgo" => Self::LetGo { slot: w.slot()? },
            "link" => Self::ConnectLink { slot: w.slot()?, link: w.link()? },
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
            "end" => Self::EndNetns { netns: w.number(NETNS)?, gone: w.one_named()? },
            "gone-link" => Self::GoneLink { link: w.link()?, netns: w.netns()? },
            "gone" => Self::Gone(w.named()?),
            "gone-by" => Self::GoneBy { way: w.way()?, gone: w.one_named()? },
            "move" => Self::Move { gone: w.served()?, to: w.served()? },
            "revive" => Self::Revive { gone: w.served()?, to: w.served()? },
            "dry-run" => Self::DryRun(w.named()?),
            "living" => Self::Living(w.named()?),
            "terminate" => Self::Terminate(w.chosen()?),
            "policy" => {
                let netns = w.number(STANDING)?;
                w.expect("allow")?;
                Self::Policy { netns, allowed: w.named()? }
            }
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
