//! Destroying sockets that have no exact id: by cookie, with an iterator over the sockets of their netns.
//!
//! Unconnected UDP sockets of one SO_REUSEPORT group differ in nothing that sock_diag compares
//! before the cookie, so it finds one of them and returns *not found* for all others.

use std::thread;

use skreap_bpf::{Scan, Victim};
use skreap_core::Protocol;

use super::named::netns_id;
use crate::sys::netns;

/// Result for one victim: destroyed (true); gone or connected elsewhere by now (false); or a
/// positive errno.
pub(super) type ByCookie = Result<bool, i32>;

/// Destroys the UDP sockets among the victims, each with one pass over its netns; returns the
/// results in order, `ENOENT` for other sockets.
pub(super) fn destroy(victims: &[Victim]) -> Vec<ByCookie> {
    // A thread of its own: an iterator covers the netns of the thread that makes it.
    thread::scope(|scope| {
        let passes =
            thread::Builder::new().name("skreap-cookies".to_owned()).spawn_scoped(scope, || passes(victims));
        let passes = match passes {
            Ok(passes) => passes,
            Err(e) => {
                tracing::warn!("cannot start the thread that destroys by cookie: {e}");
                return vec![Err(e.raw_os_error().unwrap_or(libc::EAGAIN)); victims.len()];
            }
        };
        passes.join().unwrap_or_else(|_| {
            tracing::error!("the thread that destroys by cookie panicked");
            vec![Err(libc::EIO); victims.len()]
        })
    })
}

fn passes(victims: &[Victim]) -> Vec<ByCookie> {
    let mut scan = match Scan::load(None) {
        Ok(scan) => scan,
        Err(e) => {
            tracing::warn!(
                "{} sockets have no exact id, and the iterators cannot be loaded: {e}",
                victims.len()
            );
            return vec![Err(libc::ENOENT); victims.len()];
        }
    };
    let mut here = None;
    victims
        .iter()
        .map(|victim| {
            if victim.protocol() != Some(Protocol::Udp) {
                return Err(libc::ENOENT);
            }
            if here != Some(victim.netns()) {
                match netns::open(netns_id(victim)).and_then(|fd| netns::enter(&fd)) {
                    Ok(()) => here = Some(victim.netns()),
                    // The netns is gone, and its sockets with it.
                    Err(e) if e.raw_os_error() == Some(libc::ESTALE) => return Ok(false),
                    Err(e) => return Err(e.raw_os_error().unwrap_or(libc::EIO)),
                }
            }
            scan.destroy_udp(victim).map(|found| found > 0).map_err(|e| {
                tracing::warn!(cookie = victim.cookie(), "cannot destroy by cookie: {e}");
                libc::EIO
            })
        })
        .collect()
}
