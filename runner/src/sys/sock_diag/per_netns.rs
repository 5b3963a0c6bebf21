//! One diag socket for each netns.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use skreap_bpf::Victim;
use skreap_bpf::fault::{self, Point};

use super::{DiagSocket, Verdict};
use crate::sys::epoll::Epoll;
use crate::sys::netns::{self, NetnsId};
use crate::sys::privileges;

type Opened = Vec<(NetnsId, io::Result<DiagSocket>)>;

/// One diag socket per netns, opened when first needed.
///
/// An open diag socket keeps its netns alive, so it is kept for a short time only: long enough for a burst
/// of events, not long enough to matter to who deletes a netns.
#[derive(Debug)]
pub struct DiagSockets {
    kept: HashMap<u64, (DiagSocket, Instant)>,
    /// All of `kept`, with the netns cookie as token: one call tells which have something to read.
    answering: Epoll,
    keep: Duration,
    ask: Option<Sender<Vec<NetnsId>>>,
    answer: Receiver<Opened>,
    opener: Option<thread::JoinHandle<()>>,
}

impl DiagSockets {
    /// `keep`: how long an unused socket (and with it the netns) is kept.
    ///
    /// # Errors
    /// The errno of making the thread or the epoll set, or of opening the own netns.
    pub fn new(keep: Duration) -> io::Result<Self> {
        Self::opened_by(keep, netns::open_at_once)
    }

    /// As [`new`](Self::new), with another way to open a netns.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn opened_by(
        keep: Duration,
        open: impl Fn(NetnsId) -> io::Result<OwnedFd> + Send + 'static,
    ) -> io::Result<Self> {
        let (ask, asked) = bounded::<Vec<NetnsId>>(1);
        let (reply, answer) = bounded(1);
        let home = netns::current()?;
        // A thread of its own: setns() must never move a thread that others run on.
        let opener = thread::Builder::new().name("skreap-netns".to_owned()).spawn(move || {
            for ids in asked {
                // Once for all of them.
                let _raised = privileges::raise();
                let mut opened: Opened = ids.into_iter().map(|id| (id, open_in(id, &open))).collect();
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
        let answering = Epoll::new()?;
        Ok(Self { kept: HashMap::new(), answering, keep, ask: Some(ask), answer, opener: Some(opener) })
    }

    /// Opens what is missing; answers the netns that could not be opened, and why.
    pub fn prepare(&mut self, ids: impl Iterator<Item = NetnsId>) -> HashMap<u64, i32> {
        let missing: Vec<NetnsId> = ids.filter(|id| !self.kept.contains_key(&id.cookie)).collect();
        let mut failed = HashMap::new();
        if missing.is_empty() {
            return failed;
        }
        let all = missing.clone();
        let sent = self.ask.as_ref().is_some_and(|ask| ask.send(missing).is_ok());
        let opened = if sent { self.answer.recv().unwrap_or_default() } else { Vec::new() };
        let now = Instant::now();
        for (id, result) in opened {
            let watched = result.and_then(|diag| {
                // SAFETY: the descriptor is open for as long as `diag` is borrowed.
                let fd = unsafe { BorrowedFd::borrow_raw(diag.socket.as_raw_fd()) };
                fault::at(Point::EpollAdd)?;
                self.answering.add(fd, libc::EPOLLIN, id.cookie).map(|()| diag)
            });
            match watched {
                Ok(socket) => {
                    self.kept.insert(id.cookie, (socket, now));
                }
                Err(e) => {
                    failed.insert(id.cookie, e.raw_os_error().unwrap_or(libc::EIO));
                }
            }
        }
        for id in all {
            if !self.kept.contains_key(&id.cookie) {
                failed.entry(id.cookie).or_insert(libc::EIO);
            }
        }
        failed
    }

    /// The socket of a netns that was prepared.
    pub fn get(&mut self, cookie: u64, now: Instant) -> Option<&mut DiagSocket> {
        let (socket, used) = self.kept.get_mut(&cookie)?;
        *used = now;
        Some(socket)
    }

    /// Destroys the victims, all of which must be in this netns, and appends a verdict for each. Failures of the
    /// last batch are not looked for before [`settle`](Self::settle), so that many netns need one look.
    ///
    /// # Errors
    /// `None` if the netns was not prepared. Otherwise the errno of a send that the kernel refused as a whole; the
    /// socket is forgotten then.
    pub fn send(
        &mut self,
        netns: u64,
        victims: &[Victim],
        verdicts: &mut Vec<Verdict>,
        now: Instant,
    ) -> Option<io::Result<()>> {
        let expected = verdicts.len() + victims.len();
        let sent = self.get(netns, now)?.send(victims, verdicts);
        if sent.is_err() {
            verdicts.resize(expected, Verdict::Unsent);
            self.forget(netns);
        }
        Some(sent)
    }

    /// Corrects the verdicts of everything that was sent with them.
    pub fn settle(&mut self, verdicts: &mut [Verdict]) {
        loop {
            match fault::at(Point::EpollWait).and_then(|()| self.answering.wait(0)) {
                Ok(ready) if ready.is_empty() => return,
                Ok(ready) => ready.into_iter().for_each(|(netns, _)| self.settle_one(netns, verdicts)),
                Err(e) => {
                    tracing::warn!("epoll: {e}; reading every diag socket");
                    let all: Vec<u64> = self.kept.keys().copied().collect();
                    return all.into_iter().for_each(|netns| self.settle_one(netns, verdicts));
                }
            }
        }
    }

    fn settle_one(&mut self, netns: u64, verdicts: &mut [Verdict]) {
        let Some((socket, _)) = self.kept.get_mut(&netns) else { return };
        if let Err(e) = socket.settle(verdicts) {
            tracing::warn!(netns, "reading the response of sock_diag: {e}");
            self.forget(netns);
        }
    }

    /// Forgets the socket of a netns, after an error of its own.
    pub fn forget(&mut self, cookie: u64) {
        self.kept.remove(&cookie);
    }

    /// Closes what was not used for `keep`.
    pub fn expire(&mut self) {
        let now = Instant::now();
        let keep = self.keep;
        self.kept.retain(|_, (_, used)| now.duration_since(*used) < keep);
    }

    /// How many netns have an open socket.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// True if no netns has an open socket.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
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

/// Opens a diag socket in the netns, and makes sure it is that one and not a successor with its number.
fn open_in(id: NetnsId, open: impl Fn(NetnsId) -> io::Result<OwnedFd>) -> io::Result<DiagSocket> {
    let fd = open(id)?;
    netns::enter(&fd)?;
    let diag = DiagSocket::open()?;
    match fault::at(Point::DiagCookie).and_then(|()| netns::cookie_of_socket(&diag.socket.as_raw_fd())) {
        Ok(cookie) if cookie == id.cookie => Ok(diag),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::ESTALE)),
        Err(e) => Err(e),
    }
}
