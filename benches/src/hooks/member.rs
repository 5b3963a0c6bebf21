//! This process as a member of a cgroup.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use skreap_testbed::{Cgroup, cgroup2_root};

/// Moves the process back where it was on drop.
pub struct Member {
    home: PathBuf,
}

impl Member {
    /// Moves this process, with all its threads, into the cgroup. Sockets belong to the cgroup in
    /// which they are opened, so open none before.
    ///
    /// # Errors
    /// When it may not be moved.
    pub fn of(cgroup: &Cgroup) -> Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").context("read /proc/self/cgroup")?;
        let path = unified(&own).context("/proc/self/cgroup has no cgroup2 line (0::)")?;
        let home = cgroup2_root()?.join(path.trim_start_matches('/'));
        cgroup.add(std::process::id())?;
        Ok(Self { home })
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let door = self.home.join("cgroup.procs");
        if let Err(error) = fs::write(&door, std::process::id().to_string()) {
            tracing::warn!("cannot go back to cgroup {}: {error}", self.home.display());
        }
    }
}

/// The path of the line of the unified hierarchy.
fn unified(cgroups: &str) -> Option<&str> {
    cgroups.lines().find_map(|line| line.strip_prefix("0::"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn finds_the_unified_line() {
        assert_eq!(super::unified("3:cpu:/a\n0::/user.slice/b\n"), Some("/user.slice/b"));
        assert_eq!(super::unified("3:cpu:/a\n"), None);
    }
}
