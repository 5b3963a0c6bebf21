//! What keys do.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::backends::Sort;
use super::view::{Mode, View};

/// What follows from a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Stay,
    End,
}

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
