//! Access for fuzzing (`tests/fuzz`) only.

use crate::iterator::Records;
use crate::scan;
use crate::{ScanHit, Victim};

/// A victim as the kernel wrote it.
#[must_use]
pub fn victim(bytes: &[u8; size_of::<Victim>()]) -> Victim {
    bytemuck::pod_read_unaligned(bytes)
}

/// Bytes of one record that an iterator writes: a victim, an `i32` and padding.
pub const HIT_BYTES: usize = scan::HIT_BYTES;

/// Parses an iterator's output that arrives in reads of these many bytes; `None` if it ends within
/// a record.
#[must_use]
pub fn hits(mut output: &[u8], mut reads: impl Iterator<Item = usize>) -> Option<Vec<ScanHit>> {
    let (mut records, mut found) = (Records::new(HIT_BYTES), Vec::new());
    while !output.is_empty() {
        let space = records.space();
        let n = reads.next().unwrap_or(usize::MAX).clamp(1, output.len()).min(space.len());
        let (read, rest) = output.split_at(n);
        space[..n].copy_from_slice(read);
        output = rest;
        records.take(n, |bytes| found.extend(scan::read_hit(bytes)));
    }
    records.end().ok().map(|()| found)
}
