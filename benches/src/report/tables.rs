//! The tables, as rows of text for both Markdown and HTML.

use crate::ratio::{self, Row, duration, grouped, show};
use crate::results::{Case, Results};
use crate::stats::Percentiles;

/// A heading and rows of cells. The first column is text, the others are numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Titles of the columns.
    pub head: Vec<String>,
    /// As many cells each.
    pub rows: Vec<Vec<String>>,
}

fn head(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Machine and source of the run.
pub fn machine(results: &Results) -> Table {
    let m = &results.machine;
    let mut rows = vec![
        vec!["kernel".to_owned(), m.kernel.clone()],
        vec!["cpu".to_owned(), m.cpu.clone()],
        vec!["memory".to_owned(), m.memory.clone()],
        vec!["commit".to_owned(), m.commit.clone()],
        vec!["command".to_owned(), m.command.clone()],
    ];
    rows.extend(m.sysctls.iter().map(|(key, value)| vec![key.clone(), value.clone()]));
    rows.extend(results.refused.iter().map(|r| vec![format!("without {}", r.engine), r.why.clone()]));
    Table { head: head(&["", ""]), rows }
}

/// Every ratio to the targeted walk.
pub fn ratios(cases: &[Case]) -> Table {
    let rows = ratio::rows(cases).iter().map(ratio_row).collect();
    let names = [
        "world",
        "victims",
        "targeted",
        "iter / targeted",
        "best scan / targeted",
        "best scan of known netns / targeted",
        "targeted / floor",
        "targeted / targeted at 1,000 sockets",
    ];
    Table { head: head(&names), rows }
}

fn ratio_row(row: &Row) -> Vec<String> {
    let none = || "-".to_owned();
    let plain = |ratio: Option<f64>| ratio.map_or_else(none, show);
    let named = |best: &Option<(f64, String)>| {
        best.as_ref().map_or_else(none, |(r, name)| format!("{} ({name})", show(*r)))
    };
    vec![
        format!(
            "{}, {} netns, {} sockets, {} tables",
            row.proto,
            row.netns,
            grouped(row.sockets.into()),
            row.tables.name()
        ),
        grouped(row.victims.into()),
        format!("{} ({})", duration(row.targeted_ns), row.engine),
        plain(row.iter),
        named(&row.best),
        named(&row.best_known),
        plain(row.floor),
        plain(row.growth),
    ]
}

/// Times of one world and number of victims, in the order in which they were measured.
pub fn times(cases: &[&Case]) -> Table {
    let names = ["engine", "p50", "p90", "p99", "max", "walk p50", "destroy p50", "samples"];
    let rows = cases
        .iter()
        .map(|case| {
            let Percentiles { p50, p90, p99, max } = case.total_ns;
            let mut row = vec![case.label()];
            // A percentile that so few samples cannot have is their maximum, which has a column of its own.
            let with = |samples, ns| if case.samples < samples { "-".to_owned() } else { duration(ns) };
            row.extend([duration(p50), with(10, p90), with(100, p99), duration(max)]);
            row.extend([case.walk_ns.p50, case.destroy_ns.p50].map(duration));
            row.push(if case.rejected == 0 {
                case.samples.to_string()
            } else {
                format!("{} ({} rejected)", case.samples, case.rejected)
            });
            row
        })
        .collect();
    Table { head: head(&names), rows }
}

/// The cases of each world and number of victims together, with a heading for each.
pub fn by_world(cases: &[Case]) -> Vec<(String, Vec<&Case>)> {
    let mut groups: Vec<(String, Vec<&Case>)> = Vec::new();
    for case in cases {
        let entries = case.table_entries.map_or_else(String::new, |n| format!(" of {n}"));
        let title = format!(
            "{}, {} netns, {} sockets, {} tables{entries}, {} victims",
            case.proto,
            case.netns,
            grouped(case.sockets.into()),
            case.tables.name(),
            grouped(case.victims.into())
        );
        match groups.iter_mut().find(|(known, _)| *known == title) {
            Some((_, group)) => group.push(case),
            None => groups.push((title, vec![case])),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::case;

    #[test]
    fn rows_of_a_world() {
        let cases = [case("netlink", 1_000, 10, 29_999), case("iter", 1_000, 10, 600_000_000)];
        assert_eq!(
            ratios(&cases).rows,
            [[
                "udp, 100 netns, 1,000 sockets, shared tables",
                "10",
                "30.0 us (netlink)",
                "20,000",
                "20,000 (iter)",
                "-",
                "-",
                "-"
            ]]
        );
        let groups = by_world(&cases);
        assert_eq!(groups.len(), 1);
        assert_eq!(groups[0].0, "udp, 100 netns, 1,000 sockets, shared tables, 10 victims");
        assert_eq!(
            times(&groups[0].1).rows[0],
            ["netlink", "30.0 us", "-", "-", "30.0 us", "7.50 us", "15.0 us", "3"]
        );
    }
}
