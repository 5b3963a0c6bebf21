//! The systemd unit: sound in systemd's own eyes, and no more than a service of this kind needs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::process::run_with;

crate::tests![systemd_finds_nothing_wrong, it_starts_what_is_installed];

/// systemd-analyze counts in tenths from 0 (safe) to 100. What is left of it is CAP_SYS_ADMIN, CAP_NET_ADMIN and the
/// view of other processes, without which there is no service; 3.5 on systemd 252.
const EXPOSURE: &str = "36";

fn unit() -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/skreap.service");
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// Checked with the binary under test, as /usr/bin/skreap is not installed.
fn systemd_finds_nothing_wrong() -> Result<()> {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("systemd-analyze is not installed (systemd)");
        return Ok(());
    }
    let directory = TempDir::new()?;
    let path: PathBuf = directory.path().join("skreap.service");
    let text = unit()?;
    let here = text.replace("=/usr/bin/skreap ", &format!("={} ", env!("CARGO_BIN_EXE_skreap")));
    ensure!(here != text, "the unit does not start /usr/bin/skreap");
    fs::write(&path, here)?;
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).arg(&path);
    let ended = run_with(verify, Vec::new())?;
    ensure!(ended.code == Some(0) && ended.out.is_empty() && ended.err.is_empty(), "{ended:?}");
    let mut security = Command::new("systemd-analyze");
    security.args(["security", "--offline=true", "--no-pager", "--threshold", EXPOSURE]).arg(&path);
    let ended = run_with(security, Vec::new())?;
    ensure!(ended.code == Some(0), "{ended:?}");
    Ok(())
}

/// The capabilities are those that serve keeps, and it is told what READY means.
fn it_starts_what_is_installed() -> Result<()> {
    let unit = unit()?;
    let value = |key: &str| {
        unit.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .with_context(|| key.to_owned())
    };
    ensure!(value("Type")? == "notify", "{unit}");
    ensure!(value("ExecStart")? == "/usr/bin/skreap serve --source unix --pin $SKREAP_OPTS", "{unit}");
    let mut capabilities: Vec<&str> = value("CapabilityBoundingSet")?.split(' ').collect();
    capabilities.sort_unstable();
    let mut needed: Vec<String> = skreap::privileges::needed().map(|cap| cap.to_string()).collect();
    needed.sort_unstable();
    ensure!(capabilities == needed, "{capabilities:?} and not {needed:?}");
    Ok(())
}
