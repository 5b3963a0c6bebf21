//! Owner of a unix socket's file, and the users allowed to send requests.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::Requester;
use crate::sys::sockets;

/// Default mode of the socket file if no other uid is allowed.
const MODE_PRIVATE: u32 = 0o600;
/// Default mode of the socket file if other uids are allowed: the uid decides, and a stricter file
/// mode would only lock out allowed users.
const MODE_BY_UID: u32 = 0o666;

/// Owner and mode of a socket file, and the users allowed to send requests over it.
///
/// The file mode decides which processes can connect. Then the credentials of each client are
/// checked (`SO_PEERCRED`): root, the user of the service, and the users in `allow` may send
/// requests. Every other client gets one refusal and is disconnected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Permission bits; by default 0600, or 0666 if `allow` names anyone.
    pub mode: Option<u32>,
    /// Owner of the file; by default the user of the service.
    pub owner: Option<u32>,
    /// Group of the file; by default that of the service.
    pub group: Option<u32>,
    /// Users, by uid, allowed besides root and the service's own.
    pub allow: BTreeSet<u32>,
}

impl Access {
    /// The permission bits that the socket file gets.
    #[must_use]
    pub fn mode(&self) -> u32 {
        self.mode.unwrap_or(if self.allow.is_empty() { MODE_PRIVATE } else { MODE_BY_UID })
    }

    /// True if this user may send requests.
    #[must_use]
    pub fn allows(&self, uid: u32) -> bool {
        uid == 0 || uid == nix::unistd::geteuid().as_raw() || self.allow.contains(&uid)
    }

    /// Sets owner, group and mode of a file. The mode comes last: a change of owner may clear bits
    /// of it.
    pub(super) fn apply(&self, path: &Path) -> io::Result<()> {
        sockets::give(path, self.owner, self.group, self.mode())
    }
}

/// User and process at the other end when it connected, in the namespaces of this process.
pub(super) fn peer(stream: &UnixStream) -> io::Result<Requester> {
    let (uid, pid) = sockets::peer(stream)?;
    Ok(Requester::Client { uid, pid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_whom_it_names() {
        let mut access = Access::default();
        let stranger = nix::unistd::geteuid().as_raw().wrapping_add(1).max(1);
        assert_eq!(access.mode(), 0o600);
        assert!(access.allows(0) && !access.allows(stranger));
        access.allow.insert(stranger);
        assert_eq!(access.mode(), 0o666);
        assert!(access.allows(stranger) && !access.allows(stranger + 1));
        access.mode = Some(0o660);
        assert_eq!(access.mode(), 0o660);
    }

    #[test]
    fn the_peer_is_this_process() {
        let (here, _there) = UnixStream::pair().unwrap();
        let (uid, pid) = (nix::unistd::geteuid().as_raw(), std::process::id());
        assert_eq!(peer(&here).unwrap(), Requester::Client { uid, pid });
        assert_eq!(Requester::Client { uid: 7, pid: 42 }.to_string(), "uid 7 pid 42");
    }
}
