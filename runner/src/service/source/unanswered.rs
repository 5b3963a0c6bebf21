//! The requests of one client that are not answered yet.

use parking_lot::{Condvar, Mutex, MutexGuard};

/// Requests of one client that may be unanswered at a time; a client with more waits. It bounds the answers
/// that can pile up for a client that does not read them, without the reaper ever waiting for it.
pub(super) const UNANSWERED_MAX: usize = 256;

/// Counts requests that were taken and not answered. The reader of a connection waits here, and nobody else.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    count: usize,
    /// The writer is gone: nothing will be answered any more, and nobody is to wait for it.
    closed: bool,
}

impl Unanswered {
    /// Takes one more request, once there is room.
    pub(super) fn take(&self) {
        let mut state = self.state.lock();
        self.wait(&mut state, UNANSWERED_MAX - 1);
        state.count += 1;
    }

    /// Waits until all that was taken is answered.
    pub(super) fn settle(&self) {
        self.wait(&mut self.state.lock(), 0);
    }

    /// One was answered.
    pub(super) fn answered(&self) {
        let mut state = self.state.lock();
        state.count = state.count.saturating_sub(1);
        self.changed.notify_one();
    }

    /// Nothing will be answered any more.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_one();
    }

    fn wait(&self, state: &mut MutexGuard<'_, State>, at_most: usize) {
        self.changed.wait_while(state, |state| state.count > at_most && !state.closed);
    }
}
