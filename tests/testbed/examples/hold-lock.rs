//! Connects a UDP socket and holds its lock until standard input ends: `hold-lock 127.0.0.1:53`. Prints a line when it does.

use std::io::{self, Write as _};
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, ensure};
use skreap_testbed::LateMemory;

fn main() -> anyhow::Result<()> {
    let backend = std::env::args().nth(1).context("usage: hold-lock ADDRESS:PORT")?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(&backend).with_context(|| format!("cannot connect to {backend}"))?;
    let socket = Arc::new(socket);
    // Of a datagram that is to go on, the bytes are copied under the lock.
    let memory = LateMemory::new().context("userfaultfd")?;
    let (page, sender) = (memory.page(), Arc::clone(&socket));
    let send = thread::spawn(move || page.send(sender.as_raw_fd(), libc::MSG_MORE));
    ensure!(memory.is_waited_for(|| send.is_finished())?, "the send did not wait");
    println!("holding the lock of a socket that is connected to {backend}");
    io::stdout().flush()?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    memory.arrive()?;
    // It fails if the socket was destroyed.
    let _ = send.join();
    Ok(())
}
