//! Owners that hold the lock of a socket for a while: a send takes it and then waits for memory (userfaultfd).

use std::sync::atomic::Ordering::SeqCst;
use std::thread;

use skreap_testbed::LateMemory;

use crate::shared::{Hold, Work, add};
use crate::sys::{self, Fd};

/// A send that holds a lock.
pub struct Holding {
    pub hold: &'static Hold,
    pub until_ms: u64,
    memory: LateMemory,
    send: thread::JoinHandle<()>,
}

impl Holding {
    /// `None` if the send has failed at once, or there is no such memory.
    pub fn start(work: &'static Work, fd: Fd, cookie: u64, is_udp: bool, ms: u64) -> Option<Self> {
        let memory = LateMemory::new().ok()?;
        let hold = &work.holds[work.held.load(SeqCst) as usize % work.holds.len()];
        hold.cookie.store(cookie, SeqCst);
        hold.fate.store(0, SeqCst);
        let flags = if is_udp { libc::MSG_MORE } else { 0 };
        let page = memory.page();
        let send = thread::spawn(move || drop(page.send(fd, flags)));
        if !memory.is_waited_for(|| send.is_finished()).unwrap_or(false) {
            hold.cookie.store(0, SeqCst);
            // The page comes, so that the send ends.
            let _ = memory.arrive();
            let _ = send.join();
            return None;
        }
        add(&work.held, 1);
        Some(Self { hold, until_ms: sys::now_ms() + ms, memory, send })
    }

    /// Returns when the lock is free.
    pub fn let_go(self) {
        // It fails if the page is there.
        let _ = self.memory.arrive();
        // It may fail: the socket may be dead by now.
        let _ = self.send.join();
    }
}
