//! A look at a socket: whom is it connected to, and is that right?

use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use super::{BACKENDS, CONNECTED, DESTROYED, HEALED, Peer, STRANGE, Socket, Worker, address, refuge};
use crate::shared::{add, phase};
use crate::sys;

/// How long a peer has to be the same. One that its owner connects in the middle of a move is connected to the refuge for a
/// moment, and put back.
const STEADY: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(2);

impl Worker {
    /// Is the socket connected or destroyed, and is that right?
    pub(super) fn look(&mut self, slot: usize) {
        let Some(mut socket) = self.pool[slot].take() else { return };
        match socket.peer {
            Some(peer) => self.look_at(&mut socket, peer),
            None if socket.accepted.is_none() => self.look_at_lonely(&mut socket),
            None => {}
        }
        self.pool[slot] = Some(socket);
    }

    fn look_at(&self, socket: &mut Socket, peer: Peer) {
        let events = self.events(socket, peer.backend);
        let must_be_gone = events.done.load(SeqCst) > peer.begun_after;
        let at = self.steady(socket, peer.backend);
        let may_be_gone = events.begun.load(SeqCst) > peer.done_before;
        add(&self.work.looks, 1);
        match at {
            None => {
                self.note(socket.cookie, DESTROYED, peer.backend);
                add(&self.work.destroyed, 1);
                (socket.peer, socket.healing) = (None, true);
                if !may_be_gone && socket.left.is_some() {
                    add(&self.work.overtaken, 1);
                } else if !may_be_gone {
                    self.wrong(socket.cookie);
                }
            }
            Some(at) if at == peer.backend && must_be_gone => {
                self.note(socket.cookie, CONNECTED, peer.backend);
                add(&self.work.missed, 1);
                self.suspect(socket.cookie);
                // Said once.
                socket.peer = None;
            }
            Some(at) if at == peer.backend => {}
            Some(at) => self.found_elsewhere(socket, at, may_be_gone),
        }
    }

    /// One without a peer, as far as its owner knows.
    fn look_at_lonely(&self, socket: &mut Socket) {
        if let Some(at) = self.steady(socket, BACKENDS) {
            add(&self.work.looks, 1);
            self.found_elsewhere(socket, at, socket.healing);
        }
    }

    /// Somebody has connected it: only an event that meant it may, and only to the refuge.
    fn found_elsewhere(&self, socket: &mut Socket, at: usize, meant: bool) {
        if !meant || socket.accepted.is_some() || at != refuge(at) {
            self.note(socket.cookie, STRANGE, at);
            add(&self.work.touched, 1);
            self.suspect(socket.cookie);
            return;
        }
        self.note(socket.cookie, HEALED, at);
        add(&self.work.healed, 1);
        let events = self.events(socket, at);
        let (done_before, begun_after) = (events.done.load(SeqCst), events.begun.load(SeqCst));
        (socket.peer, socket.healing) = (Some(Peer { backend: at, done_before, begun_after }), false);
    }

    /// The backend that it is connected to, once that is the one that is expected, none, or another one for a while.
    fn steady(&self, socket: &Socket, expected: usize) -> Option<usize> {
        let mut at = self.at(socket, expected);
        let mut since = Instant::now();
        let deadline = since + PATIENCE;
        while at.is_some_and(|at| at != expected) && since.elapsed() < STEADY && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
            let now = self.at(socket, expected);
            if now != at {
                (at, since) = (now, Instant::now());
            }
        }
        at
    }

    /// The backend that it is connected to; [`BACKENDS`] if it is none of them.
    fn at(&self, socket: &Socket, expected: usize) -> Option<usize> {
        let peer = sys::peer(socket.fd)?;
        let is_at = |backend: &usize| address(*backend, socket.via) == peer;
        if expected < BACKENDS && is_at(&expected) {
            return Some(expected);
        }
        Some((0..BACKENDS).find(is_at).unwrap_or(BACKENDS))
    }

    pub(super) fn wrong(&self, cookie: u64) {
        add(&self.work.wrong, 1);
        self.suspect(cookie);
    }

    fn suspect(&self, cookie: u64) {
        // The first one counts; the exchange fails for all others. Everybody stops before its history is overwritten.
        let _ = self.shared.suspect.compare_exchange(0, cookie, SeqCst, SeqCst);
        let _ = self.shared.phase.compare_exchange(phase::CHURN, phase::HOLD, SeqCst, SeqCst);
    }
}
