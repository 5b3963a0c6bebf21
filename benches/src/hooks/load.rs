//! The work itself: plain system calls, nothing between them.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, accept4, sendto, setsockopt, sockopt,
};

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

    fn udp_peers(&self) -> io::Result<[SockaddrIn; 2]> {
        let [a, b] = &self.udp;
        Ok([raw(a.local_addr()?.port()), raw(b.local_addr()?.port())])
    }
}

fn raw(port: u16) -> SockaddrIn {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, port).into()
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
                connect(&socket(SockType::Datagram)?, &peer)?;
            }
        }
        Case::TcpConnectClose => {
            let peer = raw(site.tcp.local_addr()?.port());
            for _ in 0..operations {
                let client = socket(SockType::Stream)?;
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
            let socket = socket(SockType::Datagram)?;
            for peer in peers.iter().cycle().take(operations as usize) {
                connect(&socket, peer)?;
            }
        }
        Case::UdpSendto => {
            let [peer, _] = site.udp_peers()?;
            let socket = socket(SockType::Datagram)?;
            for _ in 0..operations {
                send_to(&socket, &peer)?;
            }
        }
        Case::NeverConnected => {
            for _ in 0..operations {
                drop(socket(SockType::Datagram)?);
            }
        }
    }
    Ok(())
}

fn socket(kind: SockType) -> io::Result<OwnedFd> {
    Ok(nix::sys::socket::socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, None)?)
}

fn connect(socket: &OwnedFd, peer: &SockaddrIn) -> io::Result<()> {
    Ok(nix::sys::socket::connect(socket.as_raw_fd(), peer)?)
}

fn accept(listener: &TcpListener) -> io::Result<OwnedFd> {
    let fd = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn send_to(socket: &OwnedFd, peer: &SockaddrIn) -> io::Result<()> {
    Ok(sendto(socket.as_raw_fd(), b"x", peer, MsgFlags::MSG_DONTWAIT).map(drop)?)
}

fn set_linger(socket: &OwnedFd) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?)
}
