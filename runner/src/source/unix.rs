//! The unix socket source: any number of clients, each a connection of its own.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;

use crossbeam_channel::Sender;

use super::stop::{Stop, Wake};
use super::{Job, connection};

/// Listens at `path`, for the owner only, and serves clients until stopped.
pub(super) fn start(path: &Path, queue: Sender<Job>, stop: Stop) -> io::Result<thread::JoinHandle<()>> {
    let socket = Socket::bind(path).map_err(|e| {
        let why = match e.kind() {
            io::ErrorKind::AddrInUse => {
                "another service listens there already, or it is no socket; stop that, or name another path"
                    .to_owned()
            }
            _ => e.to_string(),
        };
        io::Error::new(e.kind(), format!("unix:{}: {why}", path.display()))
    })?;
    tracing::info!(path = %path.display(), "listening");
    thread::Builder::new().name("unix".to_owned()).spawn(move || {
        if let Err(e) = socket.serve(&queue, &stop) {
            tracing::error!(path = %socket.path.display(), "cannot accept clients any more: {e}");
        }
    })
}

struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    fn bind(path: &Path) -> io::Result<Self> {
        // What a killed process has left behind is in the way; a living one is not to be robbed.
        if fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
            && UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
        {
            fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    fn serve(&self, queue: &Sender<Job>, stop: &Stop) -> io::Result<()> {
        let mut clients: Vec<thread::JoinHandle<()>> = Vec::new();
        while stop.wait_readable(self.listener.as_fd())? == Wake::Readable {
            let (stream, _) = self.listener.accept()?;
            clients.retain(|client| !client.is_finished());
            match serve_client(stream, queue.clone(), stop.clone()) {
                Ok(client) => clients.push(client),
                Err(e) => tracing::warn!("cannot serve a client: {e}"),
            }
        }
        for client in clients {
            if client.join().is_err() {
                tracing::error!("a client's thread panicked");
            }
        }
        Ok(())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), "cannot remove the socket: {e}");
        }
    }
}

fn serve_client(stream: UnixStream, queue: Sender<Job>, stop: Stop) -> io::Result<thread::JoinHandle<()>> {
    let input: OwnedFd = stream.try_clone()?.into();
    let output: OwnedFd = stream.into();
    connection::start("client", File::from(input), File::from(output), queue, stop)
}
