//! What a demo is asked for, and how far it has come.

use anyhow::bail;
use skreap::choice::EngineChoice;
use skreap::source::Stop;

/// How large the demo is.
#[derive(Clone, Debug)]
pub struct Options {
    /// Client sockets, at least [`MIN_SOCKETS`].
    pub sockets: u32,
    /// Network namespaces, at least 1.
    pub netns: u32,
    /// Client processes, at least 1.
    pub clients: u32,
    /// How often server B is deleted, at least 1.
    pub rounds: u32,
    /// The engine.
    pub engine: EngineChoice,
}

/// How far the demo has come, for people who wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Network namespaces are made.
    Netns {
        /// How many there are.
        done: u32,
        /// How many there will be.
        of: u32,
    },
    /// Servers and clients are started.
    Processes,
    /// Sockets are connected.
    Sockets,
    /// Server B is deleted.
    Round {
        /// Which round, from 1.
        number: u32,
        /// How many there will be.
        of: u32,
    },
}

/// An error once the demo is to end.
pub(super) fn go_on(stop: &Stop) -> anyhow::Result<()> {
    if stop.given() {
        bail!("interrupted; everything was removed");
    }
    Ok(())
}
