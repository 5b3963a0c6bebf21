//! An address, or all addresses that begin alike.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::error::excerpt;
use crate::network::{Network, NetworkError};
use crate::text::serde_as_text;

/// An address and the length of the part of it that counts, such as `10.0.0.0/8`; a single address may be written
/// without a length.
///
/// As in a [`Network`], IPv4-mapped addresses are the IPv4 addresses they stand for: `10.0.0.0/8` holds the peer
/// `::ffff:10.1.2.3` of an IPv6 socket. `::/0` holds every IPv6 address and no IPv4 address; `0.0.0.0/0`, or
/// `::ffff:0:0/96`, holds every IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(Network);

impl Prefix {
    /// Checks and normalises a prefix.
    ///
    /// # Errors
    /// [`PrefixError`]: as for a network, or it is the unspecified address.
    pub fn new(addr: IpAddr, length: u8) -> Result<Self, PrefixError> {
        let network = Network::or_everything(addr, length).map_err(PrefixError::Network)?;
        let prefix = Self(network);
        if prefix.single().is_some_and(|addr| addr.is_unspecified()) {
            return Err(PrefixError::Unspecified(addr));
        }
        Ok(prefix)
    }

    /// True if the address begins so.
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.0.contains(addr)
    }

    /// The first address and the last one, of one family.
    pub fn range(&self) -> (IpAddr, IpAddr) {
        self.0.range()
    }

    /// The address, if there is only one.
    pub fn single(&self) -> Option<IpAddr> {
        let (first, last) = self.range();
        (first == last).then_some(first)
    }

    /// True for all addresses of a family.
    pub(super) fn is_everything(&self) -> bool {
        match self.range() {
            (IpAddr::V4(first), IpAddr::V4(last)) => first.to_bits() == 0 && last.to_bits() == u32::MAX,
            (IpAddr::V6(first), IpAddr::V6(last)) => first.to_bits() == 0 && last.to_bits() == u128::MAX,
            _ => false,
        }
    }

    pub(super) fn is_one_link_local(&self) -> bool {
        matches!(self.single(), Some(IpAddr::V6(addr)) if addr.is_unicast_link_local())
    }
}

impl From<IpAddr> for Prefix {
    /// The prefix of one address.
    fn from(addr: IpAddr) -> Self {
        Self(Network::single(addr))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.single() {
            Some(addr) => addr.fmt(f),
            None => self.0.fmt(f),
        }
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let bad = || PrefixError::Syntax(excerpt(text));
        let Some((addr, length)) = text.split_once('/') else {
            let addr: IpAddr = text.parse().map_err(|_| bad())?;
            return Self::new(addr, if addr.is_ipv4() { 32 } else { 128 });
        };
        // One spelling: no sign, no leading zero.
        let plain = length.bytes().all(|b| b.is_ascii_digit()) && (length == "0" || !length.starts_with('0'));
        let length = length.parse().ok().filter(|_| plain).ok_or_else(bad)?;
        Self::new(addr.parse().map_err(|_| bad())?, length)
    }
}

serde_as_text!(Prefix);

/// Why something is not a prefix, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PrefixError {
    /// Neither ADDRESS nor ADDRESS/LENGTH.
    #[error("{0} is not an address or a prefix; write one such as 10.0.0.53, 10.0.0.0/8 or fd00::/8")]
    Syntax(String),
    /// `0.0.0.0` or `::`, without a length or with the whole one.
    #[error(
        "{0} is the address of sockets without a peer; write the address that they are connected to, or a prefix"
    )]
    Unspecified(IpAddr),
    /// As for a network.
    #[error(transparent)]
    Network(NetworkError),
}
