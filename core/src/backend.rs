//! Backends: the protocol, address and port that clients are connected to.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::excerpt;
use crate::text::names;
use crate::zone::Zone;

/// Transport protocol of a backend or a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

names!(Protocol, "a protocol", Tcp => "tcp", Udp => "udp");

impl Protocol {
    /// IP protocol number (IANA "Protocol Numbers"): 6 for TCP, 17 for UDP.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// The protocol with this IP protocol number; `None` if skreap does not handle it.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }
}

/// One backend: protocol, unicast address and non-zero port, in one canonical form.
///
/// An IPv4-mapped IPv6 address is held as the IPv4 address it stands for, so that two spellings
/// of the same peer are equal. Written and read as `udp://1.2.3.4:53` or `tcp://[fd00::1]:80`.
///
/// A link-local IPv6 address (`fe80::/10`) may have a zone, as in `udp://[fe80::1%eth0]:53`.
/// Without one it is a peer as sockets have it, but names no host:
/// [`Event::check_links`](crate::Event::check_links).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    protocol: Protocol,
    addr: IpAddr,
    port: u16,
    zone: Option<Zone>,
}

impl Backend {
    /// Checks and normalises a backend. `port` is in host byte order.
    ///
    /// # Errors
    /// * [`BackendError::PortZero`] and [`BackendError::Unspecified`]: a socket without a peer has
    ///   address and port zero, so a zero target would match listeners and unconnected sockets.
    /// * [`BackendError::Multicast`] and [`BackendError::Broadcast`]: these name a group of
    ///   receivers, not one backend. The group goes on when one of its members is deleted, so a
    ///   deletion of one can only be a mistake, and it would hit every sender to the group.
    pub fn new(protocol: Protocol, addr: IpAddr, port: u16) -> Result<Self, BackendError> {
        // First normalise, then check: `::ffff:0.0.0.0` is the unspecified address too.
        let addr = addr.to_canonical();
        if port == 0 {
            return Err(BackendError::PortZero);
        }
        if addr.is_unspecified() {
            return Err(BackendError::Unspecified(addr));
        }
        if addr.is_multicast() {
            return Err(BackendError::Multicast(addr));
        }
        if addr == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return Err(BackendError::Broadcast);
        }
        Ok(Self { protocol, addr, port, zone: None })
    }

    /// The same backend on this link.
    fn on(self, zone: &str) -> Result<Self, BackendError> {
        let zone = Zone::read(zone).map_err(BackendError::BadZone)?;
        if !self.is_link_local() {
            return Err(BackendError::ZoneId);
        }
        Ok(Self { zone: Some(zone), ..self })
    }

    /// The same backend as sockets have it: they know their link by other means.
    #[must_use]
    pub const fn without_zone(self) -> Self {
        Self { zone: None, ..self }
    }

    /// The link, if one is named.
    pub const fn zone(&self) -> Option<Zone> {
        self.zone
    }

    /// True for `fe80::/10`: many links have a host of this address. (IPv4 has `169.254.0.0/16`,
    /// but sockets do not know the link of such a peer, and the addresses in use there are those of
    /// one service of the whole machine.)
    pub const fn is_link_local(&self) -> bool {
        matches!(self.addr, IpAddr::V6(addr) if addr.is_unicast_link_local())
    }

    /// Transport protocol.
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Address; never an IPv4-mapped IPv6 address.
    pub const fn addr(&self) -> IpAddr {
        self.addr
    }

    /// Port in host byte order; never 0.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Address and port together.
    pub const fn socket_addr(&self) -> SocketAddr {
        SocketAddr::new(self.addr, self.port)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.zone {
            Some(zone) => write!(f, "{}://[{}%{zone}]:{}", self.protocol, self.addr, self.port),
            None => write!(f, "{}://{}", self.protocol, self.socket_addr()),
        }
    }
}

impl FromStr for Backend {
    type Err = BackendError;

    fn from_str(text: &str) -> Result<Self, BackendError> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| BackendError::NoScheme(excerpt(text)))?;
        let protocol =
            Protocol::from_str(scheme).map_err(|_| BackendError::UnknownScheme(excerpt(scheme)))?;
        if rest.contains('@') {
            return Err(BackendError::UserInfo);
        }
        if rest.contains(['/', '?', '#']) {
            return Err(BackendError::Path);
        }
        let (addr, zone, port) = match rest.strip_prefix('[') {
            Some(inner) => {
                let (host, after) = inner.split_once(']').ok_or(BackendError::UnclosedBracket)?;
                let (host, zone) = match host.split_once('%') {
                    Some((host, zone)) => (host, Some(zone)),
                    None => (host, None),
                };
                let addr = Ipv6Addr::from_str(host).map_err(|_| BackendError::BadIpv6(excerpt(host)))?;
                let port = after.strip_prefix(':').ok_or(BackendError::NoPort)?;
                (IpAddr::V6(addr), zone, port)
            }
            None => {
                if Ipv6Addr::from_str(rest).is_ok() || rest.matches(':').count() > 1 {
                    return Err(BackendError::UnbracketedIpv6);
                }
                let (host, port) = rest.split_once(':').ok_or(BackendError::NoPort)?;
                let addr = Ipv4Addr::from_str(host).map_err(|_| BackendError::BadIpv4(excerpt(host)))?;
                (IpAddr::V4(addr), None, port)
            }
        };
        let backend = Self::new(protocol, addr, parse_port(port)?)?;
        zone.map_or(Ok(backend), |zone| backend.on(zone))
    }
}

/// One spelling per port: only decimal digits, no sign, no leading zero.
fn parse_port(text: &str) -> Result<u16, BackendError> {
    let bad = || BackendError::BadPort(excerpt(text));
    if text.is_empty() {
        return Err(BackendError::NoPort);
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) || (text.len() > 1 && text.starts_with('0')) {
        return Err(bad());
    }
    text.parse().map_err(|_| bad())
}

impl Serialize for Backend {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Backend {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = Backend;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a backend such as \"udp://10.0.0.1:53\" or \"tcp://[fd00::1]:80\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Backend, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Visitor)
    }
}

/// Why something is not a backend, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// There is no `://`.
    #[error("{0} has no scheme; write tcp://ADDRESS:PORT or udp://ADDRESS:PORT")]
    NoScheme(String),
    /// The scheme is neither `tcp` nor `udp`.
    #[error("scheme {0} is not known; write tcp:// or udp:// in lowercase")]
    UnknownScheme(String),
    /// There is an `@`.
    #[error("a backend has no user or password; leave out everything up to the @")]
    UserInfo,
    /// There is a path, query or fragment.
    #[error("a backend has no path, query or fragment; end it after the port")]
    Path,
    /// There is a zone identifier (`%eth0`), and the address is not link-local.
    #[error(
        "only a link-local address (fe80::/10) has a zone identifier; leave out the % and what follows it: any other \
         backend is matched by address and port in every network namespace"
    )]
    ZoneId,
    /// What follows the `%` is not an interface.
    #[error(
        "{0} is not a zone; write the name of an interface or its number, such as tcp://[fe80::1%eth0]:80"
    )]
    BadZone(String),
    /// `[` without `]`.
    #[error("the [ is not closed; write an IPv6 backend as tcp://[fd00::1]:80")]
    UnclosedBracket,
    /// What stands between the brackets is not an IPv6 address.
    #[error("{0} is not an IPv6 address; write for example tcp://[fd00::1]:80, and IPv4 without brackets")]
    BadIpv6(String),
    /// An IPv6 address without brackets.
    #[error("an IPv6 address needs brackets; write for example tcp://[fd00::1]:80")]
    UnbracketedIpv6,
    /// Not an IPv4 address; host names are not resolved.
    #[error(
        "{0} is not an IPv4 address; write four decimal numbers such as 10.0.0.1 (names are not resolved)"
    )]
    BadIpv4(String),
    /// There is no port.
    #[error("the port is missing; end the backend with :PORT, a number from 1 to 65535")]
    NoPort,
    /// The port is not a decimal number in range.
    #[error("{0} is not a port; write a decimal number from 1 to 65535 without sign or leading zero")]
    BadPort(String),
    /// Port 0.
    #[error("port 0 would match sockets without a peer; write the backend's port, 1 to 65535")]
    PortZero,
    /// `0.0.0.0` or `::`, also as an IPv4-mapped address.
    #[error("{0} would match sockets without a peer; write the backend's own address")]
    Unspecified(IpAddr),
    /// A multicast group.
    #[error("{0} is a multicast group, not one backend; write the backend's own unicast address")]
    Multicast(IpAddr),
    /// The limited broadcast address.
    #[error("255.255.255.255 is everyone, not one backend; write the backend's own unicast address")]
    Broadcast,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::strategies;

    fn parse(text: &str) -> Result<Backend, BackendError> {
        text.parse()
    }

    #[test]
    fn protocol_names_and_numbers() {
        for (protocol, name, number) in [(Protocol::Tcp, "tcp", 6), (Protocol::Udp, "udp", 17)] {
            assert_eq!(protocol.to_string(), name);
            assert_eq!(name.parse(), Ok(protocol));
            assert_eq!(protocol.number(), number);
            assert_eq!(Protocol::from_number(number), Some(protocol));
            assert_eq!(serde_json::to_string(&protocol).unwrap(), format!("\"{name}\""));
        }
        assert_eq!(Protocol::from_number(132), None);
        assert_eq!(
            "UDP".parse::<Protocol>().unwrap_err().to_string(),
            "\"UDP\" is not a protocol; write one of: tcp, udp"
        );
    }

    #[test]
    fn reads_and_writes_both_families() {
        let v4 = parse("udp://1.2.3.4:53").unwrap();
        assert_eq!(v4.protocol(), Protocol::Udp);
        assert_eq!(v4.addr(), IpAddr::V4(Ipv4Addr::new(1, 2, 3, 4)));
        assert_eq!(v4.port(), 53);
        assert_eq!(v4.to_string(), "udp://1.2.3.4:53");

        let v6 = parse("tcp://[FD00:0::1]:80").unwrap();
        assert_eq!(v6.addr(), "fd00::1".parse::<IpAddr>().unwrap());
        assert_eq!(v6.to_string(), "tcp://[fd00::1]:80");
        assert_eq!(v6.socket_addr(), "[fd00::1]:80".parse().unwrap());
        assert_eq!(serde_json::to_string(&v6).unwrap(), "\"tcp://[fd00::1]:80\"");
    }

    #[test]
    fn mapped_addresses_become_ipv4_before_the_checks() {
        assert_eq!(parse("udp://[::ffff:10.0.0.1]:53"), parse("udp://10.0.0.1:53"));
        assert_eq!(
            parse("udp://[::ffff:0.0.0.0]:53"),
            Err(BackendError::Unspecified(Ipv4Addr::UNSPECIFIED.into()))
        );
        assert_eq!(
            parse("udp://[::ffff:224.0.0.1]:53"),
            Err(BackendError::Multicast(Ipv4Addr::new(224, 0, 0, 1).into()))
        );
        assert_eq!(parse("udp://[::ffff:255.255.255.255]:53"), Err(BackendError::Broadcast));
    }

    #[test]
    fn refuses_with_the_exact_reason() {
        use BackendError as E;
        let q = |text: &str| format!("{text:?}");
        for (text, error) in [
            ("", E::NoScheme(q(""))),
            ("1.2.3.4:53", E::NoScheme(q("1.2.3.4:53"))),
            ("udp:/1.2.3.4:53", E::NoScheme(q("udp:/1.2.3.4:53"))),
            ("UDP://1.2.3.4:53", E::UnknownScheme(q("UDP"))),
            ("://1.2.3.4:53", E::UnknownScheme(q(""))),
            (" udp://1.2.3.4:53", E::UnknownScheme(q(" udp"))),
            ("sctp://1.2.3.4:53", E::UnknownScheme(q("sctp"))),
            ("udp://me@1.2.3.4:53", E::UserInfo),
            ("udp://1.2.3.4:53/", E::Path),
            ("udp://1.2.3.4:53?x", E::Path),
            ("udp://1.2.3.4:53#x", E::Path),
            ("tcp://[fd00::1%eth0]:80", E::ZoneId),
            ("tcp://[::ffff:10.0.0.1%2]:80", E::ZoneId),
            ("tcp://[fec0::1%2]:80", E::ZoneId),
            ("tcp://[fe80::1%]:80", E::BadZone(q(""))),
            ("tcp://[fe80::1%eth0%eth1]:80", E::BadZone(q("eth0%eth1"))),
            ("tcp://[fe80::1%abcdefghijklmnop]:80", E::BadZone(q("abcdefghijklmnop"))),
            ("tcp://[ff02::1%eth0]:80", E::Multicast("ff02::1".parse().unwrap())),
            ("udp://169.254.1.1%eth0:53", E::BadIpv4(q("169.254.1.1%eth0"))),
            ("tcp://[fe80::1:80", E::UnclosedBracket),
            ("tcp://[fe80::g]:80", E::BadIpv6(q("fe80::g"))),
            ("tcp://[1.2.3.4]:80", E::BadIpv6(q("1.2.3.4"))),
            ("tcp://[]:80", E::BadIpv6(q(""))),
            ("tcp://fe80::1:80", E::UnbracketedIpv6),
            ("tcp://::1", E::UnbracketedIpv6),
            ("tcp://1.2.3.4:80:80", E::UnbracketedIpv6),
            ("udp://dns.local:53", E::BadIpv4(q("dns.local"))),
            ("udp://01.2.3.4:53", E::BadIpv4(q("01.2.3.4"))),
            ("udp://1.2.3:53", E::BadIpv4(q("1.2.3"))),
            ("udp://:53", E::BadIpv4(q(""))),
            ("udp://1.2.3.4", E::NoPort),
            ("udp://1.2.3.4:", E::NoPort),
            ("tcp://[fd00::1]", E::NoPort),
            ("tcp://[fd00::1]80", E::NoPort),
            ("udp://1.2.3.4:+53", E::BadPort(q("+53"))),
            ("udp://1.2.3.4:-1", E::BadPort(q("-1"))),
            ("udp://1.2.3.4:053", E::BadPort(q("053"))),
            ("udp://1.2.3.4:53 ", E::BadPort(q("53 "))),
            ("udp://1.2.3.4:٥٣", E::BadPort(q("٥٣"))),
            ("udp://1.2.3.4:65536", E::BadPort(q("65536"))),
            ("udp://1.2.3.4:0", E::PortZero),
            ("udp://0.0.0.0:53", E::Unspecified(Ipv4Addr::UNSPECIFIED.into())),
            ("tcp://[::]:80", E::Unspecified(Ipv6Addr::UNSPECIFIED.into())),
            ("udp://239.1.1.1:53", E::Multicast(Ipv4Addr::new(239, 1, 1, 1).into())),
            ("udp://[ff02::1]:53", E::Multicast("ff02::1".parse().unwrap())),
            ("udp://255.255.255.255:53", E::Broadcast),
        ] {
            assert_eq!(parse(text), Err(error), "{text:?}");
        }
        assert_eq!(parse("udp://1.2.3.4:65535").map(|b| b.port()), Ok(u16::MAX));
    }

    #[test]
    fn link_local_addresses_have_zones() {
        let bare = parse("udp://[fe80::1]:53").unwrap();
        assert_eq!((bare.zone(), bare.is_link_local()), (None, true));
        let named = parse("udp://[FE80:0::1%eth0]:53").unwrap();
        assert_eq!(named.to_string(), "udp://[fe80::1%eth0]:53");
        assert_eq!(named.zone().unwrap().as_str(), "eth0");
        assert_ne!(named, bare);
        assert_eq!(named.without_zone(), bare);
        assert_eq!(parse("tcp://[febf::1%2]:80").unwrap().to_string(), "tcp://[febf::1%2]:80");
        // One address of IPv4 is one service, also a link-local one: cloud metadata, a node's DNS
        // cache.
        assert!(!parse("udp://169.254.20.10:53").unwrap().is_link_local());
        assert!(!parse("udp://[fd00::1]:53").unwrap().is_link_local());
    }

    #[test]
    fn messages_stay_short_for_long_input() {
        let error = parse(&"x".repeat(100_000)).unwrap_err().to_string();
        assert!(error.len() < 200, "{} bytes", error.len());
    }

    #[test]
    fn serde_refuses_what_parsing_refuses() {
        let error = serde_json::from_str::<Backend>("\"udp://1.2.3.4:0\"").unwrap_err();
        assert!(error.to_string().starts_with("port 0 would match"));
        let error = serde_json::from_str::<Backend>("53").unwrap_err();
        assert!(error.to_string().contains("expected a backend such as"));
    }

    proptest! {
        #[test]
        fn text_and_json_round_trip(backend in strategies::backend()) {
            prop_assert_eq!(parse(&backend.to_string()), Ok(backend));
            let json = serde_json::to_string(&backend).unwrap();
            prop_assert_eq!(serde_json::from_str::<Backend>(&json).unwrap(), backend);
        }

        #[test]
        fn arbitrary_text_never_panics_and_what_is_read_is_canonical(text in "\\PC*") {
            if let Ok(backend) = parse(&format!("udp://{text}")) {
                prop_assert_eq!(parse(&backend.to_string()), Ok(backend));
            }
        }
    }
}
