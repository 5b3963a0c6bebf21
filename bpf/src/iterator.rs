//! Reading what iterators put out, on any thread.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use crate::fault::{self, Point};

/// Bytes asked for at a time. The kernel gathers output in a buffer of eight pages.
const READ: usize = 32 * 1024;

/// Cuts the output of iterators into records of one size, wherever a read ends.
#[derive(Debug)]
pub(crate) struct Records {
    buffer: Vec<u8>,
    size: usize,
    /// Bytes of a record that the last read has cut.
    rest: usize,
}

impl Records {
    pub(crate) fn new(size: usize) -> Self {
        Self { buffer: vec![0; READ], size, rest: 0 }
    }

    /// Where the next read goes; never empty.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        self.buffer.get_mut(self.rest..).unwrap_or_default()
    }

    /// Shows the records that are whole now that `n` bytes more were read.
    pub(crate) fn take(&mut self, n: usize, each: impl FnMut(&[u8])) {
        let filled = self.rest + n;
        let whole = filled / self.size * self.size;
        self.buffer.get(..whole).unwrap_or_default().chunks_exact(self.size).for_each(each);
        self.buffer.copy_within(whole..filled, 0);
        self.rest = filled - whole;
    }

    /// Fails if the output has ended within a record.
    pub(crate) fn end(&self) -> io::Result<()> {
        if self.rest == 0 { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// One pass of the iterator that is attached by `link`. An iterator over sockets shows those of the netns that the
/// calling thread is in now.
///
/// # Errors
/// The kernel's errno; the pass then ended early.
pub(crate) fn pass(
    link: BorrowedFd<'_>,
    [open, read]: [Point; 2],
    records: &mut Records,
    mut each: impl FnMut(&[u8]),
) -> io::Result<()> {
    fault::at(open)?;
    // SAFETY: the call takes no pointers.
    let fd = unsafe { libbpf_sys::bpf_iter_create(link.as_raw_fd()) };
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(-fd));
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    let mut pass = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    records.rest = 0;
    loop {
        let n = match fault::at(read).and_then(|()| pass.read(records.space())) {
            Ok(0) => return records.end(),
            Ok(n) => n,
            // EAGAIN: the kernel takes a break after a million objects without output (bpf_seq_read).
            Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => continue,
            Err(e) => return Err(e),
        };
        records.take(n, &mut each);
    }
}
