//! Memory that the soak and its workers share: what events have happened, what workers have done, and the last
//! operations of each. It outlives a worker that is killed.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

/// Backends of each kind (address and protocol).
pub const BACKENDS: usize = 16;
/// The first of them are deleted again and again, the others never.
pub const GONE: usize = 12;
/// Most workers.
pub const WORKERS: usize = 32;
/// Operations that each worker remembers.
pub const RING: usize = 1 << 16;

/// Holds of a lock that each worker remembers.
pub const HOLDS: usize = 16;

/// What has come of a socket whose lock was held.
pub mod fate {
    /// A report has listed it as failed.
    pub const REPORTED: u64 = 1;
    /// Its owner has let go, and then found it destroyed.
    pub const DEAD: u64 = 2;
    /// Its owner was killed.
    pub const ORPHANED: u64 = 4;
}

/// What the workers are to do.
pub mod phase {
    pub const CHURN: u64 = 0;
    /// Keep what is open, and do nothing.
    pub const HOLD: u64 = 1;
    /// Look at every socket once more.
    pub const CHECK: u64 = 2;
    /// Close everything and end.
    pub const END: u64 = 3;
}

/// The history of one backend. An event is begun before it is sent, and done when its report is there.
#[derive(Debug)]
pub struct Events {
    pub begun: AtomicU64,
    pub done: AtomicU64,
}

/// One operation on one socket.
#[derive(Debug)]
pub struct Entry {
    pub cookie: AtomicU64,
    /// Operation in the low 8 bits, backend in the next 8, milliseconds of the clock above.
    pub what: AtomicU64,
}

/// A socket whose lock a worker has held.
#[derive(Debug)]
pub struct Hold {
    pub cookie: AtomicU64,
    /// Flags of [`fate`].
    pub fate: AtomicU64,
}

/// What one worker has done, all of its processes together.
#[derive(Debug)]
pub struct Work {
    /// System calls on sockets: socket, connect, send, accept, listen, close.
    pub operations: AtomicU64,
    pub netns: AtomicU64,
    /// Sockets seen to be destroyed, as they should be.
    pub destroyed: AtomicU64,
    /// Looks at a socket.
    pub looks: AtomicU64,
    /// Sockets that were connected before an event began and still were when it was done.
    pub missed: AtomicU64,
    /// Sockets that went elsewhere during an event on the backend they left, and were destroyed there.
    pub overtaken: AtomicU64,
    /// Sockets that were destroyed though no event named their backend.
    pub wrong: AtomicU64,
    /// Sockets that an event has connected to a backend that lives, in place of a destroy or after it.
    pub healed: AtomicU64,
    /// Sockets that were connected to another backend, and no event has meant them.
    pub touched: AtomicU64,
    /// Sockets whose lock was held for a while.
    pub held: AtomicU64,
    /// Those that a report has listed as failed, for that reason.
    pub reported: AtomicU64,
    /// Those of them that were destroyed once their owner had let go.
    pub late: AtomicU64,
    /// Those of them whose owner was killed.
    pub orphaned: AtomicU64,
    /// The last ones.
    pub holds: [Hold; HOLDS],
    /// Namespaces that died right after an event: how many, and the cookie of the last.
    pub brief: AtomicU64,
    pub brief_netns: AtomicU64,
    /// The phase that it has reached.
    pub phase: AtomicU64,
    /// Where in the ring the next entry goes.
    pub at: AtomicU64,
    pub ring: [Entry; RING],
}

#[derive(Debug)]
pub struct Shared {
    pub phase: AtomicU64,
    /// Sockets are only opened, connected and closed.
    pub plain: AtomicBool,
    /// The service records frontends.
    pub frontends: AtomicBool,
    /// Of UDP, then of TCP.
    pub events: [[Events; BACKENDS]; 2],
    /// The cookie of the first socket with which something was wrong.
    pub suspect: AtomicU64,
    pub workers: [Work; WORKERS],
}

/// Names of operations, as they are numbered in the ring.
pub const NAMES: [&str; 15] = [
    "",
    "connect",
    "reconnect",
    "disconnect",
    "sendto",
    "close",
    "found destroyed",
    "found connected",
    "failed connect",
    "dup and close",
    "send with a control message",
    "hold the lock",
    "let go",
    "found connected to the refuge",
    "found connected elsewhere",
];

/// Makes the memory; the descriptor is for workers.
pub fn create() -> io::Result<(OwnedFd, &'static Shared)> {
    // SAFETY: the name is a C string; the flags are none, so that workers inherit it.
    let fd = unsafe { libc::memfd_create(c"soak".as_ptr(), 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    File::from(fd.try_clone()?).set_len(size_of::<Shared>() as u64)?;
    let shared = map(fd.as_raw_fd())?;
    Ok((fd, shared))
}

/// Maps the memory for the rest of this process' life.
pub fn map(fd: i32) -> io::Result<&'static Shared> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the kernel chooses the place.
    let at =
        unsafe { libc::mmap(std::ptr::null_mut(), size_of::<Shared>(), protection, libc::MAP_SHARED, fd, 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping is as long as the struct, page-aligned, never unmapped, and of integers that are only
    // changed atomically; all bytes are a value of it.
    Ok(unsafe { &*at.cast::<Shared>() })
}

impl Shared {
    /// The sum over all workers.
    pub fn sum(&self, of: impl Fn(&Work) -> &AtomicU64) -> u64 {
        self.workers.iter().map(|work| of(work).load(Relaxed)).sum()
    }

    /// A report has listed this socket as failed because its lock was held. False if nobody has held it.
    pub fn reported(&self, cookie: u64) -> bool {
        let holds = self.workers.iter().flat_map(|work| work.holds.iter().map(move |hold| (work, hold)));
        let found = holds.into_iter().find(|(_, hold)| hold.cookie.load(SeqCst) == cookie);
        found.map(|(work, hold)| hold.note(work, fate::REPORTED)).is_some()
    }

    /// The last operations on a socket, the oldest first, as lines.
    pub fn history(&self, cookie: u64) -> Vec<String> {
        let mut lines = Vec::new();
        for (worker, work) in self.workers.iter().enumerate() {
            let at = work.at.load(Relaxed);
            for i in at.saturating_sub(RING as u64)..at {
                let entry = &work.ring[i as usize % RING];
                if entry.cookie.load(Relaxed) != cookie {
                    continue;
                }
                let what = entry.what.load(Relaxed);
                let name = NAMES.get(what as usize & 0xff).unwrap_or(&"?");
                lines.push(format!(
                    "{:>10} ms  worker {worker}  {name}  backend {}",
                    what >> 16,
                    what >> 8 & 0xff
                ));
            }
        }
        lines
    }
}

impl Hold {
    /// Notes what has come of it, and counts what that makes it.
    pub fn note(&self, work: &Work, what: u64) {
        let before = self.fate.fetch_or(what, SeqCst);
        let (reported, ended) = (fate::REPORTED, fate::DEAD | fate::ORPHANED);
        if what == reported && before & reported == 0 {
            add(&work.reported, 1);
        }
        let was_whole = before & reported != 0 && before & ended != 0;
        let now = before | what;
        if !was_whole && now & reported != 0 && now & ended != 0 {
            add(if now & fate::DEAD != 0 { &work.late } else { &work.orphaned }, 1);
        }
    }
}

impl Work {
    pub fn note(&self, cookie: u64, operation: u8, backend: usize, ms: u64) {
        let at = self.at.load(Relaxed);
        let entry = &self.ring[at as usize % RING];
        entry.cookie.store(cookie, Relaxed);
        entry.what.store(u64::from(operation) | (backend as u64) << 8 | ms << 16, Relaxed);
        self.at.store(at + 1, Relaxed);
    }
}

/// Adds without a lock: only one process at a time counts here.
pub fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed) + n, Relaxed);
}
