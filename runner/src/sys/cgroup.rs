//! Finding the cgroup whose sockets are indexed.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};

use super::privileges;

/// Inode number, and so cgroup id, of the root of the hierarchy. Whatever else is mounted, or is
/// the root of a cgroup namespace, has another.
const ROOT: u64 = 1;

/// A mount of cgroup2 that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub path: PathBuf,
    /// It is the root of the hierarchy, in which every process is. In a container with a cgroup
    /// namespace of its own, what is mounted as cgroup2 is usually the container's part only.
    pub whole: bool,
}

/// What is mounted at this path is a part of the machine's cgroup2 only.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "cgroup {}: this is a part of the machine's cgroup2 only, as in a container with a cgroup namespace of its own; sockets \
     of processes outside it would not be seen. Use the host's cgroup namespace (docker run --cgroupns=host), or mount the \
     host's cgroup2 here (docker run -v /sys/fs/cgroup:/host/cgroup:ro); or name {} with --cgroup to see no more than this \
     part",
    .0.display(),
    .0.display()
)]
pub struct PartOnly(pub PathBuf);

/// The best mount of cgroup2: the first one of its root, else the first one of a part of it. What
/// is mounted over does not count.
///
/// # Errors
/// `NotFound` if there is none; the errno if `/proc/self/mountinfo` cannot be read.
pub fn mount() -> io::Result<Mount> {
    let mounts = fs::read("/proc/self/mountinfo")?;
    let mut usable = cgroup2_mounts(&mounts).filter_map(|(path, device)| {
        let metadata = open(&path).and_then(|directory| directory.metadata()).ok()?;
        // Another file system may be mounted over it by now.
        (metadata.dev() == device).then(|| Mount { whole: metadata.ino() == ROOT, path })
    });
    let mut part = None;
    let whole = usable.find(|mount| {
        if !mount.whole {
            part.get_or_insert_with(|| mount.clone());
        }
        mount.whole
    });
    whole.or(part).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup2 hierarchy is mounted"))
}

/// Where the best mount of cgroup2 is, see [`mount`].
///
/// # Errors
/// As [`mount`].
pub fn root() -> io::Result<PathBuf> {
    Ok(mount()?.path)
}

/// What a service on this cgroup does not see; `None` for the root of the hierarchy, in which every
/// socket is.
///
/// # Errors
/// The errno of looking at the directory.
pub fn not_seen(path: &Path) -> io::Result<Option<String>> {
    if fs::metadata(path)?.ino() == ROOT {
        return Ok(None);
    }
    let outside = "sockets of processes outside this cgroup";
    Ok(Some(match mount() {
        Ok(Mount { whole: true, .. }) => outside.to_owned(),
        _ => format!(
            "{outside}, which cannot be listed here: the root of the machine's cgroup2 is not mounted"
        ),
    }))
}

/// The cgroup2 directory of this process.
///
/// # Errors
/// As [`mount`]; `NotFound` if `/proc/self/cgroup` has no entry for it.
pub fn own() -> io::Result<PathBuf> {
    let list = fs::read("/proc/self/cgroup")?;
    let path = list.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"0::/"));
    let path =
        path.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "this process is in no cgroup2"))?;
    Ok(mount()?.path.join(OsString::from_vec(path.to_vec())))
}

/// Opens a cgroup directory. Whether it is one is asked of what was opened: its path may lead nowhere by then.
///
/// # Errors
/// `NotADirectory` if the path is not a cgroup2 directory; otherwise the errno of the open.
pub fn open(path: &Path) -> io::Result<File> {
    let dir = File::open(path)?;
    if dir.metadata()?.is_dir() && fstatfs(&dir)?.filesystem_type() == CGROUP2_SUPER_MAGIC {
        Ok(dir)
    } else {
        Err(io::Error::new(io::ErrorKind::NotADirectory, "not a cgroup2 directory"))
    }
}

/// `struct file_handle` with the payload of kernfs.
#[repr(C)]
struct KernfsHandle {
    handle_bytes: u32,
    handle_type: libc::c_int,
    id: u64,
}

/// `FILEID_KERNFS` (linux/exportfs.h).
const FILEID_KERNFS: libc::c_int = 0xfe;

/// Opens the cgroup with this id (its inode number); `directory` is any of the same hierarchy.
/// Needs CAP_DAC_READ_SEARCH.
///
/// # Errors
/// `ESTALE` if the cgroup was removed; otherwise the errno of open_by_handle_at(2).
pub(crate) fn open_by_id(directory: &File, id: u64) -> io::Result<OwnedFd> {
    let _raised = privileges::raise();
    let mut handle = KernfsHandle { handle_bytes: 8, handle_type: FILEID_KERNFS, id };
    const { assert!(size_of::<KernfsHandle>() == 16) };
    // SAFETY: the handle is a complete file_handle of the size it states, and outlives the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            directory.as_raw_fd(),
            std::ptr::from_mut(&mut handle),
            libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC,
        )
    };
    match libc::c_int::try_from(fd) {
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Follows the parents of a cgroup up to the root and checks whether `ancestor` is among them, an id like that of the
/// cgroup itself. `device` is that of the hierarchy, and `directory` any in it.
///
/// # Errors
/// As [`open_by_id`].
pub(crate) fn is_below(directory: &File, cgroup: u64, ancestor: u64, device: u64) -> io::Result<bool> {
    let _raised = privileges::raise();
    let cgroup = open_by_id(directory, cgroup)?;
    let mut path = format!("/proc/self/fd/{}", cgroup.as_raw_fd());
    loop {
        path.push_str("/..");
        let metadata = fs::metadata(&path)?;
        if metadata.dev() != device {
            // Above the mount of the hierarchy, or of the part of it that is mounted.
            return Ok(false);
        }
        match metadata.ino() {
            id if id == ancestor => return Ok(true),
            ROOT => return Ok(false),
            _ => {}
        }
    }
}

/// Mount point and device of each line of type cgroup2 (proc_pid_mountinfo(5)).
fn cgroup2_mounts(mountinfo: &[u8]) -> impl Iterator<Item = (PathBuf, u64)> {
    mountinfo.split(|&byte| byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|&byte| byte == b' ');
        let (device, target) = (fields.nth(2)?, fields.nth(1)?);
        // Options, as many as there are, and a hyphen: then the type.
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        let (major, minor) = std::str::from_utf8(device).ok()?.split_once(':')?;
        let device = libc::makedev(major.parse().ok()?, minor.parse().ok()?);
        (kind == b"cgroup2").then(|| (PathBuf::from(unescape(target)), device))
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
    fn finds_every_mount_of_cgroup2() {
        let mountinfo = b"25 30 0:22 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
            26 30 0:23 / /sys/fs/cgroup/unified rw,nosuid shared:9 master:1 - cgroup2 cgroup2 rw\n\
            27 30 0:23 /a /mnt/a\\040b rw - cgroup2 none rw\n\
            28 30 0:24 / /cgroup2 rw - tmpfs cgroup2 rw\n\n";
        let device = libc::makedev(0, 23);
        let found: Vec<_> = cgroup2_mounts(mountinfo).collect();
        assert_eq!(found, [("/sys/fs/cgroup/unified".into(), device), ("/mnt/a b".into(), device)]);
    }

    #[test]
    fn lines_that_are_none_are_passed_over() {
        for line in
            ["", "1", "1 2 3:4 / /x rw cgroup2", "1 2 x:4 / /x rw - cgroup2 none", "1 2 3 / /x rw - cgroup2"]
        {
            assert_eq!(cgroup2_mounts(line.as_bytes()).count(), 0, "{line}");
        }
    }

    #[test]
    fn undoes_octal_escapes() {
        assert_eq!(unescape(br"/a\040b\134c\9"), OsString::from(r"/a b\c\9"));
    }
}
