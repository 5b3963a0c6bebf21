//! Pauses between tries, such that a server that is back is used within two seconds.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);

/// A growing pause.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next pause: twice the one before, a second at most, and up to half of it more at random, so that a fleet does
    /// not come back at one moment.
    pub fn pause(&mut self) -> Duration {
        let pause = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        pause + pause.mul_f64(random() / 2.0)
    }

    /// It worked: the next pause is the shortest.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A number from 0 to 1. The standard library seeds each hasher at random; no more is needed here.
fn random() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 32;
    bits as f64 / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_second_and_a_half_at_most() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..100).map(|_| backoff.pause()).collect();
        assert!(pauses[0] >= FIRST && pauses[0] <= FIRST.mul_f64(1.5), "{pauses:?}");
        assert!(pauses[3] >= FIRST * 8);
        assert!(pauses.iter().all(|pause| *pause <= LONGEST.mul_f64(1.5)), "{pauses:?}");
        assert!(pauses[50] >= LONGEST);
        backoff.reset();
        assert!(backoff.pause() < FIRST * 2);
    }
}
