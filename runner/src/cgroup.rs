//! Finding the cgroup whose sockets are indexed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Where the cgroup2 hierarchy is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on a hybrid system.
///
/// # Errors
/// `NotFound` if it is not mounted; the errno if `/proc/self/mounts` cannot be read.
pub fn root() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    mounts
        .lines()
        .find_map(|line| {
            let mut fields = line.split(' ');
            let (_, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(unescape(path)))
        })
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup2 hierarchy is mounted"))
}

/// Opens a cgroup directory, after a look that it is one.
///
/// # Errors
/// `NotADirectory` if the path is no cgroup2 directory; otherwise the errno of the open.
pub fn open(path: &Path) -> io::Result<File> {
    let dir = File::open(path)?;
    if path.join("cgroup.procs").exists() && path.join("cgroup.controllers").exists() {
        Ok(dir)
    } else {
        Err(io::Error::new(io::ErrorKind::NotADirectory, "not a cgroup2 directory"))
    }
}

/// Takes back the octal escapes of `/proc/mounts` (blank, tab, newline, backslash).
fn unescape(path: &str) -> String {
    ["\\040", "\\011", "\\012"]
        .iter()
        .zip([" ", "\t", "\n"])
        .fold(path.to_owned(), |path, (escape, plain)| path.replace(escape, plain))
        .replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(super::unescape("/sys/fs/my\\040cgroup\\134x"), "/sys/fs/my cgroup\\x");
    }
}
