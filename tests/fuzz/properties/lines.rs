//! Cutting a stream into lines: the reads may end anywhere, the lines are the same, and none is lost.

use std::io::{self, Read};

use skreap::fuzz::{Line, Lines};

/// See the module. The first bytes are the length of lines and of each read.
pub fn holds(data: &[u8]) {
    let (steering, text) = super::head(data);
    let (longest, reads) = steering.split_first().map_or((16, steering), |(&n, rest)| (usize::from(n), rest));

    let (mut lines, mut found) = (Lines::up_to(longest), Vec::new());
    let mut input = Pieces { text, sizes: reads.iter().copied().cycle(), interrupted: false };
    while lines.read(&mut input, |line| found.push(line)).unwrap() {}

    let mut expected: Vec<&[u8]> = text.split(|&b| b == b'\n').collect();
    // What follows the last newline is a line only if there is something.
    if expected.last().is_some_and(|last| last.is_empty()) {
        expected.pop();
    }
    let expected: Vec<Line> = expected
        .into_iter()
        .zip(1..)
        .map(|(line, number)| match line.len() <= longest {
            true => Line::Whole(number, line.to_vec()),
            false => Line::TooLong(number),
        })
        .collect();
    assert_eq!(found, expected);
}

/// Reads of given sizes; a size of 0 is a read that a signal interrupts, and the one after it is not interrupted.
struct Pieces<'a, I> {
    text: &'a [u8],
    sizes: I,
    interrupted: bool,
}

impl<I: Iterator<Item = u8>> Read for Pieces<'_, I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = match self.sizes.next() {
            None => buffer.len(),
            Some(0) if !std::mem::replace(&mut self.interrupted, true) => {
                return Err(io::ErrorKind::Interrupted.into());
            }
            Some(n) => usize::from(n.max(1)),
        };
        self.interrupted = false;
        let (read, rest) = self.text.split_at(n.min(buffer.len()).min(self.text.len()));
        self.text = rest;
        buffer[..read.len()].copy_from_slice(read);
        Ok(read.len())
    }
}
