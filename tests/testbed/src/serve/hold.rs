//! Owners that hold the lock of a socket: a send takes it, and then waits for memory or for room.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::thread;
use std::time::{Duration, Instant};

use super::table::{Entry, Table};
use super::trouble::{Answer, Context, refused};
use crate::late_memory::LateMemory;
use crate::op::{Holding, Protocol};
use crate::sys;

/// How long it may take until a send waits.
const PATIENCE: Duration = Duration::from_secs(10);
/// A send buffer that a few datagrams fill.
const LITTLE_ROOM: libc::c_int = 4608;

/// The sends that hold a lock, by the handle of their socket.
#[derive(Default)]
pub(super) struct Holds(HashMap<u32, Hold>);

struct Hold {
    memory: Option<LateMemory>,
    send: thread::JoinHandle<io::Result<usize>>,
}

impl Holds {
    /// Returns when the lock is held.
    pub(super) fn start(&mut self, table: &Table, socket: u32, by: Holding) -> Answer<()> {
        let entry = table.get(socket)?;
        let about = || format!("hold the lock of socket {socket}");
        let hold = match by {
            Holding::Memory => hold_by_memory(entry),
            Holding::Room => hold_by_room(entry),
        };
        self.0.insert(socket, hold.at(about)?);
        Ok(())
    }

    /// Returns when the send has ended.
    pub(super) fn end(&mut self, socket: u32) -> Answer<()> {
        let hold = self.0.remove(&socket);
        let hold = hold.ok_or_else(|| refused(format!("find a held socket {socket}"), libc::ENOENT))?;
        if let Some(memory) = &hold.memory {
            memory.arrive().at(|| format!("let go of socket {socket}"))?;
        }
        // The send may fail: the socket may be dead by now.
        hold.send.join().map(drop).map_err(|_| refused("end a send".to_owned(), libc::EIO))
    }
}

/// TCP copies under the lock; UDP does if more is to follow.
fn hold_by_memory(entry: &Entry) -> io::Result<Hold> {
    let memory = LateMemory::new()?;
    let flags = if entry.protocol == Protocol::Udp { libc::MSG_MORE } else { 0 };
    let (fd, page) = (entry.fd.try_clone()?, memory.page());
    let send = thread::spawn(move || page.send(fd.as_raw_fd(), flags));
    if memory.is_waited_for(|| send.is_finished())? {
        return Ok(Hold { memory: Some(memory), send });
    }
    // It has failed before it came to the memory.
    send.join().map_err(|_| io::Error::from_raw_os_error(libc::EIO))??;
    Err(io::ErrorKind::InvalidInput.into())
}

/// Nobody tells where the peer is, so what was sent stays in the send buffer (for three seconds); a datagram that more is
/// to follow waits for room, and has the lock meanwhile.
fn hold_by_room(entry: &Entry) -> io::Result<Hold> {
    sys::set_send_buffer(entry.fd(), LITTLE_ROOM)?;
    let deadline = Instant::now() + PATIENCE;
    while sys::send(entry.fd(), &[0; 1000], libc::MSG_DONTWAIT).is_ok() {
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    let fd = entry.fd.try_clone()?;
    let send = thread::spawn(move || sys::send(fd.as_fd(), &[0; 1000], libc::MSG_MORE | libc::MSG_NOSIGNAL));
    // Nothing shows from outside that it waits.
    thread::sleep(Duration::from_millis(50));
    if send.is_finished() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(Hold { memory: None, send })
}
