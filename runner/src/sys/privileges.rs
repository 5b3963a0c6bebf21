//! The capabilities of a service after its setup, and no others.
//!
//! [`lower`] takes everything from the calling thread, and so from the threads it starts, but
//!
//! | capability | what for | effective |
//! |---|---|---|
//! | CAP_BPF, CAP_PERFMON | load and run the programs, read the maps | always |
//! | CAP_NET_ADMIN | attach the hooks, `SOCK_DESTROY` | always |
//! | CAP_SYS_ADMIN | open and enter a netns; BPF objects by id | while [`raise`]d |
//! | CAP_SYS_PTRACE | see which netns a process is in | while [`raise`]d |
//! | CAP_DAC_READ_SEARCH | open a cgroup by the id that a socket has | while [`raise`]d |
//! | CAP_CHOWN, CAP_FOWNER | give a unix socket another owner; kept only if that was asked for | while [`raise`]d |
//!
//! CAP_SYS_ADMIN and the next two cannot be dropped permanently: the next event may concern a netns
//! that does not exist yet. They stay permitted, and become effective only in the thread that needs
//! one, while it needs it.
//!
//! Capabilities belong to threads, so [`lower`] has to be called before any other thread is
//! started. A program that embeds the library and never calls it keeps its capabilities; [`raise`]
//! then does nothing.

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;

/// Without these nothing works.
const ALWAYS: [Capability; 3] = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON];

/// Without one of these some sockets are unreachable, which is reported when it happens.
const AT_TIMES: [(Capability, &str); 3] = [
    (Capability::CAP_SYS_ADMIN, "sockets in other network namespaces cannot be destroyed"),
    (Capability::CAP_SYS_PTRACE, "scans see only the network namespaces of processes of the same user"),
    (Capability::CAP_DAC_READ_SEARCH, "scans cannot tell which cgroup a socket belongs to"),
];

/// For a unix socket that gets another owner.
const OWNER: [Capability; 2] = [Capability::CAP_CHOWN, Capability::CAP_FOWNER];

/// The capabilities that [`lower`] keeps, without those for the owner of a unix socket.
pub fn needed() -> impl Iterator<Item = Capability> {
    ALWAYS.into_iter().chain(AT_TIMES.map(|(cap, _)| cap))
}

/// The command that gives this program its capabilities, for every user who may start it.
fn setcap() -> String {
    let names: Vec<String> = needed().map(|cap| cap.to_string().to_lowercase()).collect();
    let path = std::env::current_exe().unwrap_or_else(|_| "skreap".into());
    format!("setcap {}=ep {}", names.join(","), path.display())
}

static LOWERED: AtomicBool = AtomicBool::new(false);

/// Why privileges could not be lowered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The process lacks required capabilities.
    #[error(
        "this process lacks {}: run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (and CAP_SYS_ADMIN, \
         CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH for sockets in other network namespaces), by AmbientCapabilities= of \
         its unit, or permanently by: {}",
        .0.join(", "),
        setcap()
    )]
    Missing(Vec<String>),
    /// The kernel refused to change them.
    #[error("cannot change {what}: {source}")]
    Refused {
        /// The setting that could not be changed.
        what: &'static str,
        /// The error.
        source: io::Error,
    },
}

fn refused(what: &'static str) -> impl Fn(CapsError) -> Error {
    move |e| Error::Refused { what, source: io::Error::other(e.to_string()) }
}

/// Drops everything that is not in the table above, and the way to get more (`no_new_privs`).
/// Applies to the calling thread and those it starts afterwards, so call it before there are
/// others. `may_give_away`: files may get another owner later.
///
/// # Errors
/// [`Error::Missing`] if a required capability is missing; nothing is changed then.
pub fn lower(may_give_away: bool) -> Result<(), Error> {
    let permitted = caps::read(None, CapSet::Permitted).map_err(refused("the permitted capabilities"))?;
    let missing: Vec<String> =
        ALWAYS.iter().filter(|cap| !permitted.contains(cap)).map(ToString::to_string).collect();
    if !missing.is_empty() {
        return Err(Error::Missing(missing));
    }
    for (cap, so) in AT_TIMES.iter().filter(|(cap, _)| !permitted.contains(cap)) {
        tracing::warn!("without {cap} {so}");
    }
    let owner = OWNER.into_iter().filter(|_| may_give_away);
    let kept: CapsHashSet = ALWAYS
        .into_iter()
        .chain(AT_TIMES.map(|(cap, _)| cap))
        .chain(owner)
        .filter(|cap| permitted.contains(cap))
        .collect();

    prctl::set_no_new_privs().map_err(|e| Error::Refused { what: "no_new_privs", source: e.into() })?;
    // The capabilities that an exec could give back. Needs CAP_SETPCAP; without it no_new_privs is
    // sufficient.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).unwrap_or(false) {
        for cap in caps::read(None, CapSet::Bounding).map_err(refused("the bounding set"))? {
            if !kept.contains(&cap) {
                caps::drop(None, CapSet::Bounding, cap).map_err(refused("the bounding set"))?;
            }
        }
    }
    caps::clear(None, CapSet::Ambient).map_err(refused("the ambient capabilities"))?;
    caps::clear(None, CapSet::Inheritable).map_err(refused("the inheritable capabilities"))?;
    let always: CapsHashSet = ALWAYS.into_iter().collect();
    caps::set(None, CapSet::Effective, &always).map_err(refused("the effective capabilities"))?;
    caps::set(None, CapSet::Permitted, &kept).map_err(refused("the permitted capabilities"))?;
    LOWERED.store(true, Ordering::Release);
    Ok(())
}

thread_local! {
    static RAISED: Cell<u32> = const { Cell::new(0) };
}

/// Makes the capabilities that [`lower`] has left permitted effective, for this thread, until the
/// guard is dropped. Costs three microseconds, or nothing if privileges were not lowered or are
/// raised already.
#[must_use = "privileges are lowered again when the guard is dropped"]
pub fn raise() -> Raised {
    if LOWERED.load(Ordering::Acquire) {
        if RAISED.get() == 0 {
            let all = caps::read(None, CapSet::Permitted);
            if let Err(e) = all.and_then(|all| caps::set(None, CapSet::Effective, &all)) {
                // The operation that needs them fails, and reports it.
                tracing::warn!("cannot raise privileges: {e}");
            }
        }
        RAISED.set(RAISED.get() + 1);
    }
    Raised { _of_this_thread: PhantomData }
}

/// Whether a netns of other users can be entered while privileges are [raised](raise).
#[must_use]
pub fn may_enter_netns() -> bool {
    caps::has_cap(None, CapSet::Permitted, Capability::CAP_SYS_ADMIN).unwrap_or(false)
}

/// Privileges are in force while it lives.
#[derive(Debug)]
pub struct Raised {
    /// Capabilities belong to a thread: the guard must not leave it.
    _of_this_thread: PhantomData<*const ()>,
}

impl Drop for Raised {
    fn drop(&mut self) {
        let depth = RAISED.get();
        if depth == 0 {
            return;
        }
        RAISED.set(depth - 1);
        if depth == 1 {
            let always: CapsHashSet = ALWAYS.into_iter().collect();
            if let Err(e) = caps::set(None, CapSet::Effective, &always) {
                tracing::error!("cannot lower privileges again: {e}");
            }
        }
    }
}
