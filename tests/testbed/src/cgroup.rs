//! Cgroups of the unified hierarchy.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::name;

/// How often, and how far apart, the removal of a cgroup is tried while its last members
/// are still on their way out.
const REMOVE_TRIES: u32 = 200;
const REMOVE_PAUSE: Duration = Duration::from_millis(10);

/// Where the cgroup2 hierarchy is mounted, at a path without blanks.
///
/// # Errors
/// When it is not mounted, or the mounts cannot be read.
pub fn root() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .map(|fields| PathBuf::from(fields[1]))
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup2 hierarchy is mounted"))
}

/// A cgroup below the cgroup2 root. It is removed on drop; its members are not killed,
/// so drop the clients first.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes `skreap-PID-LABEL` below the root of the hierarchy.
    ///
    /// # Errors
    /// Without the right to write there, with a label that is no file name, or when this
    /// process already has a cgroup of that label.
    pub fn create(label: &str) -> Result<Self> {
        Self::make(root()?.join(name::make(label)?))
    }

    /// Makes a cgroup inside this one. Drop it first.
    ///
    /// # Errors
    /// As for [`Cgroup::create`].
    pub fn child(&self, label: &str) -> Result<Self> {
        Self::make(self.path.join(name::make(label)?))
    }

    fn make(path: PathBuf) -> Result<Self> {
        fs::create_dir(&path).with_context(|| format!("create cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    /// Where it is in the file system.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A descriptor of its directory, to attach programs to.
    ///
    /// # Errors
    /// When another process has removed it.
    pub fn open(&self) -> Result<OwnedFd> {
        let directory = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY)
            .open(&self.path)
            .with_context(|| format!("open cgroup {}", self.path.display()))?;
        Ok(directory.into())
    }

    /// Moves a process in, with all its threads. Sockets that it has stay accounted to
    /// the cgroup in which they were opened.
    ///
    /// # Errors
    /// When there is no such process, or it may not be moved.
    pub fn add(&self, pid: u32) -> Result<()> {
        fs::write(self.path.join("cgroup.procs"), pid.to_string())
            .with_context(|| format!("move process {pid} into cgroup {}", self.path.display()))
    }

    /// The open `cgroup.procs`: a process that writes `0` to it moves itself in.
    pub(super) fn door(&self) -> Result<File> {
        let path = self.path.join("cgroup.procs");
        OpenOptions::new().write(true).open(&path).with_context(|| format!("open {}", path.display()))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path, REMOVE_TRIES) {
            tracing::warn!("left behind: {error:#}");
        }
    }
}

/// Removes the cgroup at `path`, trying again while it has members.
pub(super) fn remove(path: &Path, tries: u32) -> Result<()> {
    for left in (0..tries).rev() {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && left > 0 => {
                thread::sleep(REMOVE_PAUSE);
            }
            Err(error) => {
                return Err(error).with_context(|| format!("remove cgroup {}", path.display()));
            }
        }
    }
    Ok(())
}

/// Whether `entry` is a name from [`name::make`], and the PID in it.
pub(super) fn creator(entry: &OsStr) -> Option<u32> {
    name::creator(std::str::from_utf8(entry.as_bytes()).ok()?)
}
