//! The requests of one client that are not answered yet.

use parking_lot::{Condvar, Mutex, MutexGuard};

/// Unanswered requests of one client at a time; a client with more waits. This bounds the answers
/// that can pile up for a client that does not read them, without the reaper ever waiting for it.
pub(super) const UNANSWERED_MAX: usize = 256;

/// Counts requests that were accepted and not answered. Only the reader of a connection waits here.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    count: usize,
    /// The writer has ended: there will be no further answers, and no thread may wait for them.
    closed: bool,
}

impl Unanswered {
    /// Takes one more request, once there is room.
    pub(super) fn take(&self) {
        let mut state = self.state.lock();
        self.wait(&mut state, UNANSWERED_MAX - 1);
        state.count += 1;
    }

    /// Waits until all accepted requests are answered.
    pub(super) fn drain(&self) {
        self.wait(&mut self.state.lock(), 0);
    }

    /// One was answered.
    pub(super) fn answered(&self) {
        let mut state = self.state.lock();
        state.count = state.count.saturating_sub(1);
        self.changed.notify_one();
    }

    /// No further answers will be sent.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_one();
    }

    fn wait(&self, state: &mut MutexGuard<'_, State>, at_most: usize) {
        self.changed.wait_while(state, |state| state.count > at_most && !state.closed);
    }
}
