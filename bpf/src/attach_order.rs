//! The order in which the programs of a hook run, and being the last of them.
//!
//! The programs of one cgroup run in the order of attachment (those with `BPF_F_PREORDER` before
//! all others), then those of its parent, and so on up to the root. Our hooks record the address as
//! the programs before them have left it, so a load balancer has to run before them.

use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use serde::{Serialize, Serializer};

use crate::fault::{self, Point};
use crate::prog::{self, Attached};

/// Names of our own programs. Those of another instance do not translate addresses either.
const OWN_PREFIX: &str = "skreap_";
/// Programs on one hook of one cgroup (`BPF_CGROUP_MAX_PROGS` of kernel/bpf/cgroup.c).
const MAX_PROGRAMS: usize = 64;

/// A hook at which an address may be translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// `connect()` of an IPv4 address.
    Connect4,
    /// `connect()` of an IPv6 address.
    Connect6,
    /// `sendto()` and `sendmsg()` to an IPv4 address.
    Sendmsg4,
    /// `sendto()` and `sendmsg()` to an IPv6 address.
    Sendmsg6,
}

impl Hook {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Connect4, Self::Connect6, Self::Sendmsg4, Self::Sendmsg6];

    /// Its name below `cgroup/`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
            Self::Sendmsg4 => "sendmsg4",
            Self::Sendmsg6 => "sendmsg6",
        }
    }

    /// Our program on it.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::Connect4 => "skreap_connect4",
            Self::Connect6 => "skreap_connect6",
            Self::Sendmsg4 => "skreap_sendmsg4",
            Self::Sendmsg6 => "skreap_sendmsg6",
        }
    }

    /// Our program that runs before all others on it, where frontends are recorded.
    #[must_use]
    pub fn first_program(self) -> &'static str {
        match self {
            Self::Connect4 => "skreap_first_connect4",
            Self::Connect6 => "skreap_first_connect6",
            Self::Sendmsg4 => "skreap_first_sendmsg4",
            Self::Sendmsg6 => "skreap_first_sendmsg6",
        }
    }

    fn attach_type(self) -> libbpf_sys::bpf_attach_type {
        match self {
            Self::Connect4 => libbpf_sys::BPF_CGROUP_INET4_CONNECT,
            Self::Connect6 => libbpf_sys::BPF_CGROUP_INET6_CONNECT,
            Self::Sendmsg4 => libbpf_sys::BPF_CGROUP_UDP4_SENDMSG,
            Self::Sendmsg6 => libbpf_sys::BPF_CGROUP_UDP6_SENDMSG,
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for Hook {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A program on a hook.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Program {
    /// Its id, as `bpftool prog show id` takes it.
    pub id: u32,
    /// Its name, cut to 15 bytes; empty if it has none, or was unloaded meanwhile.
    pub name: String,
}

impl Program {
    /// True for a program of this project, in whichever process.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.name.starts_with(OWN_PREFIX)
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (id {})", if self.name.is_empty() { "?" } else { &self.name }, self.id)
    }
}

/// The programs before and after ours on one hook, for a process in the cgroup ours is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Order {
    /// The hook.
    pub hook: Hook,
    /// Our program; `None` if it is not attached to the cgroup (any more).
    pub ours: Option<Program>,
    /// Programs that run before it, in order. All programs if ours is not there.
    pub before: Vec<Program>,
    /// Programs that run after it and are attached to the same cgroup: attaching ours anew moves it
    /// behind them.
    pub after: Vec<Program>,
    /// Programs that run after it and are attached to a parent cgroup: ours runs behind them only
    /// if it is attached there.
    pub above: Vec<Program>,
}

impl Order {
    /// Reads the order of a hook; `ours` is the id of our program.
    ///
    /// # Errors
    /// The errno of the query: `EBADF` if the descriptor is not a cgroup's, `ENODEV` if the cgroup
    /// was removed, `EPERM` without CAP_NET_ADMIN.
    pub fn read(cgroup: BorrowedFd<'_>, hook: Hook, ours: u32) -> io::Result<Self> {
        let effective = programs(cgroup, hook, Kind::Effective)?;
        let local = programs(cgroup, hook, Kind::Local)?;
        let split = split(&effective, &local, ours);
        let named = |ids: &[u32]| ids.iter().map(|id| Program { id: *id, name: name(*id) }).collect();
        Ok(Self {
            hook,
            ours: split.ours.then(|| Program { id: ours, name: name(ours) }),
            before: named(split.before),
            after: named(split.after),
            above: named(split.above),
        })
    }

    /// Programs of others after ours that a new attachment would get behind.
    pub fn foreign_after(&self) -> impl Iterator<Item = &Program> {
        self.after.iter().filter(|program| !program.is_own())
    }

    /// Programs of others after ours that nothing gets behind.
    pub fn foreign_above(&self) -> impl Iterator<Item = &Program> {
        self.above.iter().filter(|program| !program.is_own())
    }
}

/// A cheap fingerprint of the order of a hook: two equal revisions mean that nothing was attached or
/// detached in between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookRevision {
    /// Counts the changes of this cgroup's programs (Linux 6.17); 0 before.
    revision: u64,
    /// The effective programs, unless the revision is all that was asked for.
    effective: Option<Vec<u32>>,
}

impl HookRevision {
    /// Reads the revision of a hook. `thorough` also covers changes in parent cgroups. Without it, a
    /// kernel that has revisions reports changes of the cgroup itself only.
    ///
    /// # Errors
    /// As [`Order::read`].
    pub fn take(cgroup: BorrowedFd<'_>, hook: Hook, thorough: bool) -> io::Result<Self> {
        let revision = query(cgroup, hook, Kind::Local, &mut [])?.revision;
        let effective =
            if thorough || revision == 0 { Some(programs(cgroup, hook, Kind::Effective)?) } else { None };
        Ok(Self { revision, effective })
    }

    /// True if a later revision, thorough or not, says the same as this one.
    #[must_use]
    pub fn holds(&self, later: &Self) -> bool {
        self.revision == later.revision
            && later.effective.as_ref().is_none_or(|e| self.effective.as_ref() == Some(e))
    }
}

/// Programs of others that run before the program with this id, in order; `None` if that one does not
/// run for a process in this cgroup.
///
/// # Errors
/// As [`Order::read`].
pub fn foreign_before(cgroup: BorrowedFd<'_>, hook: Hook, ours: u32) -> io::Result<Option<Vec<Program>>> {
    let effective = programs(cgroup, hook, Kind::Effective)?;
    let Some(at) = effective.iter().position(|&id| id == ours) else {
        return Ok(None);
    };
    let before = effective.iter().take(at).map(|id| Program { id: *id, name: name(*id) });
    Ok(Some(before.filter(|program| !program.is_own()).collect()))
}

struct Split<'a> {
    ours: bool,
    before: &'a [u32],
    after: &'a [u32],
    above: &'a [u32],
}

/// Splits the programs that run after ours by the cgroup they are attached to. `effective` is in
/// the order of execution. `local`, the programs attached to the cgroup itself, is in the order of
/// attachment. A program attached after ours either runs right after it, in the same order, or has
/// BPF_F_PREORDER and runs before.
fn split<'a>(effective: &'a [u32], local: &[u32], ours: u32) -> Split<'a> {
    let (Some(at), Some(attached)) =
        (effective.iter().rposition(|&id| id == ours), local.iter().rposition(|&id| id == ours))
    else {
        return Split { ours: false, before: effective, after: &[], above: &[] };
    };
    let (before, rest) = effective.split_at(at);
    let behind = rest.get(1..).unwrap_or_default();
    let mut same = 0;
    for id in local.iter().skip(attached + 1) {
        if behind.get(same) == Some(id) {
            same += 1;
        }
    }
    let (after, above) = behind.split_at(same);
    Split { ours: true, before, after, above }
}

/// Which programs are asked for.
#[derive(Clone, Copy)]
enum Kind {
    /// Attached to the cgroup itself, in the order of attachment.
    Local,
    /// All that run for a process in it, in the order of running.
    Effective,
}

fn programs(cgroup: BorrowedFd<'_>, hook: Hook, kind: Kind) -> io::Result<Vec<u32>> {
    let mut ids = vec![0; MAX_PROGRAMS];
    loop {
        match query(cgroup, hook, kind, &mut ids) {
            Ok(answer) => {
                ids.truncate(answer.count);
                return Ok(ids);
            }
            // Those of all parents together may be more.
            Err(e) if e.raw_os_error() == Some(libc::ENOSPC) && ids.len() < 64 * MAX_PROGRAMS => {
                ids.resize(ids.len() * 2, 0);
            }
            Err(e) => return Err(e),
        }
    }
}

/// Without room for ids it only counts.
fn query(cgroup: BorrowedFd<'_>, hook: Hook, kind: Kind, ids: &mut [u32]) -> io::Result<Attached> {
    fault::at(Point::ProgQuery)?;
    let flags = match kind {
        Kind::Local => 0,
        Kind::Effective => libbpf_sys::BPF_F_QUERY_EFFECTIVE,
    };
    prog::query(cgroup, hook.attach_type(), flags, ids)
}

/// The name of a program; empty if it has none or is gone.
fn name(id: u32) -> String {
    let Ok(info) = prog::by_id(id).and_then(|program| prog::info(&program)) else {
        return String::new();
    };
    let name = info.name.map(|c| c as u8);
    String::from_utf8_lossy(name.split(|c| *c == 0).next().unwrap_or_default()).into_owned()
}

/// A foreign program that blocks our attachment: it is exclusive, or overridable, so that ours
/// would silently replace it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// Attached to this cgroup, or a parent, without `BPF_F_ALLOW_MULTI`: the kernel refuses ours.
    Exclusive(Program),
    /// Attached to this cgroup with `BPF_F_ALLOW_OVERRIDE`: the kernel refuses ours.
    Overridable(Program),
    /// Attached to a parent with `BPF_F_ALLOW_OVERRIDE`: the kernel would stop it for this cgroup.
    WouldStop(Program),
}

impl Conflict {
    /// Checks the cgroup and its parents, as far up as they are visible.
    #[must_use]
    pub fn find(cgroup: BorrowedFd<'_>, hook: Hook) -> Option<Self> {
        let mut level = cgroup.try_clone_to_owned().ok()?;
        for above in 0.. {
            let mut ids = [0; MAX_PROGRAMS];
            let answer = query(level.as_fd(), hook, Kind::Local, &mut ids).ok()?;
            if answer.flags & libbpf_sys::BPF_F_ALLOW_MULTI != 0 {
                // Several programs may be attached here, so ours may be too. The parents were
                // checked when these programs were attached.
                return None;
            }
            if answer.count > 0 {
                let program = Program { id: ids[0], name: name(ids[0]) };
                return Some(match (answer.flags & libbpf_sys::BPF_F_ALLOW_OVERRIDE, above) {
                    (0, _) => Self::Exclusive(program),
                    (_, 0) => Self::Overridable(program),
                    _ => Self::WouldStop(program),
                });
            }
            level = parent(level.as_fd()).ok()?;
        }
        None
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exclusive(program) => write!(
                f,
                "program {program} is attached there, or above, exclusively: have its owner attach it by a link, or \
                 with BPF_F_ALLOW_MULTI"
            ),
            Self::Overridable(program) => write!(
                f,
                "program {program} is attached there with BPF_F_ALLOW_OVERRIDE, which lets no other beside it: have \
                 its owner attach it by a link, or with BPF_F_ALLOW_MULTI"
            ),
            Self::WouldStop(program) => write!(
                f,
                "program {program} is attached to a parent cgroup with BPF_F_ALLOW_OVERRIDE, and hooks here would stop \
                 it: attach to the cgroup it is attached to, after its owner attached it with BPF_F_ALLOW_MULTI"
            ),
        }
    }
}

/// The directory above; that of the topmost cgroup that is visible is no cgroup.
///
/// # Errors
/// The errno of opening it.
pub fn parent(cgroup: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(openat(cgroup, "..", flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(effective: &[u32], local: &[u32]) -> (bool, Vec<u32>, Vec<u32>, Vec<u32>) {
        let s = split(effective, local, 7);
        (s.ours, s.before.to_vec(), s.after.to_vec(), s.above.to_vec())
    }

    #[test]
    fn last_of_all() {
        assert_eq!(parts(&[3, 7], &[3, 7]), (true, vec![3], vec![], vec![]));
    }

    #[test]
    fn behind_ours_on_the_same_cgroup_and_above() {
        assert_eq!(parts(&[3, 7, 4, 9], &[3, 7, 4]), (true, vec![3], vec![4], vec![9]));
    }

    #[test]
    fn preordered_runs_before_though_attached_later() {
        assert_eq!(parts(&[5, 3, 7, 4], &[3, 7, 5, 4]), (true, vec![5, 3], vec![4], vec![]));
    }

    #[test]
    fn two_of_ours_during_a_move() {
        assert_eq!(parts(&[7, 4, 7], &[7, 4, 7]), (true, vec![7, 4], vec![], vec![]));
    }

    #[test]
    fn the_same_program_here_and_above() {
        assert_eq!(parts(&[4, 7, 4], &[4, 7]), (true, vec![4], vec![], vec![4]));
    }

    #[test]
    fn ours_is_gone() {
        assert_eq!(parts(&[3, 4], &[3]), (false, vec![3, 4], vec![], vec![]));
    }

    #[test]
    fn a_quick_revision_is_compared_with_a_thorough_one() {
        let thorough = HookRevision { revision: 5, effective: Some(vec![1, 2]) };
        assert!(thorough.holds(&HookRevision { revision: 5, effective: None }));
        assert!(!thorough.holds(&HookRevision { revision: 6, effective: None }));
        assert!(!thorough.holds(&HookRevision { revision: 5, effective: Some(vec![2, 1]) }));
    }
}
