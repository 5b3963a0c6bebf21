//! What is done to the sockets of a backend that is gone.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// What is done to the sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// They are destroyed.
    #[default]
    Destroy,
    /// They are destroyed, and those that are not used anew are connected to the Service's own address.
    Revive,
    /// They are connected to the Service's own address at once.
    Move,
    /// Nothing.
    None,
}

impl Action {
    /// Every action, in the order of messages.
    const ALL: [Self; 4] = [Self::Destroy, Self::Revive, Self::Move, Self::None];

    /// True if it needs an address to connect to.
    pub const fn connects_anew(self) -> bool {
        matches!(self, Self::Revive | Self::Move)
    }

    /// Name on the wire, on the command line and in annotations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Destroy => "destroy",
            Self::Revive => "revive",
            Self::Move => "move",
            Self::None => "none",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no action has that name; write destroy, revive, move or none")]
pub struct UnknownAction;

impl FromStr for Action {
    type Err = UnknownAction;

    fn from_str(text: &str) -> Result<Self, UnknownAction> {
        Self::ALL.into_iter().find(|action| action.name() == text).ok_or(UnknownAction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_have_names() {
        for action in Action::ALL {
            assert_eq!(action.name().parse(), Ok(action));
        }
        assert_eq!("Destroy".parse::<Action>(), Err(UnknownAction));
    }
}
