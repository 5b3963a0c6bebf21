//! Where a socket is: its cgroup and its network namespace, as people name them.

use std::fmt;
use std::str::FromStr;

use crate::error::excerpt;
use crate::text::serde_as_text;

/// Longest accepted name or path, in bytes: `PATH_MAX` of linux/limits.h.
const MAX_BYTES: usize = 4096;

/// A cgroup: the path of its cgroup2 directory, or `id:N` with its id (the inode number of that directory).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CgroupName {
    /// By its directory.
    Path(String),
    /// By its id, never used twice while the kernel runs.
    Id(u64),
}

/// A network namespace: a name under `/run/netns`, the path of its file, the id of a process that is in it, or
/// `cookie:N` with its cookie (`SO_NETNS_COOKIE`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NetnsName {
    /// By its name under `/run/netns`.
    Name(String),
    /// By its file.
    Path(String),
    /// By a process that is in it.
    Pid(u32),
    /// By its cookie, never used twice while the kernel runs.
    Cookie(u64),
}

/// Decimal digits only, no leading zero; never 0.
fn number<T: FromStr>(text: &str) -> Option<T> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| plain)
}

fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.len() <= MAX_BYTES && !text.contains(char::is_control)
}

impl fmt::Display for CgroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => f.write_str(path),
            Self::Id(id) => write!(f, "id:{id}"),
        }
    }
}

impl FromStr for CgroupName {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        if is_path(text) {
            return Ok(Self::Path(text.to_owned()));
        }
        let id = text.strip_prefix("id:").and_then(number);
        id.map(Self::Id).ok_or_else(|| PlaceError::Cgroup(excerpt(text)))
    }
}

impl NetnsName {
    /// The path that leads to it; `None` for a cookie, which has none.
    pub fn file(&self) -> Option<String> {
        match self {
            Self::Name(name) => Some(format!("/run/netns/{name}")),
            Self::Path(path) => Some(path.clone()),
            Self::Pid(pid) => Some(format!("/proc/{pid}/ns/net")),
            Self::Cookie(_) => None,
        }
    }
}

impl fmt::Display for NetnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(text) | Self::Path(text) => f.write_str(text),
            Self::Pid(pid) => pid.fmt(f),
            Self::Cookie(cookie) => write!(f, "cookie:{cookie}"),
        }
    }
}

impl FromStr for NetnsName {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let bad = || PlaceError::Netns(excerpt(text));
        if is_path(text) {
            return Ok(Self::Path(text.to_owned()));
        }
        if let Some(cookie) = text.strip_prefix("cookie:") {
            return number(cookie).map(Self::Cookie).ok_or_else(bad);
        }
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return number(text).map(Self::Pid).ok_or_else(bad);
        }
        // As a file name.
        let named = !matches!(text, "" | "." | "..") && text.len() <= 255;
        if named && !text.contains(|c: char| c == '/' || c == ':' || c.is_control()) {
            return Ok(Self::Name(text.to_owned()));
        }
        Err(bad())
    }
}

serde_as_text!(CgroupName);
serde_as_text!(NetnsName);

/// Why something names no cgroup or network namespace, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// Not a cgroup.
    #[error(
        "{0} names no cgroup; write the absolute path of its directory, such as /sys/fs/cgroup/a.slice, or its id as \
         id:4242"
    )]
    Cgroup(String),
    /// Not a netns.
    #[error(
        "{0} names no network namespace; write its name under /run/netns, an absolute path such as /run/netns/blue, \
         the id of a process in it, or its cookie as cookie:4242"
    )]
    Netns(String),
}
