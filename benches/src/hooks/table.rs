//! The rows for people.

use std::fmt::Write as _;

use super::Report;

/// One line for each row, below a heading that names the units.
pub fn text(report: &Report) -> String {
    let mut text = format!(
        "{}\n{} rounds; ratios to off of the same round, above 1 is slower\n\n\
         {:<18} {:>7} {:<14} {:>7} {:>17} {:>12} {:>13} {:>11}\n",
        report.machine.kernel,
        report.rounds,
        "case",
        "threads",
        "hooks",
        "ratio",
        "(p25 .. p75)",
        "ns/operation",
        "ns in programs",
        "throughput"
    );
    for row in &report.cases {
        let ratio = row.ratio_to_off;
        let spread = format!("({:.3} .. {:.3})", ratio.p25, ratio.p75);
        let to_ours = row
            .ratio_to_ours
            .map_or_else(String::new, |r| format!("   {:.3} ({:.3} .. {:.3}) of ours", r.p50, r.p25, r.p75));
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:<18} {:>7} {:<14} {:>7.3} {spread:>17} {:>12.0} {:>14.1} {:>11.3}{to_ours}",
            row.case.name(),
            row.threads,
            row.variant.name(),
            ratio.p50,
            row.operation_ns.p50,
            row.program_ns,
            row.throughput_to_off,
        );
    }
    text
}
