//! The command line.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use skreap::core::Protocol;
use skreap_testbed as testbed;
use tracing_subscriber::EnvFilter;

use crate::builds;
use crate::chains;
use crate::experiment::{self, Remedy};
use crate::footprint;
use crate::grid::{Axes, Pauses, Preset, Tables};
use crate::guard;
use crate::hooks;
use crate::measure::Kind;
use crate::memory;
use crate::moves;
use crate::report;
use crate::run::{self, Plan};
use crate::selection;
use crate::start;
use crate::stop::Stop;

/// Exit status after a signal, as shells have it.
const STOPPED: u8 = 130;

/// Measures the cost of a targeted walk, the full scans, the hooks and the index on this machine.
///
/// Everything runs in network namespaces and cgroups of its own, which are removed at the end.
#[derive(Debug, Parser)]
#[command(version, name = "skreap-bench")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure every engine, interleaved, in worlds of real sockets.
    Run(RunArgs),
    /// Draw tables and plots (results.md, report.html) from the results.json of a run.
    Report {
        /// Print this table of the runs, as Markdown, and write nothing.
        #[arg(long, value_enum)]
        table: Option<TableName>,
        /// The directories of the runs.
        #[arg(required = true)]
        directories: Vec<PathBuf>,
    },
    /// Measure ratios that a change must not make worse, each until it is decided. Fails if one is
    /// missed or undecided.
    Guard(guard::Options),
    /// Measure the cost of the hooks for applications.
    Hooks(hooks::Options),
    /// Bytes per tracked socket.
    Memory {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Measure the cost of long chains of the index: 100,000 sockets on one backend, 65,000
    /// backends, all in one bucket.
    Chains(chains::Options),
    /// Peak memory of `skreap serve` while it answers an event with very many victims.
    Footprint(footprint::Options),
    /// Measure the move of sockets to a living backend against their destroy, and the search for their owners.
    Moves(moves::Options),
    /// Measure one pass over the index with a filter against a scan of it, and against `sock_diag` in every netns.
    Selection(selection::Options),
    /// Measure a walk over very many sockets and a reconcile of very many backends beside another build.
    Builds(builds::Options),
    /// Measure how long a reaper takes to start beside very many older sockets.
    Start(start::Options),
    /// Try something once and show what happens.
    #[command(subcommand)]
    Experiment(Experiment),
}

/// A table that is printed alone.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum TableName {
    /// That of the README: whole events against full scans, by the number of sockets.
    Readme,
}

#[derive(Debug, Subcommand)]
enum Experiment {
    /// An unreachable route for the backend instead of a reap: the errors of its clients over the
    /// next seconds.
    UnreachableRoute(experiment::Options),
    /// An ICMP port unreachable to the clients instead of a reap: their errors over the next seconds.
    Notify(experiment::Options),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Set of worlds; the other options replace its axes.
    #[arg(long, value_enum, default_value = "quick")]
    preset: Preset,
    /// Protocols: udp, tcp.
    #[arg(long, value_delimiter = ',')]
    proto: Vec<Protocol>,
    /// Numbers of network namespaces.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=4096))]
    netns: Vec<u32>,
    /// Numbers of client sockets in all.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    sockets: Vec<u32>,
    /// Numbers of sockets that are connected to the backend that is gone.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=15_000))]
    victims: Vec<u32>,
    /// Hash tables of the sockets: shared or per netns.
    #[arg(long, value_delimiter = ',', value_enum)]
    tables: Vec<Tables>,
    /// Measures: kfunc, netlink, iter, diag, diag-filter, index-scan (engines), event,
    /// event-quiet, service, service-quiet, base-service, base-service-quiet, ss, floor,
    /// floor-quiet, floor-closed, floor-closed-quiet. Default: those of the preset. Measures that
    /// cannot run here are left out, and the result gives the reason.
    #[arg(long, value_delimiter = ',')]
    engines: Vec<Kind>,
    /// Measured rounds: a full scan runs once in each, the others five times.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// How long nothing happens before each sample of event-quiet and service-quiet, milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 15_000, value_parser = clap::value_parser!(u64).range(..=3_600_000))]
    quiet_ms: u64,
    /// Another build of the skreap command: measured in the same run as base-service and
    /// base-service-quiet, beside service and service-quiet.
    #[arg(long, value_name = "COMMAND")]
    base: Option<PathBuf>,
    /// Directory for results.json, the histograms and the report.
    #[arg(long, default_value = "bench-out")]
    out: PathBuf,
}

/// Runs the command of this process's command line.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
    match execute(cli.command) {
        Ok(status) => status,
        Err(error) if run::was_stopped(&error) => {
            eprintln!("{}", error.root_cause());
            ExitCode::from(STOPPED)
        }
        Err(error) => {
            eprintln!("skreap-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> Result<ExitCode> {
    match command {
        Command::Guard(options) => return guard::run(&options, &prepared()?),
        Command::Run(args) => execute_run(args)?,
        Command::Report { table: Some(TableName::Readme), directories } => {
            print!("{}", report::readme(&directories)?);
        }
        Command::Report { table: None, directories } => {
            directories.iter().try_for_each(|directory| report::write(directory))?;
        }
        Command::Hooks(options) => hooks::run(&options, &prepared()?)?,
        Command::Memory { json } => memory::run(json)?,
        Command::Chains(options) => chains::run(&options, &prepared()?)?,
        Command::Footprint(options) => footprint::run(&options, &prepared()?)?,
        Command::Moves(options) => moves::run(&options, &prepared()?)?,
        Command::Selection(options) => selection::run(&options, &prepared()?)?,
        Command::Builds(options) => builds::run(&options, &prepared()?)?,
        Command::Start(options) => start::run(&options, &prepared()?)?,
        Command::Experiment(Experiment::UnreachableRoute(options)) => {
            experiment::run(Remedy::UnreachableRoute, &options, &prepared()?)?;
        }
        Command::Experiment(Experiment::Notify(options)) => {
            experiment::run(Remedy::Notify, &options, &prepared()?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Handles signals, and removes the leftovers of a killed run.
fn prepared() -> Result<Stop> {
    let stop = Stop::on_signals()?;
    let swept = testbed::sweep().context("look for what an earlier run has left behind")?;
    for path in &swept.removed {
        tracing::info!("removed {}, left behind by a run that was killed", path.display());
    }
    Ok(stop)
}

fn execute_run(args: RunArgs) -> Result<()> {
    let stop = prepared()?;
    let axes = Axes {
        proto: args.proto,
        netns: args.netns,
        sockets: args.sockets,
        victims: args.victims,
        tables: args.tables,
    };
    let pauses = if args.engines.is_empty() { args.preset.pauses() } else { Pauses::All };
    let mut kinds = if args.engines.is_empty() { args.preset.kinds() } else { args.engines };
    if args.base.is_some() && !kinds.iter().any(|kind| matches!(kind, Kind::Base(_))) {
        kinds.extend(kinds.clone().into_iter().filter_map(Kind::of_base));
    }
    let plan = Plan {
        worlds: args.preset.worlds(&axes),
        kinds,
        pauses,
        base: args.base,
        rounds: args.rounds.map_or(args.preset.rounds(), |rounds| rounds as usize),
        quiet: Duration::from_millis(args.quiet_ms),
    };
    let done = run::run(&plan, &args.out, &stop);
    if let Err(error) = &done
        && !run::was_stopped(error)
    {
        done?;
        return Ok(());
    }
    report::write(&args.out)?;
    print!("{}", report::terminal(&args.out)?);
    println!("{}", args.out.join(report::MARKDOWN).display());
    println!("{}", args.out.join(report::HTML).display());
    done.map(drop)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn lists_are_separated_by_commas() {
        let cli = Cli::try_parse_from([
            "skreap-bench",
            "run",
            "--proto",
            "udp,tcp",
            "--netns",
            "1,10",
            "--tables",
            "per-netns",
            "--engines",
            "netlink,floor",
        ])
        .unwrap();
        let Command::Run(args) = cli.command else { panic!("not run") };
        assert_eq!(args.netns, [1, 10]);
        assert_eq!(args.proto, [Protocol::Udp, Protocol::Tcp]);
        assert_eq!(args.tables, [Tables::PerNetns]);
        assert_eq!(args.engines.len(), 2);
    }
}
