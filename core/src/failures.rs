//! Victims that could not be destroyed.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::errno::{errno_name, errno_reason};
use crate::socket::SocketTuple;

/// Maximum number of failed sockets that a report lists one by one; all of them are counted by
/// errno.
pub const MAX_FAILURES_LISTED: usize = 64;

/// A victim that could not be destroyed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Failure {
    /// The socket.
    pub socket: SocketTuple,
    /// Positive error number.
    pub errno: i32,
    /// Meaning of the number.
    pub reason: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = errno_name(self.errno);
        write!(f, "{}: {name}: {}", self.socket, self.reason)
    }
}

/// Victims that could not be destroyed: all counted, the first [`MAX_FAILURES_LISTED`] listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Failures {
    total: u64,
    by_errno: BTreeMap<String, u64>,
    sockets: Vec<Failure>,
    left_out: u64,
}

impl Failures {
    /// Counts a failure, and lists it while there is room. The sign of `errno` is ignored.
    pub fn add(&mut self, socket: SocketTuple, errno: i32) {
        self.total = self.total.saturating_add(1);
        let count = self.by_errno.entry(errno_name(errno).into()).or_default();
        *count = count.saturating_add(1);
        if self.sockets.len() < MAX_FAILURES_LISTED {
            self.sockets.push(Failure {
                socket,
                errno: errno.saturating_abs(),
                reason: errno_reason(errno).to_owned(),
            });
        } else {
            self.left_out = self.left_out.saturating_add(1);
        }
    }

    /// Adds the failures of another walk of the same event.
    pub fn merge(&mut self, other: Self) {
        self.total = self.total.saturating_add(other.total);
        for (name, more) in other.by_errno {
            let count = self.by_errno.entry(name).or_default();
            *count = count.saturating_add(more);
        }
        self.left_out = self.left_out.saturating_add(other.left_out);
        for failure in other.sockets {
            if self.sockets.len() < MAX_FAILURES_LISTED {
                self.sockets.push(failure);
            } else {
                self.left_out = self.left_out.saturating_add(1);
            }
        }
    }

    /// Takes one failure of this socket back: it came to something else after all. False if there is none.
    pub fn take_back(&mut self, cookie: u64, errno: i32) -> bool {
        let name = errno_name(errno);
        let Some(count) = self.by_errno.get_mut(name.as_ref()) else {
            return false;
        };
        let listed = |failure: &Failure| failure.socket.cookie == cookie && failure.errno == errno;
        match self.sockets.iter().position(listed) {
            Some(at) => drop(self.sockets.remove(at)),
            None if self.left_out > 0 => self.left_out -= 1,
            None => return false,
        }
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.by_errno.remove(name.as_ref());
        }
        self.total = self.total.saturating_sub(1);
        true
    }

    /// How many victims could not be destroyed.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// How many, by the name of the error (`ENOENT`).
    pub const fn by_errno(&self) -> &BTreeMap<String, u64> {
        &self.by_errno
    }

    /// The first of them, at most [`MAX_FAILURES_LISTED`].
    pub fn sockets(&self) -> &[Failure] {
        &self.sockets
    }

    /// The same, for adding whose they are.
    pub fn sockets_mut(&mut self) -> impl Iterator<Item = &mut SocketTuple> {
        self.sockets.iter_mut().map(|failure| &mut failure.socket)
    }

    /// How many are counted but not listed.
    pub const fn left_out(&self) -> u64 {
        self.left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::a_socket;

    #[test]
    fn failures_are_all_counted_and_the_first_are_listed() {
        let mut failures = Failures::default();
        for cookie in 0..100 {
            failures.add(a_socket(cookie), if cookie % 4 == 0 { -95 } else { 2 });
        }
        assert_eq!(failures.total(), 100);
        assert_eq!(failures.by_errno()["EOPNOTSUPP"], 25);
        assert_eq!(failures.by_errno()["ENOENT"], 75);
        assert_eq!(failures.by_errno().len(), 2);
        assert_eq!(failures.sockets().len(), 64);
        assert_eq!(failures.left_out(), 36);
        assert_eq!(failures.sockets()[0].errno, 95);
        assert_eq!(failures.sockets()[63].socket.cookie, 63);
        assert_eq!(
            failures.sockets()[1].to_string(),
            "udp 10.0.0.2:4000 -> 10.0.0.1:53 cookie 1 netns 12: ENOENT: \
             no socket has exactly this id now (closed, or in state CLOSE)"
        );

        let mut both = Failures::default();
        both.add(a_socket(1000), 1);
        both.merge(failures);
        assert_eq!(both.total(), 101);
        assert_eq!(both.sockets().len(), 64);
        assert_eq!(both.left_out(), 37);
        assert_eq!(both.by_errno()["EPERM"], 1);
    }
}
