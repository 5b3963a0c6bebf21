//! The requests of one client that are not answered yet.

use parking_lot::{Condvar, Mutex, MutexGuard};

/// Unanswered requests of one client at a time; a client with more waits. This bounds the answers
/// that can pile up for a client that does not read them, without the reaper ever waiting for it.
pub(super) const UNANSWERED_MAX: usize = 256;
/// Deletions of one client that may wait to be confirmed at a time; further ones are refused. The client must not wait
/// here: the next line may take one of them back.
pub(super) const UNCONFIRMED_MAX: usize = 16_384;

/// Counts requests that were accepted and not answered. Only the reader of a connection waits here, and never for
/// deletions that wait to be confirmed.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    count: usize,
    /// Deletions that wait to be confirmed, or have done so; not in `count`.
    unconfirmed: usize,
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

    /// Takes one more deletion that is to wait; false if there is no room.
    pub(super) fn take_unconfirmed(&self) -> bool {
        let mut state = self.state.lock();
        let room = state.unconfirmed < UNCONFIRMED_MAX;
        state.unconfirmed += usize::from(room);
        room
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

    /// A deletion that has waited was answered.
    pub(super) fn unconfirmed_answered(&self) {
        let mut state = self.state.lock();
        state.unconfirmed = state.unconfirmed.saturating_sub(1);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deletions_that_wait_take_no_place_of_others() {
        let unanswered = Unanswered::default();
        for _ in 0..UNCONFIRMED_MAX {
            assert!(unanswered.take_unconfirmed());
        }
        assert!(!unanswered.take_unconfirmed());
        // Neither of these waits.
        unanswered.drain();
        for _ in 0..UNANSWERED_MAX {
            unanswered.take();
        }
        unanswered.unconfirmed_answered();
        assert!(unanswered.take_unconfirmed() && !unanswered.take_unconfirmed());
    }
}
