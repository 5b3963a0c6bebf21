//! Sockets that are older than the hooks.

use std::ffi::OsStr;
use std::io::{self, Read as _};

use libbpf_rs::{Iter, IterOpts, Link, MapCore as _, MapFlags, MapHandle};
use skreap_core::Protocol;

use crate::error::io_error;
use crate::fault::{self, Point};
use crate::skel::types;
use crate::{Error, Index};

const STATE: &str = ".data.bootstrap";

/// What became of the sockets of one protocol. Those without a peer, or of another cgroup, are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

impl From<types::skreap_bootstrap_counts> for BootstrapCounts {
    fn from(n: types::skreap_bootstrap_counts) -> Self {
        Self {
            indexed: n.indexed,
            known: n.known,
            accepted: n.accepted,
            closed: n.closed,
            dropped: n.dropped,
        }
    }
}

/// Puts the sockets that exist into an index whose hooks are attached. A pass covers the netns that the calling
/// thread is in.
#[derive(Debug)]
pub struct Bootstrap {
    tcp: Link,
    udp: Link,
    state: MapHandle,
}

impl Bootstrap {
    /// `cgroup` is the id (inode number of the directory) of the indexed cgroup; `None`: the root, in which every
    /// socket is.
    ///
    /// # Errors
    /// [`Error::Object`] with the kernel's errno.
    pub fn new(index: &Index, cgroup: Option<u64>) -> Result<Self, Error> {
        let attach = |name: &str| {
            fault::at(Point::OlderAttach).map_err(|e| object_error(name, e))?;
            let program = index.object().progs_mut().find(|p| p.name() == OsStr::new(name));
            program
                .ok_or_else(|| object_error(name, io::ErrorKind::NotFound.into()))?
                .attach_iter_with_opts(IterOpts::None)
                .map_err(|e| object_error(name, io_error(e)))
        };
        let state = index.object().maps().find(|m| m.name() == OsStr::new(STATE));
        let state = state.ok_or_else(|| object_error(STATE, io::ErrorKind::NotFound.into()))?;
        let state = MapHandle::try_from(&state).map_err(|e| object_error(STATE, io_error(e)))?;
        let bootstrap =
            Self { tcp: attach("skreap_bootstrap_tcp")?, udp: attach("skreap_bootstrap_udp")?, state };
        bootstrap.write(types::skreap_bootstrap {
            cgroup: cgroup.unwrap_or(0),
            ..types::skreap_bootstrap::default()
        })?;
        Ok(bootstrap)
    }

    /// Looks at every socket of this protocol in the netns of the calling thread.
    ///
    /// # Errors
    /// [`Error::Object`] with the kernel's errno; the pass then ended early.
    pub fn pass(&mut self, protocol: Protocol) -> Result<(), Error> {
        let link = match protocol {
            Protocol::Tcp => &self.tcp,
            Protocol::Udp => &self.udp,
        };
        let error = |source| object_error("iterator over sockets", source);
        fault::at(Point::OlderOpen).map_err(error)?;
        let mut pass = Iter::new(link).map_err(|e| error(io_error(e)))?;
        loop {
            match fault::at(Point::OlderRead).and_then(|()| pass.read(&mut [0; 64])) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                // EAGAIN: the kernel takes a break after a million sockets without output (bpf_seq_read).
                Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(e) => return Err(error(e)),
            }
        }
    }

    /// Sums over all passes, TCP and UDP.
    ///
    /// # Errors
    /// [`Error::Object`] if the map cannot be read.
    pub fn counts(&self) -> Result<(BootstrapCounts, BootstrapCounts), Error> {
        fault::at(Point::OlderCounts).map_err(|e| object_error(STATE, e))?;
        let value = self.state.lookup(&0_u32.to_ne_bytes(), MapFlags::ANY);
        let value = value
            .map_err(|e| object_error(STATE, io_error(e)))?
            .filter(|v| v.len() >= size_of::<types::skreap_bootstrap>())
            .ok_or_else(|| object_error(STATE, io::ErrorKind::UnexpectedEof.into()))?;
        // SAFETY: the value is at least as long as the struct, which is made of integers.
        let state = unsafe { value.as_ptr().cast::<types::skreap_bootstrap>().read_unaligned() };
        Ok((state.tcp.into(), state.udp.into()))
    }

    fn write(&self, state: types::skreap_bootstrap) -> Result<(), Error> {
        // SAFETY: the struct is made of integers, its members fill its size (asserted in abi.h).
        let bytes = unsafe {
            std::slice::from_raw_parts(
                std::ptr::from_ref(&state).cast::<u8>(),
                size_of::<types::skreap_bootstrap>(),
            )
        };
        fault::at(Point::OlderWrite).map_err(|e| object_error(STATE, e))?;
        self.state
            .update(&0_u32.to_ne_bytes(), bytes, MapFlags::ANY)
            .map_err(|e| object_error(STATE, io_error(e)))
    }
}

fn object_error(what: &str, source: io::Error) -> Error {
    Error::Object { what: what.to_owned(), source }
}
