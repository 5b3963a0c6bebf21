//! Threads that may be given up. Their work may wait for the lock of a socket, and only the owner of the socket ends such a
//! wait.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use super::{descriptors, privileges};

/// How often its progress is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Work on a thread of its own.
#[derive(Debug)]
pub(crate) struct Alone<T> {
    done: Receiver<T>,
}

impl<T: Send + 'static> Alone<T> {
    /// Starts a thread whose table of descriptors is its own: it has the `kept` ones, input and output, and no others.
    /// So one that is given up holds no lock, socket or pin of this process. `work` may use what it is handed and what
    /// it opens, but nothing that this process has opened elsewhere.
    ///
    /// # Errors
    /// The errno of making the thread or its table.
    pub(crate) fn start(
        name: &str,
        kept: Vec<OwnedFd>,
        work: impl FnOnce(Vec<OwnedFd>) -> T + Send + 'static,
    ) -> io::Result<Self> {
        let numbers: Vec<RawFd> = kept.iter().map(|fd| fd.as_raw_fd()).collect();
        let (tell, told) = bounded(1);
        let (reply, done) = bounded(1);
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            let own = descriptors::keep(&numbers);
            let failed = own.is_err();
            if tell.send(own).is_err() || failed {
                return;
            }
            // SAFETY: in the table of this thread these are copies that nobody else owns; they were open when the table
            // was made, as the starter keeps its own until the message.
            let mine = numbers.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect();
            // The starter may have given up.
            let _ = reply.send(work(mine));
        })?;
        told.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))?;
        drop(kept);
        Ok(Self { done })
    }

    /// Starts a thread that has the descriptors of the process, and is left behind if it hangs.
    ///
    /// # Errors
    /// The errno of making the thread.
    pub(crate) fn beside(name: &str, work: impl FnOnce() -> T + Send + 'static) -> io::Result<Self> {
        let (reply, done) = bounded(1);
        // The starter may have given up.
        thread::Builder::new().name(name.to_owned()).spawn(move || drop(reply.send(work())))?;
        Ok(Self { done })
    }

    /// As [`beside`](Self::beside), with the capabilities in force on that thread.
    ///
    /// # Errors
    /// The errno of making the thread.
    pub(crate) fn beside_raised(name: &str, work: impl FnOnce() -> T + Send + 'static) -> io::Result<Self> {
        Self::beside(name, move || {
            let _raised = privileges::raise();
            work()
        })
    }

    /// Waits for the result of the work. `None` if `progress` has not changed for `patience`, or the thread has panicked.
    pub(crate) fn wait<P: PartialEq>(self, patience: Duration, mut progress: impl FnMut() -> P) -> Option<T> {
        let (mut last, mut since) = (progress(), Instant::now());
        loop {
            match self.done.recv_timeout(LOOK.min(patience)) {
                Ok(done) => return Some(done),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = progress();
            if now != last {
                (last, since) = (now, Instant::now());
            } else if since.elapsed() >= patience {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    /// Longer than a busy machine takes to come to a thread.
    const PATIENCE: Duration = Duration::from_secs(1);

    fn open() -> usize {
        // One of them is the directory itself.
        fs::read_dir("/proc/thread-self/fd").unwrap().count() - 1
    }

    #[test]
    fn has_nothing_but_what_it_is_given() {
        let kept = [File::open("/dev/null"), File::open("/dev/zero")];
        let kept: Vec<OwnedFd> = kept.into_iter().map(|file| file.unwrap().into()).collect();
        let last = kept[1].as_raw_fd();
        let alone = Alone::start("test", kept, |mine| (mine.len(), open())).unwrap();
        let stdio =
            (0..descriptors::FIRST).filter(|fd| fs::exists(format!("/proc/self/fd/{fd}")).unwrap()).count();
        assert_eq!(alone.wait(PATIENCE * 30, || 0), Some((2, 2 + stdio)));
        // The starter has closed its own.
        assert_ne!(
            fs::read_link(format!("/proc/self/fd/{last}")).ok().as_deref(),
            Some("/dev/zero".as_ref())
        );
    }

    #[test]
    fn is_given_up_when_it_stands_still_and_not_before() {
        let (go, wait) = bounded::<()>(0);
        let stuck = Alone::start("test", Vec::new(), move |_| wait.recv().is_ok()).unwrap();
        let start = Instant::now();
        let mut steps = 0;
        let progress = || {
            steps += u32::from(start.elapsed() < PATIENCE);
            steps
        };
        assert_eq!(stuck.wait(PATIENCE, progress), None);
        assert!(start.elapsed() >= PATIENCE * 2 - LOOK * 2, "{:?}", start.elapsed());
        drop(go);
    }
}
