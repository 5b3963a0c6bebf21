//! The screen that explains keys and columns.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Span;
use ratatui::widgets::{Clear, Widget as _};

use super::narrow::wrap;
use super::style::heading;

/// Every key, and what is shown.
const HELP: [(&str, &str); 22] = [
    ("", "Keys"),
    ("q, ^C", "end"),
    ("arrows, j, k", "scroll; Page Up, Page Down, Home and End as well"),
    ("/", "filter the 100 largest by a text; Enter keeps, Esc drops it"),
    ("c r u n b", "sort by connected, rate, unconnected, netns or backend;"),
    ("", "the same key again turns the order round"),
    ("?", "this page; any key leaves it"),
    ("", ""),
    ("", "Backends: the 100 largest"),
    ("SOCKETS", "sockets connected to it"),
    ("/S", "change of that number per second, between the last two looks"),
    ("UNCONN", "UDP sockets without a peer that have sent to it"),
    ("NETNS", "network namespaces these sockets are in"),
    ("", ""),
    ("", "Health: every number that is not 0 is worth a look at `skreap status`"),
    ("failed", "sockets that could not be destroyed"),
    ("incomplete", "events that may have missed sockets"),
    ("errors", "events the engine could not handle"),
    ("dropped", "memberships for which the index had no room"),
    ("stale", "nodes without their socket: the index missed a close"),
    ("audit", "differences that the last audit found"),
    ("hooks not last", "another program runs after ours: see `skreap probe`"),
];

/// The page that explains everything, as much of it as there is room for.
pub(super) fn draw_help(area: Rect, buffer: &mut Buffer) {
    Clear.render(area, buffer);
    let lines = HELP.into_iter().flat_map(|(term, text)| match term {
        "" if text.starts_with(char::is_uppercase) => {
            let words = text.split(' ').map(|word| Span::styled(word, heading())).collect();
            wrap(Span::raw(" "), words, area.width)
        }
        _ => {
            let words = text.split(' ').map(Span::raw).collect();
            wrap(Span::raw(format!("   {term:<14}  ")), words, area.width)
        }
    });
    for (row, line) in area.rows().zip(lines) {
        line.render(row, buffer);
    }
}
