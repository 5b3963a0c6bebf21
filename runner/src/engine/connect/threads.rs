//! The thread that connects, and those that were given up because they wait for the lock of a socket.
//!
//! It is the same thread from run to run. The index drops a node that a connect makes obsolete only if the same thread has
//! recorded it, so with a new thread for each run every socket would keep a node of each run, up to the number from which on
//! its peers are not listed any more. Between two runs the thread has no capability in force, and is in the netns of the process.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use skreap_bpf::{Connects, ConnectsCounter, ConnectsLooker, Opener};
use skreap_core::Connected;

use super::stuck::Stuck;
use super::worker::{Task, Work};
use super::{NEXT_PATIENCE, PATIENCE, STUCK_MAX};
use crate::sys::alone::Alone;
use crate::sys::netns;

/// An idle thread ends at once.
const END: Duration = Duration::from_secs(1);

/// The threads of one connector.
#[derive(Debug, Default)]
pub(super) struct Threads {
    /// One that has nothing to do.
    idle: Option<Thread>,
    stuck: Arc<Stuck>,
}

#[derive(Debug)]
struct Thread {
    orders: Sender<Order>,
    thread: Alone<()>,
}

struct Order {
    work: Arc<Work>,
    /// Told, or dropped, when the thread is done with it.
    tell: Sender<()>,
}

impl Threads {
    /// The outcomes of these, in order; `None`: a thread still waits for the socket's lock. One that was not tried, as too many
    /// threads wait for locks, has failed with `EAGAIN`. `before`: how many connects were counted when that began.
    pub(super) fn work(
        &mut self,
        tasks: Vec<Task>,
        found: &Arc<[(u64, Opener)]>,
        before: Option<u32>,
        connects: &Connects,
    ) -> Vec<Option<Connected>> {
        let count = tasks.len();
        let tasks: Arc<[Task]> = tasks.into();
        let mut ends = Vec::with_capacity(count);
        let mut patience = PATIENCE;
        while ends.len() < count {
            let work = Work::new(&tasks, ends.len(), found, before, &self.stuck);
            match self.begin(&Arc::new(work), connects, patience) {
                Ok((done, is_stuck)) => {
                    ends.extend(done.into_iter().map(Some));
                    if is_stuck {
                        ends.push(None);
                        // There may be more of them, and each would cost as much.
                        patience = NEXT_PATIENCE;
                    } else if ends.len() < count {
                        // It has ended otherwise, in the middle of this one.
                        ends.push(Some(Connected::Failed(libc::EIO)));
                    }
                }
                Err(e) => {
                    tracing::warn!("{} sockets are not connected: {e}", count - ends.len());
                    ends.resize(count, Some(Connected::Failed(e.raw_os_error().unwrap_or(libc::EIO))));
                }
            }
        }
        ends
    }

    /// The outcomes of the first of them, and whether the thread waits for the lock of the next one.
    fn begin(
        &mut self,
        work: &Arc<Work>,
        connects: &Connects,
        patience: Duration,
    ) -> io::Result<(Vec<Connected>, bool)> {
        if self.stuck.count() >= STUCK_MAX {
            tracing::warn!("too many threads wait for the locks of sockets");
            return Err(io::Error::from_raw_os_error(libc::EAGAIN));
        }
        let (tell, told) = bounded(1);
        let order = Order { work: Arc::clone(work), tell };
        let thread = match self.idle.take() {
            Some(thread) => thread.take_on(order, connects)?,
            None => Thread::start(connects)?.take_on(order, connects)?,
        };
        let (done, is_stuck) = work.wait(&told, patience);
        if !is_stuck {
            self.idle = Some(thread);
        }
        Ok((done, is_stuck))
    }

    /// The sockets that threads have waited for and are through with, since this was called last.
    pub(super) fn take_freed(&self) -> Vec<u64> {
        self.stuck.take_freed()
    }
}

impl Drop for Threads {
    /// What the idle thread has open is closed afterwards. Others end when the locks that they wait for are free.
    fn drop(&mut self) {
        if let Some(Thread { orders, thread }) = self.idle.take() {
            drop(orders);
            if thread.wait(END, || ()).is_none() {
                tracing::warn!("a thread that connects sockets has not ended");
            }
        }
    }
}

impl Thread {
    fn start(connects: &Connects) -> io::Result<Self> {
        let (map, counter) = connects.to_look().map_err(|e| io::Error::other(e.to_string()))?;
        let (orders, ordered) = bounded(1);
        let thread = Alone::start("skreap-connect", vec![map], move |kept| serve(kept, counter, &ordered))?;
        Ok(Self { orders, thread })
    }

    /// Returns the thread that has taken it: another one if this one has ended.
    fn take_on(self, order: Order, connects: &Connects) -> io::Result<Self> {
        match self.orders.send(order) {
            Ok(()) => Ok(self),
            Err(refused) => {
                let other = Self::start(connects)?;
                // If the other thread has ended as well, the order is dropped, and whoever waits for its answer sees that.
                let _ = other.orders.send(refused.into_inner());
                Ok(other)
            }
        }
    }
}

/// Carries out orders until nobody can send one any more, or the thread was given up.
fn serve(mut kept: Vec<OwnedFd>, counter: ConnectsCounter, ordered: &Receiver<Order>) {
    let Some(map) = kept.pop() else {
        return;
    };
    let looker = ConnectsLooker::new(map, counter);
    let home = match netns::current() {
        Ok(home) => home,
        Err(e) => return tracing::warn!("a thread that connects sockets does not know its netns: {e}"),
    };
    for Order { work, tell } in ordered {
        let goes_on = work.run(&looker, &home);
        // Who waits may have given up.
        let _ = tell.send(());
        if !goes_on {
            return;
        }
    }
}
