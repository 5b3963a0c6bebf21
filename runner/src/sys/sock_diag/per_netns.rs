//! One diag socket for each netns.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::DiagSocket;
use crate::sys::netns::{self, NetnsId};
use crate::sys::privileges;

type Opened = Vec<(NetnsId, io::Result<DiagSocket>)>;

/// Netns that are opened in one go.
const CHUNK: usize = 64;

/// Diag sockets for dumps, one per netns.
///
/// An open diag socket keeps its netns alive: each is closed ([`forget`](Self::forget)) when its netns is done.
#[derive(Debug)]
pub struct DiagSockets {
    open: HashMap<u64, DiagSocket>,
    ask: Option<Sender<Vec<NetnsId>>>,
    answer: Receiver<Opened>,
    opener: Option<thread::JoinHandle<()>>,
}

impl DiagSockets {
    /// # Errors
    /// The errno of making the thread, or of opening the own netns.
    pub fn new() -> io::Result<Self> {
        Self::opened_by(netns::open_at_once)
    }

    /// As [`new`](Self::new), with another way to open a netns.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn opened_by(open: impl Fn(NetnsId) -> io::Result<OwnedFd> + Send + 'static) -> io::Result<Self> {
        let (ask, asked) = bounded::<Vec<NetnsId>>(1);
        let (reply, answer) = bounded(1);
        let home = netns::current()?;
        // A thread of its own: setns() must never move a thread that others run on.
        let opener = thread::Builder::new().name("skreap-netns".to_owned()).spawn(move || {
            for ids in asked {
                let mut opened = open_first(&ids, &open);
                forget_dead(&mut opened);
                // The thread's own place keeps a netns alive as well.
                if let Err(e) = netns::enter(&home) {
                    tracing::error!("cannot return to the service's own netns: {e}");
                }
                if reply.send(opened).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { open: HashMap::new(), ask: Some(ask), answer, opener: Some(opener) })
    }

    /// Opens the first of these: as many as it takes in one go and as there are descriptors for, but one at least. Returns
    /// how many that were, and those of them that could not be opened, with the errno.
    pub fn open_some(&mut self, ids: &[NetnsId]) -> (usize, HashMap<u64, i32>) {
        let some = ids.get(..CHUNK).unwrap_or(ids);
        let sent = self.ask.as_ref().is_some_and(|ask| ask.send(some.to_vec()).is_ok());
        let opened = if sent { self.answer.recv().unwrap_or_default() } else { Vec::new() };
        if opened.is_empty() {
            // The thread is gone.
            return (some.len(), some.iter().map(|id| (id.cookie, libc::EIO)).collect());
        }
        let (number, mut failed) = (opened.len(), HashMap::new());
        for (id, result) in opened {
            match result {
                Ok(socket) => {
                    self.open.insert(id.cookie, socket);
                }
                Err(e) => {
                    failed.insert(id.cookie, e.raw_os_error().unwrap_or(libc::EIO));
                }
            }
        }
        (number, failed)
    }

    /// The socket of a netns that was opened.
    pub fn get(&mut self, cookie: u64) -> Option<&mut DiagSocket> {
        self.open.get_mut(&cookie)
    }

    /// Closes the socket of a netns.
    pub fn forget(&mut self, cookie: u64) {
        self.open.remove(&cookie);
    }
}

impl Drop for DiagSockets {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(opener) = self.opener.take()
            && opener.join().is_err()
        {
            tracing::error!("the netns thread panicked");
        }
    }
}

/// Opens these one after the other, until there are no more descriptors: the caller closes some then, and asks again.
fn open_first(ids: &[NetnsId], open: impl Fn(NetnsId) -> io::Result<OwnedFd>) -> Opened {
    // Once for all of them.
    let _raised = privileges::raise();
    let mut opened = Opened::new();
    for &id in ids {
        let diag = DiagSocket::open_in(id, &open);
        if diag.as_ref().is_err_and(is_full) && !opened.is_empty() {
            break;
        }
        opened.push((id, diag));
    }
    opened
}

/// There are no more descriptors, in this process or at all.
fn is_full(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Waits for netns that are unreachable because they are being torn down, and reports those that
/// are gone.
fn forget_dead(opened: &mut Opened) {
    let is_lost = |opened: &io::Result<DiagSocket>| {
        opened.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::ESRCH))
    };
    let lost = opened.iter().filter(|(_, opened)| is_lost(opened)).map(|(id, _)| *id).collect();
    let there: HashSet<NetnsId> = netns::wait_for_dying(lost).into_iter().collect();
    for (_, dead) in opened.iter_mut().filter(|(id, opened)| is_lost(opened) && !there.contains(id)) {
        *dead = Err(io::Error::from_raw_os_error(libc::ESTALE));
    }
}
