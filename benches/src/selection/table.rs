//! The rows for people.

use std::fmt::Write as _;

use super::Report;
use crate::ratio::{duration, grouped, show};

/// One line for each way, below a heading.
pub fn text(report: &Report) -> String {
    let mut text = format!(
        "{}\n{} UDP sockets in {} netns, {} rounds; ratio to the first row, round by round\n\n{:<24} {:>7} {:>9} {:>7}\n",
        report.machine.kernel,
        grouped(report.sockets.into()),
        grouped(report.netns.into()),
        report.rounds,
        "found by",
        "found",
        "time",
        "ratio"
    );
    for row in &report.rows {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:<24} {:>7} {:>9} {:>7}",
            row.name,
            grouped(row.found),
            duration(row.ns.p50 as u64),
            show(row.ratio.p50)
        );
    }
    text
}
