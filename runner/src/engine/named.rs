//! A victim as the id of its netns, and as the tuple of a report.

use std::net::SocketAddr;

use skreap_bpf::Victim;
use skreap_core::{Protocol, SocketTuple, state_name};

use crate::sys::netns::NetnsId;

/// The netns of a victim, as netns are opened.
pub(crate) fn netns_id(victim: &Victim) -> NetnsId {
    NetnsId { cookie: victim.netns(), inum: victim.netns_inum() }
}

/// A victim in the words of a report.
pub(crate) fn tuple(victim: &Victim) -> SocketTuple {
    let local = SocketAddr::new(victim.saddr(), victim.sport());
    let peer = SocketAddr::new(victim.daddr(), victim.dport());
    let mut socket = SocketTuple::new(victim.protocol().unwrap_or(Protocol::Udp), local, peer);
    socket.ifindex = victim.ifindex();
    socket.cookie = victim.cookie();
    socket.netns = victim.netns();
    socket.netns_inum = victim.netns_inum();
    socket.state = state_name(victim.state()).into();
    socket
}
