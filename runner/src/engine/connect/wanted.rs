//! A socket that is to be connected.

use std::net::{IpAddr, SocketAddr};

use skreap_bpf::Victim;
use skreap_core::Backend;

/// One socket that is to be connected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// Its cookie.
    pub(crate) cookie: u64,
    /// The peer that it has, or had before it was destroyed; an IPv4 one as such.
    pub(crate) was: SocketAddr,
    /// It must have that peer now; otherwise, none.
    pub(crate) connected: bool,
    /// It is left as it is: only what it is now is wanted.
    pub(crate) only_look: bool,
    /// The peer it is connected to.
    pub(crate) to: Backend,
    /// The interface it is bound to if it is bound to none (`SO_BINDTODEVICE`); 0: none.
    pub(crate) bind_to: u32,
    /// It is connected with IPv6 addresses, which IPv4 ones are mapped to.
    pub(crate) is_ipv6: bool,
    /// Cookie of its netns.
    pub(crate) netns: u64,
    /// Its own address and its interface, while it has that peer.
    pub(crate) addr: IpAddr,
    pub(crate) ifindex: u32,
}

impl Wanted {
    /// A victim that still has its peer, and is to have this one. Bound to an interface it stays so.
    pub(crate) fn new(victim: &Victim, to: Backend) -> Self {
        Self {
            cookie: victim.cookie(),
            was: victim.peer(),
            connected: true,
            only_look: false,
            to,
            bind_to: 0,
            is_ipv6: i32::from(victim.family()) == libc::AF_INET6,
            netns: victim.netns(),
            addr: victim.saddr().to_canonical(),
            ifindex: victim.ifindex(),
        }
    }
}
