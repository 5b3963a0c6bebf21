//! A world: namespaces full of real sockets, an index that has seen them, and a backend to be
//! deleted.
//!
//! ```text
//!  cgroup skreap-PID-world          hooks ─► Index
//!  ├─ bulk clients   sockets to ten living backends, spread over all netns
//!  └─ victim client  sockets to the one backend that is gone; made anew for every sample
//! ```
//!
//! A world is built once and used by all engines and numbers of victims.

mod backends;
mod bulk;
mod need;
mod space;
mod victims;

use std::collections::HashSet;
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use skreap::bpf::hooks::Hooks;
use skreap::bpf::{Config, Index, Relation, Victim};
use skreap::core::{Protocol, Target, Unconnected};
use skreap_testbed::{self as testbed, Cgroup};

use crate::grid::WorldSpec;
use crate::stop::Stop;

use backends::Backends;
use bulk::Bulk;
pub use need::{check_memory, require_sockets};
use space::Space;
use victims::Victims;

/// State number of a TCP socket that is closed (`net/tcp_states.h`).
const TCP_CLOSE: u8 = 7;
/// Room in the index for sockets that are opened while others are still being closed.
const SPARE: u32 = 4_096;

/// Size of an index that fits each of the worlds.
pub fn index_size(worlds: &[WorldSpec]) -> u32 {
    let largest = worlds.iter().map(|spec| spec.sockets + spec.max_victims()).max();
    largest.unwrap_or(0).saturating_add(SPARE)
}

/// See the module. Fields are dropped in their order.
pub struct World {
    victims: Victims,
    bulk: Bulk,
    backends: Backends,
    _hooks: Hooks,
    index: Index,
    space: Space,
    cgroup: Cgroup,
    proto: Protocol,
    max_sockets: u32,
}

/// Result of checking every socket after a run.
pub type Verdict = Result<(), String>;

impl World {
    /// Creates the namespaces, backends and the index, but no sockets yet. `max_sockets`: size of
    /// the index, the same for all worlds of a run, as a daemon's is constant.
    ///
    /// # Errors
    /// When the kernel lacks something or memory is short; everything created is removed again.
    pub fn build(spec: &WorldSpec, max_sockets: u32) -> Result<Self> {
        let nofile = testbed::raise_nofile_limit().context("raise the limit of open files")?;
        let per_netns = spec.sockets.div_ceil(spec.netns);
        let space = Space::make(spec, per_netns)?;
        let backends = Backends::start(spec.proto, space.netns())?;
        let cgroup = Cgroup::create("world")?;
        // With references if the module is loaded, so that engine kfunc can be measured with the
        // others.
        let config = Config::default().max_sockets(max_sockets).refs(true);
        let index = Index::load(&config).context("load the index")?;
        let hooks = Hooks::attach(&index, cgroup.open()?.as_fd()).context("attach the hooks")?;
        let bulk = Bulk::new(spec.proto, u32::try_from(nofile).unwrap_or(u32::MAX));
        let victims = Victims::new(spec.proto, &cgroup)?;
        Ok(Self {
            victims,
            bulk,
            backends,
            _hooks: hooks,
            index,
            space,
            cgroup,
            proto: spec.proto,
            max_sockets,
        })
    }

    /// Opens sockets to living backends until there are `count`.
    ///
    /// # Errors
    /// When one cannot be opened, or the user stops.
    pub fn fill(&mut self, count: u32, stop: &Stop) -> Result<()> {
        self.bulk.grow_to(count, &self.cgroup, &self.space, stop)
    }

    /// The index, which has seen every socket.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The cgroup of all clients.
    pub fn cgroup(&self) -> &Path {
        self.cgroup.path()
    }

    /// The size of the index.
    pub fn max_sockets(&self) -> u32 {
        self.max_sockets
    }

    /// The namespaces as `ip netns` names them.
    pub fn netns_names(&self) -> Vec<String> {
        self.space.netns().iter().map(|netns| netns.name().to_owned()).collect()
    }

    /// Size of a netns's own table of sockets; `None` with shared tables.
    pub fn table_entries(&self) -> Option<u32> {
        self.space.table_entries()
    }

    /// The backend that is gone.
    ///
    /// # Errors
    /// None: its address is fixed and valid.
    pub fn target(&self) -> Result<Target> {
        target(self.proto, backends::GONE)
    }

    /// One of the backends that live.
    ///
    /// # Errors
    /// None: its address is fixed and valid.
    pub fn living(&self) -> Result<Target> {
        target(self.proto, backends::living(0))
    }

    /// A backend that no socket was ever connected to.
    ///
    /// # Errors
    /// None: its address is fixed and valid.
    pub fn nobody(&self) -> Result<Target> {
        target(self.proto, backends::NOBODY)
    }

    /// Cookie and inode number of every netns.
    pub fn all_netns(&self) -> Vec<skreap::netns::NetnsId> {
        self.space.ids().collect()
    }

    /// Cookie and inode number of the netns that `count` victims are in.
    pub fn victim_netns(&self, count: u32) -> Vec<skreap::netns::NetnsId> {
        let ids = self.all_netns();
        victims::places(count, self.space.len())
            .filter_map(|place| ids.get(place as usize).copied())
            .collect()
    }

    /// Connects `count` sockets to the backend that will be gone.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn raise_victims(&mut self, count: u32) -> Result<()> {
        self.victims.raise(count, &self.space)?;
        self.backends.expect(count);
        // The index must have exactly these sockets. This walk also loads the bucket into the
        // caches, for every engine and every size of world.
        let mut found = Vec::new();
        let target = Target { dry_run: true, ..self.target()? };
        self.index.walker()?.walk(&target, &mut found)?;
        let found: HashSet<u64> = found.iter().map(Victim::cookie).collect();
        if found != *self.victims.cookies() {
            bail!("the index has {} sockets of the backend, there are {count}", found.len());
        }
        Ok(())
    }

    /// Checks that exactly the victims have died: queries each victim, and checks every socket of
    /// the index. `alive`: the expected number of others.
    ///
    /// # Errors
    /// When they could not be checked.
    pub fn verify(&mut self, alive: u32) -> Result<Verdict> {
        if let Err(why) = self.victims.all_destroyed()? {
            return Ok(Err(why));
        }
        let mut dead = HashSet::new();
        let mut living = 0_u32;
        let mut walker = self.index.walker()?;
        let counts = walker.walk_all(|sockets| {
            for socket in sockets {
                if is_alive(socket) {
                    living += 1;
                } else {
                    dead.insert(socket.cookie());
                }
            }
        })?;
        if counts.incomplete_full {
            return Ok(Err("the index was full: it has not seen every socket".to_owned()));
        }
        if dead != *self.victims.cookies() {
            let others = dead.difference(self.victims.cookies()).count();
            return Ok(Err(format!("{others} sockets died that were no victims")));
        }
        if living != alive {
            return Ok(Err(format!("{living} sockets are alive in place of {alive}")));
        }
        Ok(Ok(()))
    }

    /// Closes the victims and takes their connections off the backend.
    ///
    /// # Errors
    /// When the client or the backend does not respond.
    pub fn bury_victims(&mut self) -> Result<()> {
        self.victims.close()?;
        self.backends.drain()
    }
}

fn is_alive(socket: &Victim) -> bool {
    let closed = socket.protocol() == Some(Protocol::Tcp) && socket.state() == TCP_CLOSE;
    socket.relation() == Relation::Connected && !closed
}

fn target(proto: Protocol, addr: std::net::SocketAddr) -> Result<Target> {
    let backend = skreap::core::Backend::new(proto, addr.ip(), addr.port())?;
    Ok(Target { backend, unconnected: Unconnected::Preserve, dry_run: false })
}
