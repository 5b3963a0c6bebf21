//! The kernel's tables of TCP and UDP sockets, read without any lock.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd as _;

use libbpf_rs::Object;
use skreap_core::{Backend, Protocol};

use crate::fault::{self, Point};
use crate::filter::Filter;
use crate::mapping::Mapping;
use crate::object::{self, failure};
use crate::prog::run;
use crate::skel::{TABLES_OBJECT, tables_types as types};
use crate::{Error, Victim, address};

const FIND: &str = "skreap_tables_find";
const READ: &str = "skreap_tables_read";
/// More parts than a bucket needs, or than any machine has netns for.
const PARTS_MAX: u32 = 1 << 12;
/// Netns that may go while a table is read through them, one after the other.
const WAYS_MAX: usize = 64;

/// Which sockets are asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Question {
    /// Connected to this backend; `None`: to any.
    pub backend: Option<Backend>,
    /// Also sockets that have no peer (UDP only: TCP sockets without a peer are in no table). For no backend only.
    pub peerless: bool,
    /// Also sockets outside the cgroup.
    pub outside: bool,
    /// Also sockets that their owner has closed, whose connection the kernel finishes.
    pub closed: bool,
}

/// A socket in a table.
#[derive(Clone, Copy, Debug)]
pub struct TableSocket {
    /// Its name. The cookie is 0 if nobody has asked for it yet.
    pub victim: Victim,
    flags: u32,
}

impl TableSocket {
    /// The kernel has opened it for itself (MPTCP subflow, NFS, CIFS). It runs no `cgroup/sock_release`, so the index
    /// does not know it.
    #[must_use]
    pub fn is_kernel(&self) -> bool {
        self.has(types::tables_flags::TABLES_KERNEL)
    }

    /// A listener has made it: the server's side of a TCP connection.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.has(types::tables_flags::TABLES_ACCEPTED)
    }

    /// Its owner has closed it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.has(types::tables_flags::TABLES_CLOSED)
    }

    /// It belongs to another cgroup.
    #[must_use]
    pub fn is_outside(&self) -> bool {
        self.has(types::tables_flags::TABLES_OUTSIDE)
    }

    /// A client of the cgroup: what the index is to know.
    #[must_use]
    pub fn is_client(&self) -> bool {
        self.flags == 0
    }

    fn has(&self, flag: types::tables_flags) -> bool {
        self.flags & flag.0 != 0
    }
}

/// Reads the kernel's tables of TCP and UDP sockets, of all netns at once: no netns is entered, no socket's lock waited
/// for, and the result is exact: it has each socket that was in its place from the beginning to the end.
///
/// Not in the tables are UDP sockets without a local port, and TCP sockets in CLOSE.
#[derive(Debug)]
pub struct Tables {
    object: Object,
    sockets: Mapping,
    tables: Mapping,
    cgroup: u64,
    filtered: bool,
}

impl Tables {
    /// Loads the programs. `cgroup` is the id (inode number of the directory) of the cgroup whose sockets are asked for;
    /// `None`: the root, in which every socket is.
    ///
    /// # Errors
    /// As [`Index::load`](crate::Index::load).
    pub fn load(cgroup: Option<u64>) -> Result<Self, Error> {
        let object = object::load(object::open(TABLES_OBJECT)?, Point::TablesLoad)?;
        let sockets = object::memory(&object, ".bss.sockets", size_of::<types::bss_sockets>())?;
        let tables = object::memory(&object, ".bss.tables", size_of::<types::bss_tables>())?;
        Ok(Self { object, sockets, tables, cgroup: cgroup.unwrap_or(0), filtered: false })
    }

    /// The sockets of a protocol that the question asks for. Takes a few nanoseconds for each socket of the machine and for
    /// each bucket of its tables.
    ///
    /// # Errors
    /// [`Error::Object`] with the kernel's errno: `EOPNOTSUPP` if this kernel keeps its sockets in another way, `EBUSY`
    /// if a part of a table changed so fast that it could not be read.
    pub fn read(&mut self, protocol: Protocol, question: &Question) -> Result<Vec<TableSocket>, Error> {
        let error = |source| failure("tables of sockets")(source);
        let mut found = Vec::new();
        for (table, netns) in self.ways(protocol).map_err(error)? {
            self.read_by_any_way(table, netns, protocol, question, &mut found).map_err(error)?;
        }
        Ok(found)
    }

    /// The sockets of any backend to which the filter applies, of both protocols.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn select(&mut self, filter: &Filter) -> Result<Vec<TableSocket>, Error> {
        filter.write_to(&self.object).map_err(failure("filter of the tables of sockets"))?;
        let mut found = Vec::new();
        self.filtered = true;
        let read = Protocol::ALL.iter().try_for_each(|protocol| {
            found.append(&mut self.read(*protocol, &Question::default())?);
            Ok(())
        });
        self.filtered = false;
        read.map(|()| found)
    }

    /// Reads a table through the netns, or through another that uses it if that one goes meanwhile.
    fn read_by_any_way(
        &mut self,
        table: u64,
        mut netns: u64,
        protocol: Protocol,
        question: &Question,
        found: &mut Vec<TableSocket>,
    ) -> io::Result<()> {
        let before = found.len();
        for _ in 0..WAYS_MAX {
            match self.read_table(netns, protocol, question, found) {
                Err(e) if e.raw_os_error() == Some(libc::ESTALE) => {}
                read => return read,
            }
            found.truncate(before);
            match self.ways(protocol)?.get(&table) {
                Some(&other) => netns = other,
                // It was the netns's own, and is gone with it.
                None => return Ok(()),
            }
        }
        Err(io::Error::from_raw_os_error(libc::EBUSY))
    }

    /// The tables by their numbers, and for each a netns that uses it: the one with the smallest cookie. That of the first
    /// netns, which never goes, is smaller than all others, so the table that netns share is always within reach.
    fn ways(&mut self, protocol: Protocol) -> io::Result<BTreeMap<u64, u64>> {
        let mut parts = 1;
        while parts <= PARTS_MAX {
            let mut tables: BTreeMap<u64, u64> = BTreeMap::new();
            let mut whole = true;
            for part in 0..parts {
                let mut request = types::tables_request { parts, part, ..types::tables_request::default() };
                self.run(FIND, &mut request)?;
                whole &= request.done != 0;
                let mut listed: Vec<types::tables_netns> = Vec::new();
                self.tables.copy_to(0, request.listed as usize, &mut listed)?;
                for one in &listed {
                    let table = match protocol {
                        Protocol::Tcp => one.tcp,
                        Protocol::Udp => one.udp,
                    };
                    tables
                        .entry(table)
                        .and_modify(|netns| *netns = one.netns.min(*netns))
                        .or_insert(one.netns);
                }
            }
            if whole {
                return Ok(tables);
            }
            parts *= 2;
        }
        Err(io::ErrorKind::QuotaExceeded.into())
    }

    fn read_table(
        &mut self,
        netns: u64,
        protocol: Protocol,
        question: &Question,
        found: &mut Vec<TableSocket>,
    ) -> io::Result<()> {
        let mut bucket = 0;
        loop {
            let mut request = self.request(netns, protocol, question);
            request.bucket = bucket;
            self.run(READ, &mut request)?;
            self.take(&request, found)?;
            if request.full != 0 {
                self.read_bucket(netns, protocol, question, request.bucket, found)?;
                request.bucket += 1;
            } else if request.done != 0 {
                return Ok(());
            }
            bucket = request.bucket;
        }
    }

    /// A bucket that is too long for one call.
    fn read_bucket(
        &mut self,
        netns: u64,
        protocol: Protocol,
        question: &Question,
        bucket: u32,
        found: &mut Vec<TableSocket>,
    ) -> io::Result<()> {
        let before = found.len();
        let mut parts = 2;
        while parts <= PARTS_MAX {
            found.truncate(before);
            let mut whole = true;
            for part in 0..parts {
                let request = self.request(netns, protocol, question);
                let mut request = types::tables_request { bucket, parts, part, only: 1, ..request };
                self.run(READ, &mut request)?;
                whole &= request.full == 0;
                self.take(&request, found)?;
            }
            if whole {
                return Ok(());
            }
            parts *= 2;
        }
        Err(io::ErrorKind::QuotaExceeded.into())
    }

    fn request(&self, netns: u64, protocol: Protocol, question: &Question) -> types::tables_request {
        let peer = types::peer { protocol: protocol.number(), ..types::peer::default() };
        let peer = match question.backend {
            None => peer,
            Some(backend) => {
                let (family, daddr) = address::words(backend.addr());
                types::peer { daddr, dport: backend.port().to_be(), family, ..peer }
            }
        };
        let mut hide = 0;
        if !question.outside {
            hide |= types::tables_flags::TABLES_OUTSIDE.0;
        }
        if !question.closed {
            hide |= types::tables_flags::TABLES_CLOSED.0;
        }
        types::tables_request {
            peer,
            hide,
            cgroup: self.cgroup,
            netns,
            peerless: question.peerless.into(),
            filtered: self.filtered.into(),
            parts: 1,
            ..types::tables_request::default()
        }
    }

    fn take(&self, request: &types::tables_request, found: &mut Vec<TableSocket>) -> io::Result<()> {
        if request.restless != 0 {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        let mut listed: Vec<types::tables_socket> = Vec::new();
        self.sockets.copy_to(0, request.listed as usize, &mut listed)?;
        found.extend(
            listed
                .iter()
                .map(|socket| TableSocket { victim: Victim::from_twin(socket.victim), flags: socket.flags }),
        );
        Ok(())
    }

    fn run(&self, name: &str, request: &mut types::tables_request) -> io::Result<()> {
        fault::at(Point::TablesRead)?;
        run(object::program(&self.object, name)?.as_fd(), request)
    }
}
