//! Files of a bpf filesystem: pins of maps, programs and links.

use std::ffi::{CString, OsStr};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use libbpf_rs::{MapCore as _, MapFlags, MapHandle, OpenMapMut};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::Error;
use crate::fault::{self, Point};
use crate::incompatible::Incompatible;

/// Name of the pin of a map; `None` for a map without state of its own (constants, and data of the
/// process). A bpf filesystem does not accept dots.
pub(crate) fn pin_name(map: &OsStr) -> Option<String> {
    let map = map.to_string_lossy();
    match map.rsplit_once('.') {
        // A process' own, whatever is pinned.
        None if map.starts_with("own_") => None,
        None => Some(map.into_owned()),
        Some((".bss", name)) => Some(name.to_owned()),
        Some(_) => None,
    }
}

/// Makes the map that is about to be created the one that is pinned here.
pub(crate) fn reuse(map: &mut OpenMapMut<'_>, directory: &Path, name: &str) -> Result<(), Incompatible> {
    let wrong = |why: String| Incompatible::Map { name: name.to_owned(), why };
    let path = directory.join(name);
    if !path.exists() {
        return Err(wrong("is missing".to_owned()));
    }
    fault::at(Point::PinOpen).map_err(|e| wrong(format!("cannot be opened: {e}")))?;
    let pinned = MapHandle::from_pinned_path(&path).map_err(|e| wrong(format!("cannot be opened: {e}")))?;
    let info = pinned.info().map_err(|e| wrong(format!("cannot be queried: {e}")))?.info;
    for (what, found, wanted) in [
        ("type", info.type_, map.map_type() as u32),
        ("key size", info.key_size, map.key_size()),
        ("value size", info.value_size, map.value_size()),
        ("number of entries", info.max_entries, map.max_entries()),
        ("set of flags", info.map_flags, map.map_flags()),
    ] {
        if found != wanted {
            return Err(wrong(format!("its {what} is {found}, not {wanted}")));
        }
    }
    map.reuse_fd(pinned.as_fd()).map_err(|e| wrong(format!("cannot be used: {e}")))
}

/// The value of a pinned array of one.
pub(crate) fn read_first(directory: &Path, name: &str) -> Result<Vec<u8>, Incompatible> {
    let wrong = |why: String| Incompatible::Map { name: name.to_owned(), why };
    let path = directory.join(name);
    if !path.exists() {
        return Err(wrong("is missing".to_owned()));
    }
    fault::at(Point::PinOpen).map_err(|e| wrong(format!("cannot be opened: {e}")))?;
    let map = MapHandle::from_pinned_path(&path).map_err(|e| wrong(format!("cannot be opened: {e}")))?;
    let value = map.lookup(&0_u32.to_ne_bytes(), MapFlags::ANY);
    value.map_err(|e| wrong(format!("cannot be read: {e}")))?.ok_or_else(|| wrong("is empty".to_owned()))
}

/// Pins a map, a program or a link.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> Result<(), Error> {
    let c_path = c_string(path)?;
    fault::at(Point::Pin).map_err(|e| pin_error(path, e))?;
    // SAFETY: the path ends with a nul and outlives the call; the descriptor is open.
    match unsafe { libbpf_sys::bpf_obj_pin(object.as_raw_fd(), c_path.as_ptr()) } {
        0 => Ok(()),
        error => Err(pin_error(path, io::Error::from_raw_os_error(-error))),
    }
}

/// The names in a directory of pins.
pub(crate) fn names(directory: &Path) -> Result<Vec<String>, Error> {
    let error = |source| pin_error(directory, source);
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(error(e)),
    };
    entries.map(|entry| Ok(entry.map_err(error)?.file_name().to_string_lossy().into_owned())).collect()
}

pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fault::at(Point::PinRename).and_then(|()| fs::rename(from, to)).map_err(|e| pin_error(to, e))
}

pub(crate) fn remove_file(path: &Path) -> Result<(), Error> {
    match fault::at(Point::PinRemove).and_then(|()| fs::remove_file(path)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(pin_error(path, e)),
        _ => Ok(()),
    }
}

pub(crate) fn pin_error(path: &Path, source: io::Error) -> Error {
    Error::Pin { path: path.to_owned(), source }
}

pub(crate) fn make_directory(path: &Path) -> Result<(), Error> {
    let made = fault::at(Point::PinDirectory).and_then(|()| DirBuilder::new().mode(0o700).create(path));
    made.map_err(|e| pin_error(path, e))
}

/// True if there was anything.
pub(crate) fn remove_tree(path: &Path) -> Result<bool, Error> {
    match fault::at(Point::PinRemoveAll).and_then(|()| fs::remove_dir_all(path)) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(pin_error(path, e)),
    }
}

/// Swaps two directories in one step.
pub(crate) fn exchange(a: &Path, b: &Path) -> Result<(), Error> {
    let flags = RenameFlags::RENAME_EXCHANGE;
    fault::at(Point::PinExchange)
        .and_then(|()| Ok(renameat2(AT_FDCWD, a, AT_FDCWD, b, flags)?))
        .map_err(|e| pin_error(b, e))
}

fn c_string(path: &Path) -> Result<CString, Error> {
    CString::new(path.as_os_str().as_bytes()).map_err(|e| pin_error(path, e.into()))
}

pub(crate) fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_maps_with_state_have_a_pin() {
        let name = |map: &str| pin_name(OsStr::new(map));
        assert_eq!(name(".bss.pool").as_deref(), Some("pool"));
        assert_eq!(name("shards").as_deref(), Some("shards"));
        assert_eq!(
            (name("skreap_b.bss"), name("skreap_b.rodata"), name(".rodata"), name(".bss")),
            (None, None, None, None)
        );
        assert_eq!(name("own_connects"), None);
    }
}
