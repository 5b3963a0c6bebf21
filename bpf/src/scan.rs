//! The full scan: `bpf_sock_destroy` from socket iterators.

use std::ffi::OsStr;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use libbpf_rs::{IterOpts, Link, MapCore as _, MapFlags, Object, ObjectBuilder};
use skreap_core::{Protocol, Target};

use crate::error::{io_error, load_error};
use crate::fault::{self, Point};
use crate::iterator::{self, Records};
use crate::skel::{SCAN_OBJECT, scan_types};
use crate::victim::peer_words;
use crate::{Error, Relation, Victim, log};

/// Sums over the passes of one scan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    tcp: Option<Link>,
    udp: Option<Link>,
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
        .map_err(|e| object_error("iterator over sockets", e))
}

impl Scan {
    /// Loads the iterators. `cgroup` is the id (inode number of the directory) of the cgroup outside of which
    /// no socket is touched; `None`: all may be.
    ///
    /// # Errors
    /// [`Error::Unsupported`] before Linux 6.5, which brought `bpf_sock_destroy`; otherwise as
    /// [`Index::load`](crate::Index::load).
    pub fn load(cgroup: Option<u64>) -> Result<Self, Error> {
        log::install();
        drop(log::take_warnings());
        let mut open = ObjectBuilder::default().open_memory(SCAN_OBJECT).map_err(load_error)?;
        let rodata = open.maps_mut().find(|m| m.name().to_string_lossy().ends_with(".rodata"));
        rodata
            .and_then(|mut map| {
                let id = cgroup.unwrap_or(0).to_ne_bytes();
                let at = offset_of!(scan_types::rodata, cfg_cgroup);
                map.initial_value_mut()?.get_mut(at..at + id.len())?.copy_from_slice(&id);
                Some(())
            })
            .ok_or_else(|| object_error(".rodata of the scan", io::ErrorKind::NotFound.into()))?;
        fault::at(Point::ScanLoad).map_err(|source| Error::Load { source, log: None })?;
        let object = open.load().map_err(load_error)?;
        let mut scan = Self { tcp: None, udp: None, object };
        scan.tcp = Some(scan.attach("skreap_scan_tcp")?);
        scan.udp = Some(scan.attach("skreap_scan_udp")?);
        Ok(scan)
    }

    fn attach(&self, name: &str) -> Result<Link, Error> {
        fault::at(Point::ScanAttach).map_err(|e| object_error(name, e))?;
        let program = self.object.progs_mut().find(|p| p.name() == OsStr::new(name));
        program
            .ok_or_else(|| object_error(name, io::ErrorKind::NotFound.into()))?
            .attach_iter_with_opts(IterOpts::None)
            .map_err(|e| object_error(name, io_error(e)))
    }

    /// Starts a scan: what the passes from now on look for. `states` has bit `1 << TCP_*` for each TCP state
    /// that is looked at; TIME_WAIT and NEW_SYN_RECV, which are no full sockets, must not be among them.
    ///
    /// # Errors
    /// [`Error::Object`] if the map cannot be written.
    pub fn begin(&mut self, target: &Target, states: u32) -> Result<(), Error> {
        let (family, daddr) = peer_words(target.backend.addr());
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
        run_pass(self.link(protocol)?.as_fd(), hits)
    }

    /// A descriptor of the iterator over the sockets of this protocol, for a [`ScanPass`].
    ///
    /// # Errors
    /// [`Error::Object`] if there can be no more descriptors.
    pub fn iterator(&self, protocol: Protocol) -> Result<OwnedFd, Error> {
        let link = self.link(protocol)?;
        link.as_fd().try_clone_to_owned().map_err(|e| object_error("iterator over sockets", e))
    }

    fn link(&self, protocol: Protocol) -> Result<&Link, Error> {
        let link = match protocol {
            Protocol::Tcp => self.tcp.as_ref(),
            Protocol::Udp => self.udp.as_ref(),
        };
        link.ok_or_else(|| object_error("iterator over sockets", io::ErrorKind::NotFound.into()))
    }

    /// Sockets that the passes have shown until now: grows while a pass on another thread gets on.
    ///
    /// # Errors
    /// [`Error::Object`] if the map cannot be read.
    pub fn scanned(&self) -> Result<u64, Error> {
        Ok(self.read().map_err(|e| object_error(".bss of the scan", e))?.n.scanned)
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
        let n = read.map_err(|e| object_error(".bss of the scan", e))?.n;
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

    /// Destroys this UDP socket, in the netns of the calling thread, if it has the peer that the victim has, or like it
    /// none; answers how many there were: 0 or 1.
    ///
    /// # Errors
    /// [`Error::Object`] if the pass fails, or with the errno of the destroy.
    pub fn destroy_udp(&mut self, victim: &Victim) -> Result<u64, Error> {
        let mut peer = scan_types::peer::default();
        if victim.relation() == Relation::Connected {
            let (family, daddr) = peer_words(victim.daddr().to_canonical());
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
        Err(object_error("iterator over UDP sockets", io::Error::from_raw_os_error(errno)))
    }

    fn request(&mut self, request: scan_types::scan_request) -> Result<(), Error> {
        let scan = scan_types::scan { request, ..scan_types::scan::default() };
        // SAFETY: scan is made of integers with explicit padding only.
        let bytes = unsafe {
            std::slice::from_raw_parts(std::ptr::from_ref(&scan).cast::<u8>(), size_of::<scan_types::scan>())
        };
        fault::at(Point::ScanWrite)
            .and_then(|()| self.state())
            .and_then(|map| map.update(&0_u32.to_ne_bytes(), bytes, MapFlags::ANY).map_err(io_error))
            .map_err(|e| object_error(".bss of the scan", e))
    }

    fn state(&self) -> io::Result<libbpf_rs::Map<'_>> {
        let map = self.object.maps().find(|m| m.name().to_string_lossy().ends_with(".bss"));
        map.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn read(&self) -> io::Result<scan_types::scan> {
        let value = self.state()?.lookup(&0_u32.to_ne_bytes(), MapFlags::ANY).map_err(io_error)?;
        let value = value.filter(|v| v.len() >= size_of::<scan_types::scan>());
        let value = value.ok_or(io::ErrorKind::UnexpectedEof)?;
        // SAFETY: the value is at least as long as the struct, which is made of integers.
        Ok(unsafe { value.as_ptr().cast::<scan_types::scan>().read_unaligned() })
    }
}

/// Bytes of one record of the iterators' output.
pub(crate) const HIT_BYTES: usize = size_of::<scan_types::scan_hit>();

pub(crate) fn read_hit(bytes: &[u8]) -> Option<ScanHit> {
    const VICTIM: usize = offset_of!(scan_types::scan_hit, victim);
    const ERROR: usize = offset_of!(scan_types::scan_hit, error);
    const { assert!(size_of::<scan_types::skreap_victim>() == size_of::<Victim>()) };
    let victim = bytes.get(VICTIM..)?.first_chunk()?;
    let error = bytes.get(ERROR..)?.first_chunk().copied().map_or(0, i32::from_ne_bytes);
    Some(ScanHit { victim: Victim::from_bytes(victim), errno: error.saturating_abs() })
}

fn object_error(what: &str, source: io::Error) -> Error {
    Error::Object { what: what.to_owned(), source }
}
