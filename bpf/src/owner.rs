//! Whose a socket is: a program's, or the kernel's own.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd as _;

use libbpf_rs::Object;

use crate::fault::{self, Point};
use crate::object::{self, failure};
use crate::prog::test_run;
use crate::skel::{OWNER_OBJECT, owner_types};
use crate::{Error, Victim, address};

const PROGRAM: &str = "skreap_owner";
const ETH_HLEN: usize = 14;
const REQUEST: usize = size_of::<owner_types::owner_request>();

/// Whose a connected socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Some program has opened it.
    Program,
    /// The kernel has opened it for itself: an NFS or CIFS mount, say.
    Kernel,
    /// The kernel has opened it for an MPTCP socket of a program, also if that has fallen back to plain TCP.
    Subflow,
    /// It is not connected any more, or another socket has the same addresses and ports and is found in its place.
    Unknown,
}

/// Finds out whose sockets are. Takes no lock of any socket.
#[derive(Debug)]
pub struct Owners {
    object: Object,
}

impl Owners {
    /// Loads the program.
    ///
    /// # Errors
    /// As [`Index::load`](crate::Index::load).
    pub fn load() -> Result<Self, Error> {
        Ok(Self { object: object::load(object::open(OWNER_OBJECT)?, Point::OwnerLoad)? })
    }

    /// Whose this connected socket is, which must be in the netns of the calling thread.
    ///
    /// # Errors
    /// [`Error::Object`] with the kernel's errno; `ENODEV` if the interface that the socket is bound to is gone.
    pub fn of(&self, victim: &Victim) -> Result<Owner, Error> {
        // struct __sk_buff (linux/bpf.h) up to its ifindex: a lookup finds what is bound to that interface.
        let mut skb = [0_u32; 11];
        skb[10] = victim.ifindex();
        let ctx: &mut [u32] = if victim.ifindex() > 0 { &mut skb } else { &mut [] };
        let returned = object::program(&self.object, PROGRAM)
            .and_then(|program| fault::at(Point::OwnerRun).map(|()| program))
            .and_then(|program| {
                test_run(program.as_fd(), &packet(victim), bytemuck::must_cast_slice_mut(ctx))
            })
            .map_err(failure(format!("program {PROGRAM}")))?;
        Ok(match owner_types::owner(returned) {
            owner_types::owner::OWNER_PROGRAM => Owner::Program,
            owner_types::owner::OWNER_KERNEL => Owner::Kernel,
            owner_types::owner::OWNER_SUBFLOW => Owner::Subflow,
            _ => Owner::Unknown,
        })
    }
}

/// An Ethernet header without a protocol, and the request.
fn packet(victim: &Victim) -> [u8; ETH_HLEN + REQUEST] {
    let (mut saddr, daddr) = (victim.saddr().to_canonical(), victim.daddr().to_canonical());
    if daddr.is_ipv4() && saddr.is_unspecified() {
        saddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    }
    let (family, daddr) = address::words(daddr);
    let request = owner_types::owner_request {
        saddr: address::words(saddr).1,
        daddr,
        sport: victim.sport().to_be(),
        dport: victim.dport().to_be(),
        family,
        protocol: victim.protocol_number(),
        cookie: victim.cookie(),
        ..owner_types::owner_request::default()
    };
    let mut packet = [0; ETH_HLEN + REQUEST];
    packet[ETH_HLEN..].copy_from_slice(bytemuck::bytes_of(&request));
    packet
}
