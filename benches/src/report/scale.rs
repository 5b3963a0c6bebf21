//! Logarithmic axes whose labels are whole decades.

use crate::ratio::{duration, grouped};

/// log10.
pub fn log(value: f64) -> f64 {
    value.max(1e-9).log10()
}

/// Decades that hold all of `values`, at least one; positions on the axis are log10.
pub fn decades(values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for value in values {
        low = low.min(log(value));
        high = high.max(log(value));
    }
    if low > high {
        return 0.0..1.0;
    }
    let low = (low + 1e-9).floor();
    let high = (high - 1e-9).ceil();
    low..high.max(low + 1.0)
}

/// Label of a time axis at a position: `10 us`. Empty between decades.
pub fn time_label(position: f64) -> String {
    if (position - position.round()).abs() > 1e-6 {
        return String::new();
    }
    let ns = 10_f64.powf(position).round() as u64;
    let text = duration(ns);
    // A decade needs no digits after the point.
    text.split_once('.').map_or(text.clone(), |(whole, rest)| {
        let unit = rest.split_once(' ').map_or("", |(_, unit)| unit);
        format!("{whole} {unit}")
    })
}

/// Label of an axis of numbers of sockets: `10,000`. Empty between decades.
pub fn number_label(position: f64) -> String {
    if (position - position.round()).abs() > 1e-6 {
        return String::new();
    }
    grouped(10_f64.powf(position).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_begin_and_end_at_decades() {
        assert_eq!(decades([1_500.0, 99_000.0].into_iter()), 3.0..5.0);
        assert_eq!(decades([1_000.0, 100_000.0].into_iter()), 3.0..5.0);
        assert_eq!(decades([1_000.0].into_iter()), 3.0..4.0);
        assert_eq!(decades(std::iter::empty()), 0.0..1.0);
    }

    #[test]
    fn labels() {
        assert_eq!(time_label(4.0), "10 us");
        assert_eq!(time_label(9.0), "1 s");
        assert_eq!(time_label(2.0), "100 ns");
        assert_eq!(time_label(4.5), "");
        assert_eq!(number_label(6.0), "1,000,000");
    }
}
