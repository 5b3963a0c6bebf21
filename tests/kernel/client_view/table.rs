//! What a row is, and the table as it is written down.

use anyhow::Result;

use super::scene::Scene;
use crate::case::{Skip, required};

/// What a client does after its socket was destroyed, and what it gets.
pub struct Row {
    pub does: &'static str,
    pub gets: Sees,
    pub act: fn(&mut Scene<'_>) -> Result<()>,
}

/// A row of the table.
macro_rules! row {
    ($does:expr, $gets:expr, $act:ident) => {
        $crate::client_view::table::Row { does: $does, gets: $gets, act: $act }
    };
}
pub(super) use row;

/// What is seen, by kernel.
pub enum Sees {
    /// On every kernel.
    Always(&'static str),
    /// From each of these versions on, in their order.
    Since(&'static [((u32, u32), &'static str)]),
}

impl Sees {
    /// On this kernel.
    pub fn on(&self, kernel: (u32, u32)) -> &'static str {
        match self {
            Self::Always(seen) => seen,
            Self::Since(changes) => {
                let last = changes.iter().rev().find(|(since, _)| *since <= kernel);
                last.or(changes.first()).map_or("", |(_, seen)| *seen)
            }
        }
    }

    fn written(&self) -> String {
        match self {
            Self::Always(seen) => (*seen).to_owned(),
            Self::Since(changes) => {
                let change =
                    |((major, minor), seen): &((u32, u32), &str)| format!("{seen} (from {major}.{minor})");
                changes.iter().map(change).collect::<Vec<_>>().join("; ")
            }
        }
    }
}

/// The release as two numbers: `6.18.44-x` is 6.18.
pub fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Rows under a heading.
pub struct Section {
    pub heading: &'static str,
    pub says: &'static str,
    pub columns: [&'static str; 2],
    pub rows: &'static [Row],
}

/// The document.
pub fn written(head: &str, sections: &[Section]) -> String {
    let mut text = head.to_owned();
    for section in sections {
        let [left, right] = section.columns;
        text += &format!("\n## {}\n{}\n\n| {left} | {right} |\n|---|---|\n", section.heading, section.says);
        for row in section.rows {
            text += &format!("| {} | {} |\n", row.does, row.gets.written());
        }
    }
    text
}

/// Acts a row, and compares. What this kernel has not is said and no difference, unless it is `required`.
pub fn act(scene: &mut Scene<'_>, section: &str, row: &Row, kernel: (u32, u32)) -> Option<String> {
    let acted = (row.act)(scene);
    let seen = scene.notes();
    let expected = row.gets.on(kernel);
    match acted {
        Err(error) if error.is::<Skip>() && !required("SKREAP_CLIENT_VIEW") => {
            eprintln!("client view, {section}, {}: skipped: {error}", row.does);
            None
        }
        Err(error) => Some(format!("{section}, {}: {error:?} after: {seen}", row.does)),
        Ok(()) if seen == expected => None,
        Ok(()) => Some(format!("{section}, {}:\n     gets {seen}\n not just {expected}", row.does)),
    }
}
