//! The sockets that a walk matches.

use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::text::names;

/// Policy for UDP sockets that only ever sent to the backend with `sendto`/`sendmsg` and never
/// connected to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Unconnected {
    /// Leave them alone: their next `sendto` picks a living backend anyway.
    #[default]
    Preserve,
    /// Destroy them like connected sockets. Such a socket may also be talking to other peers.
    Destroy,
}

names!(Unconnected, "a policy for unconnected sockets", Preserve => "preserve", Destroy => "destroy");

/// The sockets that a walk matches, and the treatment of each match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The peer that victims are connected to.
    pub backend: Backend,
    /// Policy for sockets that sent to the backend without connecting to it.
    pub unconnected: Unconnected,
    /// Choose and list the victims, destroy nothing.
    pub dry_run: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_names() {
        assert_eq!(Unconnected::default(), Unconnected::Preserve);
        for policy in Unconnected::ALL {
            assert_eq!(policy.to_string().parse(), Ok(policy));
            assert_eq!(serde_json::to_string(&policy).unwrap(), format!("\"{policy}\""));
        }
        assert_eq!(
            "keep".parse::<Unconnected>().unwrap_err().to_string(),
            "\"keep\" is not a policy for unconnected sockets; write one of: preserve, destroy"
        );
    }
}
