//! Ops on many sockets.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::single::{domain, kind};
use super::table::{Entry, Table};
use super::trouble::{Answer, Context, refused};
use crate::op::{Family, OpenMany, Protocol, Selection};
use crate::reply::{OpError, OpenedMany, SocketState};
use crate::sys;

/// How many TCP handshakes are under way at a time: fewer than any accept queue holds.
const HANDSHAKES: usize = 1024;

/// Sockets that are open and connected, but have no handles yet.
pub(super) struct Opened {
    protocol: Protocol,
    family: Family,
    sockets: Vec<(OwnedFd, u64)>,
    requested: u32,
    first_error: Option<OpError>,
}

impl Opened {
    pub(super) fn into_table(self, table: &mut Table) -> OpenedMany {
        let opened = OpenedMany {
            first: table.next(),
            cookies: self.sockets.iter().map(|(_, cookie)| *cookie).collect(),
            failed: self.requested - self.sockets.len() as u32,
            first_error: self.first_error,
        };
        for (socket, _) in self.sockets {
            table.add(socket, self.protocol, self.family);
        }
        opened
    }

    fn fail(&mut self, error: OpError) {
        self.first_error.get_or_insert(error);
    }

    /// Takes a socket whose connect has succeeded.
    fn keep(&mut self, socket: OwnedFd) {
        match sys::cookie(socket.as_fd()).at(|| "read SO_COOKIE".to_owned()) {
            Ok(cookie) => self.sockets.push((socket, cookie)),
            Err(error) => self.fail(error),
        }
    }

    /// Waits until the handshakes are over, and takes those that succeeded.
    fn end_handshakes(&mut self, many: &OpenMany, begun: &mut Vec<OwnedFd>, deadline: Instant) {
        let about = || format!("connect a {} socket to {}", many.protocol, many.connect);
        while !begun.is_empty() {
            let mut entries: Vec<_> =
                begun.iter().map(|fd| sys::poll_entry(fd.as_fd(), libc::POLLOUT)).collect();
            let left = deadline.saturating_duration_since(Instant::now());
            // At least one look, even when the time is over.
            let timeout = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
            match sys::poll(&mut entries, timeout) {
                Ok(0) if left.is_zero() => {
                    self.fail(refused(about(), libc::ETIMEDOUT));
                    begun.clear();
                }
                Ok(_) => {}
                Err(error) => {
                    self.fail(refused(about(), sys::errno_of(&error)));
                    begun.clear();
                }
            }
            let mut waiting = Vec::new();
            for (socket, entry) in begun.drain(..).zip(&entries) {
                if entry.revents == 0 {
                    waiting.push(socket);
                    continue;
                }
                match sys::take_error(socket.as_fd()) {
                    Ok(0) => self.keep(socket),
                    Ok(errno) => self.fail(refused(about(), errno)),
                    Err(error) => self.fail(refused(about(), sys::errno_of(&error))),
                }
            }
            *begun = waiting;
        }
    }
}

/// Opens and connects many sockets in the netns of this thread.
pub(super) fn open(many: &OpenMany) -> Opened {
    let deadline = Instant::now() + Duration::from_millis(many.timeout_ms);
    let family = Family::of(many.connect);
    let kind = kind(many.protocol) | libc::SOCK_NONBLOCK;
    let mut opened = Opened {
        protocol: many.protocol,
        family,
        sockets: Vec::with_capacity(many.count as usize),
        requested: many.count,
        first_error: None,
    };
    let mut begun = Vec::new();
    for _ in 0..many.count {
        let socket = sys::socket(domain(family), kind, 0);
        let socket = match socket.at(|| format!("open a {} socket", many.protocol)) {
            Ok(socket) => socket,
            // Mostly EMFILE: the next would fail alike.
            Err(error) => {
                opened.fail(error);
                break;
            }
        };
        match sys::connect(socket.as_fd(), many.connect) {
            Ok(()) => opened.keep(socket),
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => begun.push(socket),
            Err(error) => opened.fail(refused(
                format!("connect a {} socket to {}", many.protocol, many.connect),
                sys::errno_of(&error),
            )),
        }
        if begun.len() >= HANDSHAKES {
            opened.end_handshakes(many, &mut begun, deadline);
        }
    }
    opened.end_handshakes(many, &mut begun, deadline);
    opened
}

/// The cookies of a selection.
pub(super) fn cookies(table: &Table, sockets: &Selection) -> Answer<Vec<u64>> {
    let handles = table.select(sockets)?;
    handles
        .into_iter()
        .map(|handle| {
            sys::cookie(table.get(handle)?.fd()).at(|| format!("read SO_COOKIE of socket {handle}"))
        })
        .collect()
}

/// The states of a selection.
pub(super) fn states(table: &Table, sockets: &Selection) -> Answer<Vec<SocketState>> {
    let handles = table.select(sockets)?;
    let entries: Vec<&Entry> = handles.into_iter().map(|handle| table.get(handle)).collect::<Answer<_>>()?;
    // All polls come first: reading SO_ERROR changes the result of poll.
    let events = libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP;
    let mut polls: Vec<_> = entries.iter().map(|entry| sys::poll_entry(entry.fd(), events)).collect();
    sys::poll(&mut polls, 0).at(|| format!("poll {} sockets", entries.len()))?;
    entries
        .iter()
        .zip(&polls)
        .map(|(entry, poll)| {
            state(entry, poll.revents).at(|| format!("read the state of socket {}", entry.handle))
        })
        .collect()
}

fn state(entry: &Entry, revents: i16) -> io::Result<SocketState> {
    Ok(SocketState {
        socket: entry.handle,
        cookie: sys::cookie(entry.fd())?,
        errno: sys::take_error(entry.fd())?,
        peer: sys::peer(entry.fd()),
        local: sys::local(entry.fd()),
        revents,
        tcp_state: match entry.protocol {
            Protocol::Tcp => sys::tcp_state(entry.fd()),
            Protocol::Udp => None,
        },
    })
}
