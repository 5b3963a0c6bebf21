//! Cgroup namespaces and mounts that hide others: what is not seen is said, and never taken for
//! everything.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use skreap_testbed::{Cgroup, cgroup2_root};
use tempfile::TempDir;

use crate::process::{Ended, run_with};

crate::tests![
    a_part_is_not_taken_for_the_root,
    a_part_that_is_named_is_said_to_be_one,
    a_hidden_mount_does_not_hide_a_good_one,
    a_named_cgroup_says_what_is_not_seen,
];

/// Runs a shell script in a mount namespace of its own. `$M` is where cgroup2 is mounted, `$T` an
/// empty directory, `$S` the command under test.
fn script(unshare: &[&str], script: &str) -> Result<Ended> {
    let directory = TempDir::new()?;
    let mut command = Command::new("unshare");
    command.args(unshare).args(["--mount", "--propagation", "private", "sh", "-ec", script]);
    command.env("M", cgroup2_root()?).env("T", directory.path());
    command.env("S", env!("CARGO_BIN_EXE_skreap")).env_remove("SKREAP_LOG").env_remove("NOTIFY_SOCKET");
    run_with(command, Vec::new())
}

/// As in a container: the cgroup is the root of a namespace, and nothing else of cgroup2 is
/// mounted, at `$T/c`.
fn in_container(label: &str, then: &str) -> Result<(Cgroup, Ended)> {
    let cgroup = Cgroup::create(label)?;
    let inside = cgroup.path().to_str().context("not UTF-8")?;
    // The shell that enters the cgroup is the one that gets the namespace.
    let enter = format!(
        "echo $$ > {inside}/cgroup.procs\n\
         exec unshare --cgroup --mount --propagation private sh -ec '\n\
         mount -t tmpfs none $T; mkdir $T/c; mount -t cgroup2 none $T/c; mount -t tmpfs none $M\n{then}'"
    );
    let ended = script(&[], &enter)?;
    Ok((cgroup, ended))
}

fn a_part_is_not_taken_for_the_root() -> Result<()> {
    for command in ["serve", "probe"] {
        let (_cgroup, ended) = in_container("cli-part", &format!("echo $T/c; exec $S {command}"))?;
        let part = ended.out.lines().next().context("no path")?;
        let error = format!(
            "cgroup {part}: this is a part of the machine's cgroup2 only, as in a container with a cgroup namespace of \
             its own; sockets of processes outside it would not be seen. Use the host's cgroup namespace (docker run \
             --cgroupns=host), or mount the host's cgroup2 here (docker run -v /sys/fs/cgroup:/host/cgroup:ro); or \
             name {part} with --cgroup to see no more than this part"
        );
        let prefix = if command == "probe" { "cgroup2: " } else { "" };
        ensure!(ended.code == Some(3), "{command}: {ended:?}");
        ensure!(ended.err == format!("skreap: {prefix}{error}\n"), "{command}: {ended:?}");
    }
    Ok(())
}

const NOT_SEEN: &str = "sockets of processes outside this cgroup, which cannot be listed here: the root of the machine's \
    cgroup2 is not mounted";

fn a_part_that_is_named_is_said_to_be_one() -> Result<()> {
    let question = r#"{\"id\":\"q\",\"type\":\"status\"}"#;
    let then =
        format!("echo $T/c; echo \"{question}\" | $S --log info serve --cgroup $T/c; $S probe --cgroup $T/c");
    let (_cgroup, ended) = in_container("cli-named-part", &then)?;
    ensure!(ended.code == Some(0), "{ended:?}");
    let mut lines = ended.out.lines();
    let part = lines.next().context("no path")?;
    let status: serde_json::Value = serde_json::from_str(lines.next().context("no status")?)?;
    ensure!(status["status"]["not_seen"] == NOT_SEEN && status["status"]["cgroup"] == part, "{status}");
    ensure!(ended.err.contains(&format!("not seen: {NOT_SEEN}")), "{ended:?}");
    let row = lines.find(|line| line.contains(" cgroup2 ")).context("no row")?;
    ensure!(row.ends_with(&format!("{part}; not seen: {NOT_SEEN}")), "{row}");
    Ok(())
}

fn a_hidden_mount_does_not_hide_a_good_one() -> Result<()> {
    let probe = "mount --bind $M $T; mount -t tmpfs none $M; echo $T; exec $S probe --json";
    let ended = script(&[], probe)?;
    let (path, findings) = ended.out.split_once('\n').context("no path")?;
    let findings: serde_json::Value = serde_json::from_str(findings)?;
    ensure!(findings["features"][1]["feature"] == "cgroup2", "{findings}");
    ensure!(findings["features"][1]["works"] == true, "{findings}");
    ensure!(findings["features"][1]["detail"] == path, "{findings} is not of {path}");
    ensure!(ended.code == Some(0), "{ended:?}");
    Ok(())
}

/// Also where the root could be seen.
fn a_named_cgroup_says_what_is_not_seen() -> Result<()> {
    let cgroup = Cgroup::create("cli-not-seen")?;
    let path = cgroup.path().to_str().context("not UTF-8")?;
    let ended = script(&[], &format!("exec $S probe --cgroup {path}"))?;
    let row = ended.out.lines().find(|line| line.contains(" cgroup2 ")).context("no row")?;
    let detail = format!("{path}; not seen: sockets of processes outside this cgroup");
    ensure!(ended.code == Some(0) && row.ends_with(&detail), "{ended:?}");
    ensure!(ended.out.contains(&format!("attached to {path} and detached")), "{ended:?}");
    Ok(())
}
