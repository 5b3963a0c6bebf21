//! Removing the leftovers of a testbed that was killed.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cgroup::{self, root as cgroup2_root};
use super::netns::{self, NAMES};

/// Result of [`sweep`].
#[derive(Debug, Default)]
pub struct Swept {
    /// Names and cgroups that were removed.
    pub removed: Vec<PathBuf>,
    /// Those that could not be removed, and why: usually cgroups that still have members.
    pub kept: Vec<(PathBuf, String)>,
}

impl Swept {
    fn note(&mut self, path: PathBuf, result: Result<()>) {
        match result {
            Ok(()) => self.removed.push(path),
            Err(error) => self.kept.push((path, format!("{error:#}"))),
        }
    }
}

/// Removes the netns names and cgroups of labs whose process is dead.
///
/// A lab is known by the PID in the name: where PIDs are reused, or the lab ran in
/// another PID namespace than this process, ask a human first.
///
/// # Errors
/// When a directory cannot be listed. A single leftover that cannot be removed is no
/// error but listed in [`Swept::kept`].
pub fn sweep() -> Result<Swept> {
    let mut swept = Swept::default();
    for path in leftovers(Path::new(NAMES))? {
        let result = netns::remove_name(&path);
        swept.note(path, result);
    }
    if let Ok(root) = cgroup2_root() {
        for path in leftovers(&root)? {
            let result = remove_tree(&path);
            swept.note(path, result);
        }
    }
    Ok(swept)
}

/// The entries of `directory` that a dead lab made.
fn leftovers(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("list {}", directory.display())),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", directory.display()))?;
        if is_leftover(&entry.file_name()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn is_leftover(name: &OsStr) -> bool {
    cgroup::creator(name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

/// Removes a cgroup and the lab's cgroups inside, innermost first.
fn remove_tree(path: &Path) -> Result<()> {
    for child in leftovers(path)? {
        remove_tree(&child)?;
    }
    cgroup::remove(path, 1)
}
