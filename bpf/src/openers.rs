//! Which processes have sockets open.

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
    /// `SO_MARK` of the socket.
    pub mark: u32,
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

    /// The descriptors of these sockets with their cookies, in the order of the cookies, in all processes of this PID
    /// namespace and those below it. A socket that is in none of them is left out.
    ///
    /// # Errors
    /// [`Error::Object`] with the kernel's errno.
    pub fn find(&mut self, cookies: &[u64]) -> Result<Vec<(u64, Opener)>, Error> {
        let mut found = Vec::with_capacity(cookies.len());
        for part in cookies.chunks(PASS) {
            let passed = self.want(part).and_then(|()| self.pass(&mut found));
            let forgotten = object::delete_all(&self.wanted, part).map_err(failure(WANTED));
            passed.and(forgotten)?;
        }
        // Stable: those of one socket stay in the order of the pass.
        found.sort_by_key(|(cookie, _)| *cookie);
        Ok(found)
    }

    fn want(&self, cookies: &[u64]) -> Result<(), Error> {
        let (keys, values) = (bytemuck::cast_slice(cookies), vec![1; cookies.len()]);
        let count = cookies.len() as u32;
        let updated = self.wanted.update_batch(keys, &values, count, MapFlags::ANY, MapFlags::ANY);
        updated.map_err(io_error).map_err(failure(WANTED))
    }

    fn pass(&self, found: &mut Vec<(u64, Opener)>) -> Result<(), Error> {
        let mut records = Records::new(size_of::<openers_types::opener>());
        iterator::pass(self.link.as_fd(), [Point::ScanOpen, Point::ScanRead], &mut records, |bytes| {
            let Some(one) = object::prefix::<openers_types::opener>(bytes) else { return };
            let (process, thread, fd) = (one.process, one.thread, one.fd);
            // A process of another PID namespace has no number here.
            if thread != 0 {
                let opener = Opener { process, thread, fd, bound: one.bound != 0, mark: one.mark };
                found.push((one.cookie, opener));
            }
        })
        .map_err(failure("iterator over open files"))
    }
}
