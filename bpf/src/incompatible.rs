//! Why a pinned index cannot be taken over.

use crate::Error;

/// The reason why the pinned index cannot be taken over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Incompatible {
    /// Another version created it.
    #[error("its layout is version {found}, this program's {expected}")]
    Layout {
        /// `SKREAP_LAYOUT_VERSION` of its creator.
        found: u32,
        /// That of this program.
        expected: u32,
    },
    /// It is not as large as is asked for.
    #[error("{what} is {found}, {wanted} is requested")]
    Size {
        /// Name of the size.
        what: &'static str,
        /// As pinned.
        found: u32,
        /// As asked for.
        wanted: u32,
    },
    /// A map is missing, differs from the one this program needs, or is unknown to it.
    #[error("map {name}: {why}")]
    Map {
        /// Name of its pin.
        name: String,
        /// The difference.
        why: String,
    },
    /// A hook is missing or not attached to the cgroup.
    #[error("hook {name}: {why}")]
    Hook {
        /// Name of its pin.
        name: String,
        /// The difference.
        why: String,
    },
    /// The programs are not accepted with these maps.
    #[error("the programs do not load with it: {0}")]
    Load(String),
}

/// The obstacles to a take-over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Obstacle {
    /// A new index can take the place of the old one.
    #[error(transparent)]
    Incompatible(#[from] Incompatible),
    /// Neither can be had.
    #[error(transparent)]
    Error(#[from] Error),
}
