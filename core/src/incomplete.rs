//! Why an engine cannot claim that it has found every socket.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why an engine cannot claim to have found every socket of the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Incomplete {
    /// The index was full when a socket should have been added, and no fallback scan has completed the event.
    IndexFull,
    /// An unconnected socket sent to more peers than its record holds, or found no room in the
    /// index. A scan cannot find it either, since the kernel does not remember its destinations.
    WildcardUnconnected,
    /// A network namespace could not be entered or queried; its sockets were not checked.
    NetnsUnreachable,
    /// The kernel's tables of sockets could not be read, so a dump of them could not be confirmed;
    /// some sockets may be missing from it.
    DumpInterrupted,
    /// The event had more victims than the limit, and destroyed none.
    Refused,
    /// The engine could not work at all; the report's `error` gives the reason.
    EngineFailed,
    /// It is unknown whether the hooks see translated addresses, and no fallback scan has completed the
    /// event; sockets may be recorded under a virtual address.
    HookOrder,
    /// The index may lack sockets of any backend, and no fallback scan has completed the event: the search
    /// for pre-existing sockets was incomplete, or a hook was detached for a while.
    IndexUnsure,
    /// The kernel's own sockets are connected to the backend, and were not destroyed or could not be
    /// looked for.
    KernelSockets,
    /// A scan came to a socket whose owner held its lock for so long that the scan was given up;
    /// the sockets behind it were not checked.
    SocketLocked,
}

impl Incomplete {
    /// Every reason.
    pub const ALL: [Self; 10] = [
        Self::IndexFull,
        Self::WildcardUnconnected,
        Self::NetnsUnreachable,
        Self::DumpInterrupted,
        Self::Refused,
        Self::EngineFailed,
        Self::HookOrder,
        Self::IndexUnsure,
        Self::KernelSockets,
        Self::SocketLocked,
    ];

    /// Name in kebab case, for example `index-full`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::IndexFull => "index-full",
            Self::WildcardUnconnected => "wildcard-unconnected",
            Self::NetnsUnreachable => "netns-unreachable",
            Self::DumpInterrupted => "dump-interrupted",
            Self::Refused => "refused",
            Self::EngineFailed => "engine-failed",
            Self::HookOrder => "hook-order",
            Self::IndexUnsure => "index-unsure",
            Self::KernelSockets => "kernel-sockets",
            Self::SocketLocked => "socket-locked",
        }
    }
}

impl fmt::Display for Incomplete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incomplete_names_agree() {
        for why in Incomplete::ALL {
            assert_eq!(serde_json::to_string(&why).unwrap(), format!("\"{why}\""));
        }
    }
}
