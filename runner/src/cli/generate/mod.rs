//! `skreap generate`: manual pages and shell completions, made from the definition of the command line, for packages; the
//! JSON Schemas of requests and answers, made from the types.

mod man;
mod pages;

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{CommandFactory as _, ValueEnum};
use clap_complete::env::{EnvCompleter, Fish, Zsh};

use super::complete::VARIABLE;
use super::{Cli, Failure};

/// bash splits words at colons; the function of `clap_complete` does not expect that.
const BASH: &str = include_str!("completion.bash");

/// The completions for the shells that Debian has a directory for, by file name.
fn completions() -> anyhow::Result<[(&'static str, Vec<u8>); 3]> {
    let registration = |shell: &dyn EnvCompleter| -> anyhow::Result<Vec<u8>> {
        let mut script = Vec::new();
        shell.write_registration(VARIABLE, "skreap", "skreap", "skreap", &mut script)?;
        Ok(script)
    };
    Ok([
        ("skreap.bash", BASH.as_bytes().to_vec()),
        ("_skreap", registration(&Zsh)?),
        ("skreap.fish", registration(&Fish)?),
    ])
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Kind of files to write
    what: What,
    /// Directory for the files; created if missing
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    /// A manual page for each command
    Man,
    /// Completions for bash, zsh and fish
    Completions,
    /// JSON Schemas of what `serve` reads and writes
    Schema,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let directory = &args.directory;
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let mut command = Cli::command().disable_help_subcommand(true);
    match args.what {
        What::Man => {
            command.build();
            for command in std::iter::once(&command).chain(man::shown(&command)) {
                let path = directory.join(man::file_name(command));
                fs::write(&path, man::page(command))
                    .with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
        What::Completions => {
            for (name, script) in completions()? {
                let path = directory.join(name);
                fs::write(&path, script).with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
        What::Schema => {
            for (name, text) in skreap::schema::files() {
                let path = directory.join(name);
                fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_of_its_own() {
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        let names: Vec<&str> = man::shown(&command).map(clap::Command::get_name).collect();
        let written: Vec<&str> = pages::PAGES.iter().map(|page| page.command).collect();
        assert_eq!(written[0], "skreap");
        assert_eq!(written[1..], names);
        for page in &pages::PAGES {
            assert!(!page.more.is_empty() && !page.examples.is_empty(), "{}", page.command);
        }
    }

    /// Every example parses, so the pages name no option that does not exist.
    #[test]
    fn examples_are_commands() {
        for (page, example) in pages::PAGES.iter().flat_map(|p| p.examples.iter().map(move |e| (p, e))) {
            let command = example.1.rsplit('|').next().unwrap_or_default().trim();
            let Some(command) = command.strip_prefix("skreap ") else { continue };
            let words = command.split_whitespace().map(|word| word.trim_matches('\''));
            let parsed = Cli::command().try_get_matches_from(std::iter::once("skreap").chain(words));
            assert!(parsed.is_ok(), "{}: {command}: {:?}", page.command, parsed.err());
        }
    }
}
