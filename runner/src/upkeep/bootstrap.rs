//! Pre-existing sockets: looked for once, and put into the index.
//!
//! ```text
//!  files of all processes ─► index        no socket's lock is waited for
//!  tables of the kernel ───► what is still missing? ─► iterators over the sockets of those netns ─► index
//!                                                      on threads that are given up when they stand still
//! ```
//!
//! Files lead to nearly all sockets, and no owner can hold that up. The kernel's tables tell which clients of the cgroup
//! are still not in the index: those that no process has open (on their way over a unix socket, registered with
//! io_uring), or whose processes are in a PID namespace that is not ours. Only iterators over sockets lead to these; they
//! wait for the lock of each socket that they pass, so they run where they can be given up. Where the index holds
//! references to sockets (engine `kfunc`) they come first: what they show, unlike what files show, can be held.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use skreap_bpf::{Bootstrap, BootstrapCounts, Index, Question, Tables, Victim};
use skreap_core::Protocol;

use crate::engine::{EngineError, membership, netns_id};
use crate::sys::netns::visitor::{Visit, Visitor};
use crate::sys::netns::{self, AllNetns, NetnsId};

/// A connect that passed the hook's place just before the hook was attached needs some microseconds until an
/// iterator can see it.
const CONNECT_DELAY: Duration = Duration::from_millis(20);
/// Between two looks at what is missing: sockets come and go meanwhile.
const PAUSE: Duration = Duration::from_millis(5);
/// Looks at what is missing after everything was done about it; what each has seen is missing.
const LOOKS: usize = 3;
/// How long a pass may be without progress, as it waits for a socket whose owner holds its lock. A start does not wait as
/// long as an event may be told to wait for its victims: what the search lacks is incomplete, and later events are finished
/// by a scan.
const STANDSTILL: Duration = Duration::from_secs(1);
/// Passes that may be given up. Each has cost a [`STANDSTILL`], and the index is not whole after one.
const GIVEN_UP_MAX: usize = 3;

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bootstrapped {
    /// TCP sockets.
    pub tcp: BootstrapCounts,
    /// UDP sockets.
    pub udp: BootstrapCounts,
    /// Netns there are.
    pub netns: usize,
    /// Netns that had to be entered and could not be, or not be read to the end, other than those that are gone.
    pub unreachable: usize,
    /// Those of them in which the owner of a socket held its lock for so long that the pass was given up.
    pub held_up: usize,
    /// Sockets that should be in the index and are not; `None` if the kernel's tables could not be read.
    pub missing: Option<usize>,
    /// There may be netns that are not known of.
    pub unlisted: bool,
    /// How long it took.
    pub took: Duration,
}

impl Bootstrapped {
    /// True if every socket was found.
    #[must_use]
    pub fn whole(&self) -> bool {
        match self.missing {
            Some(missing) => missing == 0,
            None => self.unreachable == 0 && !self.unlisted,
        }
    }
}

/// Puts the sockets of a cgroup that are connected into an index whose hooks have just been attached to it. Waits for no
/// socket's lock for longer than some seconds, however many are held.
///
/// # Errors
/// [`EngineError`] if the netns cannot be listed, or the iterators cannot be made.
pub fn run(index: &Index, cgroup: &Path) -> Result<Bootstrapped, EngineError> {
    let start = Instant::now();
    let id = membership::id_of(cgroup)?;
    let bootstrap = Bootstrap::new(index, id)?;
    let tables = Tables::load(id)
        .inspect_err(|e| {
            tracing::warn!("cannot read the kernel's tables of sockets, so every netns is entered: {e}")
        })
        .ok();
    thread::sleep(CONNECT_DELAY);
    let AllNetns { netns, whole } = netns::everywhere()
        .map_err(|source| EngineError::Io { what: "cannot list the netns in /proc".to_owned(), source })?;
    let done = Bootstrapped { netns: netns.len(), unlisted: !whole, ..Bootstrapped::default() };
    let mut search = Search { index, bootstrap, tables, kernel: Vec::new(), done };
    search.all(&netns);
    let mut done = search.done;
    (done.tcp, done.udp) = search.bootstrap.counts()?;
    done.took = start.elapsed();
    Ok(done)
}

/// A socket, also one that has no cookie yet: netns, protocol, both ends.
type Name = (u64, u8, IpAddr, u16, IpAddr, u16);

struct Search<'a> {
    index: &'a Index,
    bootstrap: Bootstrap,
    tables: Option<Tables>,
    /// The kernel's own sockets of the cgroup, when it was last looked.
    kernel: Vec<Victim>,
    done: Bootstrapped,
}

impl Search<'_> {
    fn all(&mut self, netns: &[NetnsId]) {
        // Only iterators over sockets lead to what can be held.
        let held = self.index.can_destroy().is_ok();
        if held {
            self.enter(netns.iter().copied());
        } else {
            self.files();
        }
        let Some(mut missing) = self.missing() else {
            if held {
                // What was given up may be in some file.
                self.files();
            } else {
                self.enter(netns.iter().copied());
            }
            return;
        };
        if !missing.is_empty() {
            // A socket that goes from one process to another may have passed the look at both.
            thread::sleep(PAUSE);
            self.files();
            missing = self.missing().unwrap_or_default();
        }
        // The kernel's own sockets are in no file; the iterators leave a note of each.
        let there: BTreeSet<NetnsId> = missing.iter().chain(&self.kernel).map(netns_id).collect();
        if !held && !there.is_empty() {
            self.enter(there);
        }
        let unnoted = if self.done.unreachable > 0 { self.kernel.len() } else { 0 };
        self.done.missing = self.still_missing().map(|missing| missing.len() + unnoted);
    }

    /// Records the sockets that processes have open.
    fn files(&mut self) {
        if let Err(e) = self.bootstrap.files() {
            tracing::warn!("cannot look at the files of all processes: {e}");
        }
    }

    /// What several looks in a row miss.
    fn still_missing(&mut self) -> Option<HashSet<Name>> {
        let names = |missing: Vec<Victim>| missing.iter().map(name).collect::<HashSet<Name>>();
        let mut missing = names(self.missing()?);
        for _ in 1..LOOKS {
            if missing.is_empty() {
                break;
            }
            thread::sleep(PAUSE);
            let again = names(self.missing()?);
            missing.retain(|name| again.contains(name));
        }
        Some(missing)
    }

    /// The clients of the cgroup that are not in the index, but for those that found no room: their backends are incomplete.
    /// `None` if that cannot be said.
    fn missing(&mut self) -> Option<Vec<Victim>> {
        let (tables, bootstrap, index) = (self.tables.as_mut()?, &self.bootstrap, self.index);
        let found = look(tables, index).map(|(mut clients, kernel)| {
            let dropped = bootstrap.dropped();
            clients.retain(|client| !dropped.contains(&client.cookie()));
            self.kernel = kernel;
            clients
        });
        found
            .inspect_err(|e| tracing::warn!("cannot tell which sockets the index lacks: {e}"))
            .inspect_err(|_| self.tables = None)
            .ok()
    }

    /// Looks at the sockets of these netns, one after the other.
    fn enter(&mut self, netns: impl IntoIterator<Item = NetnsId>) {
        let mut visitor = Visitor::new("skreap-boot", "cannot look at the sockets of netns", STANDSTILL);
        for id in netns {
            let seen = visitor.given_up() < GIVEN_UP_MAX && self.pass(&mut visitor, id);
            self.done.unreachable += usize::from(!seen);
        }
        self.done.held_up = visitor.given_up();
        self.done.unreachable += visitor.unreachable();
    }

    /// False if a part of it was given up.
    fn pass(&self, visitor: &mut Visitor, id: NetnsId) -> bool {
        let other = |e: skreap_bpf::Error| io::Error::other(e.to_string());
        let mut seen = true;
        for protocol in Protocol::ALL {
            let iterator = || self.bootstrap.iterator(protocol).map_err(other);
            let progress = || self.bootstrap.passed().ok();
            let seer = self.bootstrap.seer();
            let work = move |iterator| seer.pass(iterator).run().map_err(other);
            match visitor.visit(id, protocol, iterator, progress, work) {
                Visit::Done(()) | Visit::Failed => {}
                Visit::GivenUp => seen = false,
                Visit::Gone => break,
            }
        }
        seen
    }
}

/// The clients that are not in the index, and the kernel's own sockets.
fn look(tables: &mut Tables, index: &Index) -> Result<(Vec<Victim>, Vec<Victim>), EngineError> {
    // The sockets first: what a hook records after that is in the index.
    let (mut clients, mut kernel) = (Vec::new(), Vec::new());
    for protocol in Protocol::ALL {
        for socket in tables.read(protocol, &Question::default())? {
            if socket.is_kernel() {
                kernel.push(socket.victim);
            } else if socket.is_client() {
                clients.push(socket.victim);
            }
        }
    }
    let mut known: HashSet<u64> = HashSet::new();
    index.walker()?.walk_all(|batch| known.extend(batch.iter().map(Victim::cookie)))?;
    clients.retain(|client| !known.contains(&client.cookie()));
    Ok((clients, kernel))
}

fn name(victim: &Victim) -> Name {
    let protocol = victim.protocol_number();
    (victim.netns(), protocol, victim.saddr(), victim.sport(), victim.daddr(), victim.dport())
}
