//! Every netns there is.

use std::io;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use skreap_bpf::{NetnsEntry, NetnsList};

use super::{NetnsId, shown};

/// Netns, and whether these are all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllNetns {
    /// Each once.
    pub netns: Vec<NetnsId>,
    /// True if there are no others. False where the kernel's list cannot be read: then the list has
    /// only those that are [`shown`], and sockets in others are not found.
    pub whole: bool,
}

/// Pause between a failed load and the next try: the missing resource (memory, a capability) may be
/// available then.
const RETRY: Duration = Duration::from_secs(10);

/// The reader of the kernel's list.
static LIST: Mutex<Reader> = Mutex::new(Reader { list: None, failed: None });

/// Loads the list when it is first needed.
struct Reader {
    list: Option<NetnsList>,
    failed: Option<Instant>,
}

impl Reader {
    fn get(&mut self) -> Option<&mut NetnsList> {
        let wait = self.failed.is_some_and(|failed| failed.elapsed() < RETRY);
        if self.list.is_none() && !wait {
            match NetnsList::load() {
                Ok(list) => *self = Self { list: Some(list), failed: None },
                Err(e) => {
                    // Said once, not each time that it is tried.
                    if self.failed.is_none() {
                        tracing::warn!(
                            "cannot list all netns, so sockets in a hidden one may be missed: {e}"
                        );
                    }
                    self.failed = Some(Instant::now());
                }
            }
        }
        self.list.as_mut()
    }
}

/// Every netns, whatever keeps it alive: a process, a name, a descriptor, or a socket in flight
/// over a unix socket. Netns that are created or destroyed meanwhile may be missing.
///
/// # Errors
/// The errno of reading `/proc`, where the kernel's list cannot be read.
pub fn everywhere() -> io::Result<AllNetns> {
    match kernel_list() {
        Some(netns) => {
            let netns = netns.iter().map(|netns| NetnsId { cookie: netns.cookie, inum: netns.inum });
            Ok(AllNetns { netns: netns.collect(), whole: true })
        }
        None => Ok(AllNetns { netns: shown()?, whole: false }),
    }
}

pub(super) fn kernel_list() -> Option<Vec<NetnsEntry>> {
    match LIST.lock().get()?.read() {
        Ok(netns) => Some(netns),
        Err(e) => {
            tracing::warn!("cannot list all netns: {e}");
            None
        }
    }
}
