//! Embedding skreap in a program that has its own events: `sudo -E cargo run --example embed`.
//!
//! Three clients talk to two backends on loopback; one backend is deleted, and the sockets of its clients, and
//! no others, are told so.

use std::net::UdpSocket;

use skreap::Reaper;
use skreap::core::{Backend, Event, Protocol};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // From here on, sockets of the whole machine (the cgroup2 root) are indexed as they connect.
    let mut reaper = Reaper::builder().build()?;

    let (kept, deleted) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    let clients = [client_of(&deleted)?, client_of(&deleted)?, client_of(&kept)?];

    // The load balancer has forgotten the backend; now its clients are to know.
    let addr = deleted.local_addr()?;
    drop(deleted);
    let backend = Backend::new(Protocol::Udp, addr.ip(), addr.port())?;
    let report = reaper.handle(&Event::deleted(backend).with_id("example"));

    println!("{}", serde_json::to_string(&report)?);
    for (i, client) in clients.iter().enumerate() {
        match client.send(b"still there?") {
            Ok(_) => println!("client {i}: sent"),
            Err(e) => println!("client {i}: {e}"),
        }
    }
    Ok(())
}

fn client_of(backend: &UdpSocket) -> std::io::Result<UdpSocket> {
    let client = UdpSocket::bind("127.0.0.1:0")?;
    client.connect(backend.local_addr()?)?;
    Ok(client)
}
