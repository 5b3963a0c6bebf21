//! The TCP states of victims.

use std::fmt;
use std::str::FromStr;

use skreap_core::state_name;

/// TCP states whose sockets are victims, the same for all engines. UDP sockets have no such states.
///
/// The default is every state in which there is something to destroy: a whole socket with a peer
/// and an owner. A mask cannot contain the others:
/// * TIME_WAIT: the connection is over and its owner has closed it. Only a 2-minute record of the
///   tuple is left, which protects the next connection; no process waits for it, and nothing is
///   sent.
/// * CLOSE and BOUND_INACTIVE: no connection. The kernel answers a destroy with `ENOENT`.
/// * LISTEN: has no peer.
/// * NEW_SYN_RECV: a request in the queue of a listener, not a socket of any process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StateMask(u32);

/// Numbers of the states, see [`state_name`].
const DESTROYABLE: [u8; 8] = [1, 2, 3, 4, 5, 8, 9, 11];

impl StateMask {
    /// Bit `1 << TCP_*` (include/net/tcp_states.h) for each state.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0
    }

    /// True if sockets in this state are victims.
    #[must_use]
    pub fn contains(self, state: u8) -> bool {
        self.0.checked_shr(u32::from(state)).unwrap_or(0) & 1 != 0
    }
}

impl Default for StateMask {
    fn default() -> Self {
        Self(DESTROYABLE.iter().fold(0, |bits, state| bits | 1 << state))
    }
}

/// `ESTABLISHED,SYN_SENT`
impl fmt::Display for StateMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = DESTROYABLE.into_iter().filter(|&s| self.contains(s)).map(state_name).collect();
        f.pad(&names.join(","))
    }
}

/// A name that is no state that sockets can be destroyed in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given:?} is not a TCP state in which a socket can be destroyed; write some of: {}",
    StateMask::default()
)]
#[non_exhaustive]
pub struct UnknownState {
    given: String,
}

/// Names separated by commas, in any case, with `-` or `_`.
impl FromStr for StateMask {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        text.split(',')
            .try_fold(0, |bits, given| {
                let name = given.trim().replace('-', "_").to_ascii_uppercase();
                let state = DESTROYABLE.into_iter().find(|&s| state_name(s) == name);
                let state = state.ok_or_else(|| UnknownState { given: given.to_owned() })?;
                Ok(bits | 1 << state)
            })
            .map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_has_every_state_with_a_peer_and_an_owner() {
        let mask = StateMask::default();
        assert_eq!(
            mask.to_string(),
            "ESTABLISHED,SYN_SENT,SYN_RECV,FIN_WAIT1,FIN_WAIT2,CLOSE_WAIT,LAST_ACK,CLOSING"
        );
        for (name, state) in [("TIME_WAIT", 6), ("CLOSE", 7), ("LISTEN", 10), ("NEW_SYN_RECV", 12)] {
            assert_eq!(state_name(state), name);
            assert!(!mask.contains(state), "{name}");
            assert!(name.parse::<StateMask>().is_err(), "{name}");
        }
        assert!(!mask.contains(255));
    }

    #[test]
    fn is_read_as_it_is_written() {
        let mask: StateMask = "established, syn-sent".parse().unwrap();
        assert_eq!((mask.bits(), mask.to_string().as_str()), (0b110, "ESTABLISHED,SYN_SENT"));
        assert_eq!(mask.to_string().parse(), Ok(mask));
        assert!("".parse::<StateMask>().is_err());
    }
}
