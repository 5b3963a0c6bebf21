//! Looking up single sockets by their exact id. That takes no lock of theirs, so it never waits for an owner.

use std::io;

use netlink_packet_core::NLM_F_REQUEST;
use skreap_bpf::Victim;
use skreap_bpf::fault::{self, Point};
use skreap_core::Protocol;

use super::dump::{SOCK_DIAG_BY_FAMILY, messages};
use super::{DiagSocket, InetDiag, REQUEST_BYTES, put_header, retry};

/// Questions in one message; the answers (some 200 bytes each, a page in the kernel's account) fit in the default receive
/// buffer.
const QUESTIONS: usize = 32;

impl DiagSocket {
    /// Says for each of the victims, all of which must be in this socket's netns, whether it is still there with its peer.
    ///
    /// # Errors
    /// The errno of the send or receive; open a new socket then.
    pub fn look(&mut self, victims: &[Victim]) -> io::Result<Vec<bool>> {
        let mut there = vec![false; victims.len()];
        for (batch, there) in victims.chunks(QUESTIONS).zip(there.chunks_mut(QUESTIONS)) {
            self.request.clear();
            for (i, victim) in batch.iter().enumerate() {
                put_question(&mut self.request, i as u32, victim);
            }
            retry(|| fault::at(Point::LookSend).and_then(|()| self.socket.send(&self.request, 0)))?;
            loop {
                self.answer.clear();
                match retry(|| {
                    fault::at(Point::LookReceive)?;
                    self.socket.recv(&mut self.answer, libc::MSG_DONTWAIT)
                }) {
                    Ok(_) => {}
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) => return Err(e),
                }
                for message in messages(&self.answer) {
                    if message.message_type() == SOCK_DIAG_BY_FAMILY
                        && let Some(socket) = InetDiag::new(message.payload())
                        && let i = message.sequence_number() as usize
                        && let (Some(victim), Some(there)) = (batch.get(i), there.get_mut(i))
                    {
                        // A bound UDP socket that was destroyed is still found at its port, and has no peer.
                        *there = socket.dport_be() == victim.dport().to_be_bytes();
                    }
                }
            }
        }
        Ok(there)
    }
}

/// Without extensions: `INET_DIAG_INFO` would make the kernel take the lock of a TCP socket (`tcp_get_info`).
fn put_question(buffer: &mut Vec<u8>, sequence: u32, victim: &Victim) {
    put_header(buffer, REQUEST_BYTES, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, sequence);
    // struct inet_diag_req_v2: family, protocol, extensions, padding, states (all), id
    buffer.extend_from_slice(&[victim.family(), victim.protocol_number(), 0, 0]);
    buffer.extend_from_slice(&u32::MAX.to_ne_bytes());
    let mut id = victim.sockid();
    if victim.protocol() == Some(Protocol::Udp) {
        // udp_dump_one() takes the source for the peer, "for historical reasons"; udp_diag_destroy() does not.
        let (sport, dport, src, dst) = (0..2, 2..4, 4..20, 20..36);
        let whole = id;
        for (to, from) in
            [(sport.clone(), dport.clone()), (dport, sport), (src.clone(), dst.clone()), (dst, src)]
        {
            if let (Some(to), Some(from)) = (id.get_mut(to), whole.get(from)) {
                to.copy_from_slice(from);
            }
        }
    }
    buffer.extend_from_slice(&id);
}
