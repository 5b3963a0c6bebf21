//! A BPF array map as memory of this process.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use bytemuck::{AnyBitPattern, NoUninit};

use crate::fault::{self, Point};

/// Writes values to the beginning of a `BPF_F_MMAPABLE` array map. Nobody may read it meanwhile.
pub(crate) fn write<T: NoUninit>(map: BorrowedFd<'_>, values: &[T]) -> io::Result<()> {
    let bytes: &[u8] = bytemuck::must_cast_slice(values);
    let mapping = Mapping::with(map, bytes.len(), libc::PROT_READ | libc::PROT_WRITE)?;
    // SAFETY: the fresh mapping has that many bytes, is writable, and overlaps nothing.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), mapping.address.as_ptr().cast(), bytes.len()) };
    Ok(())
}

/// A read-only shared mapping of a `BPF_F_MMAPABLE` array map.
#[derive(Debug)]
pub(crate) struct Mapping {
    address: NonNull<libc::c_void>,
    length: usize,
}

// SAFETY: the mapping is read through raw copies only, and unmapped once, by Drop.
unsafe impl Send for Mapping {}
// SAFETY: as above; there is no interior state in this process.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `length` bytes.
    pub(crate) fn new(map: BorrowedFd<'_>, length: usize) -> io::Result<Self> {
        Self::with(map, length, libc::PROT_READ)
    }

    fn with(map: BorrowedFd<'_>, length: usize, protection: libc::c_int) -> io::Result<Self> {
        fault::at(Point::MapMemory)?;
        // SAFETY: a fresh mapping at an address of the kernel's choice overlaps nothing.
        let address = unsafe {
            libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, map.as_raw_fd(), 0)
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let address = NonNull::new(address).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { address, length })
    }

    /// The `index`th `u32`, as it is now; whatever the programs wrote before it is seen, too. `None` beyond the end.
    pub(crate) fn word(&self, index: usize) -> Option<u32> {
        let end = index.checked_add(1)?.checked_mul(size_of::<u32>())?;
        if end > self.length {
            return None;
        }
        // SAFETY: within the mapping, which is aligned to pages, and lives as long as the reference. Others write it with
        // atomic instructions only, and it is read only, which this load respects.
        let word = unsafe { AtomicU32::from_ptr(self.address.as_ptr().cast::<u32>().add(index)) };
        Some(word.load(Ordering::Acquire))
    }

    /// Appends `count` values of `T` that start at index `first` to `out`.
    pub(crate) fn copy_to<T: AnyBitPattern>(
        &self,
        first: usize,
        count: usize,
        out: &mut Vec<T>,
    ) -> io::Result<()> {
        let end = first
            .checked_add(count)
            .and_then(|n| n.checked_mul(size_of::<T>()))
            .filter(|&end| end <= self.length)
            .ok_or(io::ErrorKind::InvalidInput)?;
        debug_assert!(end <= self.length);
        out.reserve(count);
        // SAFETY: the source range was checked against the mapping, the destination was reserved,
        // and any bytes are a value of T.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.address.as_ptr().cast::<T>().add(first),
                out.as_mut_ptr().add(out.len()),
                count,
            );
            out.set_len(out.len() + count);
        }
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: address and length are those of the mapping made in new(), and nothing refers to
        // it.
        unsafe { libc::munmap(self.address.as_ptr(), self.length) };
    }
}
