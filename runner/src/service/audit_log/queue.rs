//! Lines that wait to be written. Adding one never waits. Lines that do not fit are counted, and a line in their place says
//! so.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::line;
use crate::observe::status::AuditLogStatus;

/// A bounded queue of lines.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    /// Bytes.
    room: usize,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    /// Of `lines`.
    bytes: usize,
    /// The writer has one in hand that is not written yet.
    in_hand: bool,
    written: u64,
    dropped: u64,
    /// Of `dropped`, those that no line of the audit log says yet.
    unsaid: u64,
    closed: bool,
}

impl Queue {
    pub(super) fn new(room: usize) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), room }
    }

    /// Adds a line if there is room. Where lines were dropped, the next one that fits comes after one that says so.
    pub(super) fn push(&self, line: Vec<u8>) {
        let mut state = self.state.lock();
        let notice = (state.unsaid > 0).then(|| line::dropped(state.unsaid, state.dropped));
        let needed = line.len() + notice.as_ref().map_or(0, Vec::len);
        // One line fits whatever its length.
        if state.bytes + needed > self.room && !state.lines.is_empty() {
            state.dropped += 1;
            state.unsaid += 1;
            return;
        }
        if let Some(notice) = notice {
            state.add(notice);
            state.unsaid = 0;
        }
        state.add(line);
        drop(state);
        self.changed.notify_all();
    }

    /// The next line, once there is one; `None` when the queue was closed and is empty.
    pub(super) fn next(&self) -> Option<Vec<u8>> {
        let mut state = self.state.lock();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.len();
                state.in_hand = true;
                return Some(line);
            }
            if state.unsaid > 0 {
                let notice = line::dropped(state.unsaid, state.dropped);
                state.unsaid = 0;
                state.in_hand = true;
                return Some(notice);
            }
            if state.closed {
                return None;
            }
            self.changed.wait(&mut state);
        }
    }

    /// The last one that [`next`](Self::next) has given is written.
    pub(super) fn written(&self) {
        let mut state = self.state.lock();
        state.in_hand = false;
        state.written += 1;
    }

    /// The last one that [`next`](Self::next) has given cannot be written, ever.
    pub(super) fn lost(&self) {
        let mut state = self.state.lock();
        state.in_hand = false;
        state.dropped += 1;
        state.unsaid += 1;
    }

    /// Waits that long, or until the queue is closed; true if it is.
    pub(super) fn pause(&self, time: Duration) -> bool {
        let mut state = self.state.lock();
        self.changed.wait_while_for(&mut state, |state| !state.closed, time);
        let closed = state.closed;
        drop(state);
        if closed {
            std::thread::sleep(time.min(Duration::from_millis(100)));
        }
        closed
    }

    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    pub(super) fn status(&self) -> AuditLogStatus {
        let state = self.state.lock();
        let waiting = state.lines.len() as u64 + u64::from(state.in_hand);
        AuditLogStatus { written: state.written, dropped: state.dropped, waiting }
    }
}

impl State {
    fn add(&mut self, line: Vec<u8>) {
        self.bytes += line.len();
        self.lines.push_back(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(queue: &Queue) -> String {
        let line = String::from_utf8(queue.next().unwrap()).unwrap();
        queue.written();
        line
    }

    #[test]
    fn what_does_not_fit_is_counted_and_said_in_its_place() {
        let queue = Queue::new(1000);
        let line = |c: u8| vec![c; 400];
        b"abcd".iter().for_each(|c| queue.push(line(*c)));
        assert_eq!(queue.status(), AuditLogStatus { written: 0, dropped: 2, waiting: 2 });
        assert!(text(&queue).starts_with('a'));
        // Between the lines before and after the gap.
        queue.push(line(b'e'));
        assert!(text(&queue).starts_with('b'));
        let said: serde_json::Value = serde_json::from_str(&text(&queue)).unwrap();
        assert_eq!(
            (&said["kind"], &said["lines"], &said["total"]),
            (&"dropped".into(), &2.into(), &2.into())
        );
        assert!(text(&queue).starts_with('e'));
        assert_eq!(queue.status(), AuditLogStatus { written: 4, dropped: 2, waiting: 0 });
    }

    #[test]
    fn a_line_that_cannot_be_written_is_one_that_was_dropped() {
        let queue = Queue::new(1000);
        queue.push(b"a".to_vec());
        assert!(queue.next().is_some());
        queue.lost();
        assert_eq!(queue.status(), AuditLogStatus { written: 0, dropped: 1, waiting: 0 });
        assert!(text(&queue).contains(r#""lines":1,"total":1"#));
    }

    #[test]
    fn the_gap_is_said_when_nothing_comes_after_it() {
        let queue = Queue::new(10);
        queue.push(vec![b'a'; 100]);
        queue.push(vec![b'b'; 100]);
        queue.close();
        assert!(text(&queue).starts_with('a'));
        assert!(text(&queue).contains(r#""lines":1,"total":1"#));
        assert_eq!(queue.next(), None);
        assert!(queue.pause(Duration::from_secs(60)));
    }
}
