//! The side that opened a TCP connection: the owner of this socket, or the peer.

use crate::sys::sock_diag::InetDiag;

/// How a TCP socket came by its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// It has sent the first SYN: `connect()`.
    Connected,
    /// Accepted by a listener.
    Accepted,
    /// Its counters do not decide it.
    Unclear,
}

// net/tcp_states.h
const SYN_SENT: u8 = 2;
const SYN_RECV: u8 = 3;
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
const LAST_ACK: u8 = 9;
const CLOSING: u8 = 11;

/// Bytes sent by a TCP socket.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    /// Acknowledged by the peer, in sequence numbers: a SYN and a FIN count one each.
    acked: u64,
    /// Written and not acknowledged, in sequence numbers.
    queued: u64,
    /// The part of `queued` that was never sent.
    unsent: u64,
    /// Payload sent, with retransmissions.
    payload: u64,
    /// Payload sent again.
    again: u64,
}

/// No field of the socket says which side opened the connection. But the kernel counts acknowledged
/// sequence numbers (`bytes_acked`) from the SYN on for the connecting side, and from the byte
/// after it for the accepting side, while a SYN is never counted as payload (`bytes_sent`). All
/// sent bytes are either acknowledged or in flight, so one byte too many is the SYN.
pub(super) fn origin(message: &InetDiag<'_>, state: u8) -> Origin {
    if state == SYN_SENT {
        return Origin::Connected;
    }
    let Some(info) = message.tcp_info() else {
        return Origin::Unclear;
    };
    // struct tcp_info (linux/tcp.h); the last member exists since 4.19
    let word = |at: usize| {
        let bytes = info.get(at..)?.first_chunk()?;
        Some(u64::from(u32::from_ne_bytes(*bytes)))
    };
    let long = |at: usize| Some(u64::from_ne_bytes(*info.get(at..)?.first_chunk()?));
    let read = || {
        Some(Sent {
            acked: long(120)?,
            queued: message.wqueue().into(),
            unsent: word(144)?,
            payload: long(200)?,
            again: long(208)?,
        })
    };
    read().map_or(Origin::Unclear, |sent| decide(state, sent))
}

fn decide(state: u8, sent: Sent) -> Origin {
    let fin = match state {
        // The first is the state of a side that waits for the last ACK of a handshake; in the
        // others a FIN is in flight behind the queued data, or the last of it.
        SYN_RECV => return Origin::Unclear,
        FIN_WAIT1 | FIN_WAIT2 | CLOSING | LAST_ACK if sent.unsent > 0 => return Origin::Unclear,
        FIN_WAIT1 | FIN_WAIT2 | CLOSING | LAST_ACK => 1,
        _ => 0,
    };
    let in_sequence = i128::from(sent.acked) + i128::from(sent.queued) - i128::from(sent.unsent);
    match in_sequence - (i128::from(sent.payload) - i128::from(sent.again)) - fin {
        1 => Origin::Connected,
        0 => Origin::Accepted,
        _ => Origin::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ESTABLISHED: u8 = 1;

    #[test]
    fn the_syn_is_the_byte_that_is_no_payload() {
        let sent = |acked, queued, unsent, payload, again| Sent { acked, queued, unsent, payload, again };
        for (state, sent, expected) in [
            (ESTABLISHED, sent(1, 0, 0, 0, 0), Origin::Connected),
            (ESTABLISHED, sent(0, 0, 0, 0, 0), Origin::Accepted),
            // 300 written: 100 acknowledged, 150 in flight, 50 waiting; 80 were sent twice
            (ESTABLISHED, sent(101, 200, 50, 330, 80), Origin::Connected),
            (ESTABLISHED, sent(100, 200, 50, 330, 80), Origin::Accepted),
            (ESTABLISHED, sent(7, 0, 0, 5, 0), Origin::Unclear),
            (FIN_WAIT2, sent(12, 0, 0, 10, 0), Origin::Connected),
            (FIN_WAIT2, sent(11, 0, 0, 10, 0), Origin::Accepted),
            (FIN_WAIT1, sent(1, 11, 5, 6, 0), Origin::Unclear),
            (SYN_RECV, sent(0, 0, 0, 0, 0), Origin::Unclear),
        ] {
            assert_eq!(decide(state, sent), expected, "{state} {sent:?}");
        }
    }
}
