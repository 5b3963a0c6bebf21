//! Lines with a limit on their length: one that is too long is skipped, not stored.

use std::io::{self, Read};

/// Longest accepted line, without its newline: room for
/// [`MAX_BACKENDS`](skreap_core::MAX_BACKENDS).
pub const MAX_LINE_BYTES: usize = 1024 * 1024;

/// One line, numbered from 1.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A whole line.
    Whole(u64, Vec<u8>),
    /// A line of more bytes than there may be; its text is not kept.
    TooLong(u64),
}

/// Cuts a stream of bytes into lines.
#[derive(Debug)]
pub struct Lines {
    partial: Vec<u8>,
    too_long: bool,
    number: u64,
    longest: usize,
}

impl Default for Lines {
    fn default() -> Self {
        Self::up_to(MAX_LINE_BYTES)
    }
}

impl Lines {
    /// Lines of at most this many bytes, without the newline.
    pub fn up_to(longest: usize) -> Self {
        Self { partial: Vec::new(), too_long: false, number: 0, longest }
    }

    /// Reads once and hands over the lines that are complete by then; false at the end of the
    /// input.
    ///
    /// # Errors
    /// The error of the read.
    pub fn read(&mut self, input: &mut impl Read, mut each: impl FnMut(Line)) -> io::Result<bool> {
        let mut buffer = [0; 16 * 1024];
        let n = loop {
            match input.read(&mut buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        let Some(read) = buffer.get(..n).filter(|read| !read.is_empty()) else {
            // A last line without a newline counts.
            if !self.partial.is_empty() || self.too_long {
                self.complete(&mut each);
            }
            return Ok(false);
        };
        for piece in read.split_inclusive(|&b| b == b'\n') {
            let (text, ends) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            if self.partial.len() + text.len() > self.longest {
                self.too_long = true;
                self.partial.clear();
            } else if !self.too_long {
                self.partial.extend_from_slice(text);
            }
            if ends {
                self.complete(&mut each);
            }
        }
        Ok(true)
    }

    fn complete(&mut self, each: &mut impl FnMut(Line)) {
        self.number += 1;
        let text = std::mem::take(&mut self.partial);
        each(if std::mem::take(&mut self.too_long) {
            Line::TooLong(self.number)
        } else {
            Line::Whole(self.number, text)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &[u8]) -> Vec<Line> {
        let (mut lines, mut found, mut input) = (Lines::default(), Vec::new(), input);
        while lines.read(&mut input, |line| found.push(line)).unwrap() {}
        found
    }

    fn whole(number: u64, text: &[u8]) -> Line {
        Line::Whole(number, text.to_vec())
    }

    #[test]
    fn every_line_is_numbered_and_the_last_needs_no_newline() {
        assert_eq!(lines(b"a\n\nb"), [whole(1, b"a"), whole(2, b""), whole(3, b"b")]);
        assert_eq!(lines(b""), []);
    }

    #[test]
    fn a_line_too_long_is_one_line_and_the_next_is_whole() {
        for extra in [1, 2, 1 << 20] {
            let input = [vec![b'x'; MAX_LINE_BYTES + extra], b"\nnext\n".to_vec()].concat();
            assert_eq!(lines(&input), [Line::TooLong(1), whole(2, b"next")]);
        }
        let longest = vec![b'x'; MAX_LINE_BYTES];
        assert_eq!(lines(&longest), [whole(1, &longest)]);
    }

    #[test]
    fn a_line_too_long_at_the_end_is_not_dropped() {
        assert_eq!(lines(&vec![b'x'; MAX_LINE_BYTES + 1]), [Line::TooLong(1)]);
    }
}
