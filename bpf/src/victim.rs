//! A socket as the walk read it.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use bytemuck::Pod;
use skreap_core::{Backend, Protocol};

use crate::skel::types::{skreap_pending, skreap_relation, skreap_victim};
use crate::{address, object, socket_option};

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
    /// The record as another object of ours has it: the same struct of `abi.h`, generated once more.
    pub(crate) fn from_twin<T: Pod>(twin: T) -> Self {
        Self(bytemuck::must_cast(twin))
    }

    /// Takes off what the walk says beside the relation: whether the socket may be connecting to the target at
    /// this moment, and whether it is a victim.
    pub(crate) fn take_pending(&mut self) -> (bool, bool) {
        let [pending, no_victim] = [skreap_pending::SKREAP_PENDING, skreap_pending::SKREAP_NO_VICTIM]
            .map(|bit| self.0.relation & bit.0 as u8 != 0);
        self.0.relation &= !((skreap_pending::SKREAP_PENDING.0 | skreap_pending::SKREAP_NO_VICTIM.0) as u8);
        (pending, !no_victim)
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
        raw.id.saddr = address::words(IpAddr::V4(*local.ip())).1;
        raw.id.daddr = address::words(IpAddr::V4(*peer.ip())).1;
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
        Some(Self(skreap_victim {
            id: object::prefix(id)?,
            netns,
            netns_inum,
            family,
            protocol: protocol.number(),
            state,
            relation: skreap_relation::SKREAP_CONNECTED.0 as u8,
        }))
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
        address::from_words(self.0.family, self.0.id.saddr)
    }

    /// Local port, host order.
    #[must_use]
    pub fn sport(&self) -> u16 {
        u16::from_be(self.0.id.sport)
    }

    /// Peer address.
    #[must_use]
    pub fn daddr(&self) -> IpAddr {
        address::from_words(self.0.family, self.0.id.daddr)
    }

    /// Peer port, host order.
    #[must_use]
    pub fn dport(&self) -> u16 {
        u16::from_be(self.0.id.dport)
    }

    /// Peer address, an IPv4-mapped one as IPv4, and peer port.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        SocketAddr::new(self.daddr().to_canonical(), self.dport())
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
        bytemuck::must_cast(self.0.id)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

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
