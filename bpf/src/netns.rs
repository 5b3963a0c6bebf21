//! Every network namespace there is, from the kernel's own list.

use std::io;
use std::os::fd::AsFd as _;

use libbpf_rs::Object;

use crate::Error;
use crate::error::load_error;
use crate::fault::{self, Point};
use crate::mapping::Mapping;
use crate::object::{self, failure};
use crate::prog::run;
use crate::skel::{NETNS_OBJECT, netns_types};

const PROGRAM: &str = "skreap_netns";
const ENTRIES: &str = ".bss.entries";
/// More parts than any machine has netns for.
const PARTS_MAX: u32 = 1 << 12;

/// A netns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetnsEntry {
    /// Netns cookie (`SO_NETNS_COOKIE`).
    pub cookie: u64,
    /// Inode number in nsfs.
    pub inum: u32,
    /// The kernel's reference count: processes, names, descriptors, and sockets of programs. At
    /// least 1.
    pub references: u32,
}

/// Lists every netns of the kernel, whatever keeps it alive, also those without a process or a
/// name.
#[derive(Debug)]
pub struct NetnsList {
    object: Object,
    entries: Mapping,
}

impl NetnsList {
    /// Loads the program.
    ///
    /// # Errors
    /// As [`Index::load`](crate::Index::load).
    pub fn load() -> Result<Self, Error> {
        let object = object::open(NETNS_OBJECT)?.load().map_err(load_error)?;
        let entries = object::memory(&object, ENTRIES, size_of::<netns_types::bss_entries>())?;
        Ok(Self { object, entries })
    }

    /// Every netns that exists from the beginning of the call to its end, and possibly some that
    /// come or go meanwhile. A few nanoseconds for each, and again for every 4096.
    ///
    /// # Errors
    /// [`Error::Object`] if the list cannot be read to its end.
    pub fn read(&mut self) -> Result<Vec<NetnsEntry>, Error> {
        self.read_in_parts(1)
    }

    /// As [`read`](Self::read), in at least this many calls. `read` itself does so where there are
    /// more than 4096 netns.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_in_parts(&mut self, mut parts: u32) -> Result<Vec<NetnsEntry>, Error> {
        fault::at(Point::NetnsList).map_err(failure("list of all netns"))?;
        while (1..=PARTS_MAX).contains(&parts) {
            let mut all = Vec::new();
            let mut whole = true;
            for part in 0..parts {
                whole = whole && self.read_part(parts, part, &mut all)?;
            }
            if whole {
                return Ok(all);
            }
            parts *= 2;
        }
        Err(failure("list of all netns")(io::ErrorKind::QuotaExceeded.into()))
    }

    /// Those with `cookie % parts == part`; false if there are too many.
    fn read_part(&mut self, parts: u32, part: u32, all: &mut Vec<NetnsEntry>) -> Result<bool, Error> {
        let mut ctx = netns_types::netns_list { parts, part, ..netns_types::netns_list::default() };
        let mut entries: Vec<netns_types::netns_entry> = Vec::new();
        object::program(&self.object, PROGRAM)
            .and_then(|program| run(program.as_fd(), &mut ctx))
            .and_then(|()| self.entries.copy_to(0, ctx.listed as usize, &mut entries))
            .map_err(failure(format!("program {PROGRAM}")))?;
        all.extend(entries.iter().map(|e| NetnsEntry {
            cookie: e.cookie,
            inum: e.inum,
            references: e.references,
        }));
        Ok(ctx.whole != 0)
    }
}
