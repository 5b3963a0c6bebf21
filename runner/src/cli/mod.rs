//! The command line: arguments, exit codes, and one file per command.

mod audit;
mod client;
mod complete;
mod demo;
mod generate;
mod index;
mod once;
mod probe;
mod ready;
mod reap;
mod reconcile;
mod serve;
mod socket;
mod status;
mod text;
mod top;
mod unload;

use std::env;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::CompleteEnv;
use skreap::choice::Choice;
use skreap::core::EngineName;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::SubscriberBuilder;

use socket::SocketArg;

/// Where `serve --pin` pins, and `unload` looks, if nothing is said.
const PINS: &str = "/sys/fs/bpf/skreap";

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed, 2 wrong use, 3 this kernel or these privileges cannot.";

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
fn engine() -> impl TypedValueParser<Value = Choice> {
    let names = std::iter::once("auto").chain(EngineName::ALL.map(EngineName::name));
    PossibleValuesParser::new(names).try_map(|name| name.parse::<Choice>())
}

#[derive(Debug, Parser)]
#[command(name = "skreap", version = version(), about, after_help = EXIT_CODES, propagate_version = true)]
struct Cli {
    /// What is logged to stderr: off, error, warn, info, debug, trace, or a tracing filter
    #[arg(long, global = true, value_name = "FILTER", default_value = "warn", env = "SKREAP_LOG", help_heading = LOG)]
    log: EnvFilter,
    /// How it is logged
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
    /// Show what this kernel and these privileges offer, each tried out, and which engine `auto` takes
    #[command(after_help = EXIT_CODES)]
    Probe(probe::Args),
    /// Index the sockets of a cgroup and reap what events name, until end of input, SIGINT or SIGTERM
    #[command(after_help = EXIT_CODES)]
    Serve(serve::Args),
    /// Detach the hooks that `serve --pin` has left attached, and free its index
    #[command(after_help = EXIT_CODES)]
    Unload(unload::Args),
    /// Show what the index of a running `serve` holds
    #[command(after_help = EXIT_CODES)]
    Index(index::Args),
    /// Show how a running `serve` is doing: engine, index, events, clients
    #[command(after_help = EXIT_CODES)]
    Status(status::Args),
    /// Hold the index of a running `serve` against an independent scan of all sockets
    #[command(after_help = audit::EXIT_CODES)]
    Audit(audit::Args),
    /// Watch a running `serve`: largest backends, rates, latency, last events
    #[command(after_help = EXIT_CODES)]
    Top(top::Args),
    /// Tell a running `serve` that backends are gone
    #[command(after_help = EXIT_CODES)]
    Reap(reap::Args),
    /// Tell a running `serve` which backends live: the sockets of all others are destroyed
    #[command(after_help = EXIT_CODES)]
    Reconcile(reconcile::Args),
    /// Show all of it: namespaces, servers, clients; delete a server, see exactly its sockets destroyed
    #[command(after_help = EXIT_CODES)]
    Demo(demo::Args),
    /// Write manual pages or shell completions, for packages
    #[command(hide = true, after_help = EXIT_CODES)]
    Generate(generate::Args),
}

/// How a command ended, other than well.
#[derive(Debug)]
enum Failure {
    /// It was done, and what was asked for did not succeed; the output says so.
    Reported,
    /// It was asked for in a way that makes no sense.
    Misused(anyhow::Error),
    /// It could not be done.
    Failed(anyhow::Error),
    /// It cannot be done on this kernel or with these privileges.
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
        Command::Demo(args) => demo::run(args),
        Command::Generate(args) => generate::run(args),
    };
    let (code, error) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Reported) => return ExitCode::from(1),
        Err(Failure::Failed(e)) => (1, e),
        Err(Failure::Misused(e)) => (2, e),
        Err(Failure::Cannot(e)) => (3, e),
    };
    // The reader of our output may have had enough; that is not an error worth a word.
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
    // EMFILE; of errors of libbpf there is only the text.
    if said.contains("(os error 24)") {
        said += "; let it have more: LimitNOFILE= of its unit, or ulimit -n";
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
        // It would be told on stderr as well, and a disk that is full would end the process.
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
