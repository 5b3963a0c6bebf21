//! Pins let hooks and index outlive the process that created them.
//!
//! ```text
//! DIR/              locked (flock) by the process that serves
//!   index/          complete and in use
//!     maps/NAME     every map with state
//!     links/HOOK    one link for each hook
//!     walk          the walk program, for anyone who can test_run it
//!   building/       not complete yet, or just replaced: of no value to anyone
//! ```
//!
//! Everything is created in `building` and moved to its place by one rename, so a process that is
//! killed at any moment leaves either a whole `index` or none.

use std::ffi::{CString, OsStr};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use libbpf_rs::{MapCore as _, MapFlags, MapHandle, OpenMapMut};

use crate::fault::{self, Point};
use crate::hooks::{self, Hooks};
use crate::{Config, Error, Index};

/// `BPF_FS_MAGIC` (linux/magic.h).
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

const INDEX: &str = "index";
const BUILDING: &str = "building";
const MAPS: &str = "maps";
const LINKS: &str = "links";
const WALK: &str = "walk";
/// A pin on its way to the place of another.
const NEXT: &str = "next";

/// Where an index comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It is new, and knows no socket.
    New,
    /// It was found pinned, with its sockets and its hooks.
    TakenOver,
    /// It is new and replaces a pinned one that cannot be used, for the given reason.
    Replaces(Incompatible),
}

/// The reason why the pinned index cannot be taken over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Incompatible {
    /// Another version created it.
    #[error("its layout is version {found}, this program's {expected}")]
    Layout {
        /// `SKREAP_LAYOUT_VERSION` of its creator.
        found: u32,
        /// That of this program.
        expected: u32,
    },
    /// It is not as large as is asked for.
    #[error("{what} is {found}, {wanted} is requested")]
    Size {
        /// Name of the size.
        what: &'static str,
        /// As pinned.
        found: u32,
        /// As asked for.
        wanted: u32,
    },
    /// A map is missing, differs from the one this program needs, or is unknown to it.
    #[error("map {name}: {why}")]
    Map {
        /// Name of its pin.
        name: String,
        /// The difference.
        why: String,
    },
    /// A hook is missing or not attached to the cgroup.
    #[error("hook {name}: {why}")]
    Hook {
        /// Name of its pin.
        name: String,
        /// The difference.
        why: String,
    },
    /// The programs are not accepted with these maps.
    #[error("the programs do not load with it: {0}")]
    Load(String),
}

/// The obstacles to a take-over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Obstacle {
    /// A new index can take the place of the old one.
    #[error(transparent)]
    Incompatible(#[from] Incompatible),
    /// Neither can be had.
    #[error(transparent)]
    Error(#[from] Error),
}

/// A locked directory of pins: no other process can lock it while this value lives.
#[derive(Debug)]
pub struct Pins {
    directory: PathBuf,
    _lock: File,
}

impl Pins {
    /// Locks a directory on a bpf filesystem, and creates it if needed. Pins that a killed process
    /// has not completed are removed.
    ///
    /// # Errors
    /// [`Error::PinsHeld`] if another process has locked it; [`Error::Unsupported`] if it is not on
    /// a bpf filesystem; [`Error::Pin`] with the errno for anything else.
    pub fn hold(directory: &Path) -> Result<Self, Error> {
        let error = |source| pin_error(directory, source);
        let directory = &std::path::absolute(directory).map_err(error)?;
        loop {
            // Made only where it is of use: nothing is left behind anywhere else.
            let place = if directory.exists() { Some(directory.as_path()) } else { directory.parent() };
            if !place.is_some_and(is_bpffs) {
                return Err(no_bpffs(directory));
            }
            match DirBuilder::new().mode(0o700).create(directory) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(error(e)),
                _ => {}
            }
            let lock = match File::open(directory) {
                Ok(lock) => lock,
                // Unloaded since the line before.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(error(e)),
            };
            match lock.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => return Err(Error::PinsHeld(directory.to_owned())),
                Err(fs::TryLockError::Error(e)) => return Err(error(e)),
            }
            // An unload between our open and our lock has removed this directory: then we have
            // locked a directory that no path leads to.
            let held = lock.metadata().map_err(error)?;
            if fs::metadata(directory).is_ok_and(|m| m.ino() == held.ino() && m.dev() == held.dev()) {
                let pins = Self { directory: directory.to_owned(), _lock: lock };
                remove_index(&pins.at(BUILDING))?;
                return Ok(pins);
            }
        }
    }

    /// Loads the programs: on the maps pinned here if they fit, else on new ones. The hooks stay as
    /// they are; call [`Hooks::attach_pinned`] next.
    ///
    /// # Errors
    /// As [`Index::load`].
    pub fn load(&self, config: &Config, cgroup: BorrowedFd<'_>) -> Result<(Index, Origin), Error> {
        let index = self.at(INDEX);
        if !index.exists() {
            return Ok((Index::load(config)?, Origin::New));
        }
        let taken = hooks::compatible(&index.join(LINKS), cgroup)
            .and_then(|()| Index::take_over(config, &index.join(MAPS)));
        match taken {
            Ok(index) => Ok((index, Origin::TakenOver)),
            Err(Obstacle::Incompatible(why)) => Ok((Index::load(config)?, Origin::Replaces(why))),
            Err(Obstacle::Error(e)) => Err(e),
        }
    }

    /// Pins index and hooks in `building`, which no other process reads: [`publish`](Self::publish)
    /// completes it.
    pub(crate) fn build(
        &self,
        index: &Index,
        attach: impl FnOnce(&Path) -> Result<Hooks, Error>,
    ) -> Result<Hooks, Error> {
        let building = self.at(BUILDING);
        let (maps, links) = (building.join(MAPS), building.join(LINKS));
        for directory in [&building, &maps, &links] {
            make_directory(directory)?;
        }
        index.pin_maps(&maps)?;
        index.pin_walk(&building.join(WALK))?;
        attach(&links)
    }

    /// Makes programs and links of a pinned index this process' own.
    pub(crate) fn renew(&self, index: &Index) -> Result<Hooks, Error> {
        let current = self.at(INDEX);
        let hooks = Hooks::take_over(index, &current.join(LINKS))?;
        let next = current.join(NEXT);
        remove_file(&next)?;
        index.pin_walk(&next)?;
        rename(&next, &current.join(WALK))?;
        Ok(hooks)
    }

    /// Removes pins that were created and not published.
    ///
    /// # Errors
    /// [`Error::Pin`] with the errno.
    pub fn abandon(&self) -> Result<(), Error> {
        let building = self.at(BUILDING);
        if building.exists() {
            remove_index(&building)?;
        }
        Ok(())
    }

    /// Moves the pins of [`Hooks::attach_pinned`] to their place, and removes the previous ones,
    /// hooks included. Does nothing for an index that was taken over.
    ///
    /// # Errors
    /// [`Error::Pin`] with the errno. The old index is still there and works; the new one ends with
    /// this process or the next start.
    pub fn publish(&self, hooks: &mut Hooks) -> Result<(), Error> {
        let (index, building) = (self.at(INDEX), self.at(BUILDING));
        if building.exists() {
            if index.exists() {
                exchange(&building, &index)?;
            } else {
                rename(&building, &index)?;
            }
            hooks.set_pins(index.join(LINKS));
            remove_index(&building)?;
        }
        Ok(())
    }

    /// Removes index and hooks; true if there were any. Foreign files stay, and the directory with
    /// them.
    ///
    /// # Errors
    /// [`Error::Pin`] with the errno.
    pub fn remove(self) -> Result<bool, Error> {
        let removed = remove_index(&self.at(INDEX))?;
        match fs::remove_dir(&self.directory) {
            // Others have pins there too, or it is the filesystem itself.
            Err(e) if !matches!(e.raw_os_error(), Some(libc::ENOTEMPTY | libc::EBUSY)) => {
                Err(pin_error(&self.directory, e))
            }
            _ => Ok(removed),
        }
    }

    /// The directory of the pins.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// Name of the pin of a map; `None` for a map without state of its own (constants, and data of the
/// process). A bpf filesystem does not accept dots.
pub(crate) fn pin_name(map: &OsStr) -> Option<String> {
    let map = map.to_string_lossy();
    match map.rsplit_once('.') {
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

fn make_directory(path: &Path) -> Result<(), Error> {
    let made = fault::at(Point::PinDirectory).and_then(|()| DirBuilder::new().mode(0o700).create(path));
    made.map_err(|e| pin_error(path, e))
}

/// Detaches hooks and removes all their pins; true if there was anything.
fn remove_index(path: &Path) -> Result<bool, Error> {
    // To remove the pin of a link detaches it as well, but not at once.
    hooks::detach(&path.join(LINKS))?;
    remove_tree(path)
}

/// True if there was anything.
fn remove_tree(path: &Path) -> Result<bool, Error> {
    match fault::at(Point::PinRemoveAll).and_then(|()| fs::remove_dir_all(path)) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(pin_error(path, e)),
    }
}

/// Swaps two directories in one step.
fn exchange(a: &Path, b: &Path) -> Result<(), Error> {
    let (from, to) = (c_string(a)?, c_string(b)?);
    fault::at(Point::PinExchange).map_err(|e| pin_error(b, e))?;
    // SAFETY: both paths end with a nul and outlive the call.
    let ret = unsafe {
        libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), libc::RENAME_EXCHANGE)
    };
    if ret == 0 { Ok(()) } else { Err(pin_error(b, io::Error::last_os_error())) }
}

fn c_string(path: &Path) -> Result<CString, Error> {
    CString::new(path.as_os_str().as_bytes()).map_err(|e| pin_error(path, e.into()))
}

fn is_bpffs(path: &Path) -> bool {
    let Ok(path) = c_string(path) else {
        return false;
    };
    // SAFETY: statfs is made of integers, for which zero is a value.
    let mut buffer: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with a nul, the buffer is a statfs; both outlive the call.
    let ret = unsafe { libc::statfs(path.as_ptr(), &mut buffer) };
    ret == 0 && buffer.f_type as u64 == BPF_FS_MAGIC
}

fn no_bpffs(path: &Path) -> Error {
    Error::Unsupported {
        missing: format!("a bpf filesystem for the pins in {}", path.display()),
        remedy: "mount one (`mount -t bpf bpf /sys/fs/bpf`), or name a directory on one with --pin"
            .to_owned(),
    }
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
    }

    #[test]
    fn a_directory_elsewhere_is_refused_and_stays() {
        let directory = std::env::temp_dir();
        assert!(matches!(Pins::hold(&directory), Err(Error::Unsupported { .. })));
        assert!(directory.exists());
    }
}
