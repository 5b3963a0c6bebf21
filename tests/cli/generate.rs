//! Manual pages and shell completions, as a package gets them.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::commands::good;
use crate::process::run_with;

crate::tests![manual_pages, completions];

const COMMANDS: [&str; 10] =
    ["probe", "serve", "unload", "index", "status", "audit", "top", "reap", "reconcile", "demo"];

/// One for each command, with all sections, and nothing that man complains about.
fn manual_pages() -> Result<()> {
    let directory = TempDir::new()?;
    let path = directory.path().join("made/man");
    good(&["generate", "man", path.to_str().context("not UTF-8")?])?;
    let mut expected: Vec<String> = COMMANDS.iter().map(|c| format!("skreap-{c}.1")).collect();
    expected.push("skreap.1".to_owned());
    expected.sort_unstable();
    let mut names: Vec<String> = fs::read_dir(&path)?
        .map(|e| Ok(e?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    names.sort_unstable();
    ensure!(names == expected, "{names:?}");
    for name in names {
        let page = fs::read_to_string(path.join(&name))?;
        let headings: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
        let mut wanted = vec!["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS"];
        if name == "skreap.1" {
            wanted.push("COMMANDS");
        }
        wanted.extend(["\"EXIT STATUS\"", "ENVIRONMENT", "FILES", "EXAMPLES", "\"SEE ALSO\""]);
        wanted.retain(|heading| *heading != "FILES" || headings.contains(heading));
        ensure!(headings == wanted, "{name}: {headings:?}");
        let mut man = Command::new("man");
        man.args(["--warnings", "-l", "-P", "cat"]).arg(path.join(&name)).env("MANWIDTH", "100");
        if Command::new("man").arg("--version").output().is_err() {
            eprintln!("man is not installed (man-db): the pages were not formatted");
            continue;
        }
        let ended = run_with(man, Vec::new())?;
        ensure!(ended.code == Some(0) && ended.err.is_empty(), "{name}: {ended:?}");
        ensure!(ended.out.lines().count() > 30, "{name}: {ended:?}");
    }
    Ok(())
}

/// bash, asked as it asks itself; the others are there.
fn completions() -> Result<()> {
    let directory = TempDir::new()?;
    let path = directory.path().to_str().context("not UTF-8")?;
    good(&["generate", "completions", path])?;
    let mut names: Vec<_> = fs::read_dir(path)?.flatten().map(|e| e.file_name()).collect();
    names.sort_unstable();
    ensure!(names == ["_skreap", "skreap.bash", "skreap.fish"], "{names:?}");
    for (words, answer) in [("skreap sta", "status\n"), ("skreap serve --aud", "--audit-interval\n")] {
        let script = format!(
            "source {path}/skreap.bash; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _skreap skreap \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD - 1]}}\"; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let mut bash = Command::new("bash");
        bash.args(["--norc", "-c", &script]);
        let ended = run_with(bash, Vec::new())?;
        ensure!(ended.code == Some(0) && ended.err.is_empty() && ended.out == answer, "{words}: {ended:?}");
    }
    Ok(())
}
