//! A second witness of every socket, see `progs/witness.bpf.c`.

use std::io;
use std::os::fd::BorrowedFd;

use libbpf_rs::{Link, Map, MapCore as _, MapFlags, Object};

use skreap_bpf::Error;
use skreap_bpf::plumbing::{attach_program, io_error, load_error, map, open};

use super::skel::{WITNESS_OBJECT, witness_types};

const OPEN: &str = "witness_open";
const COUNTS: &str = "witness_counts";
const LOST: &str = "witness_lost";
/// `LOST_MAX` of `witness.bpf.c`.
const LOST_MAX: u64 = 64;
/// The release first: no creation is recorded whose release would be missed.
const PROGRAMS: [&str; 6] = [
    "witness_release",
    "witness_make",
    "witness_connect4",
    "witness_connect6",
    "witness_sendmsg4",
    "witness_sendmsg6",
];

/// Records the creation and release of every socket of a cgroup, with hooks of its own. Dropping it
/// detaches it.
#[derive(Debug)]
pub struct Witness {
    _links: Vec<Link>,
    object: Object,
}

/// Counters of a [`Witness`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WitnessCounts {
    /// Sockets created.
    pub made: u64,
    /// Sockets created at the address of one whose release was not seen.
    pub remade: u64,
    /// Sockets created for which there was no room.
    pub unseen: u64,
    /// Sockets released whose creation was seen.
    pub released: u64,
    /// Sockets released whose creation was not seen: usually the server sides of TCP connections.
    pub accepted: u64,
    /// Of these, UDP sockets, which cannot come from an accept.
    pub strange: u64,
    /// The cookie of the last of these.
    pub stranger: u64,
}

/// A socket that was created and not released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Witnessed {
    /// Its cookie; 0 if it has neither connected nor sent to an address.
    pub cookie: u64,
    /// `CLOCK_MONOTONIC` at its creation, nanoseconds.
    pub ns: u64,
    /// The process that created it.
    pub tgid: u32,
    /// `AF_*`
    pub family: u16,
    /// `IPPROTO_*`
    pub protocol: u16,
}

impl Witness {
    /// Loads it, and attaches it to the cgroup.
    ///
    /// # Errors
    /// As [`LoadBalancer::attach`](super::LoadBalancer::attach).
    pub fn attach(cgroup: BorrowedFd<'_>) -> Result<Self, Error> {
        let object = open(WITNESS_OBJECT)?.load().map_err(load_error)?;
        let links = PROGRAMS.iter().map(|name| attach_program(&object, name, 0, cgroup));
        let links = links.collect::<Result<_, _>>()?;
        Ok(Self { _links: links, object })
    }

    /// The counters.
    ///
    /// # Errors
    /// [`Error::Object`] if the map cannot be read.
    pub fn counts(&self) -> Result<WitnessCounts, Error> {
        let n: witness_types::witness_counts =
            self.read(COUNTS, &0_u32.to_ne_bytes())?.ok_or_else(|| missing(COUNTS))?;
        let witness_types::witness_counts { made, remade, unseen, released, accepted, strange, stranger } = n;
        Ok(WitnessCounts { made, remade, unseen, released, accepted, strange, stranger })
    }

    /// The sockets that were created and not released, in no order, without those whose address
    /// another socket has reused.
    ///
    /// # Errors
    /// [`Error::Object`] if the map cannot be read.
    pub fn open(&self) -> Result<Vec<Witnessed>, Error> {
        let mut all = Vec::new();
        for key in self.map(OPEN)?.keys() {
            // One that is gone meanwhile was released.
            all.extend(self.read::<witness_types::witnessed>(OPEN, &key)?.map(Witnessed::from));
        }
        Ok(all)
    }

    /// The first sockets whose address another socket has reused, 64 at most, each with
    /// `CLOCK_MONOTONIC` of that moment, nanoseconds.
    ///
    /// # Errors
    /// [`Error::Object`] if the map cannot be read.
    pub fn lost(&self) -> Result<Vec<(Witnessed, u64)>, Error> {
        let count = self.counts()?.remade.min(LOST_MAX) as u32;
        let lost = |i: u32| {
            let lost: witness_types::witness_lost =
                self.read(LOST, &i.to_ne_bytes())?.ok_or_else(|| missing(LOST))?;
            Ok((lost.socket.into(), lost.ns))
        };
        (0..count).map(lost).collect()
    }

    /// `T` is a struct of integers.
    fn read<T>(&self, map: &str, key: &[u8]) -> Result<Option<T>, Error> {
        let value = self.map(map)?.lookup(key, MapFlags::ANY).map_err(|e| object_error(map, io_error(e)))?;
        let value = value.filter(|v| v.len() >= size_of::<T>());
        // SAFETY: the value is as long as the struct, which is made of integers.
        Ok(value.map(|v| unsafe { v.as_ptr().cast::<T>().read_unaligned() }))
    }

    fn map(&self, name: &str) -> Result<Map<'_>, Error> {
        map(&self.object, name).map_err(|e| object_error(name, e))
    }
}

impl From<witness_types::witnessed> for Witnessed {
    fn from(w: witness_types::witnessed) -> Self {
        let witness_types::witnessed { cookie, ns, tgid, family, protocol } = w;
        Self { cookie, ns, tgid, family, protocol }
    }
}

fn missing(map: &str) -> Error {
    object_error(map, io::ErrorKind::NotFound.into())
}

fn object_error(map: &str, source: io::Error) -> Error {
    Error::Object { what: format!("map {map}"), source }
}
