//! Sockets of MPTCP. The kernel connects on their behalf, with sockets of its own that nobody else can name.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use skreap::core::{Protocol, SocketTuple};
use skreap_testbed::{Client, Family, Netns, OpenSpec, SpawnOptions};

use crate::driver::{Driver, Slot, canonical, errno};
use crate::script::{Open, Place, STANDING, To};

/// More than all scripts connect: nobody accepts them.
const BACKLOG: i32 = 65_535;

/// What is known of a socket of MPTCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct Multipath {
    /// What it is connected from, and so is the socket that the kernel has connected for it.
    local: Option<SocketAddr>,
    /// The other end knows MPTCP too: that a connection is lost is then no error of the socket.
    silent: bool,
    /// It was destroyed, or could not connect, and does nothing any more.
    spent: bool,
}

pub fn has_mptcp() -> bool {
    fs::read_to_string("/proc/sys/net/mptcp/enabled").is_ok_and(|enabled| enabled.trim() == "1")
}

/// What else leads to a netns does not matter here, nor what a connect that waits for nobody comes to.
pub fn may_be_mptcp(open: &Open) -> bool {
    open.protocol == Protocol::Tcp && open.netns < STANDING && !open.nonblocking && has_mptcp()
}

/// Starts listeners of MPTCP, in a process of their own.
pub fn serve(world: &str, netns: &[Netns]) -> Result<Client> {
    let label = format!("model-{world}-mptcp");
    let mut server = Client::spawn(&SpawnOptions { label: &label, cgroup: None, netns: None })?;
    for netns in netns {
        let mut spec = OpenSpec::new(Protocol::Tcp, Family::V4).inside(netns.reference()?);
        spec.bind = Some(Place::Multi.addr());
        spec.mptcp = true;
        let listener = server.open(spec)?;
        server.listen(listener, BACKLOG)?;
    }
    Ok(server)
}

impl Driver<'_> {
    /// Once: the other rules of TCP are learned with TCP.
    pub fn connect_multipath(&mut self, slot: u8, to: To) -> Result<Option<()>> {
        let Some((socket, handle)) = self.connecting(slot) else { return Ok(None) };
        let (client, cookie, family) = (socket.client, socket.cookie, socket.family);
        let spent = socket.multipath.is_some_and(|multipath| multipath.spent);
        if spent
            || self.truth.peer(cookie).is_some()
            || to.place.is_zero()
            || to.place.is_virtual()
            || to.place == Place::Own
        {
            return Ok(None);
        }
        let addr = to.addr(family);
        self.world.noted = true;
        let process = self.world.client(client)?;
        let errno = errno(process.connect(handle, addr))?;
        let local = process.state(handle)?.local.map(canonical);
        self.truth.connected(cookie, addr, errno);
        let silent = to.place == Place::Multi;
        let multipath = Multipath { local, silent, spent: errno != 0 };
        self.slots.get_mut(&slot).context("no slot")?.multipath = Some(multipath);
        Ok(Some(()))
    }

    /// The socket that a report has listed, or that for which the kernel has connected it.
    pub fn named_by(&self, listed: &SocketTuple) -> u64 {
        let from = SocketAddr::new(listed.saddr, listed.sport);
        let is_of = |multipath: Multipath| multipath.local == Some(canonical(from));
        let of_mptcp = |slot: &&Slot| slot.netns == listed.netns && slot.multipath.is_some_and(is_of);
        self.slots.values().find(of_mptcp).map_or(listed.cookie, |slot| slot.cookie)
    }

    /// Those of MPTCP that were destroyed do nothing any more. Returns the ones that show nothing of it.
    pub fn spend(&mut self, destroyed: &BTreeSet<u64>) -> BTreeSet<u64> {
        let mut silent = BTreeSet::new();
        for slot in self.slots.values_mut().filter(|slot| destroyed.contains(&slot.cookie)) {
            if let Some(multipath) = &mut slot.multipath {
                multipath.spent = true;
                silent.extend(multipath.silent.then_some(slot.cookie));
            }
        }
        silent
    }

    pub fn is_spent(&self, cookie: u64) -> bool {
        let of_mptcp = self.slots.values().find(|slot| slot.cookie == cookie).and_then(|slot| slot.multipath);
        of_mptcp.is_some_and(|multipath| multipath.spent)
    }

    pub fn is_multipath(&self, cookie: u64) -> bool {
        self.slots.values().any(|slot| slot.cookie == cookie && slot.multipath.is_some())
    }

    pub fn has_connected_multipath(&self) -> bool {
        let connected = |multipath: Multipath| multipath.local.is_some();
        self.slots.values().any(|slot| slot.multipath.is_some_and(connected))
    }
}
