//! The ratios that the targeted walk is judged by.

use std::collections::BTreeMap;

use skreap::core::Protocol;
pub use skreap::core::grouped;

use crate::grid::Tables;
use crate::results::{Case, Scope};

/// Names of measures that are not engines: the lower bound with a socket open in every netns.
pub const FLOOR: &str = "floor";
/// See [`FLOOR`].
pub const FLOOR_QUIET: &str = "floor-quiet";
/// The lower bound with nothing open.
pub const FLOOR_CLOSED: &str = "floor-closed";
/// See [`FLOOR_CLOSED`].
pub const FLOOR_CLOSED_QUIET: &str = "floor-closed-quiet";
/// As [`SERVICE`], of the build that is compared with.
pub const BASE_SERVICE: &str = "base-service";
/// See [`BASE_SERVICE`].
pub const BASE_SERVICE_QUIET: &str = "base-service-quiet";
/// The whole event in the library, right after another one, and after a pause.
pub const EVENT: &str = "event";
/// See [`EVENT`].
pub const EVENT_QUIET: &str = "event-quiet";
/// The round trip over the unix socket of `skreap serve`, right after another one, and after a pause.
pub const SERVICE: &str = "service";
/// See [`SERVICE`].
pub const SERVICE_QUIET: &str = "service-quiet";
/// `ss -K` in each netns.
pub const SS: &str = "ss";
/// Engines that walk one bucket, the better first.
pub const TARGETED: [&str; 2] = ["kfunc", "netlink"];
/// Full scans of the kernel's sockets, without an index.
pub const BASELINES: [&str; 3] = ["iter", "diag", "diag-filter"];
/// The reference of the ratio over the number of sockets.
const FEW: u32 = 1_000;

/// Medians of one world with one number of victims, and their ratios to targeted.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Protocol.
    pub proto: Protocol,
    /// Namespaces.
    pub netns: u32,
    /// The socket tables.
    pub tables: Tables,
    /// Sockets in all.
    pub sockets: u32,
    /// Victims.
    pub victims: u32,
    /// Engine that is *targeted* here.
    pub engine: String,
    /// Its median, nanoseconds.
    pub targeted_ns: u64,
    /// iter over every netns / targeted.
    pub iter: Option<f64>,
    /// The fastest scan of every netns / targeted, and which it is.
    pub best: Option<(f64, String)>,
    /// The fastest scan of only the netns that hold victims / targeted, and its name.
    pub best_known: Option<(f64, String)>,
    /// targeted / floor.
    pub floor: Option<f64>,
    /// targeted here / targeted with 1,000 sockets, all else the same.
    pub growth: Option<f64>,
}

type Key = (Protocol, u32, Tables, u32, u32);

fn key(case: &Case) -> Key {
    (case.proto, case.netns, case.tables, case.sockets, case.victims)
}

/// One row for each world and number of victims in which a targeted engine was measured.
pub fn rows(cases: &[Case]) -> Vec<Row> {
    let mut groups: BTreeMap<Key, Vec<&Case>> = BTreeMap::new();
    for case in cases.iter().filter(|case| case.samples > 0) {
        groups.entry(key(case)).or_default().push(case);
    }
    let targeted = |group: &[&Case]| -> Option<(String, u64)> {
        let found = TARGETED.iter().find_map(|name| group.iter().find(|case| case.engine == *name))?;
        Some((found.engine.clone(), found.total_ns.p50))
    };
    let mut rows = Vec::new();
    for (&(proto, netns, tables, sockets, victims), group) in &groups {
        let Some((engine, targeted_ns)) = targeted(group) else { continue };
        let over = |ns: u64| ns as f64 / targeted_ns.max(1) as f64;
        let median = |name: &str| {
            let case = group.iter().find(|case| case.engine == name && case.scope == Scope::All)?;
            Some(case.total_ns.p50)
        };
        let best = |scope: Scope| {
            group
                .iter()
                .filter(|case| case.scope == scope && BASELINES.contains(&case.engine.as_str()))
                .min_by_key(|case| case.total_ns.p50)
                .map(|case| (over(case.total_ns.p50), case.engine.clone()))
        };
        let few = groups
            .get(&(proto, netns, tables, FEW, victims))
            .and_then(|group| group.iter().find(|case| case.engine == engine))
            .filter(|_| sockets != FEW);
        rows.push(Row {
            proto,
            netns,
            tables,
            sockets,
            victims,
            targeted_ns,
            iter: median("iter").map(over),
            best: best(Scope::All),
            best_known: best(Scope::Known),
            floor: median(FLOOR).map(|ns| targeted_ns as f64 / ns.max(1) as f64),
            growth: few.map(|case| targeted_ns as f64 / case.total_ns.p50.max(1) as f64),
            engine,
        });
    }
    rows
}

/// Two significant digits or whole numbers with separators: `1.3`, `24`, `20,000`.
pub fn show(ratio: f64) -> String {
    if ratio < 10.0 { format!("{ratio:.2}") } else { grouped(ratio.round() as u64) }
}

/// Nanoseconds in the unit that suits them: `31.2 us`, `620 ms`.
pub fn duration(ns: u64) -> String {
    let value = ns as f64;
    let (scaled, unit) = match ns {
        0..1_000 => (value, "ns"),
        1_000..1_000_000 => (value / 1e3, "us"),
        1_000_000..1_000_000_000 => (value / 1e6, "ms"),
        _ => (value / 1e9, "s"),
    };
    // Three significant digits.
    let digits = if scaled < 9.995 {
        2
    } else if scaled < 99.95 {
        1
    } else {
        0
    };
    if unit == "ns" { format!("{ns} ns") } else { format!("{scaled:.digits$} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::case;

    #[test]
    fn ratios_of_one_world() {
        let known = Case { scope: Scope::Known, ..case("iter", 100_000, 10, 59_999_999) };
        let cases = [
            case("netlink", 1_000, 10, 29_999),
            case("netlink", 100_000, 10, 30_999),
            case("floor", 100_000, 10, 24_799),
            case("iter", 100_000, 10, 619_999_999),
            case("diag-filter", 100_000, 10, 449_999_999),
            case("index-scan", 100_000, 10, 5),
            known,
        ];
        let rows = rows(&cases);
        assert_eq!(rows.len(), 2);
        let big = &rows[1];
        assert_eq!((big.sockets, big.targeted_ns), (100_000, 31_000));
        assert_eq!(big.iter, Some(20_000.0));
        assert_eq!(big.best.as_ref().unwrap().1, "diag-filter");
        assert_eq!(big.best.as_ref().unwrap().0, 450_000_000.0 / 31_000.0);
        assert_eq!(big.best_known, Some((60_000_000.0 / 31_000.0, "iter".to_owned())));
        assert_eq!(big.floor, Some(1.25));
        assert_eq!(big.growth, Some(31.0 / 30.0));
        assert_eq!(rows[0].growth, None, "nothing is relative to itself");
        assert_eq!(rows[0].iter, None);
    }

    #[test]
    fn the_kfunc_engine_is_targeted_where_it_ran() {
        let rows = rows(&[case("netlink", 1_000, 10, 20), case("kfunc", 1_000, 10, 10)]);
        assert_eq!((rows[0].engine.as_str(), rows[0].targeted_ns), ("kfunc", 11));
    }

    #[test]
    fn worlds_without_targeted_have_no_row() {
        assert!(rows(&[case("iter", 1_000, 10, 20)]).is_empty());
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!([1.296, 12.4, 20_000.4].map(show), ["1.30", "12", "20,000"]);
        assert_eq!(duration(950), "950 ns");
        assert_eq!(duration(31_249), "31.2 us");
        assert_eq!(duration(619_999_999), "620 ms");
        assert_eq!(duration(9_380_000_000), "9.38 s");
        assert_eq!(grouped(1_000_000), "1,000,000");
        assert_eq!(grouped(999), "999");
    }
}
