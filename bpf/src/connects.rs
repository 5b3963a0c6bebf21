//! Distinguishes the connects of this process from those of all others, for chosen sockets.

use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::Arc;

use libbpf_rs::{MapCore as _, MapFlags, MapHandle};

use crate::error::io_error;
use crate::mapping::Mapping;
use crate::object::{self, failure};
use crate::prog::run;
use crate::skel::types::{skreap_connecting, skreap_connects};
use crate::watched::Watched;
use crate::{Error, Index, address};

const PROGRAM: &str = "skreap_connecting";
const CONNECTS: &str = "own_connects";
/// `connecting` of `connects.bpf.h`: words, and which of them is how many connects were counted.
const STATE: &str = ".data.connecting";
const STATE_WORDS: usize = 3;
const COUNTED: usize = 2;
/// Sockets that can be watched at one time (`SKREAP_CONNECTS_MAX` in abi.h).
pub const CONNECTS_MAX: usize = 4096;

/// Has the hooks of an index count who connects some sockets.
#[derive(Debug)]
pub struct Connects {
    map: MapHandle,
    program: OwnedFd,
    counter: ConnectsCounter,
    watched: Watched,
}

/// How many connects were counted, of whatever sockets.
#[derive(Clone, Debug)]
pub struct ConnectsCounter(Arc<Mapping>);

/// Sockets whose connects are counted from some moment on.
#[derive(Debug)]
pub struct Counting {
    /// Those for whom it was begun.
    pub new: Vec<u64>,
    /// Those that are counted for somebody else already, who has them in hand.
    pub busy: Vec<u64>,
    /// [`ConnectsLooker::counted`] before they were added. While it has this value, no connect was counted since.
    pub before: Option<u32>,
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
pub struct ConnectsLooker {
    map: OwnedFd,
    counter: ConnectsCounter,
}

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
        let state = object::memory(index.object(), STATE, STATE_WORDS * size_of::<u32>())?;
        let counter = ConnectsCounter(Arc::new(state));
        Ok(Self { map, program, counter, watched: index.watched().clone() })
    }

    /// Counts the connects of these sockets by other processes from now on, beside those of other sockets;
    /// [`CONNECTS_MAX`] at one time. What is counted already stays as it is.
    ///
    /// # Errors
    /// [`Error::Object`] with the kernel's errno: `E2BIG` if there are too many. Nothing was begun then.
    pub fn begin(&self, cookies: &[u64]) -> Result<Counting, Error> {
        let before = self.counter.now();
        let (new, busy) = self.watched.take(cookies);
        if new.is_empty() {
            return Ok(Counting { new, busy, before });
        }
        if let Err(e) = self.add(&new).and_then(|()| self.tell(1)) {
            self.forget(&new);
            return Err(e);
        }
        Ok(Counting { new, busy, before })
    }

    fn add(&self, cookies: &[u64]) -> Result<(), Error> {
        let values = vec![0; cookies.len() * size_of::<skreap_connects>()];
        let (keys, count) = (bytemuck::cast_slice(cookies), cookies.len() as u32);
        let updated = self.map.update_batch(keys, &values, count, MapFlags::ANY, MapFlags::ANY);
        updated.map_err(io_error).map_err(failure(CONNECTS))
    }

    /// Does not count those of these sockets any more, for which it was [begun](Counting::new).
    pub fn forget(&self, cookies: &[u64]) {
        if let Err(e) = object::delete_all(&self.map, cookies) {
            tracing::warn!("connects of some sockets are counted still: {e}");
        }
        self.watched.give_back(cookies);
    }

    /// Undoes one [`begin`](Self::begin) that has begun anything: when all are undone nothing is counted any more.
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

    /// A descriptor and memory for [`ConnectsLooker::new`].
    ///
    /// # Errors
    /// [`Error::Object`] if there can be no more descriptors.
    pub fn to_look(&self) -> Result<(OwnedFd, ConnectsCounter), Error> {
        let map = self.map.as_fd().try_clone_to_owned().map_err(failure(CONNECTS))?;
        Ok((map, self.counter.clone()))
    }
}

impl ConnectsCounter {
    fn now(&self) -> Option<u32> {
        self.0.word(COUNTED)
    }
}

impl ConnectsLooker {
    /// Of what [`Connects::to_look`] has returned.
    #[must_use]
    pub fn new(map: OwnedFd, counter: ConnectsCounter) -> Self {
        Self { map, counter }
    }

    /// How many connects were counted so far, of whatever sockets. Costs no system call. `None` is not known, and equals
    /// nothing.
    #[must_use]
    pub fn counted(&self) -> Option<u32> {
        self.counter.now()
    }

    /// What others have done with the socket with this cookie; `None` if that is not counted.
    #[must_use]
    pub fn look(&self, cookie: u64) -> Option<Theirs> {
        let mut value = skreap_connects::default();
        // SAFETY: key and value have the sizes of the map's, and any bytes are a valid value: it has only integers.
        let ret = unsafe {
            libbpf_sys::bpf_map_lookup_elem(
                self.map.as_raw_fd(),
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
