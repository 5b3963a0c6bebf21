//! The order that a dataplane must keep: map change, grace period, event. `sudo -E cargo run --example dataplane`
//!
//! A load balancer has backends in a map, and threads of its control plane delete them. Each sends its events through a
//! handle of its own; the reaper works on one thread.

use std::collections::HashSet;
use std::net::UdpSocket;
use std::sync::{Arc, Mutex};
use std::thread;

use skreap::core::{Backend, Event, Protocol, Report};
use skreap::{Handle, Reaper, ReaperThread};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Stands for the map of a BPF program that translates addresses in `connect()`.
type Map = Arc<Mutex<HashSet<Backend>>>;

/// Deletes a backend: afterwards no socket is connected to it, and none gets it.
fn delete(map: &Map, reaper: &Handle, backend: Backend) -> Result<Report, Error> {
    // 1. The map. From here on no program reads the backend, but one that runs now may have read it.
    if let Ok(mut map) = map.lock() {
        map.remove(&backend);
    }
    // 2. The grace period. Whatever ran has ended, so its socket is in the index. An update of a map-in-map waits for
    //    one by itself, and `Builder::grace` has the reaper wait for one.
    skreap::grace_period()?;
    // 3. The event.
    Ok(reaper.reap(Event::deleted(backend))?)
}

fn main() -> Result<(), Error> {
    let servers: Vec<UdpSocket> =
        (0..4).map(|_| UdpSocket::bind("127.0.0.1:0")).collect::<std::io::Result<_>>()?;
    let backends: Vec<Backend> = servers.iter().map(backend_of).collect::<Result<_, _>>()?;
    let map: Map = Arc::new(Mutex::new(backends.iter().copied().collect()));

    let reaper = ReaperThread::start(Reaper::builder().build()?, 1024)?;
    let clients: Vec<UdpSocket> = servers.iter().map(client_of).collect::<std::io::Result<_>>()?;

    // All but the last are deleted, each by a thread of its own.
    let deleting: Vec<_> = backends
        .iter()
        .take(backends.len() - 1)
        .map(|&backend| {
            let (map, handle) = (Arc::clone(&map), reaper.handle());
            thread::spawn(move || delete(&map, &handle, backend))
        })
        .collect();
    for thread in deleting {
        let report = thread.join().map_err(|_| "a thread panicked")??;
        println!("{}", serde_json::to_string(&report)?);
    }
    for (backend, client) in backends.iter().zip(&clients) {
        match client.send(b"still there?") {
            Ok(_) => println!("client of {backend}: sent"),
            Err(e) => println!("client of {backend}: {e}"),
        }
    }
    Ok(())
}

fn backend_of(server: &UdpSocket) -> Result<Backend, Error> {
    let addr = server.local_addr()?;
    Ok(Backend::new(Protocol::Udp, addr.ip(), addr.port())?)
}

fn client_of(server: &UdpSocket) -> std::io::Result<UdpSocket> {
    let client = UdpSocket::bind("127.0.0.1:0")?;
    client.connect(server.local_addr()?)?;
    Ok(client)
}
