//! The thread that may have to wait for the lock of a socket.

use std::io;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use skreap_bpf::{Connects, ConnectsLooker, Opener, Theirs};
use skreap_core::Connected;

use super::sources::{SourceOf, Sources};
use super::{PATIENCE, STUCK_MAX, Task, Wanted};
use crate::engine::pool::table;
use crate::sys::alone::Alone;
use crate::sys::pidfd::Pidfd;
use crate::sys::{privileges, udp};

/// How often, and how far apart, a thread is seen asleep that waits for a lock.
const LOOKS: u32 = 3;
const LOOK: Duration = Duration::from_millis(1);

/// Threads that wait for the lock of a socket.
#[derive(Debug, Default)]
pub(super) struct Stuck(AtomicUsize);

impl Stuck {
    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

/// Sockets on their way through one thread.
#[derive(Debug)]
struct Work {
    tasks: Vec<Task>,
    progress: Mutex<Progress>,
    stuck: Arc<Stuck>,
}

/// How far the thread has come.
#[derive(Debug)]
struct Progress {
    results: Vec<Connected>,
    thread: libc::pid_t,
    /// Since when it is at the socket after the last result.
    since: Instant,
    /// Nobody waits for it any more.
    given_up: bool,
}

/// What came of these, in order.
pub(super) fn work(mut tasks: Vec<Task>, connects: &Connects, stuck: &Arc<Stuck>) -> Vec<Connected> {
    let mut results = Vec::with_capacity(tasks.len());
    while !tasks.is_empty() {
        let done = if stuck.count() < STUCK_MAX {
            some(tasks, connects, stuck)
        } else {
            tracing::warn!("{} sockets are not connected: too many threads wait for locks", tasks.len());
            Err(io::Error::from_raw_os_error(libc::ETIMEDOUT))
        };
        match done {
            Ok((more, left)) => {
                results.extend(more);
                tasks = left;
            }
            Err(e) => {
                let errno = e.raw_os_error().unwrap_or(libc::EIO);
                tracing::warn!("cannot connect sockets: {e}");
                results.resize(results.capacity(), Connected::Failed(errno));
                return results;
            }
        }
    }
    results
}

/// What came of the first of them, and the others: those after one whose owner holds its lock.
fn some(
    tasks: Vec<Task>,
    connects: &Connects,
    stuck: &Arc<Stuck>,
) -> io::Result<(Vec<Connected>, Vec<Task>)> {
    let counts = connects.descriptor().map_err(|e| io::Error::other(e.to_string()))?;
    let progress = Progress { results: Vec::new(), thread: 0, since: Instant::now(), given_up: false };
    let work = Arc::new(Work { tasks, progress: Mutex::new(progress), stuck: Arc::clone(stuck) });
    let (tell, told) = bounded(1);
    let same = Arc::clone(&work);
    Alone::start("skreap-connect", vec![counts], move |kept| same.run(kept, &tell))?;
    let mut results = work.wait(&told);
    let at = results.len();
    if at < work.tasks.len() {
        results.push(Connected::Failed(libc::ETIMEDOUT));
    }
    let left = match Arc::try_unwrap(work) {
        Ok(work) => work.tasks.into_iter().skip(at + 1).collect(),
        // The thread is there still: it was given up, or about to end.
        Err(work) => work.tasks.get(at + 1..).unwrap_or_default().to_vec(),
    };
    Ok((results, left))
}

impl Work {
    /// Waits until the thread has done all, or is stuck: then it is given up.
    fn wait(&self, told: &Receiver<()>) -> Vec<Connected> {
        loop {
            // Told, or the thread has ended otherwise.
            let over =
                !matches!(told.recv_timeout(PATIENCE), Err(crossbeam_channel::RecvTimeoutError::Timeout));
            if over {
                return std::mem::take(&mut self.progress.lock().results);
            }
            // Not under the lock, which the thread takes as well.
            let (thread, since) = {
                let progress = self.progress.lock();
                (progress.thread, progress.since)
            };
            if thread == 0 || since.elapsed() < PATIENCE || !sleeps(thread) {
                continue;
            }
            let mut progress = self.progress.lock();
            if progress.since == since && progress.results.len() < self.tasks.len() {
                progress.given_up = true;
                self.stuck.0.fetch_add(1, Ordering::AcqRel);
                return progress.results.clone();
            }
        }
    }

    fn run(&self, mut kept: Vec<OwnedFd>, tell: &Sender<()>) {
        let Some(looker) = kept.pop().map(ConnectsLooker::new) else {
            return;
        };
        // The descriptors of others are asked for.
        let _raised = privileges::raise();
        {
            let mut progress = self.progress.lock();
            progress.thread = table::this_thread();
            progress.since = Instant::now();
        }
        let (mut process, mut sources) = (None, Sources::default());
        for task in &self.tasks {
            let result = self.connect(task, &looker, &mut process, &mut sources);
            let mut progress = self.progress.lock();
            if progress.given_up {
                self.stuck.0.fetch_sub(1, Ordering::AcqRel);
                drop(progress);
                tracing::info!(
                    cookie = task.wanted.cookie,
                    "the owner of a socket has let go of its lock: {result:?}"
                );
                return;
            }
            progress.since = Instant::now();
            progress.results.push(result);
        }
        // The thread that waits may have ended.
        let _ = tell.send(());
    }

    fn is_given_up(&self) -> bool {
        self.progress.lock().given_up
    }

    fn connect(
        &self,
        task: &Task,
        theirs: &ConnectsLooker,
        process: &mut Option<(u32, Pidfd)>,
        sources: &mut Sources,
    ) -> Connected {
        let wanted = &task.wanted;
        let mut refused = None;
        for opener in &task.openers {
            match copy(opener, process).and_then(|socket| Ok((udp::cookie(&socket)?, socket))) {
                Ok((cookie, socket)) if cookie == wanted.cookie => {
                    return self
                        .try_connect(&socket, wanted, theirs, sources.of(opener.bound))
                        .unwrap_or_else(|e| Connected::Failed(e.raw_os_error().unwrap_or(libc::EIO)));
                }
                // Closed since, and the number used again.
                Ok(_) => {}
                Err(e) => match e.raw_os_error() {
                    Some(libc::EBADF | libc::ESRCH | libc::ENOTSOCK | libc::EINVAL) => {}
                    errno => refused = errno,
                },
            }
        }
        refused.map_or(Connected::Closed, Connected::Failed)
    }

    /// Connects it if it is as it should be.
    fn try_connect(
        &self,
        socket: &UdpSocket,
        wanted: &Wanted,
        theirs: &ConnectsLooker,
        mut source: SourceOf<'_>,
    ) -> io::Result<Connected> {
        match (udp::peer(socket)?, wanted.connected) {
            (None, false) => {}
            (Some(peer), true) if peer == wanted.was => {}
            (None, true) => return Ok(Connected::Changed),
            (Some(peer), false) if peer == wanted.was => return Ok(Connected::Changed),
            (Some(_), _) => return Ok(Connected::HasPeer),
        }
        if wanted.only_look {
            return Ok(Connected::Changed);
        }
        if wanted.connected && !source.stays(socket, wanted.to)? {
            return Ok(Connected::OtherSource);
        }
        if theirs.look(wanted.cookie).is_none_or(|theirs| theirs.count > 0) {
            return Ok(Connected::Overtaken);
        }
        udp::bind_if_unbound(socket, wanted.ifindex)?;
        if self.is_given_up() {
            return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
        }
        udp::connect(socket, wanted.to.socket_addr())?;
        Ok(settle(socket, wanted.cookie, theirs))
    }
}

/// True if the thread waits in the kernel, and not just for a moment.
fn sleeps(thread: libc::pid_t) -> bool {
    (0..LOOKS).all(|_| {
        thread::sleep(LOOK);
        table::waits_in_kernel(thread)
    })
}

/// What its owner has done with it meanwhile. A connect of its owner's that has begun may have taken effect before ours: its
/// peer is put back. If it is still to take effect, that changes nothing. If it cannot be put back, the owner's has failed, or
/// will: ours stands.
fn settle(socket: &UdpSocket, cookie: u64, theirs: &ConnectsLooker) -> Connected {
    let (mut known, mut overtaken) = (0, false);
    while let Some(Theirs { count, last: Some(choice) }) = theirs.look(cookie)
        && count > known
    {
        known = count;
        let is_theirs = udp::peer(socket).is_ok_and(|peer| peer == Some(choice));
        match if is_theirs { Ok(()) } else { udp::connect(socket, choice) } {
            Ok(()) => overtaken = true,
            Err(e) => tracing::info!(cookie, %choice, "the owner of a socket cannot connect it there: {e}"),
        }
    }
    if overtaken { Connected::Overtaken } else { Connected::Done }
}

/// What the process has open. `process`: the last one that was asked for.
fn copy(opener: &Opener, process: &mut Option<(u32, Pidfd)>) -> io::Result<UdpSocket> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    if process.as_ref().is_none_or(|(thread, _)| *thread != opener.thread) {
        let number = libc::pid_t::try_from(opener.thread).map_err(invalid)?;
        let pidfd = match opener.thread == opener.process {
            true => Pidfd::of_process(number)?,
            false => Pidfd::of_thread(number)?,
        };
        *process = Some((opener.thread, pidfd));
    }
    let (_, pidfd) = process.as_ref().ok_or(io::ErrorKind::NotFound)?;
    pidfd.descriptor(libc::c_int::try_from(opener.fd).map_err(invalid)?).map(UdpSocket::from)
}
