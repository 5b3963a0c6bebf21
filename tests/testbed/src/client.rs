//! The parent's side of a client process.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use thiserror::Error;

use super::op::Op;
use super::reply::{OpError, Reply};
use super::serve::{CLIENT_COMMAND, NAME_PREFIX};
use super::{Cgroup, Netns, sys, wire};

/// How long a reply may take before the client counts as stuck. Longer than any timeout
/// that tests give to an op.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long a client may take to close its sockets and exit before it is killed.
const FAREWELL: Duration = Duration::from_secs(5);

/// How to start a client.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpawnOptions<'a> {
    /// Its name in errors and in `ps`.
    pub label: &'a str,
    /// The cgroup it enters before it does anything.
    pub cgroup: Option<&'a Cgroup>,
    /// The netns it lives in, if not that of the caller.
    pub netns: Option<&'a Netns>,
}

/// Why a call failed.
#[derive(Debug, Error)]
pub enum CallError {
    /// The client tried and the kernel refused.
    #[error("client {client}: {error}")]
    Refused {
        /// The label of the client.
        client: String,
        /// The refused call.
        #[source]
        error: OpError,
    },
    /// The client is dead, or its control socket broken.
    #[error("client {client} is gone: {error}")]
    Gone {
        /// The label of the client.
        client: String,
        /// How it showed.
        #[source]
        error: io::Error,
    },
    /// The client sent another kind of reply than its op requires.
    #[error("client {client} answered {reply}, which does not fit the op")]
    Unfit {
        /// The label of the client.
        client: String,
        /// The reply.
        reply: String,
    },
}

impl CallError {
    /// The errno of the system call that was refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { error, .. } => Some(error.errno),
            Self::Gone { .. } | Self::Unfit { .. } => None,
        }
    }
}

/// A process that opens sockets for the lab. On drop it exits, with all its sockets.
#[derive(Debug)]
pub struct Client {
    label: String,
    child: Child,
    /// `None` once the client was ended.
    control: Option<UnixStream>,
}

impl Client {
    /// Starts the program that runs now once more, as a client.
    ///
    /// Its `main` must begin with
    /// [`become_client_if_asked`](super::become_client_if_asked).
    ///
    /// # Errors
    /// When it cannot be started, or cannot enter the cgroup or the netns.
    pub fn spawn(options: &SpawnOptions<'_>) -> Result<Self> {
        let about = || format!("start client {:?}", options.label);
        let (ours, theirs) = UnixStream::pair().with_context(about)?;
        let door = options.cgroup.map(Cgroup::door).transpose().with_context(about)?;
        let netns = match options.netns {
            Some(netns) => {
                let fd = netns.fd().with_context(|| format!("{} has no name", netns.name()));
                let fd = fd.with_context(about)?;
                Some(fd.try_clone_to_owned().with_context(about)?)
            }
            None => None,
        };

        let control = theirs.as_raw_fd();
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0(format!("{NAME_PREFIX}{}", options.label))
            .args([CLIENT_COMMAND, &control.to_string()])
            .stdin(Stdio::null());
        let prepare = move || {
            sys::keep_on_exec(control)?;
            if let Some(door) = &door {
                // The standard library's write allocates nothing.
                io::Write::write_all(&mut &*door, b"0")?;
            }
            netns.as_ref().map_or(Ok(()), |netns| sys::enter_netns(netns.as_fd()))
        };
        // SAFETY: between fork and exec `prepare` only makes system calls on descriptors
        // opened before; it allocates nothing and takes no lock.
        unsafe { command.pre_exec(prepare) };
        let child = command.spawn().with_context(about)?;
        drop(theirs);
        Ok(Self { label: options.label.to_owned(), child, control: Some(ours) })
    }

    /// The label it was started with.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn gone(&self, error: impl Into<io::Error>) -> CallError {
        CallError::Gone { client: self.label.clone(), error: error.into() }
    }

    fn control(&self) -> Result<&UnixStream, CallError> {
        self.control.as_ref().ok_or_else(|| self.gone(io::ErrorKind::NotConnected))
    }

    /// Sends an op; [`Client::receive`] takes its reply. Ops may be sent ahead: they are
    /// served in order.
    ///
    /// # Errors
    /// When the client is gone.
    pub fn send(&mut self, op: &Op) -> Result<(), CallError> {
        wire::write(&mut self.control()?, op).map_err(|error| self.gone(error))
    }

    /// Waits for the reply to the oldest op that has none yet.
    ///
    /// # Errors
    /// When the kernel refused the op, or the client is gone or stuck.
    pub fn receive(&mut self) -> Result<Reply, CallError> {
        if !self.has_reply()? {
            // A late reply would be taken for that of the next op: give the client up.
            self.control = None;
            return Err(self.gone(io::ErrorKind::TimedOut));
        }
        let mut stream = self.control()?;
        let reply = wire::read::<Result<Reply, OpError>>(&mut stream)
            .map_err(|error| self.gone(error))?
            .ok_or_else(|| self.gone(io::ErrorKind::UnexpectedEof))?;
        reply.map_err(|error| CallError::Refused { client: self.label.clone(), error })
    }

    /// Waits for a reply; false if there is none for too long.
    fn has_reply(&self) -> Result<bool, CallError> {
        let mut entry = [sys::poll_entry(self.control()?.as_fd(), libc::POLLIN)];
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if sys::poll(&mut entry, 1000).map_err(|error| self.gone(error))? > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sends an op and waits for its reply.
    ///
    /// # Errors
    /// As for [`Client::receive`].
    pub fn call(&mut self, op: &Op) -> Result<Reply, CallError> {
        self.send(op)?;
        self.receive()
    }

    /// Kills it with SIGKILL and waits until it is gone, and its sockets with it.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(mut self) -> Result<()> {
        let about = || format!("kill client {:?}", self.label);
        self.child.kill().with_context(about)?;
        self.child.wait().with_context(about)?;
        Ok(())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // End of file on its side: it exits.
        self.control = None;
        let deadline = Instant::now() + FAREWELL;
        let mut pause = Duration::from_micros(200);
        loop {
            match self.child.try_wait() {
                Ok(None) if Instant::now() < deadline => thread::sleep(pause),
                Ok(Some(_)) => return,
                _ => break,
            }
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        tracing::warn!("client {:?} did not exit: killing it", self.label);
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait().map(drop)) {
            tracing::warn!("client {:?} left behind: {error}", self.label);
        }
    }
}

/// Lets several clients work at the same time: sends every op, then takes the replies, in
/// the order of `calls`.
pub fn call_all<'a>(calls: impl IntoIterator<Item = (&'a mut Client, Op)>) -> Vec<Result<Reply, CallError>> {
    let sent: Vec<_> = calls
        .into_iter()
        .map(|(client, op)| {
            let sent = client.send(&op);
            (client, sent)
        })
        .collect();
    sent.into_iter()
        .map(|(client, sent)| {
            sent?;
            client.receive()
        })
        .collect()
}
