//! `skreap-watch generate`: manual pages and shell completions, for packages.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Command, CommandFactory as _, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;

use super::Cli;

/// Completions by the names that Debian's directories want.
const COMPLETIONS: [(Shell, &str); 3] =
    [(Shell::Bash, "skreap-watch.bash"), (Shell::Zsh, "_skreap-watch"), (Shell::Fish, "skreap-watch.fish")];

/// What all pages end with.
const END: &str = "\
.SH FILES
.TP
/etc/default/skreap\\-watch
Arguments of the unit skreap\\-watch.service
.SH \"SEE ALSO\"
skreap\\-watch(1), skreap(1), skreap\\-serve(1)
.PP
More, with what counts as gone and what to watch: /usr/share/doc/skreap/fleet.md
";

#[derive(Args)]
pub(super) struct Generate {
    /// Kind of files to write
    what: What,
    /// Directory for the files; created if missing
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// A manual page for each command
    Man,
    /// Completions for bash, zsh and fish
    Completions,
}

impl Generate {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        fs::create_dir_all(&self.directory)
            .with_context(|| format!("cannot create {}", self.directory.display()))?;
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        match self.what {
            What::Man => self.pages(&command),
            What::Completions => COMPLETIONS.iter().try_for_each(|(shell, name)| {
                let mut script = Vec::new();
                clap_complete::generate(*shell, &mut command, "skreap-watch", &mut script);
                self.write(name, &script)
            }),
        }
    }

    /// The page of this command, and those of its own.
    fn pages(&self, command: &Command) -> anyhow::Result<()> {
        let man =
            Man::new(command.clone()).manual("skreap").source(concat!("skreap ", env!("CARGO_PKG_VERSION")));
        let mut page = Vec::new();
        man.render(&mut page)?;
        page.write_all(END.as_bytes())?;
        self.write(&man.get_filename(), &page)?;
        command.get_subcommands().filter(|sub| !sub.is_hide_set()).try_for_each(|sub| self.pages(sub))
    }

    fn write(&self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        let path = self.directory.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure fails the test")]

    use super::*;

    #[test]
    fn pages_and_completions() {
        let directory = std::env::temp_dir().join(format!("skreap-watch-generate-{}", std::process::id()));
        for what in [What::Man, What::Completions] {
            Generate { what, directory: directory.clone() }.run().unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(&directory)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        let page = fs::read_to_string(directory.join("skreap-watch-etcd.1")).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(
            names,
            [
                "_skreap-watch",
                "skreap-watch-etcd-register.1",
                "skreap-watch-etcd.1",
                "skreap-watch-kubernetes.1",
                "skreap-watch.1",
                "skreap-watch.bash",
                "skreap-watch.fish",
            ]
        );
        assert!(page.contains("settle") && page.contains("fleet.md"), "{page}");
    }
}
