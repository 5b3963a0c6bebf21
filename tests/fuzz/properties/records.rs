//! Victims as the kernel wrote them: any bytes are one, what names the socket is passed on unchanged, and what a
//! report says of it is what was read. So are the records of an iterator, wherever its reads end.

use std::net::IpAddr;

use skreap::bpf::fuzz::{HIT_BYTES, hits, victim};
use skreap::bpf::{Relation, Victim};
use skreap::core::{Backend, Protocol, SocketTuple};

const VICTIM_BYTES: usize = size_of::<Victim>();

/// See the module.
pub fn holds(data: &[u8]) {
    let (reads, output) = super::head(data);
    for bytes in output.chunks_exact(VICTIM_BYTES) {
        one(bytes.try_into().unwrap());
    }
    let found = hits(output, reads.iter().map(|&n| usize::from(n)));
    let whole = output.len() % HIT_BYTES == 0;
    assert_eq!(found.is_some(), whole, "an output that ends within a record is an error");
    for (hit, bytes) in found.unwrap_or_default().iter().zip(output.chunks_exact(HIT_BYTES)) {
        assert_eq!(hit.victim.sockid(), bytes[..48]);
        let error = i32::from_ne_bytes(bytes[VICTIM_BYTES..VICTIM_BYTES + 4].try_into().unwrap());
        assert!(hit.errno >= 0 && hit.errno == error.saturating_abs());
    }
}

fn one(bytes: &[u8; VICTIM_BYTES]) {
    let victim = victim(bytes);
    assert_eq!(victim.sockid(), bytes[..48]);
    assert_eq!(victim.netns().to_ne_bytes(), bytes[48..56]);
    assert_eq!(victim.netns_inum().to_ne_bytes(), bytes[56..60]);
    assert_eq!([victim.family(), victim.protocol_number(), victim.state()], bytes[60..63]);
    assert_eq!(victim.cookie().to_le_bytes(), bytes[40..48]);
    assert_eq!([victim.sport(), victim.dport()].map(u16::to_be_bytes).concat(), bytes[..4]);
    assert_eq!(victim.ifindex().to_ne_bytes(), bytes[36..40]);
    let relation = match bytes[63] {
        1 => Relation::Connected,
        2 => Relation::Unconnected,
        3 => Relation::MovedOn,
        4 => Relation::NoPeer,
        _ => Relation::Stale,
    };
    assert_eq!(victim.relation(), relation);

    let octets = |addr: IpAddr| match addr {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    let (saddr, daddr) = (octets(victim.saddr()), octets(victim.daddr()));
    assert_eq!((&saddr[..], &daddr[..]), (&bytes[4..4 + saddr.len()], &bytes[20..20 + daddr.len()]));

    let tuple = skreap::fuzz::tuple(&victim);
    assert_eq!((tuple.saddr, tuple.sport, tuple.daddr), (victim.saddr(), victim.sport(), victim.daddr()));
    assert_eq!(
        (tuple.cookie, tuple.netns, tuple.netns_inum),
        (victim.cookie(), victim.netns(), victim.netns_inum())
    );
    let written = serde_json::to_vec(&tuple).unwrap();
    assert_eq!(serde_json::from_slice::<SocketTuple>(&written).unwrap(), tuple);

    let Some(backend) = victim.backend() else { return };
    assert_eq!(backend.to_string().parse(), Ok(backend));
    assert_eq!((Some(backend.protocol()), backend.port()), (victim.protocol(), victim.dport()));
    if relation != Relation::Unconnected {
        let live = Backend::new(backend.protocol(), victim.daddr(), victim.dport());
        assert_eq!(live, Ok(backend));
    }
    assert!(victim.protocol().is_some_and(|p| Protocol::ALL.contains(&p)));
}
