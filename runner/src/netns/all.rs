//! Every netns there is.

use std::io;

use parking_lot::Mutex;
use skreap_bpf::NetnsList;

use super::{NetnsId, shown};

/// Netns, and whether these are all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Everywhere {
    /// Each once.
    pub netns: Vec<NetnsId>,
    /// True if there are no others. False where the kernel's list cannot be read: then these are those that are
    /// [`shown`], and sockets in others are not found.
    pub whole: bool,
}

/// The reader of the kernel's list, loaded when it is first needed; `None` if that failed.
static LIST: Mutex<Option<Option<NetnsList>>> = Mutex::new(None);

/// Every netns there is, whatever keeps it alive: a process, a name, a descriptor, or a socket that is on its way
/// over a unix socket. Those that come or go meanwhile may be among them or not.
///
/// # Errors
/// The errno of reading `/proc`, where the kernel's list cannot be read.
pub fn everywhere() -> io::Result<Everywhere> {
    match kernel_list() {
        Some(netns) => Ok(Everywhere { netns, whole: true }),
        None => Ok(Everywhere { netns: shown()?, whole: false }),
    }
}

/// Whether the netns is still there; `None` if the kernel's list cannot be read.
pub(super) fn is_there(id: NetnsId) -> Option<bool> {
    Some(kernel_list()?.iter().any(|netns| netns.cookie == id.cookie))
}

fn kernel_list() -> Option<Vec<NetnsId>> {
    let mut list = LIST.lock();
    let list = list.get_or_insert_with(|| match NetnsList::load() {
        Ok(list) => Some(list),
        Err(e) => {
            tracing::warn!("cannot list all netns, so sockets in one that nothing shows may be missed: {e}");
            None
        }
    });
    match list.as_mut()?.read() {
        Ok(netns) => {
            Some(netns.iter().map(|netns| NetnsId { cookie: netns.cookie, inum: netns.inum }).collect())
        }
        Err(e) => {
            tracing::warn!("cannot list all netns: {e}");
            None
        }
    }
}
