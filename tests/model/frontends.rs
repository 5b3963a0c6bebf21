//! Virtual addresses in front of a backend, and events that mean only those who came by one way.
//!
//! Of most sockets it is certain by which way they came. Of those that have gone to the backend by two ways, or are older
//! than the reaper, the index may know it or not: they may be victims of an event on the way that they came by, and of no
//! other.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context as _, Result, ensure};
use skreap::core::{Action, Event, Frontend, Protocol, Through, UnknownFrontend};
use skreap_testbed::Family;

use crate::driver::{Driver, Slot};
use crate::script::{Named, Place, To};

/// The backend behind the virtual addresses.
pub const BEHIND: Place = Place::A;

/// How a socket came to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Direct,
    /// Through this virtual address.
    Through(Place),
}

impl Way {
    pub const ALL: [Self; 3] = [Self::Direct, Self::Through(Place::Vip), Self::Through(Place::Vip2)];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Through(place) => place.name(),
        }
    }

    fn frontend(self) -> Result<Frontend> {
        Ok(match self {
            Self::Direct => Frontend::Direct,
            Self::Through(place) => {
                Named { protocol: Protocol::Udp, place }.backend()?.to_string().parse()?
            }
        })
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The ways by which a socket has gone to one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ways {
    One(Way),
    Several,
}

/// Whom an event on one way must destroy, and whom it may.
#[derive(Debug, Default)]
pub struct Ours {
    pub certain: BTreeSet<u64>,
    pub possible: BTreeSet<u64>,
    /// All that are connected to the backend.
    pub connected: u64,
}

impl Driver<'_> {
    /// False if nothing translates this address for the socket. The load balancer does for UDP over IPv4 only.
    pub fn fits(&self, socket: &Slot, to: To) -> bool {
        let translates = self.world.kind().frontends > 0;
        let is_plain = socket.protocol == Protocol::Udp && socket.family == Family::V4;
        !to.place.is_virtual() || translates && is_plain
    }

    /// An event on those who came to the backend by this way, after a dry run of it.
    pub fn gone_by(&mut self, way: Way, gone: Named) -> Result<Option<()>> {
        // It does not look for the kernel's own sockets, and says so for ever once there was any.
        if self.world.kind().frontends == 0 || self.world.noted {
            return Ok(None);
        }
        self.see_what_others_ended()?;
        let backend = gone.backend()?;
        let ours = self.truth.came_by(way, &backend);
        let through = Through { frontends: vec![way.frontend()?], unknown: UnknownFrontend::Preserve };
        let event = |dry_run| {
            let event = Event::new("by-way", Action::BackendDeleted { backend }).with_dry_run(dry_run);
            event.with_through(through.clone())
        };
        let report = self.handle_event(event(true))?;
        let frontend = way.frontend()?;
        if matches!(frontend, Frontend::Address(address) if address.protocol() != backend.protocol()) {
            ensure!(
                report.error.is_some() && report.victims == 0,
                "nobody came by {way} to {backend}: {report:?}"
            );
            return Ok(Some(()));
        }
        let listed = report.sockets.as_ref().context("a dry run lists its victims")?;
        let victims: BTreeSet<u64> = listed.iter().map(|socket| socket.cookie).collect();
        let (least, most) = (&ours.certain, &ours.certain | &ours.possible);
        ensure!(
            least.is_subset(&victims) && victims.is_subset(&most),
            "by {way} came {ours:?}, and listed are {victims:?}: {report:?}"
        );
        let skipped = report.skipped.frontend + report.skipped.frontend_unknown;
        ensure!(skipped >= ours.connected - victims.len() as u64, "some are in no count: {report:?}");
        self.check(&report, &victims, true)?;
        let report = self.handle_event(event(false))?;
        self.check(&report, &victims, true)?;
        Ok(Some(()))
    }
}
