//! Resolves the name of a link to the netns and the number of the interface, which its sockets have.

use std::io;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use skreap_core::{Zone, excerpt};

use crate::engine::Link;
use crate::sys::alone::Alone;
use crate::sys::netns::{self, file};

/// How long the look may take. A path can lead to a file system that never returns.
const PATIENCE: Duration = Duration::from_secs(1);

/// The links of these names or numbers in the netns of this file; an error names what is at fault,
/// and the next step.
pub(super) fn find(path: &str, zones: Vec<Zone>) -> Result<Vec<Link>, String> {
    let (shown, owned) = (excerpt(path), path.to_owned());
    let looking = Alone::beside("skreap-link", move || look(&owned, &zones)).map_err(|e| {
        format!("cannot start the thread that looks into netns {shown}: {e}; send the event again")
    })?;
    looking.wait(PATIENCE, || ()).unwrap_or_else(|| {
        Err(format!("netns {shown}: not opened within {} s; name a file of nsfs", PATIENCE.as_secs()))
    })
}

fn look(path: &str, zones: &[Zone]) -> Result<Vec<Link>, String> {
    let shown = excerpt(path);
    let failed = |e: io::Error| format!("netns {shown}: {e}; name the file of a living network namespace");
    file::open(path).and_then(|netns| netns::enter(&netns)).map_err(failed)?;
    let socket = std::net::UdpSocket::bind((std::net::Ipv6Addr::UNSPECIFIED, 0))
        .or_else(|_| std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)))
        .map_err(failed)?;
    let netns = netns::cookie_of_socket(&socket.as_raw_fd()).map_err(failed)?;
    let link = |zone: &Zone| {
        let ifindex = file::index_of(zone.as_str()).ok_or_else(|| {
            format!("netns {shown} has no interface {zone}; name one by its name or number there (ip link)")
        })?;
        Ok(Link { netns, ifindex })
    };
    zones.iter().map(link).collect()
}
