//! Pre-existing sockets.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use libbpf_rs::{Link, MapHandle};
use skreap_core::Protocol;

use crate::error::io_error;
use crate::fault::{self, Point};
use crate::iterator::{self, Records};
use crate::object::{self, failure};
use crate::skel::types;
use crate::{Error, Index};

const STATE: &str = ".data.bootstrap";

/// What became of the sockets of one protocol. Those without a peer, or of another cgroup, are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BootstrapCounts {
    /// Put into the index.
    pub indexed: u64,
    /// In the index already: a hook was first.
    pub known: u64,
    /// Left out: the server's side of a connection.
    pub accepted: u64,
    /// Left out: closed, or just being closed.
    pub closed: u64,
    /// Not recorded: no room. Their backends are incomplete.
    pub dropped: u64,
}

/// What was seen of a socket, the weightier word last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Client,
    Accepted,
    Dropped,
}

/// The sockets that the passes have come to, each once however often it was met.
#[derive(Debug, Default)]
struct Seen(HashMap<u64, (Protocol, What)>);

impl Seen {
    fn add(&mut self, bytes: &[u8]) {
        let Some(socket) = object::prefix::<types::skreap_bootstrap_socket>(bytes) else {
            return;
        };
        let what = match types::skreap_bootstrap_what(socket.what) {
            types::skreap_bootstrap_what::SKREAP_BOOTSTRAP_ACCEPTED => What::Accepted,
            types::skreap_bootstrap_what::SKREAP_BOOTSTRAP_DROPPED => What::Dropped,
            _ => What::Client,
        };
        let protocol = u8::try_from(socket.protocol).ok().and_then(Protocol::from_number);
        if let Some(protocol) = protocol {
            let seen = self.0.entry(socket.cookie).or_insert((protocol, what));
            seen.1 = seen.1.max(what);
        }
    }

    /// `n`: what the programs have counted of the same sockets.
    fn counts(&self, protocol: Protocol, n: types::skreap_bootstrap_counts) -> BootstrapCounts {
        let mut seen = self.0.values().filter(|(of, _)| *of == protocol).map(|(_, what)| what);
        let (mut clients, mut accepted, mut dropped) = (0_u64, 0, 0);
        seen.by_ref().for_each(|what| match what {
            What::Client => clients += 1,
            What::Accepted => accepted += 1,
            What::Dropped => dropped += 1,
        });
        let known = clients.saturating_sub(n.indexed + n.closed);
        BootstrapCounts { indexed: n.indexed, known, accepted, closed: n.closed, dropped }
    }
}

/// Puts the sockets that exist into an index whose hooks are attached.
#[derive(Debug)]
pub struct Bootstrap {
    tcp: Link,
    udp: Link,
    files: Link,
    state: MapHandle,
    seen: Arc<Mutex<Seen>>,
}

/// A pass over the sockets of the netns that the calling thread is in. It waits for the lock of each socket that it
/// comes to, for as long as the socket's owner holds it: on a thread that may be given up.
#[derive(Debug)]
pub struct BootstrapPass {
    iterator: OwnedFd,
    seen: Arc<Mutex<Seen>>,
}

/// What a [`BootstrapPass`] is made of, without its descriptor.
#[derive(Clone, Debug)]
pub struct Seer(Arc<Mutex<Seen>>);

impl Seer {
    /// A pass of what [`Bootstrap::iterator`] has returned.
    #[must_use]
    pub fn pass(&self, iterator: OwnedFd) -> BootstrapPass {
        BootstrapPass { iterator, seen: Arc::clone(&self.0) }
    }
}

impl BootstrapPass {
    /// # Errors
    /// [`Error::Object`] with the kernel's errno; the pass then ended early.
    pub fn run(&self) -> Result<(), Error> {
        run_pass(self.iterator.as_fd(), &self.seen)
    }
}

fn run_pass(link: BorrowedFd<'_>, seen: &Mutex<Seen>) -> Result<(), Error> {
    let mut records = Records::new(size_of::<types::skreap_bootstrap_socket>());
    let points = [Point::BootstrapOpen, Point::BootstrapRead];
    iterator::pass(link, points, &mut records, |bytes| {
        seen.lock().unwrap_or_else(PoisonError::into_inner).add(bytes)
    })
    .map_err(failure("iterator over pre-existing sockets"))
}

impl Bootstrap {
    /// `cgroup` is the id (inode number of the directory) of the indexed cgroup; `None`: the root, in which every
    /// socket is.
    ///
    /// # Errors
    /// [`Error::Object`] with the kernel's errno.
    pub fn new(index: &Index, cgroup: Option<u64>) -> Result<Self, Error> {
        let attach = |name: &str| object::attach_iterator(index.object(), name, Point::BootstrapAttach);
        let state = object::map(index.object(), STATE)
            .and_then(|map| MapHandle::try_from(&map).map_err(io_error))
            .map_err(failure(STATE))?;
        let bootstrap = Self {
            tcp: attach("skreap_bootstrap_tcp")?,
            udp: attach("skreap_bootstrap_udp")?,
            files: attach("skreap_bootstrap_file")?,
            state,
            seen: Arc::default(),
        };
        bootstrap.write(types::skreap_bootstrap {
            cgroup: cgroup.unwrap_or(0),
            ..types::skreap_bootstrap::default()
        })?;
        Ok(bootstrap)
    }

    /// Looks at every socket that a process has open, in all netns at once. Waits for no socket's lock. Sees the
    /// processes of the calling thread's PID namespace, and takes no references to sockets.
    ///
    /// # Errors
    /// [`Error::Object`] with the kernel's errno; the pass then ended early.
    pub fn files(&mut self) -> Result<(), Error> {
        run_pass(self.files.as_fd(), &self.seen)
    }

    /// Looks at every socket of this protocol in the netns of the calling thread; waits for the lock of each.
    ///
    /// # Errors
    /// [`Error::Object`] with the kernel's errno; the pass then ended early.
    pub fn pass(&mut self, protocol: Protocol) -> Result<(), Error> {
        run_pass(self.link(protocol).as_fd(), &self.seen)
    }

    /// A descriptor of the iterator over the sockets of this protocol, for [`Seer::pass`].
    ///
    /// # Errors
    /// [`Error::Object`] if there can be no more descriptors.
    pub fn iterator(&self, protocol: Protocol) -> Result<OwnedFd, Error> {
        let link = self.link(protocol).as_fd();
        link.try_clone_to_owned().map_err(failure("iterator over pre-existing sockets"))
    }

    /// Makes passes of such descriptors.
    #[must_use]
    pub fn seer(&self) -> Seer {
        Seer(Arc::clone(&self.seen))
    }

    fn link(&self, protocol: Protocol) -> &Link {
        match protocol {
            Protocol::Tcp => &self.tcp,
            Protocol::Udp => &self.udp,
        }
    }

    /// Sums over all passes, TCP and UDP. Each socket is counted once.
    ///
    /// # Errors
    /// [`Error::Object`] if the map cannot be read.
    pub fn counts(&self) -> Result<(BootstrapCounts, BootstrapCounts), Error> {
        fault::at(Point::BootstrapCounts).map_err(failure(STATE))?;
        let state = self.read()?;
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((seen.counts(Protocol::Tcp, state.tcp), seen.counts(Protocol::Udp, state.udp)))
    }

    /// Cookies of the sockets that found no room; their backends are incomplete.
    #[must_use]
    pub fn dropped(&self) -> HashSet<u64> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.0.iter().filter(|(_, (_, what))| *what == What::Dropped).map(|(cookie, _)| *cookie).collect()
    }

    /// Sockets that the passes have looked at until now: grows while a pass on another thread gets on.
    ///
    /// # Errors
    /// [`Error::Object`] if the map cannot be read.
    pub fn passed(&self) -> Result<u64, Error> {
        Ok(self.read()?.passed)
    }

    fn read(&self) -> Result<types::skreap_bootstrap, Error> {
        object::read(&self.state, 0).map_err(failure(STATE))
    }

    fn write(&self, state: types::skreap_bootstrap) -> Result<(), Error> {
        let written = fault::at(Point::BootstrapWrite).and_then(|()| object::write(&self.state, 0, &state));
        written.map_err(failure(STATE))
    }
}
