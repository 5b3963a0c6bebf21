//! Whose a socket is: a program's, or the kernel's own.

use std::ffi::OsStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd as _, AsRawFd as _};

use libbpf_rs::{Object, ObjectBuilder};

use crate::error::load_error;
use crate::fault::{self, Point};
use crate::skel::{OWNER_OBJECT, owner_types};
use crate::victim::peer_words;
use crate::{Error, Victim, log};

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
        log::install();
        drop(log::take_warnings());
        let open = ObjectBuilder::default().open_memory(OWNER_OBJECT).map_err(load_error)?;
        fault::at(Point::OwnerLoad).map_err(|source| Error::Load { source, log: None })?;
        Ok(Self { object: open.load().map_err(load_error)? })
    }

    /// Whose this connected socket is, which must be in the netns of the calling thread.
    ///
    /// # Errors
    /// [`Error::Object`] with the kernel's errno; `ENODEV` if the interface that the socket is bound to is gone.
    pub fn of(&self, victim: &Victim) -> Result<Owner, Error> {
        let error = |source| Error::Object { what: format!("program {PROGRAM}"), source };
        let program = self.object.progs().find(|p| p.name() == OsStr::new(PROGRAM));
        let program = program.ok_or_else(|| error(io::ErrorKind::NotFound.into()))?;
        let packet = packet(victim);
        // struct __sk_buff (linux/bpf.h) up to its ifindex: a lookup finds what is bound to that interface.
        let mut skb = [0_u32; 11];
        skb[10] = victim.ifindex();
        let mut opts = libbpf_sys::bpf_test_run_opts {
            sz: size_of::<libbpf_sys::bpf_test_run_opts>() as u64,
            data_in: packet.as_ptr().cast(),
            data_size_in: packet.len() as u32,
            ..libbpf_sys::bpf_test_run_opts::default()
        };
        if victim.ifindex() > 0 {
            opts.ctx_in = skb.as_mut_ptr().cast();
            opts.ctx_size_in = size_of_val(&skb) as u32;
        }
        fault::at(Point::OwnerRun).map_err(error)?;
        // SAFETY: packet and context are as long as opts says and outlive the call; nothing is written back to them,
        // as opts names no output.
        let ret = unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_fd().as_raw_fd(), &mut opts) };
        if ret < 0 {
            return Err(error(io::Error::from_raw_os_error(-ret)));
        }
        Ok(match owner_types::owner(opts.retval) {
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
    let (family, daddr) = peer_words(daddr);
    let request = owner_types::owner_request {
        saddr: peer_words(saddr).1,
        daddr,
        sport: victim.sport().to_be(),
        dport: victim.dport().to_be(),
        family,
        protocol: victim.protocol_number(),
        cookie: victim.cookie(),
        ..owner_types::owner_request::default()
    };
    let mut packet = [0; ETH_HLEN + REQUEST];
    // SAFETY: the struct is integers without hidden padding (asserted in owner.bpf.c), so all its bytes may be read.
    let bytes = unsafe { std::slice::from_raw_parts(std::ptr::from_ref(&request).cast::<u8>(), REQUEST) };
    packet[ETH_HLEN..].copy_from_slice(bytes);
    packet
}
