//! The work itself: plain system calls, nothing between them.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::case::Case;
use super::cpu;

/// The backends of the work, in the netns of the thread that opened them.
pub struct Site {
    tcp: TcpListener,
    udp: [UdpSocket; 2],
}

impl Site {
    /// Opens them. The UDP backends never read: the kernel drops datagrams that do not fit their
    /// buffer.
    ///
    /// # Errors
    /// When an address cannot be bound.
    pub fn open() -> io::Result<Self> {
        let any = (Ipv4Addr::LOCALHOST, 0);
        Ok(Self { tcp: TcpListener::bind(any)?, udp: [UdpSocket::bind(any)?, UdpSocket::bind(any)?] })
    }

    fn udp_peers(&self) -> io::Result<[libc::sockaddr_in; 2]> {
        let [a, b] = &self.udp;
        Ok([raw(a.local_addr()?.port()), raw(b.local_addr()?.port())])
    }
}

fn raw(port: u16) -> libc::sockaddr_in {
    let addr = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: addr.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(addr.ip().octets()) },
        sin_zero: [0; 8],
    }
}

/// Lets each of `threads` threads, pinned to a CPU of its own, do `warm_up` operations and then,
/// all at the same time, `operations`. Returns the time from the first start to the last end of
/// these.
///
/// # Errors
/// When an operation fails.
pub fn batch(case: Case, site: &Site, threads: u32, warm_up: u32, operations: u32) -> Result<Duration> {
    let barrier = Barrier::new(threads as usize);
    let work = |number: u32| -> io::Result<(Instant, Instant)> {
        let ready = cpu::pin(number as usize).and_then(|()| work(case, site, warm_up));
        // Also after an error: the others wait.
        barrier.wait();
        ready?;
        let start = Instant::now();
        work(case, site, operations)?;
        Ok((start, Instant::now()))
    };
    let times = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|number| scope.spawn(move || work(number))).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<io::Result<Vec<_>>>()
    })
    .with_context(|| format!("do the work of {}", case.name()))?;
    let start = times.iter().map(|(start, _)| *start).min();
    let end = times.iter().map(|(_, end)| *end).max();
    Ok(start.zip(end).map_or(Duration::ZERO, |(start, end)| end - start))
}

fn work(case: Case, site: &Site, operations: u32) -> io::Result<()> {
    match case {
        Case::UdpConnectClose => {
            let [peer, _] = site.udp_peers()?;
            for _ in 0..operations {
                connect(&socket(libc::SOCK_DGRAM)?, &peer)?;
            }
        }
        Case::TcpConnectClose => {
            let peer = raw(site.tcp.local_addr()?.port());
            for _ in 0..operations {
                let client = socket(libc::SOCK_STREAM)?;
                // Ends with a reset: no TIME_WAIT takes the port away for a minute.
                set_linger(&client)?;
                connect(&client, &peer)?;
                // The one just connected, or another thread's: each thread accepts as many as it
                // connects.
                let server = accept(&site.tcp)?;
                drop(client);
                drop(server);
            }
        }
        Case::UdpReconnect => {
            let peers = site.udp_peers()?;
            let socket = socket(libc::SOCK_DGRAM)?;
            for peer in peers.iter().cycle().take(operations as usize) {
                connect(&socket, peer)?;
            }
        }
        Case::UdpSendto => {
            let [peer, _] = site.udp_peers()?;
            let socket = socket(libc::SOCK_DGRAM)?;
            for _ in 0..operations {
                send_to(&socket, &peer)?;
            }
        }
        Case::NeverConnected => {
            for _ in 0..operations {
                drop(socket(libc::SOCK_DGRAM)?);
            }
        }
    }
    Ok(())
}

fn socket(kind: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointer.
    let fd = check(unsafe { libc::socket(libc::AF_INET, kind | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn connect(socket: &OwnedFd, peer: &libc::sockaddr_in) -> io::Result<()> {
    let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: `peer` is a sockaddr_in of the length that is said.
    check(unsafe { libc::connect(socket.as_raw_fd(), std::ptr::from_ref(peer).cast(), length) }).map(drop)
}

fn accept(listener: &TcpListener) -> io::Result<OwnedFd> {
    // SAFETY: a null address is allowed: the call then does not return one.
    let fd = check(unsafe {
        libc::accept4(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC)
    })?;
    // SAFETY: a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn send_to(socket: &OwnedFd, peer: &libc::sockaddr_in) -> io::Result<()> {
    let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: one byte is read from a static string, and `peer` has the stated length.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            b"x".as_ptr().cast(),
            1,
            libc::MSG_DONTWAIT,
            std::ptr::from_ref(peer).cast(),
            length,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn set_linger(socket: &OwnedFd) -> io::Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let length = size_of_val(&linger) as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes of `linger`.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            std::ptr::from_ref(&linger).cast(),
            length,
        )
    })
    .map(drop)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
