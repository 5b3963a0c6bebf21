//! The source addresses of sockets that are connected a second time: each keeps the one that it has.
//!
//! An address that the kernel has chosen goes with the first route. If a new socket would get another one towards the new
//! destination, datagrams from the old one may have no way back. An address that the program has bound the socket to is its
//! own choice: a new socket of that program would be bound to it as well, so it is kept wherever the kernel lets it be.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, UdpSocket};

use skreap_core::Backend;

use crate::sys::udp::Routing;
use crate::sys::{netns, udp};

/// What was found out of the sources so far.
#[derive(Debug, Default)]
pub(super) struct Sources(HashMap<Way, Source>);

/// The same for one kind of sockets.
#[derive(Debug)]
pub(super) struct SourceOf<'a> {
    sources: &'a mut Sources,
    /// Their programs have bound them to an address.
    bound: bool,
}

/// From where, and to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Way {
    netns: u64,
    routing: Routing,
    /// The address that a program has chosen; `None`: the kernel has.
    bound: Option<IpAddr>,
    to: Backend,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    /// This one.
    Addr(IpAddr),
    /// Any: the destination is in that netns itself. Or it cannot be found out, and the connect says what is wrong.
    Any,
    /// Not the one that the socket is bound to.
    Other,
}

impl Sources {
    /// `bound`: a program has chosen the local address of the socket that is asked about.
    pub(super) fn of(&mut self, bound: bool) -> SourceOf<'_> {
        SourceOf { sources: self, bound }
    }
}

impl SourceOf<'_> {
    /// False if the socket may not keep the address that it has. May leave the calling thread in the netns of the socket.
    pub(super) fn stays(&mut self, socket: &UdpSocket, to: Backend) -> io::Result<bool> {
        let own = socket.local_addr()?.ip().to_canonical();
        let way = Way {
            netns: netns::cookie_of_socket(socket)?,
            routing: udp::routing(socket)?,
            bound: self.bound.then_some(own),
            to,
        };
        let source = self.sources.0.entry(way).or_insert_with(|| source_in_netns_of(socket, &way));
        Ok(match *source {
            Source::Addr(source) => source == own,
            Source::Any => true,
            Source::Other => false,
        })
    }
}

fn source_in_netns_of(socket: &UdpSocket, way: &Way) -> Source {
    let to = way.to.socket_addr();
    let found = netns::of_socket(socket).and_then(|netns| {
        netns::enter_alone(&netns)?;
        // A host talks to itself from any of its addresses.
        if udp::is_local(to.ip()) {
            return Ok(Source::Any);
        }
        Ok(match way.bound {
            None => Source::Addr(udp::source(to, way.routing)?),
            Some(own) if udp::is_possible(own, to, way.routing) => Source::Any,
            Some(_) => Source::Other,
        })
    });
    found.unwrap_or(Source::Any)
}
