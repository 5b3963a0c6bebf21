//! Cgroups of the unified hierarchy.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
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

/// Where the cgroup2 hierarchy is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified`
/// on a hybrid system, or elsewhere in a container.
///
/// # Errors
/// When no cgroup2 is mounted.
pub fn cgroup2_root() -> Result<PathBuf> {
    let mounts = fs::read("/proc/self/mounts").context("read /proc/self/mounts")?;
    first_cgroup2(&mounts).context("no cgroup2 is mounted: see /proc/self/mounts")
}

/// The mount point of the first line of type cgroup2.
fn first_cgroup2(mounts: &[u8]) -> Option<PathBuf> {
    mounts.split(|&byte| byte == b'\n').find_map(|line| {
        let mut fields = line.split(|&byte| byte == b' ');
        let (_source, target, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == b"cgroup2").then(|| PathBuf::from(unescape(target)))
    })
}

/// Undoes the octal escapes (`\040` for a blank) of the mount table.
fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        match (byte, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                plain.push(byte);
                rest = tail;
            }
        }
    }
    OsString::from_vec(plain)
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
        Self::make(cgroup2_root()?.join(name::make(label)?))
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
    /// When somebody else has removed it.
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

/// Whether `entry` is a name that [`name::make`] gave, and who made it.
pub(super) fn creator(entry: &OsStr) -> Option<u32> {
    name::creator(std::str::from_utf8(entry.as_bytes()).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_unified_hierarchy_of_a_hybrid_system() {
        let mounts = b"cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        assert_eq!(first_cgroup2(mounts), Some("/sys/fs/cgroup/unified".into()));
    }

    #[test]
    fn no_cgroup2_is_none() {
        assert_eq!(first_cgroup2(b"cgroup2 /x tmpfs rw 0 0\n\n"), None);
    }

    #[test]
    fn undoes_octal_escapes() {
        assert_eq!(unescape(br"/a\040b\134c\9"), OsString::from(r"/a b\c\9"));
    }
}
