//! The rows for people.

use std::fmt::Write as _;

use super::Report;
use crate::ratio::{duration, grouped, show};

/// One line for each row, below a heading that names the units.
pub fn text(report: &Report) -> String {
    let mut text = format!(
        "{}\n{} rounds; ns in the hook for one connect and one close; ratios to the first row, round by round\n\n\
         {:>8} {:>8} {:<10} {:>9} {:>9} {:>11} {:>6} {:>9} {:>6} {:>9} {:>9}\n",
        report.machine.kernel,
        report.rounds,
        "backends",
        "sockets",
        "buckets",
        "visited",
        "passed",
        "connect ns",
        "ratio",
        "close ns",
        "ratio",
        "walk",
        "ratio"
    );
    for row in &report.cases {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:>8} {:>8} {:<10} {:>9} {:>9} {:>11.0} {:>6.2} {:>9.0} {:>6.2} {:>9} {:>9}",
            grouped(row.backends.into()),
            grouped(row.sockets.into()),
            grouped(row.buckets.into()),
            grouped(row.visited),
            grouped(row.passed_over),
            row.connect_ns.p50,
            row.connect_ratio.p50,
            row.close_ns.p50,
            row.close_ratio.p50,
            duration(row.walk_ns.p50 as u64),
            show(row.walk_ratio.p50),
        );
    }
    text
}
