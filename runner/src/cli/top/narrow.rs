//! What fits on a screen of any width: whole parts, whole columns, and a mark where a name is cut.

use ratatui::text::{Line, Span};

/// Lines of at most this width, and as few as that takes: the label, then as many parts as fit; more lines begin below
/// the first part. A part that is wider than a line is cut.
pub(super) fn wrap(label: Span<'static>, parts: Vec<Span<'static>>, width: u16) -> Vec<Line<'static>> {
    let (width, indent) = (usize::from(width), label.width());
    let mut lines = Vec::new();
    let (mut line, mut used) = (Line::from(label), indent);
    let mut first = true;
    for part in parts {
        if !first && used + 1 + part.width() > width {
            lines.push(std::mem::replace(&mut line, Line::from(" ".repeat(indent))));
            used = indent;
        } else if !first {
            line.push_span(" ");
            used += 1;
        }
        used += part.width();
        line.push_span(part);
        first = false;
    }
    lines.push(line);
    lines
}

/// The first of the parts that fit beside each other, with this between them.
pub(super) fn as_many_as_fit(parts: &[String], between: &str, width: u16) -> String {
    let mut text = String::new();
    for part in parts {
        let gap = if text.is_empty() { "" } else { between };
        let used = text.chars().count() + gap.chars().count() + part.chars().count();
        if used > usize::from(width) && !text.is_empty() {
            break;
        }
        text.push_str(gap);
        text.push_str(part);
    }
    text
}

/// How many of the columns fit behind a name that should have this much room, with a space before each.
pub(super) fn columns_that_fit(columns: &[u16], name: u16, width: u16) -> usize {
    let mut left = width.saturating_sub(name);
    let fits = |column: &&u16| {
        let needed = **column + 1;
        let fits = needed <= left;
        left = left.saturating_sub(needed);
        fits
    };
    columns.iter().take_while(fits).count()
}

/// The name, or as much of it as fits and a mark that there is more.
pub(super) fn cut(name: String, width: u16) -> String {
    let width = usize::from(width);
    if name.chars().count() <= width {
        return name;
    }
    let mut kept: String = name.chars().take(width.saturating_sub(1)).collect();
    kept.push('…');
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_go_to_as_few_lines_as_that_takes() {
        let parts = || ["12 events,", "3 waiting;", "a long part of them"].map(Span::raw).to_vec();
        let lines = |width| -> Vec<String> {
            wrap(Span::raw("events  "), parts(), width).iter().map(Line::to_string).collect()
        };
        assert_eq!(lines(80), ["events  12 events, 3 waiting; a long part of them"]);
        assert_eq!(lines(49), ["events  12 events, 3 waiting; a long part of them"]);
        assert_eq!(lines(48), ["events  12 events, 3 waiting;", "        a long part of them"]);
        assert_eq!(lines(20), ["events  12 events,", "        3 waiting;", "        a long part of them"]);
    }

    #[test]
    fn whole_parts_and_columns() {
        let parts = ["q ends", "? explains", "/ filters"].map(str::to_owned);
        for (width, text) in
            [(3, "q ends"), (17, "q ends"), (18, "q ends, ? explains"), (80, "q ends, ? explains, / filters")]
        {
            assert_eq!(as_many_as_fit(&parts, ", ", width), text, "{width}");
        }
        for (width, n) in [(0, 0), (29, 0), (30, 1), (39, 1), (40, 2), (57, 4), (300, 4)] {
            assert_eq!(columns_that_fit(&[9, 9, 8, 7], 20, width), n, "{width}");
        }
        assert_eq!(cut("udp://10.0.0.1:53".to_owned(), 17), "udp://10.0.0.1:53");
        assert_eq!(cut("udp://10.0.0.1:53".to_owned(), 9), "udp://10…");
    }
}
