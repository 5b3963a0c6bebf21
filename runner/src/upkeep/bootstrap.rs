//! Sockets that are older than the hooks: looked for once in every netns, and put into the index.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use skreap_bpf::{Bootstrap, BootstrapCounts, Index};
use skreap_core::Protocol;

use crate::engine::{EngineError, membership};
use crate::sys::netns::{self, Everywhere, NetnsId};

/// A connect that passed the hook's place just before the hook was attached needs some microseconds until an
/// iterator can see it.
const SETTLE: Duration = Duration::from_millis(20);

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bootstrapped {
    /// TCP sockets.
    pub tcp: BootstrapCounts,
    /// UDP sockets.
    pub udp: BootstrapCounts,
    /// Netns that were looked at.
    pub netns: usize,
    /// Netns that could not be entered or not be read to the end, other than those that are gone.
    pub unreachable: usize,
    /// There may be netns that are not known of.
    pub unlisted: bool,
    /// How long it took.
    pub took: Duration,
}

impl Bootstrapped {
    /// True if every netns was looked at to the end.
    #[must_use]
    pub fn whole(&self) -> bool {
        self.unreachable == 0 && !self.unlisted
    }
}

/// Puts the sockets of a cgroup that are connected into an index whose hooks have just been attached to it.
///
/// # Errors
/// [`EngineError`] if the netns cannot be listed, or the iterators or the thread that visits the netns cannot be
/// made.
pub fn run(index: &Index, cgroup: &Path) -> Result<Bootstrapped, EngineError> {
    let start = Instant::now();
    let error = |what: &str| {
        let what = what.to_owned();
        move |source| EngineError::Io { what, source }
    };
    let mut bootstrap = Bootstrap::new(index, membership::id_of(cgroup)?)?;
    thread::sleep(SETTLE);
    let Everywhere { netns, whole } = netns::everywhere().map_err(error("cannot list the netns in /proc"))?;
    let mut done = Bootstrapped { netns: netns.len(), unlisted: !whole, ..Bootstrapped::default() };
    // A thread of its own: an iterator covers the netns of the thread that makes it, and setns() must never move a
    // thread that others run on.
    thread::scope(|scope| {
        let visit = thread::Builder::new().name("skreap-older".to_owned()).spawn_scoped(scope, || {
            let mut dying = Vec::new();
            for id in netns {
                done.unreachable += usize::from(!pass(&mut bootstrap, id, &mut dying));
            }
            done.unreachable += netns::count_unreached(dying);
        });
        let visit = visit.map_err(error("cannot start the thread that visits the netns"))?;
        visit
            .join()
            .map_err(|_| error("the thread that visits the netns panicked")(std::io::ErrorKind::Other.into()))
    })?;
    (done.tcp, done.udp) = bootstrap.counts()?;
    done.took = start.elapsed();
    Ok(done)
}

/// False if the netns, or a part of it, could not be looked at. `dying`: those that nothing leads to.
fn pass(bootstrap: &mut Bootstrap, id: NetnsId, dying: &mut Vec<NetnsId>) -> bool {
    match netns::open_at_once(id).and_then(|fd| netns::enter(&fd)) {
        Ok(()) => {}
        // The netns is gone, and its sockets with it.
        Err(e) if e.raw_os_error() == Some(libc::ESTALE) => return true,
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {
            dying.push(id);
            return true;
        }
        Err(e) => {
            tracing::warn!(cookie = id.cookie, inum = id.inum, "cannot enter netns: {e}");
            return false;
        }
    }
    let mut whole = true;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        if let Err(e) = bootstrap.pass(protocol) {
            tracing::warn!(cookie = id.cookie, inum = id.inum, %protocol, "cannot read the sockets of netns: {e}");
            whole = false;
        }
    }
    whole
}
