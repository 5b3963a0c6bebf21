//! The unix socket source: any number of clients, each a connection of its own.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use skreap_core::Refusal;

use super::access::{Access, peer};
use super::stop::{Stop, Wake};
use super::{Inbox, Requester, connection};
use crate::observe::clients::{Clients, Connected, SentAway};

/// Clients of one socket at a time: each costs two threads. Further ones are refused with that
/// reason.
const CLIENTS_MAX: usize = 256;
/// Pause after a failed accept, for example when the process has no descriptor left.
const REST: Duration = Duration::from_millis(100);

/// Listens at `path` and serves clients until stopped.
pub(super) fn start(
    path: &Path,
    access: &Access,
    inbox: Inbox,
    stop: Stop,
    clients: &Arc<Clients>,
) -> io::Result<thread::JoinHandle<()>> {
    let clients = Arc::clone(clients);
    let bound = Bound::bind(path, access).map_err(|e| named(path, &e))?;
    let socket = Socket { bound, access: access.clone() };
    tracing::info!(path = %path.display(), mode = format!("{:04o}", access.mode()), "listening");
    thread::Builder::new().name("unix".to_owned()).spawn(move || {
        if let Err(e) = socket.serve(&inbox, &stop, &clients) {
            tracing::error!(path = %socket.bound.path.display(), "cannot accept clients any more: {e}");
        }
    })
}

/// As [`Bound::check`].
pub(super) fn check(path: &Path) -> io::Result<()> {
    Bound::check(path).map_err(|e| named(path, &e))
}

fn named(path: &Path, e: &io::Error) -> io::Error {
    let why = match e.kind() {
        io::ErrorKind::AddrInUse => {
            "another service listens there already, or it is no socket; stop that, or name another path"
                .to_owned()
        }
        _ => e.to_string(),
    };
    io::Error::new(e.kind(), format!("unix:{}: {why}", path.display()))
}

/// A unix socket that is listened on; its file is removed on drop.
#[derive(Debug)]
pub(crate) struct Bound {
    listener: UnixListener,
    path: PathBuf,
}

impl Bound {
    /// Listens at `path`, and replaces a socket on which no process listens any more.
    pub(crate) fn bind(path: &Path, access: &Access) -> io::Result<Self> {
        remove_stale(path)?;
        let listener = UnixListener::bind(path)?;
        let bound = Self { listener, path: path.to_owned() };
        access.apply(path)?;
        Ok(bound)
    }

    /// Says whether `path` could be listened on now, and leaves nothing there.
    pub(crate) fn check(path: &Path) -> io::Result<()> {
        remove_stale(path)?;
        // Of another type, so that no client of ours can connect meanwhile.
        drop(UnixDatagram::bind(path)?);
        fs::remove_file(path)
    }

    #[cfg(feature = "metrics")]
    pub(crate) fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

/// The socket file of a killed process is removed; that of a living one is not.
fn remove_stale(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
        && UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
    {
        fs::remove_file(path)?;
    }
    Ok(())
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), "cannot remove the socket: {e}");
        }
    }
}

/// A socket whose clients send requests. The uid of each is checked, also of one that connects
/// before the file has its mode.
struct Socket {
    bound: Bound,
    access: Access,
}

impl Socket {
    fn serve(&self, inbox: &Inbox, stop: &Stop, clients: &Arc<Clients>) -> io::Result<()> {
        let mut threads: Vec<thread::JoinHandle<()>> = Vec::new();
        let mut failures = 0_u64;
        while stop.wait_readable(self.bound.listener.as_fd())? == Wake::Readable {
            let stream = match self.bound.listener.accept() {
                Ok((stream, _)) => stream,
                // Out of descriptors or memory: this may pass, and connected clients are still
                // served.
                Err(e) => {
                    if failures == 0 {
                        tracing::warn!(path = %self.bound.path.display(), "cannot accept a client, retrying: {e}");
                    }
                    failures += 1;
                    stop.pause(REST);
                    continue;
                }
            };
            if std::mem::take(&mut failures) > 0 {
                tracing::info!(path = %self.bound.path.display(), "accepting clients again");
            }
            threads.retain(|thread| !thread.is_finished());
            let requester = match self.admits(&stream, threads.len()) {
                Ok(requester) => requester,
                Err((why, message)) => {
                    clients.sent_away(why);
                    tracing::warn!(path = %self.bound.path.display(), "client refused: {message}");
                    send_away(&stream, message);
                    continue;
                }
            };
            match serve_client(stream, requester, inbox.clone(), stop.clone(), clients) {
                Ok(client) => threads.push(client),
                Err(e) => tracing::warn!("cannot serve a client: {e}"),
            }
        }
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a client's thread panicked");
            }
        }
        Ok(())
    }

    /// Who the client is; or why it is not served.
    fn admits(&self, stream: &UnixStream, clients: usize) -> Result<Requester, (SentAway, String)> {
        let requester =
            peer(stream).map_err(|e| (SentAway::Uid, format!("cannot read your credentials: {e}")))?;
        if let Requester::Client { uid, .. } = requester
            && !self.access.allows(uid)
        {
            let message = format!("uid {uid} may not talk to this service; start it with --allow-uid {uid}");
            return Err((SentAway::Uid, message));
        }
        if clients >= CLIENTS_MAX {
            let message = format!("there are {CLIENTS_MAX} clients already; close some, and connect again");
            return Err((SentAway::Full, message));
        }
        Ok(requester)
    }
}

/// Sends a client the reason without waiting for it: a line fits the empty buffer of a new
/// connection.
fn send_away(mut stream: &UnixStream, message: String) {
    let Ok(mut line) = serde_json::to_vec(&Refusal::new(0, message)) else { return };
    line.push(b'\n');
    // It is being left either way.
    let _ = stream.set_nonblocking(true).and_then(|()| stream.write_all(&line));
}

fn serve_client(
    stream: UnixStream,
    requester: Requester,
    inbox: Inbox,
    stop: Stop,
    clients: &Arc<Clients>,
) -> io::Result<thread::JoinHandle<()>> {
    let stream = Arc::new(File::from(OwnedFd::from(stream)));
    let connected: Connected = clients.enter();
    let clients = Arc::clone(clients);
    let who = connection::Who { name: "client", requester, clients, connected: Some(connected) };
    connection::start(who, Arc::clone(&stream), stream, inbox, stop)
}
