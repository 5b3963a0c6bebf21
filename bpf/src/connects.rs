//! Distinguishes the connects of this process from those of all others, for chosen sockets.

use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use libbpf_rs::{MapCore as _, MapFlags, MapHandle};

use crate::error::io_error;
use crate::object::{self, failure};
use crate::prog::run;
use crate::skel::types::{skreap_connecting, skreap_connects};
use crate::{Error, Index, address};

const PROGRAM: &str = "skreap_connecting";
const CONNECTS: &str = "own_connects";
/// Sockets that can be watched at one time (`SKREAP_CONNECTS_MAX` in abi.h).
pub const CONNECTS_MAX: usize = 4096;

/// Has the hooks of an index count who connects some sockets.
#[derive(Debug)]
pub struct Connects {
    map: MapHandle,
    program: OwnedFd,
}

/// Connects of others, of one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Theirs {
    /// How many there were. The last of them may have yet to take effect.
    pub count: u64,
    /// The address of the last one; `None` if there was none.
    pub last: Option<SocketAddr>,
}

/// Looks up what was counted; of use in a thread with a descriptor table of its own.
#[derive(Debug)]
pub struct ConnectsLooker(OwnedFd);

impl Connects {
    /// Of this index.
    ///
    /// # Errors
    /// [`Error::Object`] if program or map is missing.
    pub fn new(index: &Index) -> Result<Self, Error> {
        let map = object::map(index.object(), CONNECTS)
            .and_then(|map| MapHandle::try_from(&map).map_err(io_error))
            .map_err(failure(CONNECTS))?;
        let program = object::program(index.object(), PROGRAM)
            .and_then(|program| program.as_fd().try_clone_to_owned())
            .map_err(failure(PROGRAM))?;
        Ok(Self { map, program })
    }

    /// Counts the connects of these sockets by other processes from now on, beside those of other sockets;
    /// [`CONNECTS_MAX`] at one time.
    ///
    /// # Errors
    /// [`Error::Object`] with the kernel's errno: `E2BIG` if there are too many.
    pub fn begin(&self, cookies: &[u64]) -> Result<(), Error> {
        let values = vec![0; cookies.len() * size_of::<skreap_connects>()];
        let (keys, count) = (bytemuck::cast_slice(cookies), cookies.len() as u32);
        let updated = self.map.update_batch(keys, &values, count, MapFlags::ANY, MapFlags::ANY);
        updated.map_err(io_error).map_err(failure(CONNECTS))?;
        self.tell(1)
    }

    /// Does not count those of this socket any more.
    pub fn forget(&self, cookie: u64) {
        // Not there any more if it was named twice.
        let _ = self.map.delete(&cookie.to_ne_bytes());
    }

    /// Undoes one [`begin`](Self::begin): when all are undone nothing is counted any more.
    ///
    /// # Errors
    /// [`Error::Object`] with the kernel's errno.
    pub fn end(&self) -> Result<(), Error> {
        self.tell(-1)
    }

    fn tell(&self, users: i32) -> Result<(), Error> {
        let mut ctx = skreap_connecting { users, ..skreap_connecting::default() };
        run(self.program.as_fd(), &mut ctx).map_err(failure(PROGRAM))
    }

    /// A descriptor for [`ConnectsLooker::new`].
    ///
    /// # Errors
    /// [`Error::Object`] if there can be no more descriptors.
    pub fn descriptor(&self) -> Result<OwnedFd, Error> {
        self.map.as_fd().try_clone_to_owned().map_err(failure(CONNECTS))
    }
}

impl ConnectsLooker {
    /// Of what [`Connects::descriptor`] has returned.
    #[must_use]
    pub fn new(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// What others have done with the socket with this cookie; `None` if that is not counted.
    #[must_use]
    pub fn look(&self, cookie: u64) -> Option<Theirs> {
        let mut value = skreap_connects::default();
        // SAFETY: key and value have the sizes of the map's, and any bytes are a valid value: it has only integers.
        let ret = unsafe {
            libbpf_sys::bpf_map_lookup_elem(
                self.0.as_raw_fd(),
                std::ptr::from_ref(&cookie).cast(),
                std::ptr::from_mut(&mut value).cast(),
            )
        };
        (ret == 0).then(|| Theirs { count: value.theirs, last: last(&value) })
    }
}

fn last(value: &skreap_connects) -> Option<SocketAddr> {
    let addr = address::from_words(value.family as u8, value.daddr);
    (value.theirs > 0).then(|| SocketAddr::new(addr.to_canonical(), u16::from_be(value.dport)))
}
