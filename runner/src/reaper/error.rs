//! Why a reaper could not be built.

use std::io;

use crate::engine::{EngineError, select};
use crate::sys::cgroup::PartOnly;

/// Reasons why a [`Reaper`](crate::Reaper) could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no cgroup to attach to.
    #[error("cgroup {path}: {source}; mount cgroup2, or name a cgroup2 directory with --cgroup")]
    Cgroup {
        /// The path, or the object that was searched for.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// No cgroup was named, and the root of the machine's cgroup2 is not mounted here.
    #[error(transparent)]
    PartOfCgroup2(#[from] PartOnly),
    /// The kernel side refused.
    #[error(transparent)]
    Bpf(#[from] skreap_bpf::Error),
    /// No engine, or not the one that was asked for, works here.
    #[error(transparent)]
    Choice(#[from] select::Refused),
    /// The engine could not start or work.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl From<select::Error> for Error {
    fn from(e: select::Error) -> Self {
        match e {
            select::Error::Refused(e) => e.into(),
            select::Error::Engine(e) => e.into(),
        }
    }
}

impl Error {
    /// True if this kernel or these privileges do not allow it, so that a retry is useless.
    #[must_use]
    pub fn cannot(&self) -> bool {
        match self {
            Self::Cgroup { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::Bpf(e) | Self::Engine(EngineError::Walk(e)) => e.cannot(),
            Self::Choice(_) | Self::PartOfCgroup2(_) => true,
            Self::Engine(_) => false,
        }
    }
}
