//! The connections of the demo: its addresses, and the distribution of its sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use skreap::core::{Backend, BackendError};
use skreap_testbed::{Family, Protocol};

/// The servers, named A, B, C. Each runs in a process of its own.
pub(super) const SERVERS: [char; 3] = ['A', 'B', 'C'];
/// The one that is deleted.
pub(super) const DELETED: usize = 1;
/// Where each server listens, on both of its addresses.
const PORT: u16 = 53;

/// One of the four ways to reach a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub protocol: Protocol,
    pub family: Family,
}

/// Each server offers all of them; to a dataplane, each is a backend of its own.
pub(super) const SERVICES: [Service; 4] = [
    Service { protocol: Protocol::Udp, family: Family::V4 },
    Service { protocol: Protocol::Udp, family: Family::V6 },
    Service { protocol: Protocol::Tcp, family: Family::V4 },
    Service { protocol: Protocol::Tcp, family: Family::V6 },
];

/// The address of a server, the same in every netns: 10.96.0.1 and fd00:96::1 for A, and so on.
pub(super) fn ip(server: usize, family: Family) -> IpAddr {
    // There are three.
    let last = server as u8 + 1;
    match family {
        Family::V4 => Ipv4Addr::new(10, 96, 0, last).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, last.into()).into(),
    }
}

/// Where a server offers a service.
pub(super) fn addr(server: usize, service: Service) -> SocketAddr {
    SocketAddr::new(ip(server, service.family), PORT)
}

/// The same, as events name it.
pub(super) fn backend(server: usize, service: Service) -> Result<Backend, BackendError> {
    Backend::new(service.protocol, ip(server, service.family), PORT)
}

/// Sockets that are alike: same owner, same netns, same peer.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub client: usize,
    pub netns: usize,
    pub server: usize,
    /// Index into [`SERVICES`].
    pub service: usize,
    pub count: u32,
    /// Handle of the first, in its client; the others follow.
    pub first: u32,
    /// Cookies, in the order of the handles. Empty while not connected.
    pub cookies: Vec<u64>,
}

/// Deals `sockets` out evenly over every netns, server and service. A netns belongs to one client.
pub(super) fn deal(sockets: u32, netns: usize, clients: usize) -> Vec<Group> {
    let places = netns * SERVERS.len() * SERVICES.len();
    let mut groups = Vec::with_capacity(places);
    for server in 0..SERVERS.len() {
        for n in 0..netns {
            for service in 0..SERVICES.len() {
                // Rounded so that the counts of the first k groups add up to sockets * k / places.
                let until = |k: usize| u64::from(sockets) * k as u64 / places as u64;
                let count = until(groups.len() + 1) - until(groups.len());
                groups.push(Group {
                    client: n % clients,
                    netns: n,
                    server,
                    service,
                    // At most `sockets`.
                    count: count as u32,
                    first: 0,
                    cookies: Vec::new(),
                });
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_socket_is_dealt_once_and_evenly() {
        for (sockets, netns, clients) in [(2400, 24, 4), (2_001, 20, 4), (12, 1, 1), (9_999, 37, 5)] {
            let groups = deal(sockets, netns, clients);
            assert_eq!(groups.len(), netns * 12);
            assert_eq!(groups.iter().map(|g| g.count).sum::<u32>(), sockets);
            let counts = groups.iter().map(|g| g.count);
            assert!(counts.clone().max().unwrap() - counts.min().unwrap() <= 1);
            let of = |server| groups.iter().filter(|g| g.server == server).map(|g| g.count).sum::<u32>();
            assert_eq!([of(0), of(1), of(2)], [sockets / 3; 3]);
            let owners: std::collections::BTreeSet<_> = groups.iter().map(|g| g.client).collect();
            assert_eq!(owners.len(), clients);
        }
    }

    #[test]
    fn backends_are_named_as_the_sockets_see_them() {
        let names: Vec<String> = SERVICES.iter().map(|s| backend(DELETED, *s).unwrap().to_string()).collect();
        assert_eq!(
            names,
            ["udp://10.96.0.2:53", "udp://[fd00:96::2]:53", "tcp://10.96.0.2:53", "tcp://[fd00:96::2]:53"]
        );
        assert_eq!(addr(0, SERVICES[3]).to_string(), "[fd00:96::1]:53");
    }
}
