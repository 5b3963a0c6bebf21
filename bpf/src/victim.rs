//! A socket as the walk read it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use skreap_core::{Backend, Protocol};

use crate::skel::types::{skreap_relation, skreap_victim};
use crate::socket_option;

/// Relation of an emitted socket to the backend it is recorded under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Relation {
    /// Connected to it.
    Connected,
    /// Has no peer, has sent to it.
    Unconnected,
    /// Connected to another peer by now.
    MovedOn,
    /// Recorded by `connect()`, has no peer (any more, or yet).
    NoPeer,
    /// The node has lost its socket: an alarm.
    Stale,
}

/// One socket, 64 bytes, as read from the live `struct sock` (`struct skreap_victim` in `abi.h`).
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Victim(pub(crate) skreap_victim);

impl Victim {
    /// The record as the kernel wrote it: any bytes are one.
    pub(crate) fn from_bytes(bytes: &[u8; size_of::<skreap_victim>()]) -> Self {
        // SAFETY: as many bytes as the struct has, which is made of integers without padding
        // (abi.h).
        Self(unsafe { bytes.as_ptr().cast::<skreap_victim>().read_unaligned() })
    }

    /// The record as another object of ours has it: the same struct of `abi.h`, generated once more.
    pub(crate) fn from_raw<T: Copy>(raw: &T) -> Self {
        const { assert!(size_of::<T>() == size_of::<skreap_victim>()) };
        // SAFETY: as many bytes as the struct has, which is made of integers; the callers pass its twin.
        Self(unsafe { std::ptr::from_ref(raw).cast::<skreap_victim>().read_unaligned() })
    }

    /// Names a connected IPv4 UDP socket of this process, without a walk.
    ///
    /// # Errors
    /// The errno of querying the socket; `EINVAL` if it is not connected over IPv4.
    pub fn of_udp_socket(socket: &UdpSocket) -> io::Result<Self> {
        let (SocketAddr::V4(local), SocketAddr::V4(peer)) = (socket.local_addr()?, socket.peer_addr()?)
        else {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        };
        let cookie = socket_option(socket, libc::SO_COOKIE)?;
        let mut raw = skreap_victim {
            family: libc::AF_INET as u8,
            protocol: Protocol::Udp.number(),
            state: 1,
            relation: skreap_relation::SKREAP_CONNECTED.0 as u8,
            ..skreap_victim::default()
        };
        raw.id.sport = local.port().to_be();
        raw.id.dport = peer.port().to_be();
        raw.id.saddr[0] = u32::from_ne_bytes(local.ip().octets());
        raw.id.daddr[0] = u32::from_ne_bytes(peer.ip().octets());
        raw.id.cookie = [cookie as u32, (cookie >> 32) as u32];
        Ok(Self(raw))
    }

    /// TCP or UDP; `None` for a record that did not come from a walk.
    #[must_use]
    pub fn protocol(&self) -> Option<Protocol> {
        Protocol::from_number(self.0.protocol)
    }

    /// The kernel's number of the protocol.
    #[must_use]
    pub fn protocol_number(&self) -> u8 {
        self.0.protocol
    }

    /// `AF_INET` or `AF_INET6`; a socket with an IPv4-mapped peer is `AF_INET6`.
    #[must_use]
    pub fn family(&self) -> u8 {
        self.0.family
    }

    /// State as in `net/tcp_states.h`; UDP has only ESTABLISHED (connected) and CLOSE.
    #[must_use]
    pub fn state(&self) -> u8 {
        self.0.state
    }

    /// Its relation to the backend.
    #[must_use]
    pub fn relation(&self) -> Relation {
        match skreap_relation(u32::from(self.0.relation)) {
            skreap_relation::SKREAP_CONNECTED => Relation::Connected,
            skreap_relation::SKREAP_UNCONNECTED => Relation::Unconnected,
            skreap_relation::SKREAP_MOVED_ON => Relation::MovedOn,
            skreap_relation::SKREAP_NO_PEER => Relation::NoPeer,
            _ => Relation::Stale,
        }
    }

    /// Names a socket from a sock_diag message: a `struct inet_diag_msg` (linux/inet_diag.h) and
    /// its attributes. The relation is [`Relation::Connected`]; the caller has checked the peer.
    /// `None` if the message is too short.
    ///
    /// `netns` is the cookie of the netns that was asked, `netns_inum` its inode number.
    #[must_use]
    pub fn from_inet_diag(message: &[u8], protocol: Protocol, netns: u64, netns_inum: u32) -> Option<Self> {
        // idiag_family, idiag_state, idiag_timer, idiag_retrans, then struct inet_diag_sockid at
        // offset 4
        let (&[family, state, ..], id) = message.split_first_chunk::<4>()?;
        let (id, _) = id.split_first_chunk::<48>()?;
        let (sport, dport) = ([id[0], id[1]], [id[2], id[3]]);
        let mut words = id[4..].chunks_exact(4).map(|w| u32::from_ne_bytes([w[0], w[1], w[2], w[3]]));
        let mut four = || [0; 4].map(|_: u32| words.next().unwrap_or(0));
        let (saddr, daddr, [ifindex, low, high, _]) = (four(), four(), four());
        let mut raw = skreap_victim {
            netns,
            netns_inum,
            family,
            protocol: protocol.number(),
            state,
            relation: skreap_relation::SKREAP_CONNECTED.0 as u8,
            ..skreap_victim::default()
        };
        raw.id.sport = u16::from_ne_bytes(sport);
        raw.id.dport = u16::from_ne_bytes(dport);
        raw.id.saddr = saddr;
        raw.id.daddr = daddr;
        raw.id.ifindex = ifindex;
        raw.id.cookie = [low, high];
        Some(Self(raw))
    }

    /// Socket cookie (`SO_COOKIE`).
    #[must_use]
    pub fn cookie(&self) -> u64 {
        u64::from(self.0.id.cookie[0]) | u64::from(self.0.id.cookie[1]) << 32
    }

    /// Netns cookie (`SO_NETNS_COOKIE`).
    #[must_use]
    pub fn netns(&self) -> u64 {
        self.0.netns
    }

    /// Inode number of the netns (as in `/proc/PID/ns/net`).
    #[must_use]
    pub fn netns_inum(&self) -> u32 {
        self.0.netns_inum
    }

    /// Local address; unspecified if the socket is not bound.
    #[must_use]
    pub fn saddr(&self) -> IpAddr {
        self.address(&self.0.id.saddr)
    }

    /// Local port, host order.
    #[must_use]
    pub fn sport(&self) -> u16 {
        u16::from_be(self.0.id.sport)
    }

    /// Peer address.
    #[must_use]
    pub fn daddr(&self) -> IpAddr {
        self.address(&self.0.id.daddr)
    }

    /// Peer port, host order.
    #[must_use]
    pub fn dport(&self) -> u16 {
        u16::from_be(self.0.id.dport)
    }

    /// Interface the socket is bound to (`SO_BINDTODEVICE`), 0 if none.
    #[must_use]
    pub fn ifindex(&self) -> u32 {
        self.0.id.ifindex
    }

    /// The backend it is connected to or has sent to; `None` without a peer.
    #[must_use]
    pub fn backend(&self) -> Option<Backend> {
        Backend::new(self.protocol()?, self.daddr().to_canonical(), self.dport()).ok()
    }

    /// The bytes of `struct inet_diag_sockid` that name exactly this socket.
    #[must_use]
    pub fn sockid(&self) -> [u8; 48] {
        let id = &self.0.id;
        let mut bytes = [0; 48];
        let mut at = 0;
        let mut put = |b: &[u8]| {
            bytes[at..at + b.len()].copy_from_slice(b);
            at += b.len();
        };
        put(&id.sport.to_ne_bytes());
        put(&id.dport.to_ne_bytes());
        for word in id.saddr.iter().chain(&id.daddr) {
            put(&word.to_ne_bytes());
        }
        put(&id.ifindex.to_ne_bytes());
        put(&id.cookie[0].to_ne_bytes());
        put(&id.cookie[1].to_ne_bytes());
        bytes
    }

    fn address(&self, words: &[u32; 4]) -> IpAddr {
        if i32::from(self.0.family) == libc::AF_INET6 {
            let mut octets = [0; 16];
            for (chunk, word) in octets.chunks_exact_mut(4).zip(words) {
                chunk.copy_from_slice(&word.to_ne_bytes());
            }
            IpAddr::V6(Ipv6Addr::from(octets))
        } else {
            IpAddr::V4(Ipv4Addr::from(u32::from_be(words[0])))
        }
    }
}

/// Family and address in the form of `abi.h`: network order, IPv4 in the first word.
pub(crate) fn peer_words(addr: IpAddr) -> (u8, [u32; 4]) {
    let mut words = [0; 4];
    match addr {
        IpAddr::V4(a) => {
            words[0] = u32::from_ne_bytes(a.octets());
            (libc::AF_INET as u8, words)
        }
        IpAddr::V6(a) => {
            for (word, octets) in words.iter_mut().zip(a.octets().chunks_exact(4)) {
                *word = u32::from_ne_bytes([octets[0], octets[1], octets[2], octets[3]]);
            }
            (libc::AF_INET6 as u8, words)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn victim() -> Victim {
        let mut raw = skreap_victim {
            netns: 3,
            netns_inum: 4,
            family: 2,
            protocol: 17,
            state: 1,
            relation: 1,
            ..Default::default()
        };
        raw.id.sport = 4000u16.to_be();
        raw.id.dport = 53u16.to_be();
        raw.id.saddr[0] = u32::from(Ipv4Addr::new(10, 0, 0, 2)).to_be();
        raw.id.daddr[0] = u32::from(Ipv4Addr::new(10, 0, 0, 1)).to_be();
        raw.id.cookie = [7, 1];
        Victim(raw)
    }

    #[test]
    fn reads_what_the_kernel_wrote() {
        let v = victim();
        assert_eq!(v.cookie(), 0x1_0000_0007);
        assert_eq!((v.saddr(), v.sport()), ("10.0.0.2".parse().unwrap(), 4000));
        assert_eq!(v.backend(), Some("udp://10.0.0.1:53".parse().unwrap()));
        assert_eq!(v.relation(), Relation::Connected);
    }

    #[test]
    fn sockid_has_the_layout_of_inet_diag() {
        let bytes = victim().sockid();
        assert_eq!(bytes[..4], [0x0f, 0xa0, 0, 53]);
        assert_eq!(bytes[4..8], [10, 0, 0, 2]);
        assert_eq!(bytes[20..24], [10, 0, 0, 1]);
        assert_eq!(bytes[40..48], [7, 0, 0, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn reads_what_sock_diag_shows() {
        let mut message = vec![2, 1, 0, 0];
        message.extend(victim().sockid());
        message.extend([0; 20]);
        let v = Victim::from_inet_diag(&message, Protocol::Udp, 3, 4).unwrap();
        assert_eq!(v.sockid(), victim().sockid());
        assert_eq!((v.cookie(), v.netns(), v.netns_inum()), (0x1_0000_0007, 3, 4));
        assert_eq!((v.backend(), v.state()), (Some("udp://10.0.0.1:53".parse().unwrap()), 1));
        assert!(Victim::from_inet_diag(&message[..51], Protocol::Udp, 3, 4).is_none());
    }
}
