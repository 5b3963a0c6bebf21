//! Numbers and times as people read them.

use std::time::Duration;

pub(super) use skreap::core::{grouped, plural};

/// As [`skreap::core::counted`], with the thousands apart: `1 socket`, `1,234 sockets`.
pub(super) fn counted(n: u64, thing: &str) -> String {
    format!("{} {thing}{}", grouped(n), plural(n, "", "s"))
}

/// A number in at most five characters: `9,999`, `12.3k`, `4.56M`.
pub(super) fn short(n: u64) -> String {
    match n {
        0..10_000 => grouped(n),
        10_000..1_000_000 => scaled(n, 1_000, "k"),
        1_000_000..1_000_000_000 => scaled(n, 1_000_000, "M"),
        _ => scaled(n, 1_000_000_000, "G"),
    }
}

/// Three digits of `n / unit`, cut and not rounded, so that 999,999 is not shown as 1000k.
fn scaled(n: u64, unit: u64, name: &str) -> String {
    let (whole, hundredths) = (n / unit, n % unit * 100 / unit);
    match whole {
        0..10 => format!("{whole}.{hundredths:02}{name}"),
        10..100 => format!("{whole}.{}{name}", hundredths / 10),
        _ => format!("{whole}{name}"),
    }
}

/// Nanoseconds with three digits and the unit that fits.
pub(super) fn duration(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..1_000_000 => (ns as f64 / 1e3, "µs"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    let decimals = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.decimals$} {unit}")
}

/// How long something is ago: the two largest units.
pub(super) fn age(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_apart() {
        for (n, text) in
            [(0, "0"), (999, "999"), (1_000, "1,000"), (16_000, "16,000"), (1_234_567, "1,234,567")]
        {
            assert_eq!(grouped(n), text);
        }
    }

    #[test]
    fn one_thing_is_not_several() {
        for (n, text) in [(0, "0 sockets"), (1, "1 socket"), (2, "2 sockets"), (1_000, "1,000 sockets")] {
            assert_eq!(counted(n, "socket"), text);
        }
    }

    #[test]
    fn short_is_short() {
        for (n, text) in [
            (0, "0"),
            (9_999, "9,999"),
            (10_000, "10.0k"),
            (123_456, "123k"),
            (999_999, "999k"),
            (1_000_000, "1.00M"),
            (45_678_901, "45.6M"),
            (7_000_000_000, "7.00G"),
        ] {
            assert_eq!(short(n), text);
            assert!(text.len() <= 5);
        }
    }

    #[test]
    fn durations_have_three_digits_and_a_unit() {
        for (ns, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.00 µs"),
            (12_345, "12.3 µs"),
            (99_960, "100 µs"),
            (9_996, "10.0 µs"),
            (1_500_000, "1.50 ms"),
            (2_000_000_000, "2.00 s"),
        ] {
            assert_eq!(duration(ns), text);
        }
    }

    #[test]
    fn ages_have_two_units() {
        for (seconds, text) in [(59, "59 s"), (61, "1 min 1 s"), (3_725, "1 h 2 min"), (90_000, "1 d 1 h")] {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }
}
