//! Names of the ways to find and destroy sockets.

use serde::{Deserialize, Serialize};

use crate::text::names;

/// One way to find and destroy the sockets of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum EngineName {
    /// The walk of one bucket destroys each socket itself, with the kernel module's kfunc.
    Kfunc,
    /// The walk of one bucket lists the victims; `SOCK_DESTROY` over netlink destroys each by its
    /// exact id.
    Netlink,
    /// Full scan with BPF socket iterators and `bpf_sock_destroy`, once per network namespace.
    Iter,
    /// Full scan with sock_diag dumps, matched in user space.
    Diag,
    /// Full scan with sock_diag dumps, matched by bytecode in the kernel, as `ss -K` does.
    DiagFilter,
    /// Scan of every bucket of the index: the index without the benefit of its key.
    IndexScan,
}

names!(
    EngineName,
    "an engine",
    Kfunc => "kfunc",
    Netlink => "netlink",
    Iter => "iter",
    Diag => "diag",
    DiagFilter => "diag-filter",
    IndexScan => "index-scan",
);

impl EngineName {
    /// True for a scan of every socket, whether or not the index knows it.
    pub const fn scans(self) -> bool {
        matches!(self, Self::Iter | Self::Diag | Self::DiagFilter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_agree_everywhere() {
        for engine in EngineName::ALL {
            assert_eq!(engine.to_string().parse(), Ok(engine));
            assert_eq!(serde_json::to_string(&engine).unwrap(), format!("\"{engine}\""));
        }
        assert_eq!(EngineName::DiagFilter.to_string(), "diag-filter");
        assert_eq!(
            "auto".parse::<EngineName>().unwrap_err().to_string(),
            "\"auto\" is not an engine; write one of: \
             kfunc, netlink, iter, diag, diag-filter, index-scan"
        );
    }
}
