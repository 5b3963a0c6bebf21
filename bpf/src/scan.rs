//! The full scan: `bpf_sock_destroy` from a socket iterator.

use std::ffi::OsStr;
use std::io::{self, Read as _};

use libbpf_rs::{Iter, IterOpts, MapCore as _, MapFlags, Object, ObjectBuilder};

use crate::error::{io_error, load_error};
use crate::skel::{SCAN_OBJECT, scan_types};
use crate::{Error, log};

/// Loaded iterators. A pass covers the netns that the calling thread is in.
#[derive(Debug)]
pub struct Scan {
    object: Object,
}

impl Scan {
    /// Loads the iterators.
    ///
    /// # Errors
    /// [`Error::Unsupported`] before Linux 6.5, which brought `bpf_sock_destroy`; otherwise as
    /// [`Index::load`](crate::Index::load).
    pub fn load() -> Result<Self, Error> {
        log::install();
        drop(log::take_warnings());
        let open = ObjectBuilder::default().open_memory(SCAN_OBJECT).map_err(load_error)?;
        Ok(Self { object: open.load().map_err(load_error)? })
    }

    /// Destroys the UDP socket with this cookie, in the netns of the calling thread; answers how many
    /// sockets had it.
    ///
    /// # Errors
    /// [`Error::Object`] if the pass fails, or with the errno of the destroy.
    pub fn destroy_udp(&self, cookie: u64) -> Result<u64, Error> {
        let error = |source| Error::Object { what: "iterator over UDP sockets".to_owned(), source };
        self.write(&scan_types::scan { cookie, ..scan_types::scan::default() }).map_err(error)?;
        let program = self.object.progs_mut().find(|p| p.name() == OsStr::new("skreap_scan_udp"));
        let link = program
            .ok_or_else(|| error(io::ErrorKind::NotFound.into()))?
            .attach_iter_with_opts(IterOpts::None)
            .map_err(|e| error(io_error(e)))?;
        let mut pass = Iter::new(&link).map_err(|e| error(io_error(e)))?;
        // The programs print nothing: reading is what makes the kernel go on.
        pass.read_to_end(&mut Vec::new()).map_err(error)?;
        let scan = self.read().map_err(error)?;
        match i32::try_from(scan.error) {
            Ok(errno @ ..0) => Err(error(io::Error::from_raw_os_error(-errno))),
            _ => Ok(scan.matched),
        }
    }

    fn state(&self) -> io::Result<libbpf_rs::Map<'_>> {
        let map = self.object.maps().find(|m| m.name().to_string_lossy().ends_with(".bss"));
        map.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn write(&self, scan: &scan_types::scan) -> io::Result<()> {
        // SAFETY: scan is made of 64-bit integers, without padding.
        let bytes = unsafe {
            std::slice::from_raw_parts(std::ptr::from_ref(scan).cast::<u8>(), size_of::<scan_types::scan>())
        };
        self.state()?.update(&0_u32.to_ne_bytes(), bytes, MapFlags::ANY).map_err(io_error)
    }

    fn read(&self) -> io::Result<scan_types::scan> {
        let value = self.state()?.lookup(&0_u32.to_ne_bytes(), MapFlags::ANY).map_err(io_error)?;
        let value = value.filter(|v| v.len() >= size_of::<scan_types::scan>());
        let value = value.ok_or(io::ErrorKind::UnexpectedEof)?;
        // SAFETY: the value is at least as long as the struct, which is made of integers.
        Ok(unsafe { value.as_ptr().cast::<scan_types::scan>().read_unaligned() })
    }
}
