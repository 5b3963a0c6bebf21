//! How long the phases of events took, as Prometheus histograms.

use prometheus_client::metrics::histogram::{Histogram, NativeHistogramConfig, exponential_buckets};
use skreap_core::Phases;

/// Bounds of the classic histograms: 1 µs, 4 µs, 16 µs, … 4.2 s.
const SHORTEST_S: f64 = 1e-6;
const BUCKET_FACTOR: f64 = 4.0;
const BUCKETS: u16 = 12;
/// The native histograms distinguish times that differ by this factor, with this many buckets at
/// most.
const NATIVE_FACTOR: f64 = 1.1;
const NATIVE_BUCKETS: usize = 160;

/// Seconds of each phase, in the order of [`Phases::named`]. Clones are the same histograms.
#[derive(Clone, Debug)]
pub(super) struct Durations([Histogram; 7]);

impl Durations {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| {
            let buckets = exponential_buckets(SHORTEST_S, BUCKET_FACTOR, BUCKETS);
            let native = NativeHistogramConfig::new(NATIVE_FACTOR).max_buckets(NATIVE_BUCKETS);
            Histogram::new_classic_and_native(buckets, native)
        }))
    }

    /// Adds one event.
    pub(super) fn observe(&self, phases: &Phases) {
        for (histogram, (_, ns)) in self.0.iter().zip(phases.named()) {
            histogram.observe(ns as f64 / 1e9);
        }
    }

    /// Each histogram, by the name of its phase.
    pub(super) fn by_phase(&self) -> impl Iterator<Item = (&'static str, &Histogram)> {
        let names = Phases::default().named();
        names.into_iter().zip(&self.0).map(|((name, _), histogram)| (name, histogram))
    }
}
