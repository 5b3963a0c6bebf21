//! The results of a revive and of a move.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::errno::errno_name;

/// What came of one socket that was to be connected to a living backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Connected {
    /// It is connected there now.
    Done,
    /// It had another peer by then: its owner was faster.
    HasPeer,
    /// Its owner connected it, or took its peer away, at the same moment, and has the last word.
    Overtaken,
    /// It is closed.
    Closed,
    /// It is no longer as the destroy has left it: it has sent to an address without being connected, or has the peer
    /// that it had before.
    Changed,
    /// No process that can be seen has it open: it is on its way over a unix socket, or registered with io_uring.
    Unreachable,
    /// There is no destination of its address family.
    Nowhere,
    /// It would keep its source address, which the kernel has chosen, and the route to the destination wants another; or a
    /// program has bound it to an address from which nothing leads there (moved sockets only).
    OtherSource,
    /// The service has ended before, or too many sockets were waiting.
    Lost,
    /// Not possible (positive errno). `ETIMEDOUT`: its owner holds its lock, and it is connected late or not at all.
    Failed(i32),
}

impl Connected {
    /// One word for the result. The caller gives the word for a socket that was connected: `done`.
    pub fn name(self, done: &'static str) -> Cow<'static, str> {
        match self {
            Self::Done => done.into(),
            Self::HasPeer => "elsewhere".into(),
            Self::Overtaken => "overtaken".into(),
            Self::Closed => "closed".into(),
            Self::Changed => "changed".into(),
            Self::Unreachable => "unreachable".into(),
            Self::Nowhere => "nowhere".into(),
            Self::OtherSource => "other-source".into(),
            Self::Lost => "lost".into(),
            Self::Failed(errno) => errno_name(errno),
        }
    }
}

/// The second look at the destroyed sockets of one event: `{"id":"e1","revived":{…}}`. `sockets` is the sum of all
/// others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Revived {
    /// Sockets that were to be revived.
    pub sockets: u64,
    /// Connected to a living backend.
    pub revived: u64,
    /// Left alone: connected again by their owners.
    pub healed: u64,
    /// Left alone: connected by their owners at the same moment.
    pub overtaken: u64,
    /// Closed by then.
    pub closed: u64,
    /// Left alone: they have sent to an address without being connected, or were not destroyed after all.
    pub changed: u64,
    /// Open in no process that can be seen.
    pub unreachable: u64,
    /// Without a destination of their address family.
    pub nowhere: u64,
    /// Not looked at, as the service ended, or too many were waiting.
    pub lost: u64,
    /// Not connected, by the name of the error.
    pub failed: BTreeMap<String, u64>,
    /// Nanoseconds from the destroy to the end of the second look.
    pub after_ns: u64,
}

impl Revived {
    /// Counts one socket.
    pub fn add(&mut self, one: Connected) {
        self.sockets += 1;
        match one {
            Connected::Done => self.revived += 1,
            Connected::HasPeer => self.healed += 1,
            Connected::Overtaken => self.overtaken += 1,
            Connected::Closed => self.closed += 1,
            Connected::Changed => self.changed += 1,
            Connected::Unreachable => self.unreachable += 1,
            Connected::Nowhere | Connected::OtherSource => self.nowhere += 1,
            Connected::Lost => self.lost += 1,
            Connected::Failed(errno) => *self.failed.entry(errno_name(errno).into_owned()).or_default() += 1,
        }
    }

    /// Adds the counts of another one.
    pub fn add_all(&mut self, other: &Self) {
        for ((_, all), (_, more)) in self.counts_mut().into_iter().zip(other.counts()) {
            *all += more;
        }
        self.sockets += other.sockets;
        for (errno, n) in &other.failed {
            *self.failed.entry(errno.clone()).or_default() += n;
        }
    }

    /// What came of the sockets, by name, without those that failed.
    pub fn counts(&self) -> [(&'static str, u64); 8] {
        [
            ("revived", self.revived),
            ("healed", self.healed),
            ("overtaken", self.overtaken),
            ("closed", self.closed),
            ("changed", self.changed),
            ("unreachable", self.unreachable),
            ("nowhere", self.nowhere),
            ("lost", self.lost),
        ]
    }

    fn counts_mut(&mut self) -> [(&'static str, &mut u64); 8] {
        [
            ("revived", &mut self.revived),
            ("healed", &mut self.healed),
            ("overtaken", &mut self.overtaken),
            ("closed", &mut self.closed),
            ("changed", &mut self.changed),
            ("unreachable", &mut self.unreachable),
            ("nowhere", &mut self.nowhere),
            ("lost", &mut self.lost),
        ]
    }

    /// Sockets that could not be connected.
    pub fn all_failed(&self) -> u64 {
        self.failed.values().sum()
    }
}

/// UDP sockets that were to be connected to a living backend in place of their destroy. `sockets` is the sum of all others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Moved {
    /// Sockets that were found.
    pub sockets: u64,
    /// Connected to a living backend.
    pub moved: u64,
    /// Not moved, by the reason: `elsewhere` and `overtaken` (their owners have connected them), `closed`, `changed` (without
    /// a peer by then), `unreachable` (open in no process that can be seen), `nowhere` (no destination of their address
    /// family), `other-source` (the route wants another source address than they have), or an errno; `ETIMEDOUT`: their
    /// owner holds their lock.
    pub not_moved: BTreeMap<String, u64>,
}

impl Moved {
    /// Counts one socket.
    pub fn add(&mut self, one: Connected) {
        self.sockets += 1;
        if one == Connected::Done {
            self.moved += 1;
        } else {
            *self.not_moved.entry(one.name("moved").into_owned()).or_default() += 1;
        }
    }

    /// Adds the counts of another one.
    pub fn add_all(&mut self, other: &Self) {
        self.sockets += other.sockets;
        self.moved += other.moved;
        for (reason, n) in &other.not_moved {
            *self.not_moved.entry(reason.clone()).or_default() += n;
        }
    }
}

/// Destroyed sockets that will be looked at again, in the report of their event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Reviving {
    /// How many.
    pub sockets: u64,
    /// Milliseconds from the destroy to the second look.
    pub after_ms: u32,
}

impl Reviving {
    /// So many sockets, so many milliseconds after their destroy.
    #[must_use]
    pub const fn new(sockets: u64, after_ms: u32) -> Self {
        Self { sockets, after_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_the_number_of_sockets() {
        let mut revived = Revived::default();
        for one in [
            Connected::Done,
            Connected::Done,
            Connected::HasPeer,
            Connected::Overtaken,
            Connected::Closed,
            Connected::Changed,
            Connected::Unreachable,
            Connected::Nowhere,
            Connected::Lost,
            Connected::Failed(22),
            Connected::Failed(22),
        ] {
            revived.add(one);
        }
        let sum: u64 = revived.counts().iter().map(|(_, n)| n).sum();
        assert_eq!((revived.sockets, sum, revived.all_failed()), (11, 9, 2));
        assert_eq!((revived.revived, revived.failed["EINVAL"]), (2, 2));
        let mut twice = revived.clone();
        twice.add_all(&revived);
        assert_eq!((twice.sockets, twice.revived, twice.lost, twice.failed["EINVAL"]), (22, 4, 2, 4));
    }

    #[test]
    fn a_socket_is_moved_or_there_is_a_reason() {
        let mut moved = Moved::default();
        for one in [Connected::Done, Connected::Overtaken, Connected::OtherSource, Connected::Failed(110)] {
            moved.add(one);
        }
        let mut twice = moved.clone();
        twice.add_all(&moved);
        assert_eq!(
            serde_json::to_string(&twice).unwrap(),
            r#"{"sockets":8,"moved":2,"not_moved":{"ETIMEDOUT":2,"other-source":2,"overtaken":2}}"#
        );
    }

    #[test]
    fn wire_form() {
        let mut revived = Revived { after_ns: 7, ..Revived::default() };
        revived.add(Connected::Done);
        revived.add(Connected::Failed(110));
        assert_eq!(
            serde_json::to_string(&revived).unwrap(),
            r#"{"sockets":2,"revived":1,"healed":0,"overtaken":0,"closed":0,"changed":0,"unreachable":0,"nowhere":0,"lost":0,"failed":{"ETIMEDOUT":1},"after_ns":7}"#
        );
    }
}
