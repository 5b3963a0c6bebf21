//! Percentiles of raw samples.

use serde::{Deserialize, Serialize};

/// Percentiles by nearest rank: every one is a measured value. Nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Median.
    pub p50: u64,
    /// 90th percentile.
    pub p90: u64,
    /// 99th percentile; the maximum where there are fewer than 100 samples.
    pub p99: u64,
    /// Maximum.
    pub max: u64,
}

impl Percentiles {
    /// Of samples in any order; all zero if there are none.
    pub fn of(samples: &[u64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable();
        Self {
            p50: nearest_rank(&sorted, 0.50),
            p90: nearest_rank(&sorted, 0.90),
            p99: nearest_rank(&sorted, 0.99),
            max: sorted.last().copied().unwrap_or(0),
        }
    }
}

/// The smallest sample such that at least `quantile` (0 to 1) of all samples are not above it; 0 if
/// there are none.
pub fn nearest_rank(sorted: &[u64], quantile: f64) -> u64 {
    let rank = (quantile * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

/// First quartile, median and third quartile of ratios.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quartiles {
    /// First quartile.
    pub p25: f64,
    /// Median.
    pub p50: f64,
    /// Third quartile.
    pub p75: f64,
}

impl Quartiles {
    /// Of values in any order, interpolated between the two nearest; all zero if there are none.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let at = |quantile: f64| {
            let place = quantile * sorted.len().saturating_sub(1) as f64;
            let low = sorted.get(place.floor() as usize).copied().unwrap_or(0.0);
            let high = sorted.get(place.ceil() as usize).copied().unwrap_or(low);
            low + (high - low) * place.fract()
        };
        Self { p25: at(0.25), p50: at(0.50), p75: at(0.75) }
    }
}

/// The median of samples, and an interval that has the true one in it with at least 95% confidence,
/// whatever the distribution is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Interval {
    /// Its lower end: a sample.
    pub low: f64,
    /// The median.
    pub median: f64,
    /// Its upper end: a sample.
    pub high: f64,
}

impl Interval {
    /// Of values in any order. The whole range if they are fewer than six; all zero if there are none.
    ///
    /// The number of samples below the true median is binomial with one half, so the interval is
    /// between two order statistics: the rank is that of the normal approximation, rounded outwards.
    pub fn of_median(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let n = sorted.len() as f64;
        let rank = ((n - 1.96 * n.sqrt()) / 2.0).floor().max(0.0) as usize;
        let low = sorted.get(rank.saturating_sub(usize::from(rank > 0))).copied();
        let high = sorted.len().checked_sub(rank.max(1)).and_then(|at| sorted.get(at)).copied();
        let median = Quartiles::of(values).p50;
        Self { low: low.unwrap_or(median), median, high: high.unwrap_or(median) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measured_values() {
        let samples: Vec<u64> = (1..=200).rev().collect();
        assert_eq!(Percentiles::of(&samples), Percentiles { p50: 100, p90: 180, p99: 198, max: 200 });
        assert_eq!(Percentiles::of(&[7]), Percentiles { p50: 7, p90: 7, p99: 7, max: 7 });
        assert_eq!(Percentiles::of(&[]), Percentiles::default());
    }

    #[test]
    fn few_samples_have_their_maximum_as_p99() {
        assert_eq!(Percentiles::of(&[1, 2, 3]), Percentiles { p50: 2, p90: 3, p99: 3, max: 3 });
    }

    #[test]
    fn intervals_of_medians_have_the_confidence_that_they_say() {
        // P(X <= k) of a binomial with one half.
        let below = |n: usize, k: usize| {
            let mut term = 0.5_f64.powi(n as i32);
            let mut sum = 0.0;
            for i in 0..=k {
                sum += term;
                term *= (n - i) as f64 / (i + 1) as f64;
            }
            sum
        };
        for n in 6..200_usize {
            let values: Vec<f64> = (1..=n).map(|i| i as f64).collect();
            let Interval { low, median, high } = Interval::of_median(&values);
            assert!((low + high - (n + 1) as f64).abs() < 1e-9, "{n}: {low} {high}");
            assert!(low < median && median < high);
            // The true median is outside if fewer than `low` samples are below it, or above it.
            let outside = 2.0 * below(n, low as usize - 1);
            assert!(outside <= 0.05, "{n}: {low} {high} {outside}");
        }
        assert_eq!(Interval::of_median(&[]), Interval::default());
        assert_eq!(Interval::of_median(&[2.0]), Interval { low: 2.0, median: 2.0, high: 2.0 });
    }

    #[test]
    fn quartiles_are_interpolated() {
        assert_eq!(Quartiles::of(&[4.0, 1.0, 2.0, 3.0]), Quartiles { p25: 1.75, p50: 2.5, p75: 3.25 });
        assert_eq!(Quartiles::of(&[2.0]), Quartiles { p25: 2.0, p50: 2.0, p75: 2.0 });
        assert_eq!(Quartiles::of(&[]), Quartiles::default());
    }
}
