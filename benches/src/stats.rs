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
    fn quartiles_are_interpolated() {
        assert_eq!(Quartiles::of(&[4.0, 1.0, 2.0, 3.0]), Quartiles { p25: 1.75, p50: 2.5, p75: 3.25 });
        assert_eq!(Quartiles::of(&[2.0]), Quartiles { p25: 2.0, p50: 2.0, p75: 2.0 });
        assert_eq!(Quartiles::of(&[]), Quartiles::default());
    }
}
