//! What keys do, and the screen that explains them.

use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::Rect;
use ratatui::text::Line;
use ratatui::widgets::{Clear, Widget as _};

use super::backends::Sort;
use super::view::{View, heading};

/// What follows from a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Stay,
    End,
}

/// What takes the keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    #[default]
    List,
    /// Letters go to the filter.
    Filter,
    Help,
}

/// Every key, and what is shown.
const HELP: [(&str, &str); 22] = [
    ("", "Keys"),
    ("q, ^C", "end"),
    ("arrows, j, k", "scroll; Page Up, Page Down, Home and End as well"),
    ("/", "show only backends with this text; Enter keeps, Esc drops it"),
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

impl View {
    pub(super) fn key(&mut self, key: KeyEvent) -> Next {
        if key.kind == KeyEventKind::Release {
            return Next::Stay;
        }
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Next::End;
        }
        match self.mode {
            Mode::Help => self.mode = Mode::List,
            Mode::Filter => self.key_of_filter(key.code),
            Mode::List => return self.key_of_list(key.code),
        }
        Next::Stay
    }

    fn key_of_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.mode = Mode::List,
            KeyCode::Esc => {
                self.list.filter.clear();
                self.mode = Mode::List;
            }
            KeyCode::Backspace => {
                self.list.filter.pop();
            }
            KeyCode::Char(letter) => self.list.filter.push(letter.to_ascii_lowercase()),
            _ => {}
        }
        self.scroll(isize::MIN);
    }

    fn key_of_list(&mut self, code: KeyCode) -> Next {
        match code {
            KeyCode::Char('q') => return Next::End,
            // What was asked for last is taken back first.
            KeyCode::Esc if self.list.filter.is_empty() => return Next::End,
            KeyCode::Esc => self.list.filter.clear(),
            KeyCode::Char('?' | 'h') => self.mode = Mode::Help,
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Char('c') => self.list.sort_by(Sort::Sockets),
            KeyCode::Char('r') => self.list.sort_by(Sort::Rate),
            KeyCode::Char('u') => self.list.sort_by(Sort::Unconnected),
            KeyCode::Char('n') => self.list.sort_by(Sort::Netns),
            KeyCode::Char('b') => self.list.sort_by(Sort::Backend),
            KeyCode::Down | KeyCode::Char('j') => self.scroll(1),
            KeyCode::Up | KeyCode::Char('k') => self.scroll(-1),
            KeyCode::PageDown | KeyCode::Char(' ') => self.scroll(10),
            KeyCode::PageUp => self.scroll(-10),
            KeyCode::Home => self.scroll(isize::MIN),
            KeyCode::End => self.scroll(isize::MAX),
            _ => {}
        }
        Next::Stay
    }
}

/// The page that explains everything, as much of it as there is room for.
pub(super) fn draw_help(area: Rect, buffer: &mut Buffer) {
    Clear.render(area, buffer);
    for (row, (term, text)) in area.rows().zip(HELP) {
        let line = match term {
            "" if text.starts_with(char::is_uppercase) => Line::styled(format!(" {text}"), heading()),
            _ => Line::raw(format!("   {term:<14}  {text}")),
        };
        line.render(row, buffer);
    }
}
