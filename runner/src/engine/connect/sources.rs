//! The source addresses of sockets that are connected a second time: each keeps the one that it has.
//!
//! An address that the kernel has chosen goes with the first route. If a new socket would get another one towards the new
//! destination, datagrams from the old one may have no way back. An address that the program has bound the socket to is its
//! own choice: a new socket of that program would be bound to it as well, so it is kept wherever the kernel lets it be.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::OwnedFd;

use skreap_bpf::Opener;
use skreap_core::Backend;

use super::wanted::Wanted;
use crate::sys::udp::Routing;
use crate::sys::{netns, udp};

/// What was found out of the sources so far.
#[derive(Debug)]
pub(super) struct Sources<'a> {
    found: HashMap<Way, Source>,
    /// The netns that the thread comes back to: the place of a thread keeps a netns alive.
    home: &'a OwnedFd,
    is_home: bool,
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
    /// This one. A host talks to itself from any of its addresses, so another one may stay if the destination is in that
    /// netns itself: `to_itself`, if that was asked.
    Addr { addr: IpAddr, to_itself: Option<bool> },
    /// Any. Or it cannot be found out, and the connect says what is wrong.
    Any,
    /// Not the one that the socket is bound to.
    Other,
}

impl<'a> Sources<'a> {
    pub(super) fn new(home: &'a OwnedFd) -> Self {
        Self { found: HashMap::new(), home, is_home: true }
    }

    /// False if the thread is in another netns, and cannot leave it.
    pub(super) fn is_home(&self) -> bool {
        self.is_home
    }

    /// False if the socket may not keep the address that it has.
    pub(super) fn stays(&mut self, socket: &UdpSocket, wanted: &Wanted, opener: &Opener) -> bool {
        let own = wanted.addr;
        let way = Way {
            netns: wanted.netns,
            routing: Routing { ifindex: wanted.ifindex, mark: opener.mark },
            bound: opener.bound.then_some(own),
            to: wanted.to,
        };
        let source = match self.found.get(&way) {
            Some(source) => *source,
            None => self.in_netns_of(socket, || source_of(&way)).unwrap_or(Source::Any),
        };
        let (source, stays) = match source {
            Source::Addr { addr, to_itself: None } if addr != own => {
                // It takes longer than to ask for the source, and most sockets have that one.
                let is_local = self.in_netns_of(socket, || Ok(udp::is_local(way.to.addr()))).unwrap_or(true);
                (Source::Addr { addr, to_itself: Some(is_local) }, is_local)
            }
            Source::Addr { addr, to_itself } => (source, addr == own || to_itself == Some(true)),
            Source::Any => (source, true),
            Source::Other => (source, false),
        };
        self.found.insert(way, source);
        stays
    }

    /// Asks something in the netns of the socket, and comes back.
    fn in_netns_of<T>(&mut self, socket: &UdpSocket, ask: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let netns = netns::of_socket(socket)?;
        netns::enter_alone(&netns)?;
        let answer = ask();
        if let Err(e) = netns::enter_alone(self.home) {
            tracing::error!("cannot go back to the own netns, so a thread that connects ends: {e}");
            self.is_home = false;
        }
        answer
    }
}

/// In the netns of the calling thread.
fn source_of(way: &Way) -> io::Result<Source> {
    let to = way.to.socket_addr();
    Ok(match way.bound {
        None => Source::Addr { addr: udp::source(to, way.routing)?, to_itself: None },
        Some(own) if udp::is_possible(own, to, way.routing) || udp::is_local(to.ip()) => Source::Any,
        Some(_) => Source::Other,
    })
}
