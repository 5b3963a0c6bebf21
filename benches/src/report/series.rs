//! The data of the plots, selected from the cases.

use std::collections::BTreeMap;

use skreap::core::Protocol;

use crate::grid::Tables;
use crate::ratio::grouped;
use crate::results::{Case, Scope};
use crate::stats::nearest_rank;

/// One line of a plot.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Its name in the legend.
    pub label: String,
    /// The engine, which says its colour.
    pub engine: String,
    /// Every netns, or only those that hold victims.
    pub scope: Scope,
    /// x, y.
    pub points: Vec<(f64, f64)>,
}

/// Lines with a title.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The parameters common to all lines.
    pub title: String,
    /// The lines.
    pub lines: Vec<Line>,
}

/// One bar.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// Its name.
    pub label: String,
    /// Median of the whole, nanoseconds.
    pub total_ns: u64,
    /// Shares of the whole, 0 to 1: walk, netlink and destroy, the rest.
    pub shares: [f64; 3],
}

/// Bars with a title.
#[derive(Clone, Debug, PartialEq)]
pub struct Bars {
    /// The parameters common to all bars.
    pub title: String,
    /// The bars.
    pub bars: Vec<Bar>,
}

/// Median against the number of sockets: a plot for each protocol, number of netns, kind of tables
/// and number of victims that was measured with more than one number of sockets.
pub fn growths(cases: &[Case]) -> Vec<Group> {
    let mut groups: BTreeMap<(Protocol, u32, Tables, u32), Vec<Line>> = BTreeMap::new();
    for case in counted(cases) {
        let lines = groups.entry((case.proto, case.netns, case.tables, case.victims)).or_default();
        let point = (f64::from(case.sockets), case.total_ns.p50 as f64);
        match lines.iter_mut().find(|line| line.label == case.label()) {
            Some(line) => line.points.push(point),
            None => lines.push(line_of(case, vec![point])),
        }
    }
    groups
        .into_iter()
        .filter_map(|((proto, netns, tables, victims), mut lines)| {
            for line in &mut lines {
                line.points.sort_by(|a, b| a.0.total_cmp(&b.0));
            }
            lines.iter().any(|line| line.points.len() > 1).then(|| Group {
                title: format!(
                    "{proto}, {netns} netns, {} tables, {} victims: median",
                    tables.name(),
                    grouped(victims.into())
                ),
                lines,
            })
        })
        .collect()
}

/// The largest world of each protocol, number of netns and kind of tables, with the fewest victims
/// it had.
fn largest(cases: &[Case]) -> Vec<Vec<&Case>> {
    let mut groups: BTreeMap<(Protocol, u32, Tables), Vec<&Case>> = BTreeMap::new();
    for case in counted(cases) {
        groups.entry((case.proto, case.netns, case.tables)).or_default().push(case);
    }
    groups
        .into_values()
        .map(|mut group| {
            let sockets = group.iter().map(|case| case.sockets).max();
            group.retain(|case| Some(case.sockets) == sockets);
            group
        })
        .collect()
}

/// Percentile curves: x is 1 / (1 - percentile), y nanoseconds.
pub fn distributions(cases: &[Case]) -> Vec<Group> {
    largest(cases)
        .into_iter()
        .filter_map(|mut group| {
            let victims = group.iter().map(|case| case.victims).min();
            group.retain(|case| Some(case.victims) == victims);
            let first = *group.first()?;
            let lines = group.iter().map(|case| line_of(case, curve(&case.raw.total_ns))).collect();
            Some(Group { title: format!("{}: single runs", title(first)), lines })
        })
        .collect()
}

/// Every sample at its percentile. The last one is at the highest percentile below 100 % that its
/// rank can express.
fn curve(samples: &[u64]) -> Vec<(f64, f64)> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let n = sorted.len() as f64;
    (1..=sorted.len())
        .map(|rank| {
            let quantile = rank as f64 / n;
            let below = (rank as f64 - 0.5) / n;
            (1.0 / (1.0 - below), nearest_rank(&sorted, quantile) as f64)
        })
        .collect()
}

/// Shares of the median time, for each engine and number of victims of the largest worlds.
pub fn splits(cases: &[Case]) -> Vec<Bars> {
    largest(cases)
        .into_iter()
        .filter_map(|mut group| {
            let first = *group.first()?;
            group.retain(|case| case.scope == Scope::All);
            group.sort_by_key(|case| case.victims);
            let bars = group
                .iter()
                .map(|case| Bar {
                    label: format!("{}, {} victims", case.engine, grouped(case.victims.into())),
                    total_ns: case.total_ns.p50,
                    shares: shares(case),
                })
                .collect();
            let title = format!(
                "{}, {} netns, {} sockets, {} tables",
                first.proto,
                first.netns,
                grouped(first.sockets.into()),
                first.tables.name()
            );
            Some(Bars { title, bars })
        })
        .collect()
}

/// Sums over all samples, not medians: these add up.
fn shares(case: &Case) -> [f64; 3] {
    let sum = |samples: &[u64]| samples.iter().sum::<u64>() as f64;
    let total = sum(&case.raw.total_ns).max(1.0);
    let (walk, destroy) = (sum(&case.raw.walk_ns) / total, sum(&case.raw.destroy_ns) / total);
    [walk, destroy, (1.0 - walk - destroy).max(0.0)]
}

fn counted(cases: &[Case]) -> impl Iterator<Item = &Case> {
    cases.iter().filter(|case| case.samples > 0)
}

fn line_of(case: &Case, points: Vec<(f64, f64)>) -> Line {
    Line { label: case.label(), engine: case.engine.clone(), scope: case.scope, points }
}

fn title(case: &Case) -> String {
    format!(
        "{}, {} netns, {} sockets, {} tables, {} victims",
        case.proto,
        case.netns,
        grouped(case.sockets.into()),
        case.tables.name(),
        grouped(case.victims.into())
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::case;

    #[test]
    fn one_number_of_sockets_is_no_growth() {
        let cases = [case("netlink", 1_000, 10, 4_000), case("netlink", 100_000, 10, 8_000)];
        assert!(growths(&cases[..1]).is_empty());
        let groups = growths(&cases);
        assert_eq!(groups.len(), 1);
        assert_eq!(groups[0].title, "udp, 100 netns, shared tables, 10 victims: median");
        assert_eq!(groups[0].lines[0].points, [(1_000.0, 4_001.0), (100_000.0, 8_001.0)]);
    }

    #[test]
    fn curves_are_of_the_largest_world_with_the_fewest_victims() {
        let cases = [
            case("netlink", 1_000, 10, 4_000),
            case("netlink", 100_000, 100, 9_000),
            case("netlink", 100_000, 10, 8_000),
        ];
        let groups = distributions(&cases);
        assert_eq!(groups.len(), 1);
        let points = &groups[0].lines[0].points;
        assert_eq!(points.iter().map(|p| p.1).collect::<Vec<_>>(), [8_000.0, 8_001.0, 8_002.0]);
        assert_eq!(points[1].0, 2.0, "the middle one is the median");
        assert_eq!(splits(&cases)[0].bars.len(), 2);
    }

    #[test]
    fn shares_add_up() {
        let bars = splits(&[case("netlink", 1_000, 10, 4_000)]);
        let shares = bars[0].bars[0].shares;
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        assert!((shares[0] - 0.25).abs() < 0.001 && (shares[1] - 0.5).abs() < 0.001);
    }
}
