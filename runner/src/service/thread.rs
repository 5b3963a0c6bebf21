//! A reaper on a thread of its own, for a program whose events come from several threads.

use std::io;
use std::thread;

use super::daemon;
use super::handle::{Handle, Queue};
use super::systemd::Heartbeat;
use crate::observe::monitor::Monitor;
use crate::reaper::Reaper;

/// A [`Reaper`] that works on a thread of its own and takes its events from [`Handle`]s. The thread also does what
/// [`Reaper::tidy`] is for.
///
/// ```no_run
/// use skreap::core::Event;
/// use skreap::{Reaper, ReaperThread};
///
/// let reaper = ReaperThread::start(Reaper::builder().build()?, 1024)?;
/// let handle = reaper.handle();
/// let watcher = std::thread::spawn(move || -> Result<(), skreap::HandleError> {
///     // … the backend is out of the load balancer's map, and a grace period has passed …
///     let report = handle.reap(Event::deleted("udp://10.0.0.1:53".parse().unwrap()))?;
///     println!("{} sockets destroyed", report.destroyed);
///     Ok(())
/// });
/// watcher.join().unwrap()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ReaperThread {
    handle: Handle,
    monitor: Monitor,
    thread: Option<thread::JoinHandle<Reaper>>,
}

impl ReaperThread {
    /// Starts the thread. At most this many events wait in its queue; [`Handle::send`] waits for room.
    ///
    /// # Errors
    /// The errno of making the thread.
    pub fn start(mut reaper: Reaper, queue: usize) -> io::Result<Self> {
        let queue = Queue::bounded(queue);
        let (handle, monitor) = (queue.handle(), reaper.monitor().clone());
        let thread = thread::Builder::new().name("skreap-reaper".to_owned()).spawn(move || {
            let handle = queue.handle();
            let stopped = move || handle.is_stopped();
            daemon::work_until(&mut reaper, &queue, &Heartbeat::default(), stopped, || false);
            reaper
        })?;
        Ok(Self { handle, monitor, thread: Some(thread) })
    }

    /// What sends events to it.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The observable state of the reaper.
    #[must_use]
    pub fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    /// Takes no events any more, waits until those in the queue are handled, and gives the reaper back. Sockets whose
    /// owners hold their locks are not waited for.
    ///
    /// # Errors
    /// The payload of a panic of the thread.
    pub fn stop(mut self) -> thread::Result<Reaper> {
        self.handle.stop();
        match self.thread.take() {
            Some(thread) => thread.join(),
            None => Err(Box::new("stopped twice")),
        }
    }
}

impl Drop for ReaperThread {
    fn drop(&mut self) {
        self.handle.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the reaper's thread panicked");
        }
    }
}
