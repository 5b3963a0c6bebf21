//! The full scan: `bpf_sock_destroy` from socket iterators.

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use libbpf_rs::{Link, MapCore as _, Object};
use skreap_core::{Protocol, Target};

use crate::fault::{self, Point};
use crate::filter::Filter;
use crate::iterator::{self, Records};
use crate::object::{self, failure};
use crate::skel::{SCAN_OBJECT, scan_types};
use crate::{Error, Relation, Victim, address};

const STATE: &str = ".bss of the scan";

/// Sums over the passes of one scan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScanCounts {
    /// Sockets the iterators showed, whoever their peer is.
    pub scanned: u64,
    /// Sockets that are connected to the target and may be touched.
    pub matched: u64,
    /// Destroyed.
    pub destroyed: u64,
    /// Not destroyed: closed meanwhile (`ENOENT`).
    pub gone: u64,
    /// Not destroyed: a state or kind of socket that cannot be (`EOPNOTSUPP`).
    pub unsupported: u64,
    /// Not destroyed for any other reason; each is among the hits.
    pub failed: u64,
    /// Connected to the target and left alone: opened by the kernel for itself.
    pub kernel: u64,
    /// Connected to the target and left alone: the server's side of a TCP connection.
    pub accepted: u64,
}

/// A socket that a pass tells of: in a dry run every match, otherwise those that could not be destroyed.
#[derive(Clone, Copy, Debug)]
pub struct ScanHit {
    /// The socket.
    pub victim: Victim,
    /// Positive errno of its destroy; 0 in a dry run.
    pub errno: i32,
}

/// Loaded iterators. A pass covers the netns that the calling thread is in.
///
/// Left alone are sockets of other cgroups, in-kernel sockets (such as the subflows of MPTCP), and sockets
/// their owner has closed already: none of these would be in the index either.
#[derive(Debug)]
pub struct Scan {
    // Fields are dropped in this order.
    tcp: Link,
    udp: Link,
    object: Object,
}

/// A pass that can be made on a thread that is given up if the pass does not come to its end.
#[derive(Debug)]
pub struct ScanPass(OwnedFd);

impl From<OwnedFd> for ScanPass {
    /// Of what [`Scan::iterator`] has returned.
    fn from(iterator: OwnedFd) -> Self {
        Self(iterator)
    }
}

impl ScanPass {
    /// As [`Scan::pass`], in the netns of the calling thread.
    ///
    /// # Errors
    /// As [`Scan::pass`].
    pub fn run(&self, hits: &mut Vec<ScanHit>) -> Result<(), Error> {
        run_pass(self.0.as_fd(), hits)
    }
}

fn run_pass(link: BorrowedFd<'_>, hits: &mut Vec<ScanHit>) -> Result<(), Error> {
    let points = [Point::ScanOpen, Point::ScanRead];
    iterator::pass(link, points, &mut Records::new(HIT_BYTES), |bytes| hits.extend(read_hit(bytes)))
        .map_err(failure("iterator over sockets"))
}

impl Scan {
    /// Loads the iterators. `cgroup` is the id (inode number of the directory) of the cgroup outside of which
    /// no socket is touched; `None`: all may be.
    ///
    /// # Errors
    /// [`Error::Unsupported`] before Linux 6.5, which brought `bpf_sock_destroy`; otherwise as
    /// [`Index::load`](crate::Index::load).
    pub fn load(cgroup: Option<u64>) -> Result<Self, Error> {
        let mut open = object::open(SCAN_OBJECT)?;
        let rodata = open.maps_mut().find(|m| m.name().to_string_lossy().ends_with(".rodata"));
        rodata
            .and_then(|mut map| {
                let id = cgroup.unwrap_or(0).to_ne_bytes();
                let at = offset_of!(scan_types::rodata, cfg_cgroup);
                map.initial_value_mut()?.get_mut(at..at + id.len())?.copy_from_slice(&id);
                Some(())
            })
            .ok_or_else(|| failure(".rodata of the scan")(io::ErrorKind::NotFound.into()))?;
        let object = object::load(open, Point::ScanLoad)?;
        let attach = |name| object::attach_iterator(&object, name, Point::ScanAttach);
        let (tcp, udp) = (attach("skreap_scan_tcp")?, attach("skreap_scan_udp")?);
        Ok(Self { tcp, udp, object })
    }

    /// Starts a scan: what the passes from now on look for. `states` has bit `1 << TCP_*` for each TCP state
    /// that is looked at; TIME_WAIT and NEW_SYN_RECV, which are no full sockets, must not be among them.
    ///
    /// # Errors
    /// [`Error::Object`] if the map cannot be written.
    pub fn begin(&mut self, target: &Target, states: u32) -> Result<(), Error> {
        let (family, daddr) = address::words(target.backend.addr());
        self.request(scan_types::scan_request {
            peer: scan_types::peer {
                daddr,
                dport: target.backend.port().to_be(),
                family,
                protocol: target.backend.protocol().number(),
            },
            states,
            dry_run: u32::from(target.dry_run),
            ..scan_types::scan_request::default()
        })
    }

    /// One pass over the sockets of this protocol in the netns of the calling thread, or with the cookie
    /// given; appends what it tells of to `hits`.
    ///
    /// # Errors
    /// [`Error::Object`] with the kernel's errno; the pass then ended early.
    pub fn pass(&mut self, protocol: Protocol, hits: &mut Vec<ScanHit>) -> Result<(), Error> {
        run_pass(self.link(protocol).as_fd(), hits)
    }

    /// A descriptor of the iterator over the sockets of this protocol, for a [`ScanPass`].
    ///
    /// # Errors
    /// [`Error::Object`] if there can be no more descriptors.
    pub fn iterator(&self, protocol: Protocol) -> Result<OwnedFd, Error> {
        let link = self.link(protocol).as_fd();
        link.try_clone_to_owned().map_err(failure("iterator over sockets"))
    }

    fn link(&self, protocol: Protocol) -> &Link {
        match protocol {
            Protocol::Tcp => &self.tcp,
            Protocol::Udp => &self.udp,
        }
    }

    /// Sockets that the passes have shown until now: grows while a pass on another thread gets on.
    ///
    /// # Errors
    /// [`Error::Object`] if the map cannot be read.
    pub fn scanned(&self) -> Result<u64, Error> {
        Ok(self.read().map_err(failure(STATE))?.n.scanned)
    }

    /// Passes that are still under way on other threads destroy nothing more.
    ///
    /// # Errors
    /// [`Error::Object`] if the map cannot be written.
    pub fn cancel(&mut self) -> Result<(), Error> {
        // No socket matches a request without a port or a cookie.
        self.request(scan_types::scan_request::default())
    }

    /// What came of all passes since [`begin`](Self::begin).
    ///
    /// # Errors
    /// [`Error::Object`] if the map cannot be read.
    pub fn counts(&self) -> Result<ScanCounts, Error> {
        let read = fault::at(Point::ScanCounts).and_then(|()| self.read());
        let n = read.map_err(failure(STATE))?.n;
        Ok(ScanCounts {
            scanned: n.scanned,
            matched: n.matched,
            destroyed: n.destroyed,
            gone: n.gone,
            unsupported: n.unsupported,
            failed: n.failed,
            kernel: n.kernel,
            accepted: n.accepted,
        })
    }

    /// Starts a scan for the sockets of a filter, as [`begin`](Self::begin) does for those of a target.
    ///
    /// # Errors
    /// [`Error::Object`] if a map cannot be written.
    pub fn begin_filtered(&mut self, filter: &Filter, states: u32, dry_run: bool) -> Result<(), Error> {
        filter.write_to(&self.object).map_err(failure("filter of the scan"))?;
        let dry_run = u32::from(dry_run);
        self.request(scan_types::scan_request {
            states,
            dry_run,
            filtered: 1,
            ..scan_types::scan_request::default()
        })
    }

    /// Destroys this UDP socket, in the netns of the calling thread, if it has the peer that the victim has, or like it
    /// none; answers how many there were: 0 or 1.
    ///
    /// # Errors
    /// [`Error::Object`] if the pass fails, or with the errno of the destroy.
    pub fn destroy_udp(&mut self, victim: &Victim) -> Result<u64, Error> {
        let mut peer = scan_types::peer::default();
        if victim.relation() == Relation::Connected {
            let (family, daddr) = address::words(victim.daddr().to_canonical());
            let protocol = Protocol::Udp.number();
            peer = scan_types::peer { daddr, dport: victim.dport().to_be(), family, protocol };
        }
        let cookie = victim.cookie();
        self.request(scan_types::scan_request { peer, cookie, ..scan_types::scan_request::default() })?;
        let mut hits = Vec::new();
        self.pass(Protocol::Udp, &mut hits)?;
        let counts = self.counts()?;
        let errno = match hits.first() {
            Some(hit) => hit.errno,
            None if counts.gone > 0 => libc::ENOENT,
            None if counts.unsupported > 0 => libc::EOPNOTSUPP,
            None => return Ok(counts.matched),
        };
        Err(failure("iterator over UDP sockets")(io::Error::from_raw_os_error(errno)))
    }

    fn request(&mut self, request: scan_types::scan_request) -> Result<(), Error> {
        let scan = scan_types::scan { request, ..scan_types::scan::default() };
        fault::at(Point::ScanWrite)
            .and_then(|()| object::write(&self.state()?, 0, &scan))
            .map_err(failure(STATE))
    }

    fn state(&self) -> io::Result<libbpf_rs::Map<'_>> {
        let map = self.object.maps().find(|m| m.name().to_string_lossy().ends_with(".bss"));
        map.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn read(&self) -> io::Result<scan_types::scan> {
        object::read(&self.state()?, 0)
    }
}

/// Bytes of one record of the iterators' output.
pub(crate) const HIT_BYTES: usize = size_of::<scan_types::scan_hit>();

pub(crate) fn read_hit(bytes: &[u8]) -> Option<ScanHit> {
    let hit: scan_types::scan_hit = object::prefix(bytes)?;
    Some(ScanHit { victim: Victim::from_twin(hit.victim), errno: hit.error.saturating_abs() })
}
