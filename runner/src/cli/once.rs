//! `skreap reap --once`: without a service.

use std::path::Path;

use anyhow::Context as _;
use serde_json::Value;
use skreap::choice::EngineChoice;
use skreap::core::{CgroupName, Event, Report};
use skreap::{Reaper, cgroup as cgroups, privileges};

use super::serve::raise_nofile_limit;
use super::{Failure, engine, print_json, worker};

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Without a service")]
pub(super) struct OnceArgs {
    /// Ask no service: index the sockets there are, reap, and end. UDP sockets that only ever sent are not found
    #[arg(long)]
    pub(super) once: bool,
    /// Engine that must be used
    #[arg(long, value_name = "ENGINE", requires = "once", default_value_t = EngineChoice::Auto, value_parser = engine())]
    engine: EngineChoice,
    /// This is the process that does the work
    #[arg(long, hide = true, requires = "once")]
    worker: bool,
}

/// Has one event handled without a service: only the sockets of `cgroup` are indexed. Returns its report; `None`
/// if this process is the one that does it, and has printed it.
pub(super) fn run(
    args: &OnceArgs,
    cgroup: Option<&CgroupName>,
    event: &Event,
) -> Result<Option<Value>, Failure> {
    if args.worker {
        print_json(&handle(args, cgroup, event)?)?;
        return Ok(None);
    }
    let line = worker::line("--once")?;
    Ok(Some(serde_json::from_str(&line).context("cannot read the report")?))
}

/// Handles one event with a reaper of its own, which is gone when this returns.
fn handle(args: &OnceArgs, cgroup: Option<&CgroupName>, event: &Event) -> Result<Report, Failure> {
    // Before there is any other thread: capabilities belong to threads.
    match privileges::lower(false) {
        Err(e @ privileges::Error::Missing(_)) => return Err(Failure::Cannot(e.into())),
        lowered => lowered?,
    }
    if let Err(e) = raise_nofile_limit() {
        tracing::warn!("cannot have more descriptors: {e}");
    }
    let mut builder = Reaper::builder().engine(args.engine);
    if let Some(CgroupName::Path(path)) = cgroup {
        // A wrong name is a mistake (1); only a system without any cgroup2 is one that cannot (3).
        cgroups::open(Path::new(path)).with_context(|| format!("--cgroup {path}"))?;
        builder = builder.cgroup(path);
    }
    let mut reaper = builder.build()?;
    Ok(reaper.handle(event))
}
