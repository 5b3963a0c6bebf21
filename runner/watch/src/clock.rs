//! The time of changes: monotonic, counted from the start of the process.

use std::time::{Duration, Instant};

/// Counts from its creation.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Starts at zero.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since then.
    pub fn now(&self) -> Duration {
        self.0.elapsed()
    }

    /// The moment at which this clock shows `at`.
    pub fn instant(&self, at: Duration) -> Instant {
        self.0 + at
    }
}
