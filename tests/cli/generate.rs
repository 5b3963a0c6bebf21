//! Manual pages and shell completions, as a package gets them.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::commands::{TCP, Ten, UDP, good};
use crate::process::run_with;
use crate::serve::Serve;

crate::tests![manual_pages, completions, backends_are_completed];

const COMMANDS: [&str; 13] = [
    "probe",
    "serve",
    "unload",
    "index",
    "status",
    "audit",
    "top",
    "reap",
    "reconcile",
    "replay",
    "terminate",
    "check-rules",
    "demo",
];

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

/// What bash offers for these words, asked as it asks itself, `before` that was run.
fn offered(directory: &str, words: &str, socket: &str, before: &str) -> Result<Vec<String>> {
    let words: Vec<String> = words.split(' ').map(|word| format!("'{word}'")).collect();
    let script = format!(
        "{before} source {directory}/skreap.bash; COMP_WORDS=({}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
         _skreap skreap \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD - 1]}}\"; \
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words.join(" ")
    );
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", &script]).env("SKREAP_SOCKET", socket);
    let bin = Path::new(env!("CARGO_BIN_EXE_skreap")).parent().context("no directory")?;
    bash.env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
    let ended = run_with(bash, Vec::new())?;
    ensure!(ended.code == Some(0) && ended.err.is_empty(), "{words:?}: {ended:?}");
    Ok(ended.out.lines().map(str::to_owned).collect())
}

/// bash, asked as it asks itself; the others are there.
fn completions() -> Result<()> {
    let directory = TempDir::new()?;
    let path = directory.path().to_str().context("not UTF-8")?;
    good(&["generate", "completions", path])?;
    let mut names: Vec<_> = fs::read_dir(path)?.flatten().map(|e| e.file_name()).collect();
    names.sort_unstable();
    ensure!(names == ["_skreap", "skreap.bash", "skreap.fish"], "{names:?}");
    for name in ["_skreap", "skreap.fish"] {
        let script = fs::read_to_string(directory.path().join(name))?;
        ensure!(script.contains("SKREAP_COMPLETE"), "{name}: {script}");
    }
    let engines = ["auto", "kfunc", "netlink", "iter", "diag", "diag-filter", "index-scan"];
    for (words, answer) in [
        ("skreap sta", &["status"][..]),
        ("skreap serve --aud", &["--audit-interval", "--audit-log", "--audit-log-buffer"]),
        ("skreap serve --engine ", &engines),
        ("skreap serve --engine di", &["diag", "diag-filter"]),
        ("skreap reap --once --engine ne", &["netlink"]),
        ("skreap serve --unconnected ", &["preserve", "destroy"]),
        // Nobody serves there: nothing is offered, and nothing said.
        ("skreap reap udp", &[""]),
    ] {
        let offered = offered(path, words, "/nowhere/socket", "")?;
        ensure!(offered == answer, "{words}: {offered:?}");
    }
    Ok(())
}

/// The running service knows them. bash splits words at colons.
fn backends_are_completed() -> Result<()> {
    let directory = TempDir::new()?;
    let path = directory.path().to_str().context("not UTF-8")?;
    good(&["generate", "completions", path])?;
    let serve = Serve::start("cli-complete")?;
    let socket = serve.socket_arg()?;
    let ten = Ten::new(&serve)?;
    for (words, answer) in [
        ("skreap reap ud", &[UDP][..]),
        ("skreap reap udp : ", &["//10.96.7.1:53"]),
        ("skreap reap udp : //10.9", &["//10.96.7.1:53"]),
        ("skreap reap udp : //10.96.7.1 : ", &["53"]),
        ("skreap reap udp : //10.96.7.1 : 53 tc", &[TCP]),
        ("skreap reap udp : //10.97", &[""]),
        ("skreap reconcile t", &[TCP]),
        ("skreap index --backend t", &[TCP]),
    ] {
        let offered = offered(path, words, &socket, "")?;
        ensure!(offered == answer, "{words}: {offered:?}");
    }
    // Where colons do not split, nothing is taken away.
    let offered = offered(path, "skreap reap udp://10.9", &socket, "COMP_WORDBREAKS=' ';")?;
    ensure!(offered == [UDP], "{offered:?}");
    drop(ten);
    serve.finish()
}
