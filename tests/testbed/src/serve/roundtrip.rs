//! One message to a backend and back, on many sockets.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::table::Table;
use super::trouble::{Answer, Context};
use crate::op::Protocol;
use crate::reply::{Echoed, Lost};
use crate::sys;

/// Number of sockets that wait for their answer at a time.
const WINDOW: usize = 256;
/// When a UDP message counts as dropped and is sent again.
pub(super) const RESEND: Duration = Duration::from_millis(250);
/// Longer than any answer.
const ROOM: usize = 4096;

/// A message that this process has sent nowhere else, so that its answer cannot be
/// mistaken for a late answer to another.
pub(super) fn message() -> Vec<u8> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("message-{}", NEXT.fetch_add(1, Ordering::Relaxed)).into_bytes()
}

/// Sends without waiting.
pub(super) fn send(fd: BorrowedFd<'_>, message: &[u8]) -> io::Result<()> {
    sys::send(fd, message, libc::MSG_DONTWAIT).map(drop)
}

/// Reads the received data; returns the name of the backend once the answer to `message` has
/// arrived.
pub(super) fn answer(fd: BorrowedFd<'_>, protocol: Protocol, message: &[u8]) -> io::Result<Option<String>> {
    let mut buffer = [0; ROOM];
    loop {
        match sys::recv(fd, &mut buffer, libc::MSG_DONTWAIT) {
            Ok(0) if protocol == Protocol::Tcp => {
                return Err(io::Error::from_raw_os_error(libc::ENOTCONN));
            }
            Ok(size) => {
                if let Some(name) = buffer[..size].strip_suffix(message) {
                    return Ok(Some(String::from_utf8_lossy(name).trim_end().to_owned()));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// A socket that waits for its answer.
struct Waiting {
    socket: u32,
    message: Vec<u8>,
    sent: Instant,
}

/// Exchanges one message on each socket. `timeout_ms` counts from each one's sending.
pub(super) fn exchange(table: &Table, sockets: &[u32], timeout_ms: u64) -> Answer<Echoed> {
    let mut echoed = Echoed::default();
    let timeout = Duration::from_millis(timeout_ms);
    for window in sockets.chunks(WINDOW) {
        let deadline = Instant::now() + timeout;
        let mut waiting = begin(table, window, &mut echoed)?;
        while !waiting.is_empty() {
            waiting = turn(table, waiting, deadline, &mut echoed)?;
        }
    }
    Ok(echoed)
}

/// Sends the first message on each socket of a window.
fn begin(table: &Table, window: &[u32], echoed: &mut Echoed) -> Answer<Vec<Waiting>> {
    let mut waiting = Vec::with_capacity(window.len());
    for &socket in window {
        let entry = table.get(socket)?;
        let message = message();
        // Old answers are read first; nothing can match the message before it is sent.
        let begun = answer(entry.fd(), entry.protocol, &message).and_then(|_| send(entry.fd(), &message));
        match begun {
            Ok(()) => waiting.push(Waiting { socket, message, sent: Instant::now() }),
            Err(error) => lose(table, socket, &error, echoed)?,
        }
    }
    Ok(waiting)
}

/// Waits for some answers; returns the sockets that have none yet.
fn turn(
    table: &Table,
    waiting: Vec<Waiting>,
    deadline: Instant,
    echoed: &mut Echoed,
) -> Answer<Vec<Waiting>> {
    let mut polls = Vec::with_capacity(waiting.len());
    for one in &waiting {
        polls.push(sys::poll_entry(table.get(one.socket)?.fd(), libc::POLLIN));
    }
    let left = deadline.saturating_duration_since(Instant::now());
    let pause = i32::try_from(left.min(RESEND).as_millis()).unwrap_or(0);
    sys::poll(&mut polls, pause).at(|| format!("poll {} sockets", polls.len()))?;

    let mut still = Vec::with_capacity(waiting.len());
    for (mut one, poll) in waiting.into_iter().zip(&polls) {
        let entry = table.get(one.socket)?;
        if poll.revents == 0 {
            if left.is_zero() {
                let late = io::Error::from_raw_os_error(libc::ETIMEDOUT);
                lose(table, one.socket, &late, echoed)?;
                continue;
            }
            if entry.protocol == Protocol::Udp && one.sent.elapsed() >= RESEND {
                one.sent = Instant::now();
                if let Err(error) = send(entry.fd(), &one.message) {
                    lose(table, one.socket, &error, echoed)?;
                    continue;
                }
            }
            still.push(one);
            continue;
        }
        match answer(entry.fd(), entry.protocol, &one.message) {
            Ok(Some(name)) => *echoed.by.entry(name).or_default() += 1,
            Ok(None) => still.push(one),
            Err(error) => lose(table, one.socket, &error, echoed)?,
        }
    }
    Ok(still)
}

fn lose(table: &Table, socket: u32, error: &io::Error, echoed: &mut Echoed) -> Answer<()> {
    let cookie = sys::cookie(table.get(socket)?.fd()).at(|| format!("read SO_COOKIE of socket {socket}"))?;
    echoed.lost.push(Lost { socket, cookie, errno: sys::errno_of(error) });
    Ok(())
}
