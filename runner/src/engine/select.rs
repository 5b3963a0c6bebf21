//! Choosing the engine: the first that is shown to work.

use std::fmt;
use std::str::FromStr;

use skreap_bpf::{Config, Index};
use skreap_core::EngineName;

use crate::engine::trial;
use crate::engine::{Diag, Engine, EngineError, EngineOptions, IndexScan, Iter, Kfunc, Netlink, Scope};

/// Which engine is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum EngineChoice {
    /// The best that works here.
    #[default]
    Auto,
    /// This one or none.
    Named(EngineName),
}

impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.pad("auto"),
            Self::Named(name) => name.fmt(f),
        }
    }
}

impl FromStr for EngineChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => text.parse().map(Self::Named).map_err(|e: skreap_core::UnknownName| format!("{e}, or auto")),
        }
    }
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No engine, or not the one that was asked for, works here.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It should work, and could not be started.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// No engine works here, or not the one that was asked for.
#[derive(Clone, Debug, thiserror::Error)]
#[error("engine {wanted} cannot be used: {why}{}", .wanted.next_step())]
#[non_exhaustive]
pub struct Refused {
    wanted: EngineChoice,
    why: String,
}

impl EngineChoice {
    /// What to do if it cannot be had.
    fn next_step(self) -> &'static str {
        match self {
            Self::Auto => "",
            Self::Named(_) => "; engine auto is the best that works here",
        }
    }

    /// True if the index should hold references to sockets: the engine that needs them may be chosen.
    #[must_use]
    pub fn may_destroy_in_walk(self) -> bool {
        matches!(self, Self::Auto | Self::Named(EngineName::Kfunc))
    }
}

/// The choice of `auto`, and its reason.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Decision {
    /// The engine, if any works.
    pub engine: Option<EngineName>,
    /// One sentence for people.
    pub why: String,
}

/// The order of `auto`: engines that walk one bucket before those that scan.
const AUTO: [EngineName; 4] = [EngineName::Kfunc, EngineName::Netlink, EngineName::Iter, EngineName::Diag];

/// Decides by trying, on a small index of its own.
#[must_use]
pub fn decide() -> Decision {
    match Index::load(&Config::default().max_sockets(16).buckets(1).refs(true)) {
        Ok(index) => decide_on(&index),
        Err(e) => Decision { engine: None, why: e.to_string() },
    }
}

fn decide_on(index: &Index) -> Decision {
    let mut refusals: Vec<(EngineName, String)> = Vec::new();
    for engine in AUTO {
        match trial(engine, index) {
            Ok(seen) => {
                return Decision { engine: Some(engine), why: why(seen, &refusals) };
            }
            // The same thing may be missing to several.
            Err(why) if refusals.iter().any(|(_, refused)| *refused == why) => {}
            Err(why) => refusals.push((engine, why)),
        }
    }
    let refusals: Vec<String> = refusals.into_iter().map(|(_, why)| why).collect();
    Decision { engine: None, why: refusals.join("; ") }
}

/// The evidence for the chosen engine, then the reasons against those before it.
fn why(seen: String, refusals: &[(EngineName, String)]) -> String {
    refusals.iter().fold(seen, |why, (engine, refused)| format!("{why}; not {engine}: {refused}"))
}

/// Tries the features that an engine needs; returns the evidence, or the missing feature.
fn trial(engine: EngineName, index: &Index) -> Result<String, String> {
    let tried = |result: Result<String, trial::Missing>| result.map_err(|m| m.detail);
    let sock_destroy =
        || tried(trial::sock_destroy()).map(|_| "SOCK_DESTROY of a private socket works".to_owned());
    match engine {
        EngineName::Kfunc => {
            // First whether the module is there; last, whether this very index was loaded with it.
            let seen = tried(trial::lock_taking_kfunc())?;
            index.can_destroy().map_err(|e| e.to_string())?;
            Ok(seen)
        }
        EngineName::Netlink | EngineName::IndexScan => {
            tried(trial::test_run(index))?;
            sock_destroy()
        }
        EngineName::Iter => tried(trial::iterator_destroy()),
        EngineName::Diag | EngineName::DiagFilter => sock_destroy(),
        other => Err(format!("this version has no engine {other}")),
    }
}

/// Starts an engine on an index.
///
/// # Errors
/// [`Error::Refused`] if the engine that is wanted, or any, does not work here; [`Error::Engine`] if it should
/// but could not be started.
pub fn start(wanted: EngineChoice, index: &Index, options: &EngineOptions) -> Result<Box<dyn Engine>, Error> {
    start_and_say(wanted, index, options).map(|(engine, _)| engine)
}

/// As [`start`], with one sentence about why it is this engine.
///
/// # Errors
/// As [`start`].
pub fn start_and_say(
    wanted: EngineChoice,
    index: &Index,
    options: &EngineOptions,
) -> Result<(Box<dyn Engine>, String), Error> {
    let refused = |why: String| Error::Refused(Refused { wanted, why });
    let (engine, why) = match wanted {
        EngineChoice::Auto => {
            let decision = decide_on(index);
            match decision.engine {
                Some(engine) => (engine, decision.why),
                None => return Err(refused(decision.why)),
            }
        }
        EngineChoice::Named(engine) => {
            let seen = trial(engine, index).map_err(refused)?;
            (engine, format!("requested, and {seen}"))
        }
    };
    let engine = make(engine, index, options)?
        .ok_or_else(|| refused(format!("this version has no engine {engine}")))?;
    Ok((engine, why))
}

/// The best full scan that works here: the fallback for events on which the index is incomplete.
///
/// # Errors
/// The missing feature, as text.
pub(crate) fn fallback(index: &Index, options: &EngineOptions) -> Result<Box<dyn Engine>, String> {
    // Unrecorded sockets may be anywhere, so only a scan of everything finds them.
    let options = EngineOptions { scope: Scope::All, ..options.clone() };
    let mut refusals = Vec::new();
    // A dump waits for no socket's lock, iterators wait for that of each socket they pass.
    for engine in [EngineName::DiagFilter, EngineName::Iter] {
        let made = trial(engine, index).and_then(|_| match make(engine, index, &options) {
            Ok(Some(made)) => Ok(made),
            Ok(None) => Err(format!("this version has no engine {engine}")),
            Err(e) => Err(e.to_string()),
        });
        match made {
            Ok(engine) => return Ok(engine),
            Err(why) => refusals.push(format!("{engine}: {why}")),
        }
    }
    Err(refusals.join("; "))
}

fn make(
    engine: EngineName,
    index: &Index,
    options: &EngineOptions,
) -> Result<Option<Box<dyn Engine>>, EngineError> {
    let walker = || index.walker().map_err(EngineError::from);
    Ok(Some(match engine {
        EngineName::Kfunc => Box::new(Kfunc::new(walker()?, options)?),
        EngineName::Netlink => Box::new(Netlink::new(walker()?, options)?),
        EngineName::Iter => Box::new(Iter::new(walker()?, options)?),
        EngineName::Diag => Box::new(Diag::new(walker()?, options)?),
        EngineName::DiagFilter => Box::new(Diag::with_filter(walker()?, options)?),
        EngineName::IndexScan => Box::new(IndexScan::new(walker()?, options)?),
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_do_not_contradict_the_choice() {
        let seen = "SOCK_DESTROY of a private socket works".to_owned();
        assert_eq!(why(seen.clone(), &[]), seen);
        let no_modules = skreap_bpf::module::ModuleError::NoModules.to_string();
        assert_eq!(
            why(seen, &[(EngineName::Kfunc, no_modules.clone())]),
            "SOCK_DESTROY of a private socket works; not kfunc: this kernel loads no modules, and has no lock-taking \
             bpf_sock_destroy"
        );
        let refused = Refused { wanted: EngineChoice::Named(EngineName::Kfunc), why: no_modules };
        assert_eq!(
            refused.to_string(),
            "engine kfunc cannot be used: this kernel loads no modules, and has no lock-taking bpf_sock_destroy; engine \
             auto is the best that works here"
        );
    }
}
