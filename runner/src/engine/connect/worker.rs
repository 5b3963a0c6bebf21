//! What is done on the thread that may have to wait for the lock of a socket.

use std::io;
use std::net::UdpSocket;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use parking_lot::Mutex;
use skreap_bpf::{ConnectsLooker, Opener, Theirs};
use skreap_core::Connected;

use super::sources::Sources;
use super::stuck::Stuck;
use super::wanted::Wanted;
use crate::engine::pool::table;
use crate::sys::pidfd::Pidfd;
use crate::sys::{privileges, udp};

/// How often, and how far apart, a thread is seen asleep that waits for a lock.
const LOOKS: u32 = 3;
const LOOK: Duration = Duration::from_millis(1);

/// A socket, and who has it open: where that is in what the pass has found.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) wanted: Wanted,
    pub(super) openers: Range<usize>,
}

/// Sockets on their way through one thread.
#[derive(Debug)]
pub(super) struct Work {
    tasks: Arc<[Task]>,
    /// Those before this one are done.
    from: usize,
    found: Arc<[(u64, Opener)]>,
    /// How many connects were counted when that began.
    before: Option<u32>,
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

/// What the thread has in hand beside the socket.
struct Tools<'a> {
    looker: &'a ConnectsLooker,
    /// The last thread or process whose descriptors were asked for.
    process: Option<(u32, Pidfd)>,
    sources: Sources<'a>,
}

impl Work {
    pub(super) fn new(
        tasks: &Arc<[Task]>,
        from: usize,
        found: &Arc<[(u64, Opener)]>,
        before: Option<u32>,
        stuck: &Arc<Stuck>,
    ) -> Self {
        let progress = Progress { results: Vec::new(), thread: 0, since: Instant::now(), given_up: false };
        Self {
            tasks: Arc::clone(tasks),
            from,
            found: Arc::clone(found),
            before,
            progress: Mutex::new(progress),
            stuck: Arc::clone(stuck),
        }
    }

    fn tasks(&self) -> &[Task] {
        self.tasks.get(self.from..).unwrap_or_default()
    }

    /// Waits until the thread has done all or has ended, or is stuck, for so long, at the socket after the results: then it
    /// is given up.
    pub(super) fn wait(&self, told: &Receiver<()>, patience: Duration) -> (Vec<Connected>, bool) {
        // To see it asleep so often takes the rest.
        let quiet = patience.saturating_sub(LOOK * LOOKS);
        let mut pause = quiet;
        loop {
            // Told, or the thread has ended otherwise.
            if !matches!(told.recv_timeout(pause), Err(RecvTimeoutError::Timeout)) {
                return (std::mem::take(&mut self.progress.lock().results), false);
            }
            // Not under the lock, which the thread takes as well.
            let (thread, since) = {
                let progress = self.progress.lock();
                (progress.thread, progress.since)
            };
            let left = quiet.saturating_sub(since.elapsed());
            pause = left.max(LOOK);
            if thread == 0 || !left.is_zero() || !sleeps(thread) {
                continue;
            }
            let mut progress = self.progress.lock();
            if progress.since == since && progress.results.len() < self.tasks().len() {
                progress.given_up = true;
                self.stuck.one_more();
                return (std::mem::take(&mut progress.results), true);
            }
        }
    }

    /// False if the thread is of no more use: it was given up, or is in another netns than `home`.
    pub(super) fn run(&self, looker: &ConnectsLooker, home: &OwnedFd) -> bool {
        // The descriptors of others are asked for.
        let _raised = privileges::raise();
        {
            let mut progress = self.progress.lock();
            progress.thread = table::this_thread();
            progress.since = Instant::now();
        }
        let mut tools = Tools { looker, process: None, sources: Sources::new(home) };
        for task in self.tasks() {
            let result = self.connect(task, &mut tools);
            let mut progress = self.progress.lock();
            if progress.given_up {
                drop(progress);
                self.stuck.free(task.wanted.cookie);
                tracing::info!(
                    cookie = task.wanted.cookie,
                    "the owner of a socket has let go of its lock: {result:?}"
                );
                return false;
            }
            progress.since = Instant::now();
            progress.results.push(result);
        }
        tools.sources.is_home()
    }

    fn is_given_up(&self) -> bool {
        self.progress.lock().given_up
    }

    fn connect(&self, task: &Task, tools: &mut Tools<'_>) -> Connected {
        let mut otherwise = Connected::Closed;
        for (_, opener) in self.found.get(task.openers.clone()).unwrap_or_default() {
            match copy(opener, task.wanted.cookie, &mut tools.process) {
                Ok(socket) => {
                    return self
                        .try_connect(&socket, &task.wanted, opener, tools)
                        .unwrap_or_else(|e| Connected::Failed(e.raw_os_error().unwrap_or(libc::EIO)));
                }
                Err(Connected::Closed) => {}
                Err(why) => otherwise = why,
            }
        }
        otherwise
    }

    /// Connects it if it is as it should be.
    fn try_connect(
        &self,
        socket: &UdpSocket,
        wanted: &Wanted,
        opener: &Opener,
        tools: &mut Tools<'_>,
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
        if wanted.connected && !tools.sources.stays(socket, wanted, opener) {
            return Ok(Connected::OtherSource);
        }
        let theirs = tools.looker;
        if self.is_counted(theirs) && theirs.look(wanted.cookie).is_none_or(|theirs| theirs.count > 0) {
            return Ok(Connected::Overtaken);
        }
        udp::bind_if_unbound(socket, wanted.bind_to)?;
        if self.is_given_up() {
            return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
        }
        udp::connect_as(socket, wanted.to.socket_addr(), wanted.is_ipv6)?;
        // Read after ours has taken effect: what is counted later takes effect later.
        Ok(if self.is_counted(theirs) { settle(socket, wanted.cookie, theirs) } else { Connected::Done })
    }

    /// False if no connect of any socket was counted since the count of these was begun.
    fn is_counted(&self, theirs: &ConnectsLooker) -> bool {
        self.before.is_none() || theirs.counted() != self.before
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

/// A copy of the descriptor, if it is the socket with this cookie; else the outcome. `process`: the one of the call before,
/// still open.
fn copy(opener: &Opener, cookie: u64, process: &mut Option<(u32, Pidfd)>) -> Result<UdpSocket, Connected> {
    if process.as_ref().is_none_or(|(thread, _)| *thread != opener.thread) {
        *process = Some((opener.thread, pidfd_of(opener)?));
    }
    let (Some((_, pidfd)), Ok(fd)) = (process.as_ref(), libc::c_int::try_from(opener.fd)) else {
        return Err(Connected::Unreachable);
    };
    let socket = pidfd.descriptor(fd).map(UdpSocket::from).map_err(|e| refused(&e))?;
    match udp::cookie(&socket) {
        Ok(found) if found == cookie => Ok(socket),
        // Closed since, and the number used again.
        Ok(_) => Err(Connected::Closed),
        Err(e) => Err(refused(&e)),
    }
}

/// The process, or the thread with a table of descriptors of its own.
fn pidfd_of(opener: &Opener) -> Result<Pidfd, Connected> {
    let Ok(number) = libc::pid_t::try_from(opener.thread) else {
        return Err(Connected::Unreachable);
    };
    if opener.thread == opener.process {
        return Pidfd::of_process(number).map_err(|e| match e.raw_os_error() {
            // It has ended, and a thread of another process has the number now.
            Some(libc::EINVAL | libc::ENOENT) => Connected::Closed,
            _ => refused(&e),
        });
    }
    Pidfd::of_thread(number).map_err(|e| match e.raw_os_error() {
        // Before 6.9 nothing leads to the table of a thread.
        Some(libc::EINVAL) => Connected::Unreachable,
        _ => refused(&e),
    })
}

/// What it means that a process or its descriptor is refused.
fn refused(e: &io::Error) -> Connected {
    match e.raw_os_error() {
        // Closed, and the number free or used again; or the process has ended.
        Some(libc::EBADF | libc::ESRCH | libc::ENOTSOCK) => Connected::Closed,
        errno => Connected::Failed(errno.unwrap_or(libc::EIO)),
    }
}
