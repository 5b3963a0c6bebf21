//! The command line.

mod common;
mod etcd;
mod kubernetes;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tells `skreap serve` which backends are gone.
#[derive(Parser)]
#[command(name = "skreap-watch", version, max_term_width = 100)]
struct Cli {
    /// Log level or filter: off, error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", env = "SKREAP_LOG", default_value = "info", global = true)]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Watch keys of etcd, or register one
    Etcd(Box<etcd::Etcd>),
    /// Watch EndpointSlices and Services of Kubernetes
    Kubernetes(kubernetes::Kubernetes),
}

/// Runs the command of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = match tracing_subscriber::EnvFilter::try_new(&cli.log) {
        Ok(filter) => filter,
        Err(e) => {
            eprintln!("error: --log {}: {e}", cli.log);
            return ExitCode::from(2);
        }
    };
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    log.with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()).init();
    let run = match cli.command {
        Command::Etcd(etcd) => common::block_on(etcd.run()),
        Command::Kubernetes(kubernetes) => common::block_on(kubernetes.run()),
    };
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{e:#}");
            ExitCode::FAILURE
        }
    }
}
