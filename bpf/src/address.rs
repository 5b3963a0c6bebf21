//! Addresses in the form of `abi.h`: network order, IPv4 in the first of four words.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Family and words of an address.
#[must_use]
pub fn words(addr: IpAddr) -> (u8, [u32; 4]) {
    match addr {
        IpAddr::V4(a) => (libc::AF_INET as u8, [u32::from_ne_bytes(a.octets()), 0, 0, 0]),
        IpAddr::V6(a) => (libc::AF_INET6 as u8, bytemuck::must_cast(a.octets())),
    }
}

/// The address in these words; what is not `AF_INET6` is IPv4.
pub(crate) fn from_words(family: u8, words: [u32; 4]) -> IpAddr {
    if i32::from(family) == libc::AF_INET6 {
        IpAddr::V6(Ipv6Addr::from(bytemuck::must_cast::<[u32; 4], [u8; 16]>(words)))
    } else {
        IpAddr::V4(Ipv4Addr::from(words[0].to_ne_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_in_network_order() {
        let v4: IpAddr = "10.0.0.1".parse().unwrap();
        let v6: IpAddr = "fd00::12:1".parse().unwrap();
        assert_eq!(words(v4), (2, [u32::from_ne_bytes([10, 0, 0, 1]), 0, 0, 0]));
        assert_eq!(
            words(v6),
            (10, [[0xfd, 0, 0, 0], [0; 4], [0; 4], [0, 0x12, 0, 1]].map(u32::from_ne_bytes))
        );
        for addr in [v4, v6] {
            let (family, found) = words(addr);
            assert_eq!(from_words(family, found), addr);
        }
    }
}
