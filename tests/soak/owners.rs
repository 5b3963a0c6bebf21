//! What a worker does now and then: it holds the lock of a socket, and has a netns die right after an event.

use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use super::{HOLD, LET_GO, POOL, Peer, Socket, Via, Worker, address};
use crate::hold::Holding;
use crate::shared::{GONE, add, fate, phase};
use crate::sys;

/// From one hold of a lock to the next, and how long it lasts: twice that at most, milliseconds.
const HOLD_EACH_MS: u64 = 3_000;
const HOLD_MS: u64 = 1_500;
/// How long an event may take, and the end of a socket whose lock is free again.
const PATIENCE: Duration = Duration::from_secs(30);
/// So many sockets are in a netns that dies right after an event.
const BRIEF_SOCKETS: usize = 8;

/// A socket of which the worker holds the lock. Nearly every call on it would wait.
pub(super) struct Owner {
    holding: Option<(Socket, Holding)>,
    next_ms: u64,
}

impl Owner {
    pub(super) fn new() -> Self {
        Self { holding: None, next_ms: sys::now_ms() + HOLD_EACH_MS / 8 }
    }
}

impl Worker {
    /// Begins to hold a lock, or ends it, if it is time.
    pub(super) fn tend_lock(&mut self) {
        let now = sys::now_ms();
        if self.owner.holding.as_ref().is_some_and(|(_, holding)| holding.until_ms <= now) {
            self.let_go();
        } else if self.owner.holding.is_none() && self.owner.next_ms <= now {
            self.owner.next_ms = now + self.below(2 * HOLD_EACH_MS);
            self.hold();
        }
    }

    fn hold(&mut self) {
        let slot = self.below(POOL as u64) as usize;
        self.look(slot);
        let is_connected = |socket: &mut Socket| socket.peer.is_some();
        let Some(socket) = self.pool[slot].take_if(is_connected) else { return };
        let ms = 200 + self.below(2 * HOLD_MS);
        let is_udp = socket.accepted.is_none();
        self.note(socket.cookie, HOLD, socket.peer.map_or(0, |peer| peer.backend));
        add(&self.work.operations, 1);
        match Holding::start(self.work, socket.fd, socket.cookie, is_udp, ms) {
            Some(holding) => self.owner.holding = Some((socket, holding)),
            None => {
                self.pool[slot] = Some(socket);
                self.close(slot);
            }
        }
    }

    /// Lets go of the lock. Whether an event has found the socket is known when every event that may have is done.
    pub(super) fn let_go(&mut self) {
        let Some((mut socket, holding)) = self.owner.holding.take() else { return };
        let hold = holding.hold;
        holding.let_go();
        self.note(socket.cookie, LET_GO, socket.peer.map_or(0, |peer| peer.backend));
        if let Some(peer) = socket.peer {
            let events = self.events(&socket, peer.backend);
            let begun = events.begun.load(SeqCst);
            wait(|| events.done.load(SeqCst) >= begun);
            // Whatever waits for the lock has to come to run.
            let must_be_gone = events.done.load(SeqCst) > peer.begun_after;
            let is_there = || sys::peer(socket.fd) == Some(address(peer.backend, socket.via));
            wait(|| !must_be_gone || !is_there());
            // It was connected all the time: nothing that it has left is under way.
            socket.left = None;
        }
        let held_at = socket.peer.map(|peer| peer.backend);
        let slot = self.free_slot();
        self.pool[slot] = Some(socket);
        self.look(slot);
        // A move may have waited for the lock as well.
        let is_over = |socket: &Socket| socket.peer.map(|peer| peer.backend) != held_at || held_at.is_none();
        if self.pool[slot].as_ref().is_some_and(is_over) {
            hold.note(self.work, fate::DEAD);
        }
        // What was sent over UDP waits for more, and goes with it.
        self.close(slot);
    }

    fn free_slot(&mut self) -> usize {
        if let Some(free) = self.pool.iter().position(Option::is_none) {
            return free;
        }
        self.close(0);
        0
    }

    /// Sockets in a netns that ends as soon as an event has destroyed them: nothing of the service may stay in it.
    pub(super) fn end_netns_after_event(&mut self) -> Result<(), String> {
        sys::enter_new_netns().map_err(|errno| format!("new netns: errno {errno}"))?;
        let backend = 2 * self.below(GONE as u64 / 2) as usize;
        let events = &self.shared.events[0][backend];
        let mut sockets = Vec::new();
        for _ in 0..BRIEF_SOCKETS {
            let fd = self.socket(|| sys::socket(libc::AF_INET, libc::SOCK_DGRAM));
            let fd = fd.map_err(|errno| format!("socket: errno {errno}"))?;
            let cookie = sys::cookie(fd);
            let done_before = events.done.load(SeqCst);
            let connected = sys::connect(fd, &address(backend, Via::V4));
            connected.map_err(|errno| format!("connect: errno {errno}"))?;
            add(&self.work.operations, 1);
            let begun_after = events.begun.load(SeqCst);
            self.note(cookie, super::CONNECT, backend);
            let peer = Some(Peer { backend, done_before, begun_after });
            sockets.push(Socket {
                fd,
                accepted: None,
                cookie,
                via: Via::V4,
                peer,
                left: None,
                healing: false,
            });
        }
        let netns = sys::netns_cookie(sockets[0].fd);
        let begun = events.begun.load(SeqCst);
        let is_over = || self.shared.phase.load(SeqCst) != phase::CHURN;
        wait(|| events.done.load(SeqCst) > begun || is_over());
        for socket in sockets {
            let slot = self.free_slot();
            self.pool[slot] = Some(socket);
            self.look(slot);
            self.close(slot);
        }
        self.work.brief_netns.store(netns, SeqCst);
        add(&self.work.brief, 1);
        Ok(())
    }
}

/// Until it is so, or has taken too long.
fn wait(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
}
