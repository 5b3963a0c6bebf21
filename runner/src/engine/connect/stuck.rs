//! The threads that were given up.

use parking_lot::Mutex;

/// Threads that wait for the lock of a socket.
#[derive(Debug, Default)]
pub(super) struct Stuck(Mutex<StuckState>);

#[derive(Debug, Default)]
struct StuckState {
    count: usize,
    /// The sockets of those that do not wait any more, by cookie.
    freed: Vec<u64>,
}

impl Stuck {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.lock().count
    }

    /// A thread is given up.
    pub(super) fn one_more(&self) {
        self.0.lock().count += 1;
    }

    /// One that was given up is through with the socket for whose lock it has waited.
    pub(super) fn free(&self, cookie: u64) {
        let mut state = self.0.lock();
        state.count -= 1;
        state.freed.push(cookie);
    }

    /// The sockets that were waited for and are not any more, since this was called last.
    pub(super) fn take_freed(&self) -> Vec<u64> {
        std::mem::take(&mut self.0.lock().freed)
    }
}
