//! `SOCK_DESTROY` over `NETLINK_SOCK_DIAG`: naming sockets exactly, in batches, in any netns.
//!
//! The requests are packed here and not by a netlink crate: none knows SOCK_DESTROY, and this is the path
//! whose cost is the point of the program. What comes back is read with netlink-packet-core.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use netlink_packet_core::{ErrorBuffer, NLMSG_ERROR, NetlinkBuffer};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};
use skreap_bpf::Victim;

use crate::netns::{self, NetnsId};

/// `SOCK_DESTROY` (linux/sock_diag.h).
const SOCK_DESTROY: u16 = 21;
const NLM_F_REQUEST: u16 = 1;
/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
const REQUEST_BYTES: usize = 16 + 56;
/// Requests in one message to the kernel. Failures come back one skb each, and this many fit in the default
/// receive buffer.
pub const BATCH: usize = 128;

/// What came of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Destroyed.
    Destroyed,
    /// The kernel said why not (positive errno).
    Failed(i32),
    /// The kernel's answer was lost (receive buffer overrun).
    Unknown,
}

/// A diag socket in one netns.
#[derive(Debug)]
pub struct DiagSocket {
    socket: Socket,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl DiagSocket {
    /// Opens one in the netns of the calling thread.
    ///
    /// # Errors
    /// The errno of the socket calls; `EPROTONOSUPPORT` on a kernel without CONFIG_INET_DIAG.
    pub fn open() -> io::Result<Self> {
        let socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.set_cap_ack(true)?;
        socket.set_non_blocking(true)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            request: Vec::with_capacity(BATCH * REQUEST_BYTES),
            answer: Vec::with_capacity(4096),
        })
    }

    /// Destroys the victims, all of which must be in this socket's netns, and says for each what came of it,
    /// in order.
    ///
    /// # Errors
    /// The errno of a send that the kernel refused as a whole; `verdicts` then ends with the last victim
    /// that was answered.
    pub fn destroy(&mut self, victims: &[Victim], verdicts: &mut Vec<Verdict>) -> io::Result<()> {
        for batch in victims.chunks(BATCH) {
            self.request.clear();
            for (i, victim) in batch.iter().enumerate() {
                put_request(&mut self.request, i as u32, victim);
            }
            // The kernel works through the batch within send(): afterwards every failure is in the receive
            // buffer, and nothing there means that all succeeded.
            retry(|| self.socket.send(&self.request, 0))?;
            let first = verdicts.len();
            verdicts.resize(first + batch.len(), Verdict::Destroyed);
            if let Some(answered) = verdicts.get_mut(first..) {
                self.failures(answered)?;
            }
        }
        Ok(())
    }

    fn failures(&mut self, verdicts: &mut [Verdict]) -> io::Result<()> {
        loop {
            self.answer.clear();
            match retry(|| self.socket.recv(&mut self.answer, libc::MSG_DONTWAIT)) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                    verdicts.fill(Verdict::Unknown);
                    continue;
                }
                Err(e) => return Err(e),
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
struct Errors<'a>(&'a [u8]);

impl Iterator for Errors<'_> {
    type Item = (u32, i32);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let message = NetlinkBuffer::new_checked(self.0).ok()?;
            let length = (message.length() as usize).next_multiple_of(4).min(self.0.len());
            let found = (message.message_type() == NLMSG_ERROR)
                .then(|| ErrorBuffer::new_checked(message.payload()).ok())
                .flatten()
                .map(|e| (message.sequence_number(), e.code().map_or(0, |code| code.get().saturating_neg())));
            self.0 = self.0.get(length..)?;
            if found.is_some() {
                return found;
            }
        }
    }
}

fn put_request(buffer: &mut Vec<u8>, sequence: u32, victim: &Victim) {
    // struct nlmsghdr
    buffer.extend_from_slice(&(REQUEST_BYTES as u32).to_ne_bytes());
    buffer.extend_from_slice(&SOCK_DESTROY.to_ne_bytes());
    buffer.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    buffer.extend_from_slice(&sequence.to_ne_bytes());
    buffer.extend_from_slice(&0_u32.to_ne_bytes());
    // struct inet_diag_req_v2: family, protocol, extensions, padding, states (all), id
    buffer.extend_from_slice(&[victim.family(), victim.protocol_number(), 0, 0]);
    buffer.extend_from_slice(&u32::MAX.to_ne_bytes());
    buffer.extend_from_slice(&victim.sockid());
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

type Opened = Vec<(NetnsId, io::Result<DiagSocket>)>;

/// One diag socket per netns, opened when first needed.
///
/// An open diag socket keeps its netns alive, so it is kept for a short time only: long enough for a burst
/// of events, not long enough to matter to who deletes a netns.
#[derive(Debug)]
pub struct DiagSockets {
    kept: HashMap<u64, (DiagSocket, Instant)>,
    keep: Duration,
    ask: Option<Sender<Vec<NetnsId>>>,
    answer: Receiver<Opened>,
    opener: Option<thread::JoinHandle<()>>,
}

impl DiagSockets {
    /// `keep`: how long an unused socket (and with it the netns) is kept.
    ///
    /// # Errors
    /// The errno of making the thread, or of opening the own netns.
    pub fn new(keep: Duration) -> io::Result<Self> {
        let (ask, asked) = bounded::<Vec<NetnsId>>(1);
        let (reply, answer) = bounded(1);
        let home = netns::current()?;
        // A thread of its own: setns() must never move a thread that others run on.
        let opener = thread::Builder::new().name("skreap-netns".to_owned()).spawn(move || {
            for ids in asked {
                let opened = ids.into_iter().map(|id| (id, open_in(id))).collect();
                // The thread's own place keeps a netns alive as well.
                if let Err(e) = netns::enter(&home) {
                    tracing::error!("cannot go back to the own netns: {e}");
                }
                if reply.send(opened).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { kept: HashMap::new(), keep, ask: Some(ask), answer, opener: Some(opener) })
    }

    /// Opens what is missing; answers the netns that could not be opened, and why.
    pub fn prepare(&mut self, ids: impl Iterator<Item = NetnsId>) -> HashMap<u64, i32> {
        let missing: Vec<NetnsId> = ids.filter(|id| !self.kept.contains_key(&id.cookie)).collect();
        let mut failed = HashMap::new();
        if missing.is_empty() {
            return failed;
        }
        let all = missing.clone();
        let sent = self.ask.as_ref().is_some_and(|ask| ask.send(missing).is_ok());
        let opened = if sent { self.answer.recv().unwrap_or_default() } else { Vec::new() };
        let now = Instant::now();
        for (id, result) in opened {
            match result {
                Ok(socket) => {
                    self.kept.insert(id.cookie, (socket, now));
                }
                Err(e) => {
                    failed.insert(id.cookie, e.raw_os_error().unwrap_or(libc::EIO));
                }
            }
        }
        for id in all {
            if !self.kept.contains_key(&id.cookie) {
                failed.entry(id.cookie).or_insert(libc::EIO);
            }
        }
        failed
    }

    /// The socket of a netns that was prepared.
    pub fn get(&mut self, cookie: u64, now: Instant) -> Option<&mut DiagSocket> {
        let (socket, used) = self.kept.get_mut(&cookie)?;
        *used = now;
        Some(socket)
    }

    /// Forgets the socket of a netns, after an error of its own.
    pub fn forget(&mut self, cookie: u64) {
        self.kept.remove(&cookie);
    }

    /// Closes what was not used for `keep`.
    pub fn expire(&mut self) {
        let now = Instant::now();
        let keep = self.keep;
        self.kept.retain(|_, (_, used)| now.duration_since(*used) < keep);
    }

    /// How many netns have an open socket.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// True if no netns has an open socket.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}

impl Drop for DiagSockets {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(opener) = self.opener.take()
            && opener.join().is_err()
        {
            tracing::error!("the netns thread panicked");
        }
    }
}

/// Opens a diag socket in the netns, and makes sure it is that one and not a successor with its number.
fn open_in(id: NetnsId) -> io::Result<DiagSocket> {
    let fd: OwnedFd = netns::open(id)?;
    netns::enter(&fd)?;
    let diag = DiagSocket::open()?;
    match netns::cookie_of_socket(&diag.socket.as_raw_fd()) {
        Ok(cookie) if cookie == id.cookie => Ok(diag),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::ESTALE)),
        Err(e) => Err(e),
    }
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
