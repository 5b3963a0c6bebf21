//! Waiting for sockets to be destroyed, and recovering as a good client does.

use std::io;
use std::net::{SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::roundtrip::{self, RESEND};
use super::single::{domain, kind};
use super::table::{Entry, Table};
use super::trouble::{Answer, Context};
use crate::epoll::Epoll;
use crate::op::{Family, Protocol, Watch};
use crate::reply::{OpError, Victim, Watched};
use crate::sys;

/// Only errors and hang-ups: a message, or a peer's FIN, is none of the watch's business.
const ERRORS_ONLY: i32 = libc::EPOLLONESHOT;

/// Where a watched socket is on its way.
enum Stage {
    /// Nothing has happened to it.
    Untouched,
    /// Its handshake with the fallback is under way.
    Connecting,
    /// Its message to the fallback is under way.
    Waiting { message: Vec<u8>, sent: Instant },
    /// It has its answer, or gave up.
    Over,
}

/// A watched socket.
struct Job {
    socket: u32,
    stage: Stage,
    /// Its place among the victims.
    victim: usize,
}

struct Watcher<'a> {
    table: &'a mut Table,
    watch: &'a Watch,
    epoll: Epoll,
    jobs: Vec<Job>,
    victims: Vec<Victim>,
    /// How many victims are not over yet.
    under_way: usize,
}

/// Serves [`Watch`]. Leaves the calling thread in any netns.
pub(super) fn watch(table: &mut Table, watch: &Watch) -> Answer<Watched> {
    let deadline = Instant::now() + Duration::from_millis(watch.timeout_ms);
    let sockets = table.select(&watch.sockets)?;
    let epoll = Epoll::new().at(|| "make an epoll set".to_owned())?;
    let mut jobs = Vec::with_capacity(sockets.len());
    for (token, socket) in (0u64..).zip(sockets) {
        epoll.add(table.get(socket)?.fd(), ERRORS_ONLY, token).at(|| format!("watch socket {socket}"))?;
        jobs.push(Job { socket, stage: Stage::Untouched, victim: 0 });
    }
    let mut watcher = Watcher { table, watch, epoll, jobs, victims: Vec::new(), under_way: 0 };
    let timed_out = watcher.run(deadline)?;
    watcher.report(timed_out)
}

impl Watcher<'_> {
    fn enough(&self) -> bool {
        let expected = self.watch.expect.map(|expect| expect as usize);
        self.under_way == 0 && expected.is_some_and(|expect| self.victims.len() >= expect)
    }

    /// Runs until enough is known; true if the time was over before.
    fn run(&mut self, deadline: Instant) -> Answer<bool> {
        let mut next_resend = Instant::now() + RESEND;
        loop {
            let now = Instant::now();
            let left = deadline.saturating_duration_since(now);
            let until_resend = next_resend.saturating_duration_since(now);
            let enough = self.enough();
            let pause = if enough { Duration::ZERO } else { left.min(until_resend) };
            // Round up, or the last millisecond is spent spinning.
            let pause = i32::try_from(pause.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
            let ready = self.epoll.wait(pause).at(|| "wait for errors".to_owned())?;
            // Enough, and nothing more has shown since: this was the last look.
            if ready.is_empty() && (enough || left.is_zero()) {
                return Ok(!enough && self.watch.expect.is_some());
            }
            for (token, _) in ready {
                self.step(token as usize)?;
            }
            if next_resend <= Instant::now() {
                self.resend()?;
                next_resend = Instant::now() + RESEND;
            }
        }
    }

    /// Moves one socket on.
    fn step(&mut self, index: usize) -> Answer<()> {
        let Some(job) = self.jobs.get(index) else { return Ok(()) };
        let entry = self.table.get(job.socket)?;
        match &job.stage {
            Stage::Over => {}
            Stage::Untouched => match last_error(entry.fd()) {
                // It was not for us: look again.
                None => self
                    .epoll
                    .modify(entry.fd(), ERRORS_ONLY, index as u64)
                    .at(|| format!("watch socket {} again", job.socket))?,
                Some(errno) => self.met(index, errno)?,
            },
            Stage::Connecting => match sys::take_error(entry.fd()) {
                Ok(0) => self.greet(index)?,
                Ok(errno) => self.give_up(index, &io::Error::from_raw_os_error(errno)),
                Err(error) => self.give_up(index, &error),
            },
            Stage::Waiting { message, .. } => match roundtrip::answer(entry.fd(), entry.protocol, message) {
                Ok(None) => {}
                Ok(Some(name)) => {
                    let victim = &mut self.victims[job.victim];
                    victim.answered_by = Some(name);
                    victim.answered_at_ns = Some(sys::monotonic_ns());
                    self.over(index);
                }
                Err(error) => self.give_up(index, &error),
            },
        }
        Ok(())
    }

    /// A socket has met its error: note it, and go to the fallback.
    fn met(&mut self, index: usize, errno: i32) -> Answer<()> {
        let error_at_ns = sys::monotonic_ns();
        let job = &mut self.jobs[index];
        let socket = job.socket;
        let entry = self.table.get(socket)?;
        let cookie = sys::cookie(entry.fd()).at(|| format!("read SO_COOKIE of socket {socket}"))?;
        job.victim = self.victims.len();
        self.victims.push(Victim {
            socket,
            cookie,
            errno,
            error_at_ns,
            answered_by: None,
            answered_at_ns: None,
            failure: None,
        });
        self.under_way += 1;
        let Some(addr) = fallback_for(entry, &self.watch.fallback) else {
            self.over(index);
            return Ok(());
        };
        let went = match entry.protocol {
            Protocol::Udp => sys::connect(entry.fd(), addr),
            Protocol::Tcp => self.start_anew(index, addr),
        };
        match went {
            Ok(()) => self.greet(index),
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
                self.jobs[index].stage = Stage::Connecting;
                self.interest(index, libc::EPOLLOUT)
            }
            Err(error) => {
                self.give_up(index, &error);
                Ok(())
            }
        }
    }

    /// Puts a new TCP socket, of the same netns, in the place of a dead one.
    fn start_anew(&mut self, index: usize, addr: SocketAddr) -> io::Result<()> {
        let socket = self.jobs[index].socket;
        let unknown = |_| io::Error::from_raw_os_error(libc::EBADF);
        let entry = self.table.get(socket).map_err(unknown)?;
        sys::enter_netns(sys::netns_of_socket(entry.fd())?.as_fd())?;
        let kind = kind(Protocol::Tcp) | libc::SOCK_NONBLOCK;
        let fresh = sys::socket(domain(entry.family), kind, 0)?;
        let connected = sys::connect(fresh.as_fd(), addr);
        self.epoll.add(fresh.as_fd(), ERRORS_ONLY, index as u64)?;
        let dead = self.table.replace(socket, fresh).map_err(unknown)?;
        // A duplicate or a fork may hold it open, and with it the entry in the set.
        self.epoll.remove(dead.as_fd())?;
        connected
    }

    /// Sends the message to the fallback.
    fn greet(&mut self, index: usize) -> Answer<()> {
        let message = roundtrip::message();
        let entry = self.table.get(self.jobs[index].socket)?;
        if let Err(error) = roundtrip::send(entry.fd(), &message) {
            self.give_up(index, &error);
            return Ok(());
        }
        self.jobs[index].stage = Stage::Waiting { message, sent: Instant::now() };
        self.interest(index, libc::EPOLLIN)
    }

    fn interest(&mut self, index: usize, interest: i32) -> Answer<()> {
        let socket = self.jobs[index].socket;
        self.epoll
            .modify(self.table.get(socket)?.fd(), interest, index as u64)
            .at(|| format!("watch socket {socket} for its answer"))
    }

    /// Sends UDP messages again that may have been dropped.
    fn resend(&mut self) -> Answer<()> {
        let mut failed = Vec::new();
        for (index, job) in self.jobs.iter_mut().enumerate() {
            let Stage::Waiting { message, sent } = &mut job.stage else { continue };
            let entry = self.table.get(job.socket)?;
            if entry.protocol == Protocol::Udp && sent.elapsed() >= RESEND {
                *sent = Instant::now();
                if let Err(error) = roundtrip::send(entry.fd(), message) {
                    failed.push((index, error));
                }
            }
        }
        for (index, error) in failed {
            self.give_up(index, &error);
        }
        Ok(())
    }

    fn give_up(&mut self, index: usize, error: &io::Error) {
        let job = &self.jobs[index];
        self.victims[job.victim].failure = Some(OpError {
            what: format!("reach the fallback with socket {}", job.socket),
            errno: sys::errno_of(error),
        });
        self.over(index);
    }

    /// Marks a victim as done with, and stops looking at its socket.
    fn over(&mut self, index: usize) {
        let job = &mut self.jobs[index];
        job.stage = Stage::Over;
        self.under_way -= 1;
        if let Ok(entry) = self.table.get(job.socket) {
            // It may never have come into the set.
            let _ = self.epoll.remove(entry.fd());
        }
    }

    fn report(self, timed_out: bool) -> Answer<Watched> {
        let untouched: Vec<u32> = self
            .jobs
            .iter()
            .filter(|job| matches!(job.stage, Stage::Untouched))
            .map(|job| job.socket)
            .collect();
        let rest = if self.watch.verify_rest {
            let timeout_ms = self.watch.timeout_ms;
            Some(roundtrip::exchange(self.table, &untouched, timeout_ms)?)
        } else {
            None
        };
        Ok(Watched { victims: self.victims, untouched: untouched.len() as u32, rest, timed_out })
    }
}

/// The error that a reader of this socket gets after the queued data; 0 at the end of a stream,
/// `None` if there is nothing to report.
fn last_error(fd: BorrowedFd<'_>) -> Option<i32> {
    let mut buffer = [0; 4096];
    loop {
        match sys::recv(fd, &mut buffer, libc::MSG_DONTWAIT) {
            Ok(0) => return Some(0),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(error) => return Some(sys::errno_of(&error)),
        }
    }
}

/// The backend that takes over for a socket.
fn fallback_for(entry: &Entry, fallback: &[(Protocol, SocketAddr)]) -> Option<SocketAddr> {
    let mut addrs =
        fallback.iter().filter(|(protocol, _)| *protocol == entry.protocol).map(|(_, addr)| *addr);
    let same = addrs.clone().find(|addr| Family::of(*addr) == entry.family);
    match (same, entry.family) {
        (Some(addr), _) => Some(addr),
        (None, Family::V4) => None,
        (None, Family::V6) => addrs.next().map(|addr| match addr {
            SocketAddr::V4(v4) => SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into(),
            v6 @ SocketAddr::V6(_) => v6,
        }),
    }
}
