//! The command line: arguments, exit codes, and one file per command.

mod action;
mod audit;
mod client;
mod complete;
#[cfg(feature = "demo")]
mod demo;
mod generate;
mod index;
mod netns;
mod once;
mod probe;
mod ready;
mod reap;
mod reconcile;
mod replay;
mod rules;
mod selector;
mod serve;
mod socket;
mod status;
mod terminate;
mod text;
mod top;
mod unload;
mod worker;

use std::env;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::CompleteEnv;
use skreap::choice::EngineChoice;
use skreap::core::{EngineName, check_log_filter};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::SubscriberBuilder;

use socket::SocketArg;

/// Default directory of `serve --pin` and `unload`.
const PINS: &str = "/sys/fs/bpf/skreap";

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not possible on this kernel or with these privileges.";

/// Heading of the options that every command has.
const LOG: &str = "Log";

/// Version, commit, and what both sides of the border to the kernel must agree on.
fn version() -> String {
    version_of(env!("SKREAP_COMMIT"))
}

/// `commit`: empty if the source came without its history.
fn version_of(commit: &str) -> String {
    let commit = if commit.is_empty() { "unknown" } else { commit };
    format!(
        "{} (commit {commit}, ABI {}, libbpf {})",
        env!("CARGO_PKG_VERSION"),
        skreap::bpf::ABI_VERSION,
        skreap::bpf::libbpf_version()
    )
}

/// Reads the name of an engine; shells complete it.
fn engine() -> impl TypedValueParser<Value = EngineChoice> {
    let names = std::iter::once("auto").chain(EngineName::ALL.map(EngineName::name));
    PossibleValuesParser::new(names).try_map(|name| name.parse::<EngineChoice>())
}

fn log_filter(text: &str) -> Result<EnvFilter, String> {
    check_log_filter(text)?;
    text.parse::<EnvFilter>().map_err(|e| e.to_string())
}

#[derive(Debug, Parser)]
#[command(name = "skreap", version = version(), about, after_help = EXIT_CODES, propagate_version = true)]
struct Cli {
    /// Log level on stderr: off, error, warn, info, debug, trace, or a tracing filter
    #[arg(long, global = true, value_name = "FILTER", default_value = "warn", env = "SKREAP_LOG", help_heading = LOG,
          value_parser = log_filter)]
    log: EnvFilter,
    /// Format of the log
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, help_heading = LOG)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Try which features this kernel and these privileges offer, and show the engine that `auto` takes
    #[command(after_help = EXIT_CODES)]
    Probe(probe::Args),
    /// Index the sockets of a cgroup and reap the backends that events name, until end of input, SIGINT or SIGTERM
    #[command(after_help = EXIT_CODES)]
    Serve(serve::Args),
    /// Detach the hooks that `serve --pin` has left attached, and free its index
    #[command(after_help = EXIT_CODES)]
    Unload(unload::Args),
    /// Show the backends in the index of a running `serve`
    #[command(after_help = EXIT_CODES)]
    Index(index::Args),
    /// Show the state of a running `serve`: engine, index, events, clients
    #[command(after_help = EXIT_CODES)]
    Status(status::Args),
    /// Compare the index of a running `serve` with an independent scan of all sockets
    #[command(after_help = audit::EXIT_CODES)]
    Audit(audit::Args),
    /// Watch a running `serve`: largest backends, rates, latency, last events
    #[command(after_help = EXIT_CODES)]
    Top(top::Args),
    /// Destroy the sockets of deleted backends, through a running `serve`
    #[command(after_help = EXIT_CODES)]
    Reap(reap::Args),
    /// Destroy the sockets that are selected by peer, cgroup, netns or user, through a running `serve`
    #[command(after_help = EXIT_CODES)]
    Terminate(terminate::Args),
    /// Destroy the sockets of all backends except the listed ones, through a running `serve`
    #[command(after_help = EXIT_CODES)]
    Reconcile(reconcile::Args),
    /// Send the events of an audit log again, or show what they would do now, through a running `serve`
    #[command(after_help = EXIT_CODES)]
    Replay(replay::Args),
    /// Read rules as `serve --rules` does, say what each does, and fail if one can never match
    #[command(after_help = EXIT_CODES)]
    CheckRules(rules::Args),
    /// Demonstrate it with namespaces, servers and clients: exactly the sockets of a deleted server are destroyed
    #[cfg(feature = "demo")]
    #[command(after_help = EXIT_CODES)]
    Demo(demo::Args),
    /// Write manual pages or shell completions, for packages
    #[command(hide = true, after_help = EXIT_CODES)]
    Generate(generate::Args),
}

/// The ways in which a command can fail.
#[derive(Debug)]
enum Failure {
    /// The command ran, but its request did not succeed; the output says so.
    Reported,
    /// Another process of this command has said why, and ended with this code.
    Said(u8),
    /// The arguments make no sense.
    Misused(anyhow::Error),
    /// The command failed.
    Failed(anyhow::Error),
    /// Not possible on this kernel or with these privileges.
    Cannot(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(e: E) -> Self {
        let e = e.into();
        match e.downcast_ref::<skreap::Error>() {
            Some(skreap::Error::Bpf(skreap::bpf::Error::Config { .. })) => Self::Misused(e),
            Some(error) if error.cannot() => Self::Cannot(e),
            _ => Self::Failed(e),
        }
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // A shell that asks what could come next is answered, and nothing else is done.
    CompleteEnv::with_factory(Cli::command).var(complete::VARIABLE).complete();
    let cli = Cli::parse();
    start_logging(cli.log, cli.log_format);
    let result = match &cli.command {
        Command::Probe(args) => probe::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Unload(args) => unload::run(args),
        Command::Index(args) => index::run(args),
        Command::Status(args) => status::run(args),
        Command::Audit(args) => audit::run(args),
        Command::Top(args) => top::run(args),
        Command::Reap(args) => reap::run(args),
        Command::Reconcile(args) => reconcile::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Terminate(args) => terminate::run(args),
        Command::CheckRules(args) => rules::run(args),
        #[cfg(feature = "demo")]
        Command::Demo(args) => demo::run(args),
        Command::Generate(args) => generate::run(args),
    };
    let (code, error) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Reported) => return ExitCode::from(1),
        Err(Failure::Said(code)) => return ExitCode::from(code),
        Err(Failure::Failed(e)) => (1, e),
        Err(Failure::Misused(e)) => (2, e),
        Err(Failure::Cannot(e)) => (3, e),
    };
    // The reader of our output may have closed it; that is not an error.
    if is_broken_pipe(&error) {
        return ExitCode::SUCCESS;
    }
    let _ = writeln!(io::stderr(), "skreap: {}", sentence(&error));
    ExitCode::from(code)
}

/// An error and its causes, each once: some name their cause themselves.
fn sentence(error: &anyhow::Error) -> String {
    let mut said = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if said.is_empty() {
            said = text;
        } else if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
    }
    // EMFILE; libbpf errors carry only the text.
    if said.contains("(os error 24)") {
        said += "; raise the limit of open files: LimitNOFILE= of its unit, or ulimit -n";
    }
    said
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|e| e.downcast_ref::<io::Error>());
    io.is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// True if stderr can show colors and nobody objects (<https://no-color.org>).
fn colors() -> bool {
    let set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stderr().is_terminal() && !set("NO_COLOR") && !dumb
}

fn start_logging(filter: EnvFilter, format: LogFormat) {
    let builder: SubscriberBuilder<_, _, EnvFilter, fn() -> io::Stderr> = tracing_subscriber::fmt()
        .with_writer(io::stderr as fn() -> io::Stderr)
        .with_ansi(colors())
        .with_env_filter(filter)
        // It would be written to stderr as well, and a full disk would end the process.
        .log_internal_errors(false);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// Writes a value as one JSON line to stdout.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    io::stdout().write_all(&line)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_names_what_it_was_built_from() {
        let rest = format!("ABI {}, libbpf {})", skreap::bpf::ABI_VERSION, skreap::bpf::libbpf_version());
        let own = env!("CARGO_PKG_VERSION");
        assert_eq!(version_of("24ef2f3ab12c"), format!("{own} (commit 24ef2f3ab12c, {rest}"));
        assert_eq!(version_of(""), format!("{own} (commit unknown, {rest}"));
    }
}
