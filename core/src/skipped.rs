//! Why visited sockets were left alone.

use serde::{Deserialize, Serialize};

/// Visited sockets that were not destroyed, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Skipped {
    /// Sent to the backend without connecting to it; preserved by policy.
    pub unconnected: u64,
    /// Connected to another peer now.
    pub moved_on: u64,
    /// Recorded by `connect()` but without a peer now: the connect is pending or failed, the
    /// socket was disconnected (`AF_UNSPEC`), or it was destroyed before. Also a sender that was
    /// already a victim of the same event, for another of its backends.
    pub no_peer: u64,
    /// In a TCP state that cannot be destroyed (CLOSE, TIME_WAIT).
    pub state: u64,
    /// A node whose socket no longer exists. Anything but 0 is an alarm: the index missed a close.
    pub stale: u64,
    /// Chosen as a victim, but closed by its owner before the destroy reached it.
    pub gone: u64,
    /// Connected to the same link-local address on another link, or not known on which. Left out when 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub other_link: u64,
    /// Came through another frontend than the event names. Left out when 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub frontend: u64,
    /// Which frontend they came through is not known, and the event names some; preserved by policy.
    /// Left out when 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub frontend_unknown: u64,
    /// Connected to a backend of the event, but not selected by its `where`, or excepted. Left out when 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub not_selected: u64,
    /// Spared by a rule of the service (`serve --rules`). Left out when 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub spared: u64,
    /// The kernel's own (an NFS or CIFS mount, say): nothing can be told to its owner, and no engine
    /// destroys it. The subflows of MPTCP, which belong to a program's socket, are victims instead.
    /// Left out when 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub kernel: u64,
    /// Found by a scan: the server's side of a TCP connection, which a listener has made. The index
    /// does not know such sockets, and no engine destroys them.
    #[serde(default)]
    pub accepted: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Skipped {
    /// All of them together, saturating.
    pub fn total(&self) -> u64 {
        [
            self.unconnected,
            self.moved_on,
            self.no_peer,
            self.state,
            self.stale,
            self.gone,
            self.other_link,
            self.frontend,
            self.frontend_unknown,
            self.not_selected,
            self.spared,
            self.kernel,
            self.accepted,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_total_counts_every_reason_once() {
        let skipped = Skipped {
            unconnected: 1,
            moved_on: 10,
            no_peer: 100,
            state: 1_000,
            stale: 10_000,
            gone: 100_000,
            other_link: 1_000_000,
            kernel: 10_000_000,
            accepted: 100_000_000,
            frontend: 1_000_000_000,
            frontend_unknown: 10_000_000_000,
            not_selected: 100_000_000_000,
            spared: 1_000_000_000_000,
        };
        assert_eq!(skipped.total(), 1_111_111_111_111);
        assert_eq!(Skipped::default().total(), 0);
    }
}
