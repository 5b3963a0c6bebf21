//! `SOCK_DESTROY`: naming sockets exactly, in batches.

use std::io;

use netlink_packet_core::{ErrorBuffer, NLM_F_REQUEST, NLMSG_ERROR, NetlinkBuffer};
use skreap_bpf::Victim;
use skreap_bpf::fault::{self, Point};

use super::{DiagSocket, REQUEST_BYTES, put_header, retry};

/// `SOCK_DESTROY` (linux/sock_diag.h).
const SOCK_DESTROY: u16 = 21;
/// Requests in one message to the kernel. Failures come back one skb each, and this many fit in the default
/// receive buffer.
pub const BATCH: usize = 128;

/// Result of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Destroyed.
    Destroyed,
    /// The kernel said why not (positive errno).
    Failed(i32),
    /// The kernel's response was lost (receive buffer overrun).
    Unknown,
    /// The kernel was not asked: the request could not be sent.
    Unsent,
}

impl DiagSocket {
    /// Destroys the victims, all of which must be in this socket's netns, and returns a verdict for
    /// each, in order.
    ///
    /// # Errors
    /// The errno of a send that the kernel refused as a whole; `verdicts` then ends with the last
    /// completed victim.
    pub fn destroy(&mut self, victims: &[Victim], verdicts: &mut Vec<Verdict>) -> io::Result<()> {
        self.send(victims, verdicts)?;
        self.collect_verdicts(verdicts)
    }

    /// As [`destroy`](Self::destroy), but does not look for failures of the last batch: until
    /// [`collect_verdicts`](Self::collect_verdicts) does, all its verdicts are `Destroyed`.
    fn send(&mut self, victims: &[Victim], verdicts: &mut Vec<Verdict>) -> io::Result<()> {
        self.uncollected = 0..0;
        for batch in victims.chunks(BATCH) {
            if !self.uncollected.is_empty() {
                self.collect_verdicts(verdicts)?;
            }
            self.request.clear();
            for (i, victim) in batch.iter().enumerate() {
                put_request(&mut self.request, i as u32, victim);
            }
            // The kernel processes the batch within send(): afterwards every failure is in the
            // receive buffer, and an empty buffer means that all succeeded.
            retry(|| fault::at(Point::DestroySend).and_then(|()| self.socket.send(&self.request, 0)))?;
            let first = verdicts.len();
            verdicts.resize(first + batch.len(), Verdict::Destroyed);
            self.uncollected = first..verdicts.len();
        }
        Ok(())
    }

    /// Empties the receive buffer. What is in it are failures of the last batch; `verdicts` are those that it
    /// was sent with.
    ///
    /// # Errors
    /// The errno of reading; the results of the batch are unknown then.
    fn collect_verdicts(&mut self, verdicts: &mut [Verdict]) -> io::Result<()> {
        let verdicts = verdicts.get_mut(std::mem::take(&mut self.uncollected)).unwrap_or_default();
        loop {
            self.answer.clear();
            match retry(|| {
                fault::at(Point::DestroyReceive)?;
                self.socket.recv(&mut self.answer, libc::MSG_DONTWAIT)
            }) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                    verdicts.fill(Verdict::Unknown);
                    continue;
                }
                Err(e) => {
                    verdicts.fill(Verdict::Unknown);
                    return Err(e);
                }
            }
            for (sequence, errno) in Errors(&self.answer) {
                if let Some(verdict) = verdicts.get_mut(sequence as usize) {
                    *verdict = if errno == 0 { Verdict::Destroyed } else { Verdict::Failed(errno) };
                }
            }
        }
    }
}

/// The `NLMSG_ERROR` messages of one datagram: sequence number and positive errno.
pub(crate) struct Errors<'a>(pub(crate) &'a [u8]);

impl Iterator for Errors<'_> {
    type Item = (u32, i32);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let message = NetlinkBuffer::new_checked(self.0).ok()?;
            let length = (message.length() as usize).next_multiple_of(4).min(self.0.len());
            let found = (message.message_type() == NLMSG_ERROR)
                .then(|| ErrorBuffer::new_checked(message.payload()).ok())
                .flatten()
                .map(|e| (message.sequence_number(), e.code().map_or(0, |code| code.get().saturating_abs())));
            self.0 = self.0.get(length..)?;
            if found.is_some() {
                return found;
            }
        }
    }
}

fn put_request(buffer: &mut Vec<u8>, sequence: u32, victim: &Victim) {
    put_header(buffer, REQUEST_BYTES, SOCK_DESTROY, NLM_F_REQUEST, sequence);
    // struct inet_diag_req_v2: family, protocol, extensions, padding, states (all), id
    buffer.extend_from_slice(&[victim.family(), victim.protocol_number(), 0, 0]);
    buffer.extend_from_slice(&u32::MAX.to_ne_bytes());
    buffer.extend_from_slice(&victim.sockid());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_message(sequence: u32, code: i32) -> Vec<u8> {
        let mut m = Vec::new();
        m.extend_from_slice(&36_u32.to_ne_bytes());
        m.extend_from_slice(&2_u16.to_ne_bytes());
        m.extend_from_slice(&0_u16.to_ne_bytes());
        m.extend_from_slice(&sequence.to_ne_bytes());
        m.extend_from_slice(&0_u32.to_ne_bytes());
        m.extend_from_slice(&code.to_ne_bytes());
        m.extend_from_slice(&[0; 16]);
        m
    }

    #[test]
    fn reads_every_error_of_a_datagram() {
        let datagram =
            [error_message(3, -libc::ENOENT), error_message(9, 0), error_message(4, -libc::EPERM)].concat();
        let found: Vec<_> = Errors(&datagram).collect();
        assert_eq!(found, [(3, libc::ENOENT), (9, 0), (4, libc::EPERM)]);
    }

    #[test]
    fn a_cut_datagram_ends_the_list() {
        let datagram = error_message(3, -libc::ENOENT);
        assert_eq!(Errors(&datagram[..20]).count(), 0);
        assert_eq!(Errors(&[]).count(), 0);
        // a length of zero must not loop
        assert_eq!(Errors(&[0; 64]).count(), 0);
    }
}
