//! Connecting the sockets of other processes: UDP sockets that are to be moved, or revived.
//!
//! The processes that have a socket open are found in one pass over the open files of all processes, and the descriptor is
//! copied (pidfd_getfd). The copy is compared with the cookie, so a descriptor that was closed and used again is never taken for
//! the socket. Then the socket is looked at, connected, and looked at again: if its owner has connected it at the same
//! moment, its owner's choice is put back.
//!
//! To look at a socket and to connect it takes its lock, which its owner may hold for any time. So that is done on a
//! thread that may be given up, as destroyers are; another one does the rest.

mod commands;
mod sources;
mod worker;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use skreap_bpf::{CONNECTS_MAX, Connects, Index, Opener, Openers};
use skreap_core::{Backend, Connected};

use super::EngineError;
use crate::sys::privileges;

pub(crate) use commands::Commands;
use worker::Stuck;

/// How long a socket may take until it is looked whether its owner holds its lock.
const PATIENCE: Duration = Duration::from_millis(20);
/// Longer than a connect takes from its hook to its effect, unless its thread has to wait for a CPU or for a lock.
const UNDER_WAY: Duration = Duration::from_millis(2);
/// Connectors of one index: that of the events, and that of the second looks.
const CONNECTORS: usize = 2;
/// Threads of one connector that may wait for locks.
const STUCK_MAX: usize = 16;

/// One socket that is to be connected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// Its cookie.
    pub(crate) cookie: u64,
    /// The peer that it has, or had before it was destroyed; an IPv4 one as such.
    pub(crate) was: SocketAddr,
    /// It must have that peer now; otherwise, none.
    pub(crate) connected: bool,
    /// It is left as it is: only what it is now is wanted.
    pub(crate) only_look: bool,
    /// The peer it is connected to.
    pub(crate) to: Backend,
    /// The interface it is bound to if it is bound to none (`SO_BINDTODEVICE`); 0: none.
    pub(crate) ifindex: u32,
}

/// A socket, and who has it open.
#[derive(Clone, Debug)]
struct Task {
    wanted: Wanted,
    openers: Vec<Opener>,
}

/// Connects sockets of other processes.
#[derive(Debug)]
pub(crate) struct Connector {
    connects: Connects,
    /// Loaded on first use.
    openers: Option<Openers>,
    stuck: Arc<Stuck>,
    /// How often the count of connects was begun, and not ended.
    begun: u32,
}

impl Connector {
    /// # Errors
    /// [`EngineError::Walk`] if the index has no programs for it.
    pub(crate) fn new(index: &Index) -> Result<Self, EngineError> {
        Ok(Self { connects: Connects::new(index)?, openers: None, stuck: Arc::default(), begun: 0 })
    }

    /// Connects these sockets, each once; returns what came of them, in order. Waits for no owner of a socket for long:
    /// one whose owner holds its lock has failed with `ETIMEDOUT`, and is left as it is or connected late.
    ///
    /// # Errors
    /// [`EngineError`] if the programs cannot be loaded or run; nothing was connected then.
    pub(crate) fn run(&mut self, wanted: &[Wanted]) -> Result<Vec<Connected>, EngineError> {
        let _raised = privileges::raise();
        let openers = match &mut self.openers {
            Some(openers) => openers,
            none => none.insert(Openers::load()?),
        };
        let cookies: Vec<u64> = wanted.iter().map(|one| one.cookie).collect();
        let (tasks, places) = tasks(wanted, openers.find(&cookies)?);
        let mut results = vec![Connected::Unreachable; wanted.len()];
        // Those that a thread still waits for take room.
        let most = CONNECTS_MAX / CONNECTORS - STUCK_MAX;
        for (tasks, places) in tasks.chunks(most).zip(places.chunks(most)) {
            let done = self.some(tasks).unwrap_or_else(|e| {
                tracing::warn!("cannot connect sockets: {e}");
                vec![Connected::Failed(libc::EIO); tasks.len()]
            });
            for (place, result) in places.iter().zip(done) {
                if let Some(slot) = results.get_mut(*place) {
                    *slot = result;
                }
            }
        }
        Ok(results)
    }

    fn some(&mut self, tasks: &[Task]) -> Result<Vec<Connected>, EngineError> {
        let cookies: Vec<u64> = tasks.iter().map(|task| task.wanted.cookie).collect();
        self.connects.begin(&cookies)?;
        self.begun += 1;
        // What a hook has not counted takes effect meanwhile.
        thread::sleep(UNDER_WAY);
        let results = worker::work(tasks.to_vec(), &self.connects, &self.stuck);
        for (cookie, result) in cookies.iter().zip(&results) {
            // A thread that still waits for a lock needs what is counted.
            if *result != Connected::Failed(libc::ETIMEDOUT) {
                self.connects.forget(*cookie);
            }
        }
        while self.stuck.count() == 0 && self.begun > 0 {
            self.connects.end()?;
            self.begun -= 1;
        }
        Ok(results)
    }
}

/// Those that somebody has open, process by process, and their places.
fn tasks(wanted: &[Wanted], mut found: HashMap<u64, Vec<Opener>>) -> (Vec<Task>, Vec<usize>) {
    let mut tasks: Vec<(usize, Task)> = wanted
        .iter()
        .enumerate()
        .filter_map(|(i, wanted)| Some((i, Task { wanted: *wanted, openers: found.remove(&wanted.cookie)? })))
        .collect();
    tasks.sort_by_key(|(_, task)| task.openers.first().map(|opener| (opener.thread, opener.fd)));
    let (places, tasks) = tasks.into_iter().unzip();
    (tasks, places)
}
