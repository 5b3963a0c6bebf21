//! `skreap reap --once`: without a service.

use std::path::PathBuf;

use anyhow::Context as _;
use skreap::choice::EngineChoice;
use skreap::core::{Event, Report};
use skreap::{Reaper, cgroup, privileges};

use super::serve::raise_nofile_limit;
use super::{Failure, engine};

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Without a service")]
pub(super) struct OnceArgs {
    /// Ask no service: index the sockets there are, reap, and end. UDP sockets that only ever sent are not found
    #[arg(long)]
    pub(super) once: bool,
    /// cgroup2 directory whose sockets are reaped [default: the root of cgroup2]
    #[arg(long, value_name = "DIR", requires = "once")]
    cgroup: Option<PathBuf>,
    /// Engine that must be used
    #[arg(long, value_name = "ENGINE", requires = "once", default_value_t = EngineChoice::Auto, value_parser = engine())]
    engine: EngineChoice,
}

/// Handles one event with a reaper of its own, which is gone when this returns.
pub(super) fn handle(args: &OnceArgs, event: &Event) -> Result<Report, Failure> {
    // Before there is any other thread: capabilities belong to threads.
    match privileges::lower(false) {
        Err(e @ privileges::Error::Missing(_)) => return Err(Failure::Cannot(e.into())),
        lowered => lowered?,
    }
    if let Err(e) = raise_nofile_limit() {
        tracing::warn!("cannot have more descriptors: {e}");
    }
    let mut builder = Reaper::builder().engine(args.engine);
    if let Some(path) = &args.cgroup {
        // A wrong name is a mistake (1); only a system without any cgroup2 is one that cannot (3).
        cgroup::open(path).with_context(|| format!("--cgroup {}", path.display()))?;
        builder = builder.cgroup(path);
    }
    let mut reaper = builder.build()?;
    Ok(reaper.handle(event))
}
