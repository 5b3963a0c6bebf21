//! The client process: serves ops until its control socket ends.
//!
//! The main thread serves; a second thread reads ahead, so that the end of the control
//! socket ends the process at once, whatever the main thread is waiting for.

mod bulk;
mod flight;
mod fork;
mod hold;
mod mount;
mod race;
mod roundtrip;
mod single;
mod table;
mod trouble;
mod watch;

use std::env;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use super::backend::Echo;
use super::netns::Netns;
use super::op::{NetnsRef, Op, Selection};
use super::reply::Reply;
use super::{raise_nofile_limit, sys, wire};
use flight::Flights;
use fork::Forks;
use hold::Holds;
use table::Table;
use trouble::{Answer, Context, from_lab, refused};

/// The first argument of a process that is to be a client. The second is the descriptor of its control socket.
pub(super) const CLIENT_COMMAND: &str = "testbed-client";
/// What the label of a client follows in its command line.
pub(super) const NAME_PREFIX: &str = "skreap-lab:";
/// Exit status of a client that could not serve on.
const BROKEN: i32 = 70;

/// Serves as a client process and never returns, if [`Client::spawn`](super::Client::spawn) started
/// this process for that. Returns at once otherwise.
///
/// Call it first thing in `main`, before any thread.
pub fn become_client_if_asked() {
    let mut arguments = env::args_os();
    let label = arguments.next();
    if arguments.next().is_none_or(|command| command != CLIENT_COMMAND) {
        return;
    }
    take_name(label.as_deref().and_then(|label| label.to_str()).unwrap_or_default());
    let control = arguments.next().and_then(|fd| fd.to_str()?.parse().ok());
    // No descriptor has the number -1.
    serve_as_client(control.unwrap_or(-1))
}

/// Has listings of processes show the label, as far as there is room for it.
fn take_name(argument: &str) {
    let label = argument.strip_prefix(NAME_PREFIX).unwrap_or(argument);
    if let Ok(name) = std::ffi::CString::new(label) {
        // SAFETY: a string that ends with a zero; the kernel copies at most 16 bytes of it.
        unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    }
}

/// Serves over the control socket `control`, and never returns.
fn serve_as_client(control: RawFd) -> ! {
    let served = not_privileged_by_its_file().and_then(|()| control_socket(control)).and_then(serve);
    if let Err(error) = &served {
        eprintln!("{CLIENT_COMMAND} {control}: {error}");
    }
    exit_now(if served.is_ok() { 0 } else { BROKEN })
}

/// A binary with file capabilities must not lend them to its caller.
fn not_privileged_by_its_file() -> io::Result<()> {
    // SAFETY: getauxval takes no pointers.
    let privileged = unsafe { libc::getauxval(libc::AT_SECURE) } != 0;
    if privileged { Err(io::Error::from_raw_os_error(libc::EPERM)) } else { Ok(()) }
}

/// Ends the process without destructors: the kernel closes everything.
fn exit_now(status: i32) -> ! {
    // SAFETY: _exit takes no pointers and does not return.
    unsafe { libc::_exit(status) }
}

/// The descriptor the parent left open, if it is a unix socket.
fn control_socket(fd: RawFd) -> io::Result<UnixStream> {
    // SAFETY: F_GETFD takes no pointer; it tells whether `fd` is open.
    sys::check(unsafe { libc::fcntl(fd, libc::F_GETFD) })?;
    // SAFETY: it is open, was left open for this purpose, and nothing else in this
    // process knows of it.
    let stream = UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    // ENOTSOCK, or another family, if the command line was written by something else.
    stream.peer_addr()?;
    // SAFETY: F_SETFD takes no pointer.
    sys::check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    Ok(stream)
}

fn serve(control: UnixStream) -> io::Result<()> {
    // Ctrl-C reaches the whole foreground group: the parent decides when we end.
    // SAFETY: ignoring a signal installs no handler.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
    raise_nofile_limit()?;
    let forks = Forks::default();
    let ops = read_ahead(control.try_clone()?, forks.clone())?;
    let mut server = Server {
        control,
        own: std::fs::File::open("/proc/thread-self/ns/net")?.into(),
        table: Table::default(),
        echoes: Vec::new(),
        forks,
        flights: Flights::default(),
        holds: Holds::default(),
    };
    for op in ops {
        let last = matches!(op, Op::Exit);
        let answer = server.answer(op);
        wire::write(&mut &server.control, &answer)?;
        if last {
            server.control.shutdown(Shutdown::Both)?;
            break;
        }
    }
    Ok(())
}

/// Starts the thread that reads ops, and ends the process when there are no more.
fn read_ahead(mut control: UnixStream, forks: Forks) -> io::Result<Receiver<Op>> {
    let (sender, ops) = mpsc::channel();
    thread::Builder::new().name("control".to_owned()).spawn(move || {
        let status = loop {
            match wire::read(&mut control) {
                Ok(Some(op)) => {
                    if sender.send(op).is_err() {
                        break 0;
                    }
                }
                Ok(None) => break 0,
                // The parent was killed while it wrote.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break 0,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break 0,
                Err(error) => {
                    eprintln!("lab client: read an op: {error}");
                    break BROKEN;
                }
            }
        };
        forks.reap_all();
        exit_now(status)
    })?;
    Ok(ops)
}

/// State of a client process.
struct Server {
    control: UnixStream,
    /// The netns it lives in.
    own: OwnedFd,
    table: Table,
    echoes: Vec<Option<Echo>>,
    forks: Forks,
    flights: Flights,
    holds: Holds,
}

impl Server {
    fn answer(&mut self, op: Op) -> Answer<Reply> {
        match op {
            Op::Open(spec) => {
                let socket = self.inside(&spec.netns, || single::open(&spec))??;
                Ok(Reply::Opened { socket: self.table.add(socket, spec.protocol, spec.family) })
            }
            Op::OpenMany(many) => {
                let opened = self.inside(&many.netns, || bulk::open(&many))?;
                Ok(Reply::OpenedMany(opened.into_table(&mut self.table)))
            }
            Op::Connect { socket, addr } => single::connect(self.table.get(socket)?, addr),
            Op::Disconnect { socket } => single::disconnect(self.table.get(socket)?),
            Op::ConnectFromTwoThreads { socket, a, b, rounds } => {
                race::connect(self.table.get(socket)?, a, b, rounds).map(Reply::Raced)
            }
            Op::Send { socket, payload } => single::send(self.table.get(socket)?, &payload),
            Op::SendMarked { socket, payload } => single::send_marked(self.table.get(socket)?, &payload),
            Op::SendTo { socket, addr, payload } => single::send_to(self.table.get(socket)?, addr, &payload),
            Op::SendToMany { socket, addrs, payload } => {
                Ok(single::send_to_many(self.table.get(socket)?, &addrs, &payload))
            }
            Op::Recv { socket, timeout_ms } => single::recv(self.table.get(socket)?, timeout_ms),
            Op::RecvMany { socket, count, timeout_ms } => {
                Ok(single::recv_many(self.table.get(socket)?, count, timeout_ms))
            }
            Op::Shutdown { socket, read, write } => single::shutdown(self.table.get(socket)?, read, write),
            Op::Listen { socket, backlog } => single::listen(self.table.get(socket)?, backlog),
            Op::Accept { socket, timeout_ms } => {
                let listener = self.table.get(socket)?;
                let (protocol, family) = (listener.protocol, listener.family);
                let (connection, peer) = single::accept(listener, timeout_ms)?;
                let socket = self.table.add(connection, protocol, family);
                Ok(Reply::Accepted { socket, peer })
            }
            Op::Dup { socket } => {
                let entry = self.table.get(socket)?;
                let (protocol, family) = (entry.protocol, entry.family);
                let copy = entry.fd.try_clone().at(|| format!("duplicate socket {socket}"))?;
                Ok(Reply::Opened { socket: self.table.add(copy, protocol, family) })
            }
            Op::StartFlight { socket } => self.flights.start(&mut self.table, socket).map(|()| Reply::Done),
            Op::LandFlight { socket } => {
                self.flights.land(&mut self.table, socket).map(|socket| Reply::Opened { socket })
            }
            Op::StartHold { socket, by } => self.holds.start(&self.table, socket, by).map(|()| Reply::Done),
            Op::EndHold { socket } => self.holds.end(socket).map(|()| Reply::Done),
            Op::Mount9p { server } => mount::start(server).map(|()| Reply::Done),
            Op::Rename { name } => {
                std::fs::write("/proc/self/comm", name).at(|| "rename".to_owned()).map(|()| Reply::Done)
            }
            Op::Fork => self.forks.fork(self.control.as_raw_fd()).map(|pid| Reply::Forked { pid }),
            Op::ReapFork { pid } => self.forks.reap(pid).map(|()| Reply::Done),
            Op::Close { sockets } => self.close(&sockets),
            Op::Cookies { sockets } => bulk::cookies(&self.table, &sockets).map(Reply::Cookies),
            Op::States { sockets } => bulk::states(&self.table, &sockets).map(Reply::States),
            Op::EchoAll { sockets, timeout_ms } => {
                let sockets = self.table.select(&sockets)?;
                roundtrip::exchange(&self.table, &sockets, timeout_ms).map(Reply::Echoed)
            }
            Op::Watch(watch) => {
                let watched = watch::watch(&mut self.table, &watch);
                // It moves this thread from netns to netns.
                self.go_home();
                watched.map(Reply::Watched)
            }
            Op::StartEcho { protocol, addr, netns, mode } => {
                let opened: Vec<Netns> = netns.iter().map(open_netns).collect::<Answer<_>>()?;
                let netns: Vec<&Netns> = opened.iter().collect();
                let echo = Echo::start(protocol, addr, &netns, mode).map_err(|error| from_lab(&error))?;
                let name = echo.name().to_owned();
                self.echoes.push(Some(echo));
                // A client has few backends.
                Ok(Reply::EchoStarted { echo: self.echoes.len() as u32 - 1, name })
            }
            Op::SetEchoMode { echo, mode } => {
                let slot = self.echo(echo)?;
                if let Some(echo) = slot {
                    echo.set_mode(mode);
                }
                Ok(Reply::Done)
            }
            Op::StopEcho { echo } => {
                *self.echo(echo)? = None;
                Ok(Reply::Done)
            }
            Op::Exit => Ok(Reply::Done),
        }
    }

    fn echo(&mut self, echo: u32) -> Answer<&mut Option<Echo>> {
        self.echoes
            .get_mut(echo as usize)
            .filter(|slot| slot.is_some())
            .ok_or_else(|| refused(format!("find backend {echo}"), libc::ENOENT))
    }

    fn close(&mut self, sockets: &Selection) -> Answer<Reply> {
        let sockets = self.table.select(sockets)?;
        for &socket in &sockets {
            self.table.take(socket)?;
        }
        Ok(Reply::Closed { count: sockets.len() as u32 })
    }

    /// Runs `work` with this thread in another netns.
    fn inside<T>(&self, netns: &NetnsRef, work: impl FnOnce() -> T) -> Answer<T> {
        let NetnsRef::Path(path) = netns else { return Ok(work()) };
        let about = || format!("enter netns {}", path.display());
        let netns = std::fs::File::open(path).at(about)?;
        sys::enter_netns(netns.as_fd()).at(about)?;
        let result = work();
        self.go_home();
        Ok(result)
    }

    /// Moves this thread back. If that fails nothing it opens would be where it should
    /// be, so the process ends.
    fn go_home(&self) {
        if let Err(error) = sys::enter_netns(self.own.as_fd()) {
            eprintln!("lab client: go back to its own netns: {error}");
            exit_now(BROKEN);
        }
    }
}

fn open_netns(netns: &NetnsRef) -> Answer<Netns> {
    let path = match netns {
        NetnsRef::Own => Path::new("/proc/self/ns/net"),
        NetnsRef::Path(path) => path,
    };
    Netns::open(path).map_err(|error| from_lab(&error))
}
