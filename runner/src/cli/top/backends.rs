//! The list of backends: which are shown, in which order, and how.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::Duration;

use ratatui::layout::Constraint;
use ratatui::widgets::Table;
use skreap::core::Backend;
use skreap::status::{Top, TopBackend};

use super::super::text::short;
use super::narrow::{columns_that_fit, cut};
use super::style::{heading, numbers};

/// Widths of the columns after the name.
const COLUMNS: [u16; 4] = [9, 9, 8, 7];
/// What a name should have before there is room for columns.
const NAME: u16 = 20;

/// What backends are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    #[default]
    Sockets,
    Rate,
    Unconnected,
    Netns,
    Backend,
}

/// What of the list is shown.
#[derive(Debug, Default)]
pub(super) struct List {
    sort: Sort,
    reversed: bool,
    /// In lower case; empty: all.
    pub(super) filter: String,
    pub(super) scrolled: usize,
}

impl List {
    /// Sorts by that; in the other direction if it is so already.
    pub(super) fn sort_by(&mut self, sort: Sort) {
        self.reversed = self.sort == sort && !self.reversed;
        self.sort = sort;
    }

    /// The backends that the filter lets pass, in order, and the change of each per second.
    pub(super) fn rows<'a>(
        &self,
        top: &'a Top,
        before: Option<(Duration, &Top)>,
    ) -> Vec<(&'a TopBackend, Option<f64>)> {
        let sizes: HashMap<Backend, u64> = before
            .iter()
            .flat_map(|(_, top)| &top.largest)
            .map(|b| (b.backend, b.sockets.connected))
            .collect();
        let seconds = before.map_or(0.0, |(time, _)| time.as_secs_f64());
        let rate = |b: &TopBackend| {
            // What is new among the largest may have been there before, unseen: it has no rate.
            let change = b.sockets.connected as f64 - *sizes.get(&b.backend)? as f64;
            (seconds > 0.0).then(|| change / seconds)
        };
        let mut rows: Vec<_> = top
            .largest
            .iter()
            .filter(|b| self.filter.is_empty() || b.backend.to_string().contains(&self.filter))
            .map(|b| (b, rate(b)))
            .collect();
        // Stable: what is equal stays in the order of the service, the largest first.
        rows.sort_by(|a, b| {
            let order = self.compare(a, b);
            if self.reversed { order.reverse() } else { order }
        });
        rows
    }

    fn compare(&self, a: &(&TopBackend, Option<f64>), b: &(&TopBackend, Option<f64>)) -> Ordering {
        let (x, y) = (&a.0.sockets, &b.0.sockets);
        match self.sort {
            Sort::Sockets => y.connected.cmp(&x.connected),
            // Growth and shrinkage are both worth a look.
            Sort::Rate => b.1.map_or(0.0, f64::abs).total_cmp(&a.1.map_or(0.0, f64::abs)),
            Sort::Unconnected => y.unconnected.cmp(&x.unconnected),
            Sort::Netns => y.netns.cmp(&x.netns),
            Sort::Backend => a.0.backend.cmp(&b.0.backend),
        }
    }

    /// The table for an area of this width: numbers are next to the names, however wide it is.
    /// `sent`: how many of `all` backends the service has sent. A filter searches only these.
    pub(super) fn table(
        &self,
        rows: &[(&TopBackend, Option<f64>)],
        (sent, all): (usize, u64),
        width: u16,
    ) -> Table<'static> {
        let names: Vec<String> = rows.iter().map(|(b, _)| format!("  {}", b.backend)).collect();
        let title = self.title(rows.len(), sent, all);
        let longest = names.iter().map(String::len).chain([title.len()]).max().unwrap_or_default();
        let longest = u16::try_from(longest).unwrap_or(u16::MAX);
        let fit = columns_that_fit(&COLUMNS, longest.min(NAME), width);
        // One column of space before each column.
        let room = width.saturating_sub(COLUMNS.iter().take(fit).map(|c| c + 1).sum());
        let name = longest.min(room);
        let widths = std::iter::once(name).chain(COLUMNS.into_iter().take(fit)).map(Constraint::Length);
        let shown = names.into_iter().zip(rows).skip(self.scrolled).map(|(text, (b, rate))| {
            let n = &b.sockets;
            let rate = rate.filter(|rate| *rate != 0.0).map(signed).unwrap_or_default();
            let columns = [short(n.connected), rate, short(n.unconnected), short(n.netns)];
            numbers(cut(text, name), columns.into_iter().take(fit))
        });
        let head = numbers(cut(title, name), self.heads().into_iter().take(fit)).style(heading());
        Table::new(shown.collect::<Vec<_>>(), widths).header(head)
    }

    /// Names of the columns, that of the order marked.
    fn heads(&self) -> [String; 4] {
        let columns = [
            ("SOCKETS", Sort::Sockets),
            ("/S", Sort::Rate),
            ("UNCONN", Sort::Unconnected),
            ("NETNS", Sort::Netns),
        ];
        columns.map(|(name, sort)| format!("{name}{}", self.mark(sort)))
    }

    fn mark(&self, sort: Sort) -> &'static str {
        match (self.sort == sort, self.reversed) {
            (false, _) => "",
            (true, false) => "↓",
            (true, true) => "↑",
        }
    }

    fn title(&self, shown: usize, sent: usize, all: u64) -> String {
        let mut title = format!("BACKEND{}", self.mark(Sort::Backend));
        if !self.filter.is_empty() {
            title += &format!(" ({shown} with {:?}", self.filter);
            if all > sent as u64 {
                title += &format!(" in the {sent} largest");
            }
            title.push(')');
        }
        if self.scrolled > 0 {
            title += &format!(" (from {} on)", self.scrolled + 1);
        } else if self.filter.is_empty() && all > shown as u64 {
            title += &format!(" ({shown} largest of {})", short(all));
        }
        title
    }
}

fn signed(rate: f64) -> String {
    let size = rate.abs();
    let text = if size < 10.0 { format!("{size:.1}") } else { short(size.round() as u64) };
    format!("{}{text}", if rate < 0.0 { '-' } else { '+' })
}
