//! The tables in columns, for people at a terminal.

use crate::results::Results;

use super::tables::{self, Table};

/// Above this, the 90th percentile of a measure is so far from its median that the machine had something else to do.
const NOISY: u64 = 3;
/// Fewer samples have no 90th percentile.
const ENOUGH: usize = 10;

/// The times of each world, and a warning where they are noisy.
pub fn page(results: &Results) -> String {
    let mut text = String::new();
    for (title, cases) in tables::by_world(&results.cases) {
        text.push_str(&format!("\n{title}\n"));
        columns(&mut text, &tables::times(&cases));
        let noisy: Vec<_> = cases
            .iter()
            .filter(|case| case.samples >= ENOUGH && case.total_ns.p90 > NOISY * case.total_ns.p50)
            .map(|case| case.label())
            .collect();
        if !noisy.is_empty() {
            text.push_str(&format!(
                "noisy: p90 is more than {NOISY} times p50 for {}; repeat the run on an idle machine before you \
                 compare\n",
                noisy.join(", ")
            ));
        }
    }
    text.push('\n');
    text
}

/// The first column to the left, the others to the right.
fn columns(text: &mut String, table: &Table) {
    let lines = || std::iter::once(&table.head).chain(&table.rows);
    let widths: Vec<usize> = (0..table.head.len())
        .map(|column| {
            lines().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    for line in lines() {
        for (column, (cell, &width)) in line.iter().zip(&widths).enumerate() {
            let padded = if column == 0 { format!("  {cell:<width$}") } else { format!("  {cell:>width$}") };
            text.push_str(&padded);
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::case;

    #[test]
    fn columns_are_aligned() {
        let results = Results {
            cases: vec![case("netlink", 1_000, 10, 29_999), case("iter", 1_000, 10, 600_000_000)],
            ..Results::default()
        };
        let page = page(&results);
        let lines: Vec<&str> = page.lines().collect();
        assert_eq!(lines[1], "udp, 100 netns, 1,000 sockets, shared tables, 10 victims");
        assert_eq!(lines[2], "  engine       p50  p90  p99      max  walk p50  destroy p50  samples");
        assert_eq!(lines[3], "  netlink  30.0 us    -    -  30.0 us   7.50 us      15.0 us        3");
        assert_eq!(lines[4], "  iter      600 ms    -    -   600 ms    150 ms       300 ms        3");
        assert_eq!(lines[5..], [""]);
    }

    #[test]
    fn a_noisy_measure_is_named() {
        let mut one = case("netlink", 1_000, 10, 100);
        one.samples = 10;
        one.total_ns.p90 = 304;
        let mut results = Results { cases: vec![one], ..Results::default() };
        assert!(page(&results).contains("p90 is more than 3 times p50 for netlink;"), "{}", page(&results));
        results.cases[0].total_ns.p90 = 303;
        assert!(!page(&results).contains("noisy"), "{}", page(&results));
    }
}
