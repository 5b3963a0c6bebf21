//! Why an engine cannot claim that it has found every socket.

use serde::{Deserialize, Serialize};

use crate::text::names;

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

names!(
    Incomplete,
    "a reason",
    IndexFull => "index-full",
    WildcardUnconnected => "wildcard-unconnected",
    NetnsUnreachable => "netns-unreachable",
    DumpInterrupted => "dump-interrupted",
    Refused => "refused",
    EngineFailed => "engine-failed",
    HookOrder => "hook-order",
    IndexUnsure => "index-unsure",
    KernelSockets => "kernel-sockets",
    SocketLocked => "socket-locked",
);

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
