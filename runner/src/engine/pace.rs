//! Waiting so that a rate of destroys is kept, whichever engine destroys.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use skreap_core::Pacer;

use super::nanos;

/// Interval at which a wait checks whether it is still wanted.
const SLICE: Duration = Duration::from_millis(20);

type GiveUp = Box<dyn Fn() -> bool + Send>;

/// One rate, shared by all that destroy. The default is no limit.
#[derive(Clone, Default)]
pub struct Pace(Option<Arc<Mutex<Inner>>>);

struct Inner {
    start: Instant,
    pacer: Pacer,
    spent: u64,
    waited: Duration,
    give_up: Option<GiveUp>,
}

impl Pace {
    /// At most this many destroys per second.
    #[must_use]
    pub fn per_second(rate: NonZeroU64) -> Self {
        let inner = Inner {
            start: Instant::now(),
            pacer: Pacer::new(rate),
            spent: 0,
            waited: Duration::ZERO,
            give_up: None,
        };
        Self(Some(Arc::new(Mutex::new(inner))))
    }

    /// The rate, if there is one.
    #[must_use]
    pub fn rate(&self) -> Option<NonZeroU64> {
        self.0.as_ref().map(|inner| inner.lock().pacer.rate())
    }

    /// Once this returns true, waits end at once: the service shuts down, and begun work is
    /// completed without pauses.
    pub fn give_up_when(&self, give_up: impl Fn() -> bool + Send + 'static) {
        if let Some(inner) = &self.0 {
            inner.lock().give_up = Some(Box::new(give_up));
        }
    }

    /// Number of destroys allowed between [`before`](Self::before) and [`after`](Self::after).
    pub(crate) fn batch(&self) -> usize {
        let batch = self.0.as_ref().map(|inner| inner.lock().pacer.batch());
        batch.map_or(usize::MAX, |batch| usize::try_from(batch).unwrap_or(usize::MAX))
    }

    /// Waits until the next batch is allowed.
    pub(crate) fn before(&self) {
        let Some(inner) = &self.0 else {
            return;
        };
        loop {
            let wait = {
                let inner = inner.lock();
                let wait = inner.pacer.wait(inner.start.elapsed());
                if wait.is_zero() || inner.give_up.as_ref().is_some_and(|give_up| give_up()) {
                    return;
                }
                wait.min(SLICE)
            };
            let asleep = Instant::now();
            thread::sleep(wait);
            inner.lock().waited += asleep.elapsed();
        }
    }

    /// Records the number of destroyed sockets.
    pub(crate) fn after(&self, destroyed: u64) {
        if let Some(inner) = &self.0 {
            let mut inner = inner.lock();
            let now = inner.start.elapsed();
            inner.pacer.spend(now, destroyed);
            inner.spent += destroyed;
        }
    }

    /// Total of all calls of [`after`](Self::after), and the nanoseconds waited, since the
    /// beginning.
    pub(crate) fn totals(&self) -> (u64, u64) {
        self.0.as_ref().map_or((0, 0), |inner| {
            let inner = inner.lock();
            (inner.spent, nanos(inner.waited))
        })
    }
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pace").field(&self.rate()).finish()
    }
}
