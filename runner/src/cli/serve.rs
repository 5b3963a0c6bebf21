//! `skreap serve`

use std::path::PathBuf;
use std::thread;

use anyhow::Context as _;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use skreap::bpf::Config;
use skreap::cgroup;
use skreap::choice::Choice;
use skreap::core::Unconnected;
use skreap::source::{Source, Stop};
use skreap::{Builder, Reaper, daemon};

use super::socket::{AccessArgs, SourceArg};
use super::{Failure, PINS};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where requests come from, one JSON object a line: stdin; unix, the socket at the usual path; or unix:PATH.
    /// May be given more than once [default: stdin]
    #[arg(long, value_name = "SOURCE")]
    source: Vec<SourceArg>,
    #[command(flatten)]
    access: AccessArgs,
    /// Let hooks and index outlive this process, pinned in a directory on a bpf filesystem; the next `serve
    /// --pin` with the same settings takes them over without a gap, `unload` removes them
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = PINS)]
    pin: Option<PathBuf>,
    #[command(flatten)]
    reaper: ReaperArgs,
}

/// Settings of the reaper, for every command that makes one.
#[derive(Debug, clap::Args)]
pub(super) struct ReaperArgs {
    /// cgroup2 directory whose sockets are indexed [default: the root of cgroup2]
    #[arg(long, value_name = "DIR")]
    cgroup: Option<PathBuf>,
    /// auto, or the engine that must be used
    #[arg(long, value_name = "ENGINE", default_value_t = Choice::Auto)]
    engine: Choice,
    /// What is done with UDP sockets that only ever sent to the backend: preserve, or destroy
    #[arg(long, value_name = "POLICY", default_value_t = Unconnected::Preserve)]
    unconnected: Unconnected,
    /// Sockets that always find room in the index
    #[arg(long, value_name = "N", default_value_t = Config::default().max_sockets)]
    max_sockets: u32,
    /// Buckets of the index, a power of two
    #[arg(long, value_name = "N", default_value_t = Config::default().buckets)]
    buckets: u32,
}

impl ReaperArgs {
    fn builder(&self) -> Result<Builder, Failure> {
        let mut builder = Reaper::builder()
            .engine(self.engine)
            .unconnected(self.unconnected)
            .config(Config { max_sockets: self.max_sockets, buckets: self.buckets, ..Config::default() });
        if let Some(path) = &self.cgroup {
            // A wrong name is a mistake (1); only a system without any cgroup2 is one that cannot (3).
            cgroup::open(path).with_context(|| format!("--cgroup {}", path.display()))?;
            builder = builder.cgroup(path);
        }
        Ok(builder)
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let stop = Stop::new().context("cannot make a pipe")?;
    stop_on_signal(&stop)?;
    let access = args.access.access();
    let mut sources: Vec<Source> =
        args.source.iter().map(|source| source.source(&access)).collect::<anyhow::Result<_>>()?;
    if sources.is_empty() {
        sources.push(Source::Stdin);
    }
    let mut builder = args.reaper.builder()?;
    if let Some(directory) = &args.pin {
        builder = builder.pin(directory);
    }
    let mut reaper = builder.build()?;
    daemon::serve(&mut reaper, &sources, &stop).context("cannot start a source")?;
    let counters = reaper.counters().context("cannot read the counters")?;
    tracing::info!(?counters, "done");
    Ok(())
}

/// Gives `stop` on the first SIGINT or SIGTERM; a second one ends the process at once.
pub(super) fn stop_on_signal(stop: &Stop) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot handle signals")?;
    let stop = stop.clone();
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for (i, signal) in signals.forever().enumerate() {
                tracing::info!(signal, "asked to end");
                stop.give();
                if i > 0 {
                    let _ = signal_hook::low_level::emulate_default_handler(signal);
                }
            }
        })
        .context("cannot start the signal thread")?;
    Ok(())
}
