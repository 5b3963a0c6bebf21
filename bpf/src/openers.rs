//! Which processes have sockets open.

use std::collections::HashMap;
use std::os::fd::AsFd as _;

use libbpf_rs::{Link, MapCore as _, MapFlags, MapHandle, Object};

use crate::Error;
use crate::error::io_error;
use crate::fault::Point;
use crate::iterator::{self, Records};
use crate::object::{self, failure};
use crate::skel::{OPENERS_OBJECT, openers_types};

const PROGRAM: &str = "skreap_openers";
const WANTED: &str = "wanted";
/// Sockets that are looked for in one pass (`WANTED_MAX` in openers.bpf.c).
const PASS: usize = 1 << 17;

/// A descriptor of a socket. Numbers are those of the PID namespace of the thread that looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Opener {
    /// The process.
    pub process: u32,
    /// The thread whose table of descriptors it is in: another one than the process if that thread has its own.
    pub thread: u32,
    /// The descriptor.
    pub fd: u32,
    /// A program has chosen the local address of the socket (bind(2)), and not the kernel.
    pub bound: bool,
}

/// Finds the processes that have sockets open. Takes no socket's lock.
#[derive(Debug)]
pub struct Openers {
    wanted: MapHandle,
    link: Link,
    _object: Object,
}

impl Openers {
    /// Loads and attaches the program.
    ///
    /// # Errors
    /// As [`Index::load`](crate::Index::load).
    pub fn load() -> Result<Self, Error> {
        let object = object::load(object::open(OPENERS_OBJECT)?, Point::ScanLoad)?;
        let wanted = object::map(&object, WANTED).and_then(|map| MapHandle::try_from(&map).map_err(io_error));
        let wanted = wanted.map_err(failure(WANTED))?;
        let link = object::attach_iterator(&object, PROGRAM, Point::ScanAttach)?;
        Ok(Self { wanted, link, _object: object })
    }

    /// The descriptors of these sockets, by cookie, in all processes of this PID namespace and those below it. A socket
    /// that is in none of them is left out.
    ///
    /// # Errors
    /// [`Error::Object`] with the kernel's errno.
    pub fn find(&mut self, cookies: &[u64]) -> Result<HashMap<u64, Vec<Opener>>, Error> {
        let mut found: HashMap<u64, Vec<Opener>> = HashMap::with_capacity(cookies.len());
        for part in cookies.chunks(PASS) {
            let result = self.want(part).and_then(|()| self.pass(&mut found));
            let forgotten = self.forget(part);
            result.and(forgotten)?;
        }
        Ok(found)
    }

    fn want(&self, cookies: &[u64]) -> Result<(), Error> {
        let (keys, values) = (bytemuck::cast_slice(cookies), vec![1; cookies.len()]);
        let count = cookies.len() as u32;
        let updated = self.wanted.update_batch(keys, &values, count, MapFlags::ANY, MapFlags::ANY);
        updated.map_err(io_error).map_err(failure(WANTED))
    }

    fn forget(&self, cookies: &[u64]) -> Result<(), Error> {
        for cookie in cookies {
            match self.wanted.delete(&cookie.to_ne_bytes()).map_err(io_error) {
                // Named twice, or never put there.
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
                deleted => deleted.map_err(failure(WANTED))?,
            }
        }
        Ok(())
    }

    fn pass(&self, found: &mut HashMap<u64, Vec<Opener>>) -> Result<(), Error> {
        let mut records = Records::new(size_of::<openers_types::opener>());
        iterator::pass(self.link.as_fd(), [Point::ScanOpen, Point::ScanRead], &mut records, |bytes| {
            let Some(one) = object::prefix::<openers_types::opener>(bytes) else { return };
            let opener =
                Opener { process: one.process, thread: one.thread, fd: one.fd, bound: one.bound != 0 };
            // A process of another PID namespace has no number here.
            if one.thread != 0 {
                found.entry(one.cookie).or_default().push(opener);
            }
        })
        .map_err(failure("iterator over open files"))
    }
}
