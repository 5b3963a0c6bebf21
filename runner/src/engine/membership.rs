//! Which sockets belong to the cgroup that is indexed, for scans that see all.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::EngineError;
use crate::sys::cgroup;

/// Inode number, and so cgroup id, of the root of the hierarchy.
const ROOT: u64 = 1;
/// Where a cgroup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CgroupRelation {
    /// It is the one that is indexed, or below it.
    Inside,
    /// It is elsewhere.
    Outside,
    /// Undecided (positive errno). `ESTALE`: the cgroup was removed, and only sockets refer to it.
    Unknown(i32),
}

/// The id of a cgroup directory; `None` for the root of the hierarchy, in which every socket is.
///
/// # Errors
/// [`EngineError::Io`] if the directory cannot be looked at.
pub(crate) fn id_of(path: &Path) -> Result<Option<u64>, EngineError> {
    let metadata = fs::metadata(path)
        .map_err(|source| EngineError::Io { what: format!("cgroup {}", path.display()), source })?;
    Ok((metadata.ino() != ROOT).then(|| metadata.ino()))
}

/// Decides by the cgroup id in sock_diag whether a socket belongs to one cgroup or those below it.
#[derive(Debug)]
pub(crate) struct Membership {
    directory: File,
    id: u64,
    device: u64,
    // Ids are never reused and cgroups never move, so a result stays true.
    known: HashMap<u64, CgroupRelation>,
}

impl Membership {
    /// `None` for the root: every socket belongs to it.
    ///
    /// # Errors
    /// [`EngineError::Io`] if the directory cannot be opened.
    pub(crate) fn new(path: &Path) -> Result<Option<Self>, EngineError> {
        let error = |source| EngineError::Io { what: format!("cgroup {}", path.display()), source };
        let directory = cgroup::open(path).map_err(error)?;
        let metadata = directory.metadata().map_err(error)?;
        let (id, device) = (metadata.ino(), metadata.dev());
        Ok((id != ROOT).then(|| Self { directory, id, device, known: HashMap::new() }))
    }

    /// Where the cgroup with this id is.
    pub(crate) fn place(&mut self, cgroup: u64) -> CgroupRelation {
        if cgroup == self.id {
            return CgroupRelation::Inside;
        }
        if let Some(&place) = self.known.get(&cgroup) {
            return place;
        }
        let place = match cgroup::is_below(&self.directory, cgroup, self.id, self.device) {
            Ok(true) => CgroupRelation::Inside,
            Ok(false) => CgroupRelation::Outside,
            Err(e) => CgroupRelation::Unknown(e.raw_os_error().unwrap_or(libc::EIO)),
        };
        // What else has gone wrong may go well the next time.
        if !matches!(place, CgroupRelation::Unknown(errno) if errno != libc::ESTALE) {
            self.known.insert(cgroup, place);
        }
        place
    }
}
