//! The user, cgroup and inode of a socket: one question for each, by its exact id; and a dump
//! where that leads to another socket.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::time::Instant;

use netlink_packet_core::NLM_F_REQUEST;
use skreap_bpf::fault::{self, Point};
use skreap_core::{Protocol, SocketTuple};

use super::dump::{BUFFER, Made, QUESTIONS, SOCK_DIAG_BY_FAMILY, messages};
use super::{DiagSocket, Dump, Filter, InetDiag, REQUEST_BYTES, put_header, retry};

/// `AF_INET` and `AF_INET6`: a socket of the second may have IPv4 addresses.
const FAMILIES: [u8; 2] = [libc::AF_INET as u8, libc::AF_INET6 as u8];

impl DiagSocket {
    /// Asks after each of these sockets, all of which must be in this socket's netns. `None` for
    /// those that are gone, have no owner, or are in no table; and for those of SO_REUSEPORT groups that could not be
    /// looked for before the deadline. No socket's lock is taken.
    ///
    /// # Errors
    /// The errno of the send or receive; open a new socket then.
    pub(crate) fn made(
        &mut self,
        sockets: &[&SocketTuple],
        deadline: Instant,
    ) -> io::Result<Vec<Option<Made>>> {
        let mut made = self.by_id(sockets)?;
        if let Err(e) = self.by_cookie(sockets, &mut made, deadline) {
            tracing::debug!("the owners of some sockets of one name are not known: {e}");
        }
        Ok(made)
    }

    /// Looks for those UDP sockets that their id has not led to. The kernel finds one of those whose addresses and ports
    /// are the same, and calls the others gone; a dump of all that have these ports shows each with its cookie.
    fn by_cookie(
        &mut self,
        sockets: &[&SocketTuple],
        made: &mut [Option<Made>],
        deadline: Instant,
    ) -> io::Result<()> {
        let mut groups: HashMap<(u16, u16), u32> = HashMap::new();
        for (socket, _) in sockets.iter().zip(made.iter()).filter(|(socket, made)| {
            // Without a local port it is in no table. Of TCP sockets each has a name of its own.
            made.is_none() && socket.protocol == Protocol::Udp && socket.sport != 0
        }) {
            *groups.entry((socket.sport, socket.dport)).or_default() += 1;
        }
        // There may be no time for all.
        let mut groups: Vec<((u16, u16), u32)> = groups.into_iter().collect();
        groups.sort_unstable_by_key(|(_, missing)| Reverse(*missing));
        let mut shown: HashMap<u64, Made> = HashMap::new();
        let mut buffer = Vec::new();
        for ((sport, dport), family) in groups.into_iter().flat_map(|(ports, _)| FAMILIES.map(|f| (ports, f)))
        {
            if Instant::now() >= deadline {
                break;
            }
            let filter = Filter::ports(sport, dport);
            let dump = Dump {
                family,
                protocol: Protocol::Udp,
                states: u32::MAX,
                filter: Some(&filter),
                info: false,
            };
            self.dump(&dump, &mut buffer, |socket| {
                shown.extend(socket.made().map(|made| (socket.cookie(), made)));
            })?;
        }
        for (socket, made) in sockets.iter().zip(made).filter(|(_, made)| made.is_none()) {
            *made = shown.get(&socket.cookie).copied();
        }
        Ok(())
    }

    fn by_id(&mut self, sockets: &[&SocketTuple]) -> io::Result<Vec<Option<Made>>> {
        let mut made = vec![None; sockets.len()];
        let mut buffer = Vec::with_capacity(BUFFER);
        for (batch, made) in sockets.chunks(QUESTIONS).zip(made.chunks_mut(QUESTIONS)) {
            self.request.clear();
            for (i, socket) in batch.iter().enumerate() {
                put_header(&mut self.request, REQUEST_BYTES, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, i as u32);
                put_question(&mut self.request, socket);
            }
            retry(|| fault::at(Point::DumpSend).and_then(|()| self.socket.send(&self.request, 0)))?;
            loop {
                buffer.clear();
                match retry(|| {
                    fault::at(Point::DumpReceive)?;
                    self.socket.recv(&mut buffer, libc::MSG_DONTWAIT)
                }) {
                    Ok(_) => {}
                    // The kernel has answered within the send.
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) => return Err(e),
                }
                for message in messages(&buffer) {
                    if message.message_type() == SOCK_DIAG_BY_FAMILY
                        && let Some(socket) = InetDiag::new(message.payload())
                        && let Some(made) = made.get_mut(message.sequence_number() as usize)
                    {
                        *made = socket.made();
                    }
                }
            }
        }
        Ok(made)
    }
}

/// `struct inet_diag_req_v2` for one socket.
fn put_question(request: &mut Vec<u8>, socket: &SocketTuple) {
    let family = if socket.saddr.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    request.extend_from_slice(&[family as u8, socket.protocol.number(), 0, 0]);
    request.extend_from_slice(&u32::MAX.to_ne_bytes());
    let local = (socket.sport, socket.saddr);
    let peer = (socket.dport, socket.daddr);
    // `udp_dump_one` takes source and destination the other way round.
    let (first, second) = match socket.protocol {
        Protocol::Tcp => (local, peer),
        Protocol::Udp => (peer, local),
    };
    request.extend_from_slice(&first.0.to_be_bytes());
    request.extend_from_slice(&second.0.to_be_bytes());
    request.extend_from_slice(&address(first.1));
    request.extend_from_slice(&address(second.1));
    request.extend_from_slice(&socket.ifindex.to_ne_bytes());
    request.extend_from_slice(&(socket.cookie as u32).to_ne_bytes());
    request.extend_from_slice(&((socket.cookie >> 32) as u32).to_ne_bytes());
}

/// As `struct inet_diag_sockid` has it: IPv4 in the first four bytes.
fn address(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(a) => {
            let mut bytes = [0; 16];
            let (first, _) = bytes.split_at_mut(4);
            first.copy_from_slice(&a.octets());
            bytes
        }
        IpAddr::V6(a) => a.octets(),
    }
}
