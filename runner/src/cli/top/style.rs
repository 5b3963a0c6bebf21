//! How headings and rows of numbers look.

use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Row};

pub(super) fn heading() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

/// A name, and numbers that end below each other.
pub(super) fn numbers(name: String, numbers: impl IntoIterator<Item = String>) -> Row<'static> {
    let cells = numbers.into_iter().map(|n| Cell::from(Line::raw(n).right_aligned()));
    Row::new(std::iter::once(Cell::from(name)).chain(cells))
}
