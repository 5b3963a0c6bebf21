//! A victim in the words of others.

use skreap_bpf::Victim;
use skreap_core::{Protocol, SocketTuple, state_name};

use crate::sys::netns::NetnsId;

/// The netns of a victim, as netns are opened.
pub(crate) fn netns_id(victim: &Victim) -> NetnsId {
    NetnsId { cookie: victim.netns(), inum: victim.netns_inum() }
}

/// A victim in the words of a report.
pub(crate) fn tuple(victim: &Victim) -> SocketTuple {
    SocketTuple {
        protocol: victim.protocol().unwrap_or(Protocol::Udp),
        saddr: victim.saddr(),
        sport: victim.sport(),
        daddr: victim.daddr(),
        dport: victim.dport(),
        ifindex: victim.ifindex(),
        cookie: victim.cookie(),
        netns: victim.netns(),
        netns_inum: victim.netns_inum(),
        state: state_name(victim.state()).into(),
        attribution: None,
        frontend: None,
    }
}
