//! Pins let hooks and index outlive the process that created them.
//!
//! ```text
//! DIR/              locked (flock) by the process that serves
//!   index/          complete and in use
//!     maps/NAME     every map with state
//!     links/HOOK    one link for each hook
//!     walk          the walk program, for anyone who can test_run it
//!   building/       not complete yet, or just replaced: of no value to anyone
//!   reviving        a number, once it was needed: destroyed sockets that the process in service is to look at again
//! ```
//!
//! Everything is created in `building` and moved to its place by one rename, so a process that is
//! killed at any moment leaves either a whole `index` or none.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::bpffs::{exchange, is_bpffs, make_directory, pin_error, remove_file, remove_tree, rename};
use crate::hooks::{self, Hooks};
use crate::incompatible::Obstacle;
use crate::reviving::RevivingCount;
use crate::{Config, Error, Index};

pub use crate::incompatible::Incompatible;

const INDEX: &str = "index";
const BUILDING: &str = "building";
const MAPS: &str = "maps";
const LINKS: &str = "links";
const WALK: &str = "walk";
const REVIVING: &str = "reviving";
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
    /// [`Error::PinsLocked`] if another process has locked it; [`Error::Unsupported`] if it is not on
    /// a bpf filesystem; [`Error::Pin`] with the errno for anything else.
    pub fn lock(directory: &Path) -> Result<Self, Error> {
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
                Err(fs::TryLockError::WouldBlock) => return Err(Error::PinsLocked(directory.to_owned())),
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
        let taken = hooks::compatible(&index.join(LINKS), cgroup, config.frontends > 0)
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

    /// How many destroyed sockets wait for a second look, for the process that serves to keep. The number is 0 at first, and
    /// no process but this one changes it.
    ///
    /// # Errors
    /// [`Error::Pin`] or [`Error::Object`] with the errno.
    pub fn reviving(&self) -> Result<RevivingCount, Error> {
        let path = self.at(REVIVING);
        RevivingCount::open(&path).or_else(|_| RevivingCount::create(&path))
    }

    /// How many sockets still waited when the process before this one ended, and sets that to 0.
    ///
    /// # Errors
    /// As [`reviving`](Self::reviving).
    pub fn take_reviving(&self) -> Result<u64, Error> {
        let path = self.at(REVIVING);
        if !path.exists() {
            return Ok(0);
        }
        let count = RevivingCount::open(&path)?;
        let left = count.get()?;
        count.set(0)?;
        Ok(left)
    }

    /// Removes index and hooks; true if there were any. Foreign files stay, and the directory with
    /// them.
    ///
    /// # Errors
    /// [`Error::Pin`] with the errno.
    pub fn remove(self) -> Result<bool, Error> {
        let reviving = self.at(REVIVING);
        if reviving.exists() {
            remove_file(&reviving)?;
        }
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

impl Hooks {
    /// Attaches and pins all hooks of an index from [`Pins::load`], so that they outlive this
    /// process. A hook that is pinned already gets the program of this index and keeps its place in
    /// the order; it is attached at every moment. Complete new hooks with [`Pins::publish`].
    ///
    /// # Errors
    /// As [`attach`](Self::attach); [`Error::Pin`] with the errno.
    pub fn attach_pinned(
        index: &Index,
        cgroup: BorrowedFd<'_>,
        pins: &Pins,
        origin: &Origin,
    ) -> Result<Self, Error> {
        match origin {
            Origin::TakenOver => pins.renew(index),
            Origin::New | Origin::Replaces(_) => pins.build(index, |links| {
                let mut hooks = Self::attach(index, cgroup)?;
                hooks.pin(links)?;
                Ok(hooks)
            }),
        }
    }
}

/// Detaches hooks and removes all their pins; true if there was anything.
fn remove_index(path: &Path) -> Result<bool, Error> {
    // To remove the pin of a link detaches it as well, but not at once.
    hooks::detach(&path.join(LINKS))?;
    remove_tree(path)
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
    fn a_directory_elsewhere_is_refused_and_stays() {
        let directory = std::env::temp_dir();
        assert!(matches!(Pins::lock(&directory), Err(Error::Unsupported { .. })));
        assert!(directory.exists());
    }
}
