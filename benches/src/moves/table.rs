//! The rows for people.

use std::fmt::Write as _;

use super::Report;
use crate::ratio::{duration, grouped, show};

/// One line for each thing that is done, below a heading.
pub fn text(report: &Report) -> String {
    let mut text = format!(
        "{}\n{} processes with {} descriptors each in {} netns, {} rounds; ratios round by round\n\n{:<22} {:>7} {:>9}  {}\n",
        report.machine.kernel,
        grouped(report.processes.into()),
        grouped(report.descriptors.into()),
        grouped(report.netns.into()),
        report.rounds,
        "what",
        "sockets",
        "time",
        "ratio"
    );
    for row in &report.rows {
        // Writing to a String cannot fail.
        let _ =
            write!(text, "{:<22} {:>7} {:>9}", row.name, grouped(row.sockets), duration(row.ns.p50 as u64));
        let _ = match row.name == row.against {
            true => writeln!(text),
            false => writeln!(text, "  {} to {}", show(row.ratio.p50), row.against),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;
    use crate::moves::Row;
    use crate::stats::Quartiles;

    #[test]
    fn a_ratio_says_to_what() {
        let all = |p50| Quartiles { p25: p50, p50, p75: p50 };
        let row = |name: &str, ns: f64, ratio: f64| Row {
            name: name.to_owned(),
            sockets: 1000,
            ns: all(ns),
            against: "destroy".to_owned(),
            ratio: all(ratio),
        };
        let rows = vec![row("destroy", 2e6, 1.0), row("move", 5e6, 2.5)];
        let report = Report {
            machine: Machine::here(),
            rounds: 3,
            processes: 200,
            descriptors: 200,
            netns: 100,
            rows,
        };
        let text = text(&report);
        let lines: Vec<&str> = text.lines().skip(4).collect();
        assert_eq!(
            lines,
            [
                "destroy                  1,000   2.00 ms",
                "move                     1,000   5.00 ms  2.50 to destroy"
            ]
        );
    }
}
