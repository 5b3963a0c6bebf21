//! Events that say by a selector whom they mean.

use std::fmt;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use skreap::core::{Event, Network, Protocol, Request};

use crate::driver::Driver;
use crate::script::{Named, Place};
use crate::truth::Gone;

/// Addresses that a selector names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// One address.
    One(Place),
    /// The first three places.
    Low,
    /// All places of IPv4 that backends have, and of IPv6.
    Four,
    Six,
    /// Loopback of IPv4.
    Loop,
    /// Every address of IPv4, and of IPv6.
    All4,
    All6,
}

impl Span {
    pub const WIDE: [Self; 6] = [Self::Low, Self::Four, Self::Six, Self::Loop, Self::All4, Self::All6];

    pub const fn name(self) -> &'static str {
        match self {
            Self::One(place) => place.name(),
            Self::Low => "low",
            Self::Four => "four",
            Self::Six => "six",
            Self::Loop => "loop",
            Self::All4 => "all4",
            Self::All6 => "all6",
        }
    }

    fn prefix(self) -> String {
        match self {
            Self::One(place) => place.addr().ip().to_string(),
            Self::Low => "10.179.0.0/30".to_owned(),
            Self::Four => "10.179.0.0/16".to_owned(),
            Self::Six => "fd79::/16".to_owned(),
            Self::Loop => "127.0.0.0/8".to_owned(),
            Self::All4 => "0.0.0.0/0".to_owned(),
            Self::All6 => "::/0".to_owned(),
        }
    }

    fn holds(self, addr: SocketAddr) -> bool {
        let within =
            |network: &str| network.parse::<Network>().is_ok_and(|network| network.contains(addr.ip()));
        match self {
            Self::One(place) => place.addr().ip() == addr.ip(),
            Self::All4 => addr.is_ipv4(),
            Self::All6 => addr.is_ipv6(),
            Self::Low | Self::Four | Self::Six | Self::Loop => within(&self.prefix()),
        }
    }
}

/// Whom an event means: all of it must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    pub protocol: Option<Protocol>,
    /// Any of these; any address if there are none.
    pub spans: Vec<Span>,
    /// The port is named too. All places have the same, so with a protocol and single addresses the backends are exact.
    pub port: bool,
    /// A standing netns.
    pub netns: Option<u8>,
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.protocol.iter().try_for_each(|protocol| write!(f, " {protocol}"))?;
        self.netns.iter().try_for_each(|netns| write!(f, " netns {netns}"))?;
        f.write_str(if self.port { " port" } else { "" })?;
        if !self.spans.is_empty() {
            f.write_str(" to")?;
        }
        self.spans.iter().try_for_each(|span| write!(f, " {}", span.name()))
    }
}

impl Chosen {
    pub fn holds(&self, protocol: Protocol, addr: SocketAddr) -> bool {
        self.protocol.is_none_or(|wanted| wanted == protocol)
            && (self.spans.is_empty() || self.spans.iter().any(|span| span.holds(addr)))
            && (!self.port || addr.port() == Place::A.addr().port())
    }

    fn selector(&self, netns: Option<&str>) -> Value {
        let mut selector = json!({});
        if let Some(protocol) = self.protocol {
            selector["protocol"] = json!(protocol);
        }
        if !self.spans.is_empty() {
            selector["to"] = self.spans.iter().map(|span| span.prefix()).collect();
        }
        if self.port {
            selector["ports"] = json!([Place::A.addr().port().to_string()]);
        }
        if let Some(netns) = netns {
            selector["netns"] = json!(netns);
        }
        selector
    }
}

impl Driver<'_> {
    pub fn terminate(&mut self, chosen: &Chosen) -> Result<Option<()>> {
        let Some((name, _)) = self.meant(chosen.netns)? else { return Ok(None) };
        let event = json!({"type": "terminate", "where": chosen.selector(name.as_deref())});
        self.selected(event, Gone::Chosen(chosen), chosen.netns)
    }

    /// Whoever is in this netns may talk to these backends only.
    pub fn policy(&mut self, netns: u8, allowed: &[Named]) -> Result<Option<()>> {
        let Some((name, _)) = self.meant(Some(netns))? else { return Ok(None) };
        let backends = allowed.iter().map(|named| named.backend()).collect::<Result<Vec<_>>>()?;
        let entry = |named: &Named| {
            let addr = named.place.addr();
            json!({"protocol": named.protocol, "to": [addr.ip()], "ports": [addr.port().to_string()]})
        };
        let allow: Vec<Value> = allowed.iter().map(entry).collect();
        let event = json!({"type": "policy", "where": {"netns": name}, "allow": allow});
        self.selected(event, Gone::Forbidden(&backends), Some(netns))
    }

    /// Name and cookie of a netns that a selector names. `None` if it is not there, or if such an event cannot be complete:
    /// it does not look for the kernel's own sockets, and says so for ever once there was any.
    fn meant(&self, netns: Option<u8>) -> Result<Option<(Option<String>, Option<u64>)>> {
        if self.world.noted {
            return Ok(None);
        }
        let Some(netns) = netns else { return Ok(Some((None, None))) };
        Ok(self.world.netns(netns).map(|netns| (Some(netns.name().to_owned()), Some(netns.cookie()))))
    }

    /// Has it handled, after a dry run that must list the same.
    fn selected(&mut self, event: Value, gone: Gone<'_>, netns: Option<u8>) -> Result<Option<()>> {
        self.see_what_others_ended()?;
        let mut victims = self.truth.victims(gone);
        if let Some((_, Some(inside))) = self.meant(netns)? {
            victims.retain(|cookie| self.places.get(cookie) == Some(&inside));
        }
        for dry_run in [true, false] {
            let report = self.handle_event(parsed(&event, dry_run)?)?;
            self.check(&report, &victims, true)?;
        }
        Ok(Some(()))
    }
}

/// The event, as it is sent.
pub fn parsed(event: &Value, dry_run: bool) -> Result<Event> {
    let mut event = event.clone();
    event["id"] = json!("chosen");
    event["dry_run"] = json!(dry_run);
    match Request::parse(event.to_string().as_bytes(), 1).context("refused")? {
        Request::Event(event) => Ok(event),
        other => bail!("{other:?}"),
    }
}
