//! Finding the cgroup whose sockets are indexed.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// Mount point of the cgroup2 hierarchy: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on a hybrid
/// system.
///
/// # Errors
/// `NotFound` if it is not mounted; the errno if `/proc/self/mounts` cannot be read.
pub fn root() -> io::Result<PathBuf> {
    let mounts = fs::read("/proc/self/mounts")?;
    first_cgroup2(&mounts)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup2 hierarchy is mounted"))
}

/// The cgroup2 directory of this process.
///
/// # Errors
/// As [`root`]; `NotFound` if `/proc/self/cgroup` has no entry for it.
pub fn own() -> io::Result<PathBuf> {
    let list = fs::read("/proc/self/cgroup")?;
    let path = list.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"0::/"));
    let path =
        path.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "this process is in no cgroup2"))?;
    Ok(root()?.join(OsString::from_vec(path.to_vec())))
}

/// Opens a cgroup directory, after a look that it is one.
///
/// # Errors
/// `NotADirectory` if the path is not a cgroup2 directory; otherwise the errno of the open.
pub fn open(path: &Path) -> io::Result<File> {
    let dir = File::open(path)?;
    if path.join("cgroup.procs").exists() && path.join("cgroup.controllers").exists() {
        Ok(dir)
    } else {
        Err(io::Error::new(io::ErrorKind::NotADirectory, "not a cgroup2 directory"))
    }
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
