//! A socket as the walk read it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;

use skreap_core::{Backend, Protocol};

use crate::skel::types::{skreap_relation, skreap_victim};

/// What an emitted socket is to the backend it is recorded under.
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
    /// Names a connected IPv4 UDP socket of this process, without a walk.
    ///
    /// # Errors
    /// The errno of asking the socket; `EINVAL` if it is not connected over IPv4.
    pub fn of_udp_socket(socket: &UdpSocket) -> io::Result<Self> {
        let (SocketAddr::V4(local), SocketAddr::V4(peer)) = (socket.local_addr()?, socket.peer_addr()?)
        else {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        };
        let mut cookie = 0_u64;
        let mut length = size_of::<u64>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes into `cookie`.
        let ret = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_COOKIE,
                std::ptr::from_mut(&mut cookie).cast(),
                &mut length,
            )
        };
        if ret != 0 {
            return Err(io::Error::last_os_error());
        }
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

    /// What it is to the backend.
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
        // A listing may have put an IPv4 backend into the id of an unconnected IPv6 socket.
        let daddr = if self.relation() == Relation::Unconnected && self.0.id.daddr[1..] == [0; 3] {
            IpAddr::V4(Ipv4Addr::from(u32::from_be(self.0.id.daddr[0])))
        } else {
            self.daddr()
        };
        Backend::new(self.protocol()?, daddr, self.dport()).ok()
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
}
