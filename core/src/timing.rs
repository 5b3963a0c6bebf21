//! How long each phase of an event took.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longest time that a histogram distinguishes, in nanoseconds: 60 s. Longer ones are recorded as
/// this and counted as clamped.
pub const MAX_RECORDED_NS: u64 = 60_000_000_000;

/// Significant decimal digits kept by the histograms: percentiles are at most 0.1 % too high.
const SIGNIFICANT_DIGITS: u8 = 3;

/// A duration in the unit of reports; more than 584 years are that many.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds of each phase of one event. All phases together are exactly the total: see
/// [`closed`](Self::closed).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Phases {
    /// From the arrival of the event to the start of the work.
    #[serde(rename = "queue")]
    pub queue_ns: u64,
    /// Making sure that the hooks see the addresses after their translation by a load balancer.
    #[serde(rename = "order", default)]
    pub order_ns: u64,
    /// Looking for sockets whose `connect()` is pending, and waiting for them.
    #[serde(rename = "pending", default)]
    pub pending_ns: u64,
    /// Finding the victims, and counting them first if their number is limited.
    #[serde(rename = "walk")]
    pub walk_ns: u64,
    /// Destroying them; 0 where finding and destroying are one step.
    #[serde(rename = "destroy")]
    pub destroy_ns: u64,
    /// Everything else.
    #[serde(rename = "other", default)]
    pub other_ns: u64,
    /// From the arrival of the event to its report.
    #[serde(rename = "total")]
    pub total_ns: u64,
}

impl Phases {
    /// Each phase by its name on the wire, and the total.
    pub const fn named(&self) -> [(&'static str, u64); 7] {
        [
            ("queue", self.queue_ns),
            ("order", self.order_ns),
            ("pending", self.pending_ns),
            ("walk", self.walk_ns),
            ("destroy", self.destroy_ns),
            ("other", self.other_ns),
            ("total", self.total_ns),
        ]
    }

    /// The same phases for an event that took `total_ns` in all; what no phase has is `other`.
    /// Phases that were measured longer than the whole (a clock has its grain) make the total
    /// longer.
    #[must_use]
    pub fn closed(self, total_ns: u64) -> Self {
        let measured = [self.queue_ns, self.order_ns, self.pending_ns, self.walk_ns, self.destroy_ns];
        let measured = measured.into_iter().fold(0, u64::saturating_add);
        Self { other_ns: total_ns.saturating_sub(measured), total_ns: total_ns.max(measured), ..self }
    }
}

/// A histogram of each phase over many events, 0 ns to 60 s with three significant digits. Takes
/// about 1 MiB, whatever it holds.
#[derive(Clone, Debug)]
pub struct Timings {
    queue: Phase,
    walk: Phase,
    destroy: Phase,
    total: Phase,
}

impl Timings {
    /// Empty histograms.
    ///
    /// # Errors
    /// [`TimingsError`] if the histogram library does not take our bounds.
    pub fn new() -> Result<Self, TimingsError> {
        Ok(Self { queue: Phase::new()?, walk: Phase::new()?, destroy: Phase::new()?, total: Phase::new()? })
    }

    /// Adds the times of one event.
    pub fn record(&mut self, phases: &Phases) {
        self.queue.record(phases.queue_ns);
        self.walk.record(phases.walk_ns);
        self.destroy.record(phases.destroy_ns);
        self.total.record(phases.total_ns);
    }

    /// Number of events recorded.
    pub fn count(&self) -> u64 {
        self.total.histogram.len()
    }

    /// Percentiles of each phase; all zero if nothing was recorded.
    pub fn summary(&self) -> Summary {
        Summary {
            count: self.count(),
            queue: self.queue.summary(),
            walk: self.walk.summary(),
            destroy: self.destroy.summary(),
            total: self.total.summary(),
        }
    }
}

/// The histogram library did not take our bounds, which are constants: a bug, or another version
/// of the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot make a histogram of 1 ns to 60 s: {0}; build with the locked hdrhistogram version")]
pub struct TimingsError(#[from] hdrhistogram::CreationError);

/// Percentiles of each phase over many events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Summary {
    /// Number of events.
    pub count: u64,
    /// From the arrival of the event to the start of the engine.
    pub queue: PhaseSummary,
    /// Finding the victims.
    pub walk: PhaseSummary,
    /// Destroying them.
    pub destroy: PhaseSummary,
    /// All of it.
    pub total: PhaseSummary,
}

/// Percentiles of one phase, in nanoseconds, at most 0.1 % too high and never above the maximum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct PhaseSummary {
    /// Median.
    #[serde(rename = "p50")]
    pub p50_ns: u64,
    /// 90th percentile.
    #[serde(rename = "p90")]
    pub p90_ns: u64,
    /// 99th percentile.
    #[serde(rename = "p99")]
    pub p99_ns: u64,
    /// Maximum: exact, and not clamped.
    #[serde(rename = "max")]
    pub max_ns: u64,
    /// How many were longer than [`MAX_RECORDED_NS`] and are in the percentiles as that.
    pub clamped: u64,
}

#[derive(Clone, Debug)]
struct Phase {
    histogram: Histogram<u64>,
    max_ns: u64,
    clamped: u64,
}

impl Phase {
    fn new() -> Result<Self, TimingsError> {
        Ok(Self {
            histogram: Histogram::new_with_bounds(1, MAX_RECORDED_NS, SIGNIFICANT_DIGITS)?,
            max_ns: 0,
            clamped: 0,
        })
    }

    fn record(&mut self, ns: u64) {
        // 0 is no clamping: it is held exactly, and means that the phase did not happen.
        self.histogram.saturating_record(ns.min(MAX_RECORDED_NS));
        self.max_ns = self.max_ns.max(ns);
        self.clamped = self.clamped.saturating_add(u64::from(ns > MAX_RECORDED_NS));
    }

    fn summary(&self) -> PhaseSummary {
        let at = |quantile| self.histogram.value_at_quantile(quantile).min(self.max_ns);
        PhaseSummary {
            p50_ns: at(0.50),
            p90_ns: at(0.90),
            p99_ns: at(0.99),
            max_ns: self.max_ns,
            clamped: self.clamped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phases(ns: u64) -> Phases {
        Phases { queue_ns: ns, walk_ns: 2 * ns, ..Phases::default() }.closed(3 * ns)
    }

    #[test]
    fn exact_percentiles_of_small_values() {
        let mut timings = Timings::new().unwrap();
        for ns in 1..=100 {
            timings.record(&phases(ns));
        }
        let summary = timings.summary();
        assert_eq!(summary.count, 100);
        assert_eq!(
            serde_json::to_string(&summary).unwrap(),
            concat!(
                r#"{"count":100,"#,
                r#""queue":{"p50":50,"p90":90,"p99":99,"max":100,"clamped":0},"#,
                r#""walk":{"p50":100,"p90":180,"p99":198,"max":200,"clamped":0},"#,
                r#""destroy":{"p50":0,"p90":0,"p99":0,"max":0,"clamped":0},"#,
                r#""total":{"p50":150,"p90":270,"p99":297,"max":300,"clamped":0}}"#,
            )
        );
    }

    #[test]
    fn long_times_are_clamped_and_that_shows() {
        let mut timings = Timings::new().unwrap();
        let long = Phases {
            queue_ns: u64::MAX,
            walk_ns: MAX_RECORDED_NS,
            destroy_ns: MAX_RECORDED_NS + 1,
            total_ns: u64::MAX,
            ..Phases::default()
        };
        timings.record(&long);
        let summary = timings.summary();
        assert_eq!(summary.queue.max_ns, u64::MAX);
        assert_eq!(summary.queue.clamped, 1);
        assert_eq!(summary.walk.p50_ns, MAX_RECORDED_NS);
        assert_eq!(summary.walk.clamped, 0);
        assert_eq!(summary.destroy.clamped, 1);
        assert_eq!(summary.destroy.max_ns, MAX_RECORDED_NS + 1);
        let p50 = summary.queue.p50_ns;
        assert!((MAX_RECORDED_NS..=MAX_RECORDED_NS + MAX_RECORDED_NS / 1000).contains(&p50));
    }

    #[test]
    fn empty_is_all_zero() {
        assert_eq!(Timings::new().unwrap().summary(), Summary::default());
    }

    proptest::proptest! {
        #[test]
        fn all_phases_are_the_total(
            parts in proptest::prelude::any::<[u32; 5]>(), total_ns in proptest::prelude::any::<u64>(),
        ) {
            let [queue_ns, order_ns, pending_ns, walk_ns, destroy_ns] = parts.map(u64::from);
            let open = Phases { queue_ns, order_ns, pending_ns, walk_ns, destroy_ns, ..Phases::default() };
            let phases = open.closed(total_ns);
            let sum = queue_ns + order_ns + pending_ns + walk_ns + destroy_ns + phases.other_ns;
            proptest::prop_assert_eq!(sum, phases.total_ns);
            let json = serde_json::to_value(phases).unwrap();
            for (name, ns) in phases.named() {
                proptest::prop_assert_eq!(json[name].as_u64(), Some(ns));
            }
            proptest::prop_assert!(phases.total_ns >= total_ns);
        }
    }
}
