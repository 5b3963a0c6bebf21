//! A range of addresses, such as `10.0.0.0/8`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::error::excerpt;
use crate::text::serde_as_text;

/// Most networks one event may name.
pub const MAX_NETWORKS: usize = 1024;

/// An address and the length of the prefix that counts, in one canonical form.
///
/// A network within `::ffff:0:0/96` is held as the IPv4 network it stands for, as backends are: so
/// `10.0.0.0/8` holds the peer `::ffff:10.1.2.3` of an IPv6 socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    addr: IpAddr,
    prefix: u8,
}

impl Network {
    /// Checks and normalises a network.
    ///
    /// # Errors
    /// [`NetworkError`]: the prefix is longer than the address, or 0, which is no restriction; or
    /// there are bits of the address behind the prefix, which is usually a mistake in one of the
    /// two.
    pub fn new(addr: IpAddr, prefix: u8) -> Result<Self, NetworkError> {
        match Self::or_everything(addr, prefix) {
            Ok(Self { prefix: 0, .. }) | Err(NetworkError::HostBits(Self { prefix: 0, .. })) => {
                Err(NetworkError::Everything)
            }
            made => made,
        }
    }

    /// As [`new`](Self::new), also with a prefix of length 0.
    pub(crate) fn or_everything(addr: IpAddr, prefix: u8) -> Result<Self, NetworkError> {
        let longest = if addr.is_ipv4() { 32 } else { 128 };
        if prefix > longest {
            return Err(NetworkError::Prefix { longest });
        }
        let (addr, prefix) = match addr.to_canonical() {
            canonical @ IpAddr::V4(_) if addr.is_ipv6() && prefix >= 96 => (canonical, prefix - 96),
            _ => (addr, prefix),
        };
        let first = mask(addr, prefix);
        if first != addr {
            return Err(NetworkError::HostBits(Self { addr: first, prefix }));
        }
        Ok(Self { addr, prefix })
    }

    /// The network of one address.
    pub(crate) fn single(addr: IpAddr) -> Self {
        let addr = addr.to_canonical();
        Self { addr, prefix: if addr.is_ipv4() { 32 } else { 128 } }
    }

    /// The first and the last address.
    pub(crate) fn range(&self) -> (IpAddr, IpAddr) {
        let prefix = u32::from(self.prefix);
        let last = match self.addr {
            IpAddr::V4(a) => {
                Ipv4Addr::from_bits(a.to_bits() | u32::MAX.checked_shr(prefix).unwrap_or(0)).into()
            }
            IpAddr::V6(a) => {
                Ipv6Addr::from_bits(a.to_bits() | u128::MAX.checked_shr(prefix).unwrap_or(0)).into()
            }
        };
        (self.addr, last)
    }

    /// True if the address is in this network. An IPv4-mapped address is the IPv4 address it stands
    /// for.
    pub fn contains(&self, addr: IpAddr) -> bool {
        let addr = addr.to_canonical();
        addr.is_ipv4() == self.addr.is_ipv4() && mask(addr, self.prefix) == self.addr
    }
}

/// The address without what is behind the prefix.
fn mask(addr: IpAddr, prefix: u8) -> IpAddr {
    let prefix = u32::from(prefix);
    match addr {
        IpAddr::V4(a) => {
            let mask = u32::MAX.checked_shl(32 - prefix.min(32)).unwrap_or(0);
            Ipv4Addr::from_bits(a.to_bits() & mask).into()
        }
        IpAddr::V6(a) => {
            let mask = u128::MAX.checked_shl(128 - prefix.min(128)).unwrap_or(0);
            Ipv6Addr::from_bits(a.to_bits() & mask).into()
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let bad = || NetworkError::Syntax(excerpt(text));
        let (addr, prefix) = text.split_once('/').ok_or_else(bad)?;
        // One spelling: no sign, no leading zero.
        let plain = prefix.bytes().all(|b| b.is_ascii_digit()) && (prefix == "0" || !prefix.starts_with('0'));
        let prefix = prefix.parse().ok().filter(|_| plain).ok_or_else(bad)?;
        Self::new(addr.parse().map_err(|_| bad())?, prefix)
    }
}

serde_as_text!(Network);

/// Why something is not a network, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// Not ADDRESS/LENGTH.
    #[error(
        "{0} is not a network; write an address and the length of its prefix, such as 10.0.0.0/8 or fd00::/8"
    )]
    Syntax(String),
    /// The prefix is longer than the address.
    #[error("the prefix is too long; write a length from 1 to {longest}")]
    Prefix {
        /// Bits of an address of this family.
        longest: u8,
    },
    /// A prefix of length 0 holds every address.
    #[error("a prefix of length 0 restricts nothing; write the networks that your backends are in")]
    Everything,
    /// There are bits behind the prefix.
    #[error("the address has bits behind the prefix; write {0}, or a longer prefix")]
    HostBits(Network),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    fn holds(text: &str, addr: &str) -> bool {
        network(text).contains(addr.parse().unwrap())
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address_it_stands_for() {
        assert!(holds("10.0.0.0/8", "10.255.255.255") && !holds("10.0.0.0/8", "11.0.0.0"));
        assert!(holds("10.0.0.0/8", "::ffff:10.1.2.3") && !holds("10.0.0.0/8", "::ffff:11.1.2.3"));
        assert_eq!(network("::ffff:10.0.0.0/104"), network("10.0.0.0/8"));
        assert!(holds("fd00::/8", "fdff::1") && !holds("fd00::/8", "fe00::1"));
        assert!(!holds("::/1", "10.0.0.1") && !holds("::/1", "::ffff:10.0.0.1"));
        assert!(holds("192.0.2.7/32", "192.0.2.7") && !holds("192.0.2.7/32", "192.0.2.6"));
        assert!(holds("fd00::7/128", "fd00::7") && !holds("fd00::7/128", "fd00::6"));
    }

    #[test]
    fn refuses_with_the_exact_reason() {
        use NetworkError as E;
        for (text, error) in [
            ("10.0.0.0", E::Syntax("\"10.0.0.0\"".to_owned())),
            ("10.0.0.0/", E::Syntax("\"10.0.0.0/\"".to_owned())),
            ("10.0.0.0/08", E::Syntax("\"10.0.0.0/08\"".to_owned())),
            ("10.0.0.0/+8", E::Syntax("\"10.0.0.0/+8\"".to_owned())),
            ("10/8", E::Syntax("\"10/8\"".to_owned())),
            ("10.0.0.0/33", E::Prefix { longest: 32 }),
            ("fd00::/129", E::Prefix { longest: 128 }),
            ("0.0.0.0/0", E::Everything),
            ("::/0", E::Everything),
            ("::ffff:0.0.0.0/96", E::Everything),
            ("10.1.0.0/8", E::HostBits(network("10.0.0.0/8"))),
        ] {
            assert_eq!(text.parse::<Network>(), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_and_json_round_trip_and_the_first_address_is_inside(addr in any::<IpAddr>(), prefix in 1..=128_u8) {
            let made = match Network::new(addr, prefix) {
                Err(NetworkError::HostBits(instead)) => Ok(instead),
                made => made,
            };
            if let Ok(network) = made {
                prop_assert_eq!(network.to_string().parse(), Ok(network));
                let json = serde_json::to_string(&network).unwrap();
                prop_assert_eq!(serde_json::from_str::<Network>(&json).unwrap(), network);
                // A mapped address is IPv4, and in no network that is wider than those of IPv4.
                let same_family = addr.to_canonical().is_ipv4() == network.addr.is_ipv4();
                prop_assert_eq!(network.contains(addr), same_family);
            }
        }
    }
}
