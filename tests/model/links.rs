//! Link-local addresses, each of which is a host on every link.

use std::ffi::CString;
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use skreap::core::{Action, Protocol};
use skreap_testbed::{Family, Netns};

use crate::driver::{Driver, errno};
use crate::script::{Link, STANDING};
use crate::truth::{Gone, On};

impl Driver<'_> {
    pub fn connect_link(&mut self, slot: u8, link: Link) -> Result<Option<()>> {
        let Some((socket, handle)) = self.connecting(slot) else { return Ok(None) };
        if (socket.protocol, socket.family) != (Protocol::Udp, Family::V6) {
            return Ok(None);
        }
        let (client, cookie, inside) = (socket.client, socket.cookie, socket.netns);
        let mut standing = (0..STANDING).filter_map(|n| Some((n, self.world.netns(n)?)));
        let Some((netns, place)) = standing.find(|(_, netns)| netns.cookie() == inside) else {
            return Ok(None);
        };
        let to = host(place, link)?;
        let errno = errno(self.world.client(client)?.connect(handle, to))?;
        self.truth.connected_on(cookie, On { netns, link }, errno);
        Ok(Some(()))
    }

    /// Only the sockets on the link are named, and destroyed.
    pub fn gone_link(&mut self, link: Link, netns: u8) -> Result<Option<()>> {
        let Some(place) = self.world.netns(netns) else { return Ok(None) };
        let place = format!("/run/netns/{}", place.name());
        self.see_what_others_ended()?;
        let victims = self.truth.victims(Gone::OnLink(On { netns, link }));
        let backend = format!("udp://[{}%{}]:53", Link::addr().ip(), link.name()).parse()?;
        for dry_run in [true, false] {
            let report = self.tell(Action::BackendDeleted { backend }, Some(place.clone()), dry_run)?;
            self.check(&report, &victims, true)?;
        }
        Ok(Some(()))
    }
}

/// The host at the other end of a link of this netns.
fn host(netns: &Netns, link: Link) -> Result<SocketAddr> {
    let device = CString::new(link.name())?;
    // SAFETY: the string outlives the call.
    let index = netns.run(|| unsafe { libc::if_nametoindex(device.as_ptr()) })?;
    ensure!(index > 0, "netns {} has no link {}", netns.name(), link.name());
    let mut addr = Link::addr();
    if let SocketAddr::V6(addr) = &mut addr {
        addr.set_scope_id(index);
    }
    Ok(addr)
}
