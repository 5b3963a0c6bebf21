//! Access for fuzzing (`tests/fuzz`) only.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use prometheus_client::registry::Registry;
use skreap_bpf::Victim;
use skreap_core::SocketTuple;

use crate::engine;
use crate::service::metrics::http;
use crate::service::source::{Clients, Inbox, Requester, Stop, connection};
use crate::sys::sock_diag::{self, DumpEnd, InetDiag};

pub use crate::service::source::lines::{Line, Lines};

/// Sequence number and positive errno of every failure in a kernel response to `SOCK_DESTROY`.
#[must_use]
pub fn destroy_answer(datagram: &[u8]) -> Vec<(u32, i32)> {
    sock_diag::Errors(datagram).collect()
}

/// One datagram of a dump, as [`DiagSocket::dump`](sock_diag::DiagSocket::dump) reads it: how the dump would end
/// now, and the errno that it ends with if this is its last datagram.
pub fn dump_answer(datagram: &[u8], each: impl FnMut(InetDiag<'_>)) -> (DumpEnd, Option<i32>) {
    let mut end = DumpEnd::Complete;
    let errno = sock_diag::datagram(datagram, &mut end, each);
    (end, errno)
}

/// The socket as a report names it.
#[must_use]
pub fn tuple(victim: &Victim) -> SocketTuple {
    engine::tuple(victim)
}

/// True if this `Accept` header gets protobuf.
#[must_use]
pub fn prefers_protobuf(accept: &str) -> bool {
    http::prefers_protobuf(accept)
}

/// Response to a client that sends this to the metrics' address and then no more.
///
/// # Errors
/// The errno of the socket calls.
pub fn scrape(request: &[u8], registry: &Registry) -> io::Result<Vec<u8>> {
    let (mut client, server) = UnixStream::pair()?;
    client.write_all(request)?;
    client.shutdown(Shutdown::Write)?;
    http::answer(server, registry);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer)?;
    Ok(answer)
}

/// Answers to a client that sends this in one piece and then no more, while a thread serves
/// `inbox`.
///
/// # Errors
/// The errno of the socket and thread calls.
pub fn converse(input: Vec<u8>, inbox: Inbox, clients: &Arc<Clients>) -> io::Result<Vec<u8>> {
    let (client, server) = UnixStream::pair()?;
    let who = connection::Who::stays("client", Requester::Program, Arc::clone(clients));
    let server = Arc::new(File::from(OwnedFd::from(server)));
    let connection = connection::start(who, Arc::clone(&server), server, inbox, Stop::new()?)?;
    let mut sender = client.try_clone()?;
    let sending = thread::spawn(move || {
        // An error is the other end's; its answers show it.
        let _ = sender.write_all(&input).and_then(|()| sender.shutdown(Shutdown::Write));
    });
    let mut answers = Vec::new();
    (&client).read_to_end(&mut answers)?;
    let joined = [sending.join(), connection.join()];
    if joined.iter().any(Result::is_err) {
        return Err(io::Error::other("a thread of the connection panicked"));
    }
    Ok(answers)
}
