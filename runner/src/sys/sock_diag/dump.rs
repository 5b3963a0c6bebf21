//! Dumps: every socket of a protocol and family in one netns, or those a filter in the kernel lets through.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NlasIterator,
};
use skreap_bpf::fault::{self, Point};
use skreap_core::{Backend, Protocol};

use super::{DiagSocket, REQUEST_BYTES, put_header, retry};

/// `SOCK_DIAG_BY_FAMILY` (linux/sock_diag.h).
pub(super) const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// The kernel fills at most this much at a time, and only if the reader has room for it (`netlink_dump`).
pub(super) const BUFFER: usize = 32 * 1024;
/// Requests for single sockets in one message; the responses (some 500 bytes each, a page in the
/// kernel's account) fit in the default receive buffer.
pub(super) const QUESTIONS: usize = 32;

/// What the kernel says of the making of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    /// Inode number, as `/proc/PID/fd` shows it.
    pub(crate) inode: u32,
    /// User that made it.
    pub(crate) uid: u32,
    /// Id of the cgroup that it was made in.
    pub(crate) cgroup: Option<u64>,
}

// linux/inet_diag.h
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_BC_D_COND: u8 = 8;
const INET_DIAG_INFO: u8 = 2;
const INET_DIAG_ULP_INFO: u16 = 19;
const INET_DIAG_CGROUP_ID: u16 = 21;
const INET_ULP_INFO_NAME: u16 = 1;
/// `struct inet_diag_msg`
const MESSAGE_BYTES: usize = 72;
/// `struct nlattr`
const NLA_HEADER: usize = 4;

/// The request.
#[derive(Clone, Copy, Debug)]
pub struct Dump<'a> {
    /// `AF_INET` or `AF_INET6`; sockets of this family only, so a v4-mapped peer is in the second.
    pub family: u8,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Bit `1 << TCP_*` for each state wanted; UDP knows ESTABLISHED (has a peer) and CLOSE.
    pub states: u32,
    /// Lets the kernel choose.
    pub filter: Option<&'a Filter>,
    /// Also says what runs on top of TCP ([`InetDiag::is_mptcp_subflow`]), and waits for the lock of each TCP socket.
    pub info: bool,
}

/// How a dump ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpEnd {
    /// The kernel says that it has shown all.
    Complete,
    /// The kernel says that its table changed under it (`NLM_F_DUMP_INTR`).
    Interrupted,
}

/// Which sockets the kernel shows: by their ports, which it looks at first, and by bytecode that it runs on each of
/// those (`ss dst ADDR:PORT`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    sport: u16,
    dport: u16,
    bytecode: Vec<u8>,
}

impl Filter {
    /// Sockets connected to this backend; v4-mapped peers match an IPv4 backend.
    #[must_use]
    pub fn destination(backend: &Backend) -> Self {
        let (family, addr) = match backend.addr() {
            IpAddr::V4(a) => (libc::AF_INET, a.octets().to_vec()),
            IpAddr::V6(a) => (libc::AF_INET6, a.octets().to_vec()),
        };
        // struct inet_diag_bc_op and struct inet_diag_hostcond, with the address behind it. The end is
        // reached with 0 bytes left for yes, and past the end, which means no, for no.
        let length = 4 + 8 + addr.len();
        let mut bytecode = Vec::with_capacity(length);
        bytecode.extend_from_slice(&[INET_DIAG_BC_D_COND, length as u8]);
        bytecode.extend_from_slice(&(length as u16 + 4).to_ne_bytes());
        // family, prefix length, padding, port (host order)
        bytecode.extend_from_slice(&[family as u8, addr.len() as u8 * 8, 0, 0]);
        bytecode.extend_from_slice(&i32::from(backend.port()).to_ne_bytes());
        bytecode.extend_from_slice(&addr);
        Self { sport: 0, dport: backend.port(), bytecode }
    }

    /// Sockets with these ports; 0: with any.
    pub(super) const fn ports(sport: u16, dport: u16) -> Self {
        Self { sport, dport, bytecode: Vec::new() }
    }

    /// Bytes of the attribute with the bytecode.
    fn length(&self) -> usize {
        if self.bytecode.is_empty() { 0 } else { NLA_HEADER + self.bytecode.len() }
    }
}

/// One socket of a dump: `struct inet_diag_msg` and the attributes behind it.
#[derive(Clone, Copy, Debug)]
pub struct InetDiag<'a>(&'a [u8]);

impl<'a> InetDiag<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Option<Self> {
        (bytes.len() >= MESSAGE_BYTES).then_some(Self(bytes))
    }

    /// The message and its attributes as they came.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.0
    }

    fn at<const N: usize>(&self, offset: usize) -> [u8; N] {
        // new() has looked at the length; offsets are constants.
        self.0.get(offset..).and_then(|b| b.first_chunk()).copied().unwrap_or([0; N])
    }

    /// `AF_INET` or `AF_INET6`.
    #[must_use]
    pub fn family(&self) -> u8 {
        self.at::<1>(0)[0]
    }

    /// Peer port, as in the packet.
    #[must_use]
    pub fn dport_be(&self) -> [u8; 2] {
        self.at(6)
    }

    /// Peer address; IPv4 in the first four bytes.
    #[must_use]
    pub fn daddr(&self) -> [u8; 16] {
        self.at(24)
    }

    /// Its cookie.
    pub(super) fn cookie(&self) -> u64 {
        u64::from_ne_bytes(self.at(44))
    }

    /// False if the owner has closed the socket and the kernel alone finishes the connection: it has no inode
    /// then.
    #[must_use]
    pub fn has_owner(&self) -> bool {
        self.at::<4>(68) != [0; 4]
    }

    /// Who made it; `None` for a socket without an owner.
    pub(crate) fn made(&self) -> Option<Made> {
        let [uid, inode] = [64, 68].map(|offset| u32::from_ne_bytes(self.at(offset)));
        (inode != 0).then(|| Made { inode, uid, cgroup: self.cgroup() })
    }

    /// Cgroup the socket belongs to, by id; `None` before 5.9 or without CONFIG_SOCK_CGROUP_DATA.
    #[must_use]
    pub fn cgroup(&self) -> Option<u64> {
        let value = self.attribute(INET_DIAG_CGROUP_ID)?;
        value.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes))
    }

    /// True for the TCP socket underneath an MPTCP socket; known only with [`Dump::info`].
    #[must_use]
    pub fn is_mptcp_subflow(&self) -> bool {
        self.attribute(INET_DIAG_ULP_INFO)
            .and_then(|nested| attribute(nested, INET_ULP_INFO_NAME))
            .is_some_and(|name| name.strip_suffix(&[0]).unwrap_or(name) == b"mptcp")
    }

    fn attribute(&self, kind: u16) -> Option<&'a [u8]> {
        attribute(self.0.get(MESSAGE_BYTES..)?, kind)
    }
}

fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    let found = NlasIterator::new(bytes).map_while(Result::ok).find(|nla| nla.kind() == kind)?;
    let end = usize::from(found.length());
    found.into_inner().get(NLA_HEADER..end)
}

impl DiagSocket {
    /// Shows every socket that was asked for to `each`. `buffer` is memory to be used again.
    ///
    /// # Errors
    /// The kernel's errno: `ENOENT` without the diag module of the protocol, `EINVAL` for a filter it does not
    /// know. After an error, and after one in `each`'s place, open a new socket.
    pub fn dump(
        &mut self,
        dump: &Dump<'_>,
        buffer: &mut Vec<u8>,
        mut each: impl FnMut(InetDiag<'_>),
    ) -> io::Result<DumpEnd> {
        self.request.clear();
        let attribute = dump.filter.map_or(0, Filter::length);
        put_header(
            &mut self.request,
            REQUEST_BYTES + attribute,
            SOCK_DIAG_BY_FAMILY,
            NLM_F_REQUEST | NLM_F_DUMP,
            0,
        );
        // struct inet_diag_req_v2: family, protocol, extensions, padding, states, id
        let extensions = if dump.info { 1 << (INET_DIAG_INFO - 1) } else { 0 };
        self.request.extend_from_slice(&[dump.family, dump.protocol.number(), extensions, 0]);
        self.request.extend_from_slice(&dump.states.to_ne_bytes());
        let mut id = [0; 48];
        if let Some(filter) = dump.filter {
            id[0..2].copy_from_slice(&filter.sport.to_be_bytes());
            id[2..4].copy_from_slice(&filter.dport.to_be_bytes());
        }
        self.request.extend_from_slice(&id);
        if let Some(filter) = dump.filter.filter(|filter| filter.length() > 0) {
            // struct nlattr; the bytecode is a multiple of 4 bytes long
            self.request.extend_from_slice(&(attribute as u16).to_ne_bytes());
            self.request.extend_from_slice(&INET_DIAG_REQ_BYTECODE.to_ne_bytes());
            self.request.extend_from_slice(&filter.bytecode);
        }
        retry(|| fault::at(Point::DumpSend).and_then(|()| self.socket.send(&self.request, 0)))?;

        buffer.reserve(BUFFER.saturating_sub(buffer.capacity()));
        let mut end = DumpEnd::Complete;
        loop {
            buffer.clear();
            // Never blocks: the kernel fills the next part within the receive of the one before.
            retry(|| fault::at(Point::DumpReceive).and_then(|()| self.socket.recv(buffer, 0)))?;
            if let Some(errno) = datagram(buffer, &mut end, &mut each) {
                return match errno {
                    0 => Ok(end),
                    errno => Err(io::Error::from_raw_os_error(errno)),
                };
            }
        }
    }
}

/// Reads one datagram of a dump: shows its sockets, and notes whether the dump was interrupted. With the last one
/// of the dump comes the positive errno that it ended with, 0 for none.
pub(crate) fn datagram(bytes: &[u8], end: &mut DumpEnd, mut each: impl FnMut(InetDiag<'_>)) -> Option<i32> {
    for message in messages(bytes) {
        if message.flags() & NLM_F_DUMP_INTR != 0 {
            *end = DumpEnd::Interrupted;
        }
        match message.message_type() {
            SOCK_DIAG_BY_FAMILY => {
                if let Some(socket) = InetDiag::new(message.payload()) {
                    each(socket);
                }
            }
            NLMSG_DONE | NLMSG_ERROR => return Some(leading_errno(message.payload())),
            _ => {}
        }
    }
    None
}

/// The messages of one datagram.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = NetlinkBuffer<&[u8]>> {
    std::iter::from_fn(move || {
        let message = NetlinkBuffer::new_checked(bytes).ok()?;
        let length = (message.length() as usize).next_multiple_of(4).min(bytes.len());
        bytes = bytes.get(length..)?;
        Some(message)
    })
}

/// The positive errno that `NLMSG_DONE` and `NLMSG_ERROR` begin with; 0 for none.
fn leading_errno(payload: &[u8]) -> i32 {
    payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes).saturating_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_one_condition_that_ends_at_the_end_or_past_it() {
        let filter = Filter::destination(&"tcp://10.0.0.1:80".parse().unwrap());
        let mut expected = vec![8, 16];
        expected.extend(20_u16.to_ne_bytes());
        expected.extend([2, 32, 0, 0]);
        expected.extend(80_i32.to_ne_bytes());
        expected.extend([10, 0, 0, 1]);
        assert_eq!(filter, Filter { sport: 0, dport: 80, bytecode: expected });

        let filter = Filter::destination(&"udp://[fd00::1]:53".parse().unwrap());
        assert_eq!(filter.bytecode.len(), 28);
        assert_eq!(filter.bytecode[..2], [8, 28]);
        assert_eq!(filter.bytecode[4..6], [10, 128]);
    }

    #[test]
    fn reads_a_socket_and_its_attributes() {
        let mut bytes = vec![0; MESSAGE_BYTES];
        bytes[0] = 2;
        bytes[6..8].copy_from_slice(&[0, 53]);
        bytes[24..28].copy_from_slice(&[10, 0, 0, 1]);
        let bare = InetDiag::new(&bytes).unwrap();
        assert_eq!((bare.cgroup(), bare.has_owner(), bare.is_mptcp_subflow()), (None, false, false));

        bytes[44] = 9;
        bytes[68] = 1;
        // struct nlattr CGROUP_ID, then ULP_INFO with the nested string NAME
        bytes.extend([12_u16, 21].iter().flat_map(|n| n.to_ne_bytes()));
        bytes.extend(77_u64.to_ne_bytes());
        bytes.extend([14_u16, 19, 10, 1].iter().flat_map(|n| n.to_ne_bytes()));
        bytes.extend(b"mptcp\0\0\0");
        let socket = InetDiag::new(&bytes).unwrap();
        assert_eq!((socket.family(), socket.dport_be()), (2, [0, 53]));
        assert_eq!(socket.daddr()[..4], [10, 0, 0, 1]);
        assert_eq!(
            (socket.cgroup(), socket.cookie()),
            (Some(77), u64::from_ne_bytes([9, 0, 0, 0, 0, 0, 0, 0]))
        );
        assert!(socket.has_owner() && socket.is_mptcp_subflow());
        assert!(InetDiag::new(&bytes[..MESSAGE_BYTES - 1]).is_none());
    }

    #[test]
    fn a_cut_datagram_ends_the_messages() {
        assert_eq!(messages(&[0; 64]).count(), 0);
        assert_eq!(messages(&[]).count(), 0);
    }
}
