//! The table of the README: whole events against full scans, by the number of sockets.

use std::collections::BTreeMap;

use skreap::core::Protocol;

use crate::grid::Tables;
use crate::ratio::{EVENT, EVENT_QUIET, duration, grouped, show};
use crate::results::{Case, Results, Scope};

use super::tables::Table;

/// The columns of times, and their titles.
const COLUMNS: [(&str, &str); 4] = [
    (EVENT_QUIET, "event after 15 s of quiet"),
    (EVENT, "event right after another"),
    ("iter", "scan: BPF iterators"),
    ("diag-filter", "scan: sock_diag, filtered by the kernel"),
];

/// A row for each number of sockets: the medians of UDP cases with shared tables, with the fewest
/// victims and the most netns that were measured. Where several runs have measured the same, the last one counts.
pub fn table(runs: &[Results]) -> Table {
    let head = ["client sockets in all"].into_iter().chain(COLUMNS.map(|(_, title)| title));
    let head = head.chain(["iterators / event after quiet"]).map(str::to_owned).collect();
    let cases: Vec<&Case> = runs.iter().flat_map(|run| &run.cases).filter(|case| is_in(case)).collect();
    let netns = cases.iter().map(|case| case.netns).max();
    let victims = cases.iter().filter(|case| Some(case.netns) == netns).map(|case| case.victims).min();
    let mut rows: BTreeMap<u32, BTreeMap<&str, u64>> = BTreeMap::new();
    for case in cases.iter().filter(|case| Some(case.netns) == netns && Some(case.victims) == victims) {
        rows.entry(case.sockets).or_default().insert(&case.engine, case.total_ns.p50);
    }
    let row = |(sockets, medians): (u32, BTreeMap<&str, u64>)| {
        let none = || "-".to_owned();
        let mut row = vec![grouped(sockets.into())];
        row.extend(COLUMNS.map(|(name, _)| medians.get(name).map_or_else(none, |ns| duration(*ns))));
        let ratio = medians.get("iter").zip(medians.get(EVENT_QUIET));
        row.push(ratio.map_or_else(none, |(iter, event)| show(*iter as f64 / (*event).max(1) as f64)));
        row
    };
    Table { head, rows: rows.into_iter().map(row).collect() }
}

fn is_in(case: &Case) -> bool {
    case.samples > 0
        && case.proto == Protocol::Udp
        && case.tables == Tables::Shared
        && case.scope == Scope::All
        && COLUMNS.iter().any(|(name, _)| *name == case.engine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::case;

    #[test]
    fn rows_come_from_all_runs_and_only_the_fewest_victims() {
        let run = |cases| Results { cases, ..Results::default() };
        let standard = run(vec![
            case(EVENT_QUIET, 1_000, 10, 400_000),
            case(EVENT, 1_000, 10, 100_000),
            case("iter", 1_000, 10, 8_000_000),
            case("iter", 1_000, 100, 5_000_000),
            case("floor", 1_000, 10, 1),
        ]);
        let million = run(vec![case("diag-filter", 1_000_000, 10, 31_000_000_000)]);
        let table = table(&[standard, million]);
        assert_eq!(table.head.len(), 6);
        assert_eq!(
            table.rows,
            [
                ["1,000", "400 us", "100 us", "8.00 ms", "-", "20"],
                ["1,000,000", "-", "-", "-", "31.0 s", "-"]
            ]
        );
    }
}
