//! Choosing the engine: the first that is shown to work.

use std::fmt;
use std::str::FromStr;

use skreap_bpf::Index;
use skreap_core::EngineName;

use crate::engine::{Engine, EngineError, Netlink};
use crate::probe;
use crate::reaper::Error;

/// Which engine is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The best that works here.
    #[default]
    Auto,
    /// This one or none.
    Named(EngineName),
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.pad("auto"),
            Self::Named(name) => name.fmt(f),
        }
    }
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => text.parse().map(Self::Named).map_err(|e: skreap_core::UnknownName| format!("{e}, or auto")),
        }
    }
}

/// No engine works here, or not the one that was asked for.
#[derive(Clone, Debug, thiserror::Error)]
#[error("engine {wanted} cannot be used: {why}")]
pub struct Refused {
    wanted: Choice,
    why: String,
}

/// What `auto` takes, and why.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The engine, if any works.
    pub engine: Option<EngineName>,
    /// One sentence for people.
    pub why: String,
}

/// Decides by trying.
#[must_use]
pub fn decide() -> Decision {
    let kfunc = probe::lock_taking_kfunc();
    match probe::sock_destroy() {
        Ok(_) => Decision {
            engine: Some(EngineName::Netlink),
            why: format!(
                "{}, and SOCK_DESTROY of a private socket works",
                kfunc.map_or_else(|e| e.detail, |_| "the kfunc engine is not built in".to_owned())
            ),
        },
        Err(e) => Decision { engine: None, why: e.detail },
    }
}

/// Starts an engine on an index.
///
/// # Errors
/// [`Error::Choice`] if the engine that is wanted, or any, does not work here; [`Error::Engine`] if it should
/// but could not be started.
pub fn start(wanted: Choice, index: &Index) -> Result<Box<dyn Engine>, Error> {
    let refused = |why: String| Error::Choice(Refused { wanted, why });
    match wanted {
        Choice::Auto | Choice::Named(EngineName::Netlink) => {
            let decision = decide();
            if decision.engine.is_none() {
                return Err(refused(decision.why));
            }
            let walker = index.walker().map_err(EngineError::from)?;
            Ok(Box::new(Netlink::new(walker)?))
        }
        Choice::Named(_) => Err(refused("this version has the engine netlink only".to_owned())),
    }
}
