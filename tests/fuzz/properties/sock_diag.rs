//! What the kernel answers over netlink: read as a second reader reads it, which knows nothing of the first, and
//! every socket that is shown can be named in a request.

use skreap::bpf::Victim;
use skreap::core::Protocol;
use skreap::fuzz::{destroy_answer, dump_answer};
use skreap::sock_diag::{DumpEnd, InetDiag};

// linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h
const ERROR: u16 = 2;
const DONE: u16 = 3;
const BY_FAMILY: u16 = 20;
const DUMP_INTR: u16 = 0x10;
const HEADER: usize = 16;
const SOCKET: usize = 72;

/// See the module. The first byte says what was asked.
pub fn holds(data: &[u8]) {
    match data.split_first() {
        Some((0, datagram)) => destroyed(datagram),
        Some((_, datagram)) => dumped(datagram),
        None => {}
    }
}

fn destroyed(datagram: &[u8]) {
    let expected: Vec<(u32, i32)> = messages(datagram)
        .into_iter()
        // struct nlmsgerr is an errno and the header of the request
        .filter(|m| m.kind == ERROR && m.payload.len() >= 4)
        .map(|m| (m.sequence, i32::from_ne_bytes(m.payload[..4].try_into().unwrap()).saturating_abs()))
        .collect();
    assert_eq!(destroy_answer(datagram), expected);
}

fn dumped(datagram: &[u8]) {
    let messages = messages(datagram);
    let last = messages.iter().position(|m| matches!(m.kind, DONE | ERROR));
    let read = &messages[..last.map_or(messages.len(), |i| i + 1)];
    let sockets: Vec<&[u8]> =
        read.iter().filter(|m| m.kind == BY_FAMILY && m.payload.len() >= SOCKET).map(|m| m.payload).collect();
    let errno = last.map(|i| {
        messages[i].payload.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code).saturating_abs())
    });
    let interrupted = read.iter().any(|m| m.flags & DUMP_INTR != 0);

    let mut shown = Vec::new();
    let (end, ended_with) = dump_answer(datagram, |socket| {
        nameable(socket);
        shown.push(socket.bytes().to_vec());
    });
    assert_eq!(shown, sockets);
    assert_eq!(end, if interrupted { DumpEnd::Interrupted } else { DumpEnd::Complete });
    assert_eq!(ended_with, errno);
}

fn nameable(socket: InetDiag<'_>) {
    let bytes = socket.bytes();
    for protocol in Protocol::ALL {
        let victim = Victim::from_inet_diag(bytes, protocol, 3, 4).unwrap();
        assert_eq!(
            victim.sockid(),
            bytes[4..52],
            "the id that SOCK_DESTROY is given is the one that was shown"
        );
        assert_eq!((victim.family(), victim.state()), (bytes[0], bytes[1]));
        assert_eq!((victim.protocol(), victim.netns(), victim.netns_inum()), (Some(protocol), 3, 4));
        assert_eq!(victim.dport().to_be_bytes(), socket.dport_be());
    }
    assert_eq!((socket.family(), &socket.daddr()[..]), (bytes[0], &bytes[24..40]));
    assert_eq!(socket.has_owner(), bytes[68..72] != [0; 4]);
    // Attributes: within the message, whatever their lengths say.
    let attributes = bytes.len() - SOCKET;
    assert!(socket.cgroup().is_none() || attributes >= 12);
    assert!(!socket.is_mptcp_subflow() || attributes >= 4 + 4 + b"mptcp".len());
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

/// The messages of a datagram, up to the first that is cut.
fn messages(mut bytes: &[u8]) -> Vec<Message<'_>> {
    let mut found = Vec::new();
    while bytes.len() >= HEADER {
        let u16_at = |at: usize| u16::from_ne_bytes(bytes[at..at + 2].try_into().unwrap());
        let u32_at = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let length = u32_at(0) as usize;
        if length < HEADER || length > bytes.len() {
            break;
        }
        found.push(Message {
            kind: u16_at(4),
            flags: u16_at(6),
            sequence: u32_at(8),
            payload: &bytes[HEADER..length],
        });
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
    found
}
