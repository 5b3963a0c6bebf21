//! Events whose victims are connected to another backend: at once in place of a destroy, or after it.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use skreap::core::Protocol;

use crate::chosen::parsed;
use crate::driver::{Driver, wait_for};
use crate::script::{Named, Place, STANDING};
use crate::truth::{Gone, Socket};

/// Milliseconds from a destroy to the second look.
const AFTER_MS: u32 = 1;

/// What such an event finds.
struct Found {
    victims: BTreeSet<u64>,
    /// Of these, those that can be connected to the other backend.
    healed: BTreeSet<u64>,
}

impl Driver<'_> {
    /// UDP sockets that are connected to one place are connected to another one instead; nobody is told.
    pub fn move_to(&mut self, gone: Place, to: Place) -> Result<Option<()>> {
        let Some(Found { victims, healed }) = self.found(gone, to)? else { return Ok(None) };
        let report = self.handle_event(parsed(&event(gone, to, &json!({"action": "move"}))?, false)?)?;
        let moved = report.moved.as_ref().map_or(0, |moved| moved.moved);
        ensure!(moved == healed.len() as u64, "{moved} were moved, and should be {healed:?}: {report:?}");
        healed.iter().for_each(|cookie| self.truth.connected_anew(*cookie, to.addr()));
        // All others are destroyed.
        let others = victims.difference(&healed).copied().collect();
        self.check(&report, &others, true)?;
        Ok(Some(()))
    }

    /// They are destroyed, and those that have no peer a moment later are connected to another place.
    pub fn revive(&mut self, gone: Place, to: Place) -> Result<Option<()>> {
        if self.world.kind().max_memberships < 3 {
            // Nobody knows whom a wildcard socket has sent to, and such a one is left alone.
            return Ok(None);
        }
        let Some(Found { victims, healed }) = self.found(gone, to)? else { return Ok(None) };
        if !healed.iter().all(|cookie| self.is_shown(*cookie)) {
            // Nobody could say what came of it.
            return Ok(None);
        }
        let how = json!({"action": "revive", "after_ms": AFTER_MS});
        let report = self.handle_event(parsed(&event(gone, to, &how)?, false)?)?;
        let monitor = self.world.reaper()?.monitor();
        wait_for("the second look", || Ok(monitor.status()?.reviving == 0))?;
        // Those that have sent to some address may have been left without a peer, as they may want none.
        let (undecided, certain): (Vec<u64>, Vec<u64>) =
            healed.iter().partition(|cookie| self.truth.get(**cookie).is_some_and(Socket::has_sent));
        self.undecided = undecided.into_iter().map(|cookie| (cookie, to.addr())).collect();
        self.check_after(&report, &victims, true, |truth| {
            certain.iter().for_each(|cookie| truth.connected_anew(*cookie, to.addr()));
        })?;
        Ok(Some(()))
    }

    /// `None` if the event does not fit: places without a backend of their own, an index that lacks sockets, a lock that is held
    /// until after the event, or a netns that has no way to the other place.
    fn found(&mut self, gone: Place, to: Place) -> Result<Option<Found>> {
        // An event whose sockets have no destination of their address family is refused.
        let same_family = gone.addr().is_ipv4() == to.addr().is_ipv4();
        if gone == to || !same_family || self.world.kind().is_small() || self.world.noted {
            return Ok(None);
        }
        self.see_what_others_ended()?;
        let backend = Named { protocol: Protocol::Udp, place: gone }.backend()?;
        let victims = self.truth.victims(Gone::These(&[backend]));
        let standing = (0..STANDING).filter_map(|netns| self.world.netns(netns));
        let standing: BTreeSet<u64> = standing.map(|netns| netns.cookie()).collect();
        let fits = |cookie: &u64| {
            let held = self.slots.values().any(|slot| slot.cookie == *cookie && slot.held.is_some());
            !held && self.places.get(cookie).is_some_and(|netns| standing.contains(netns))
        };
        if !victims.iter().all(fits) {
            return Ok(None);
        }
        let can =
            |cookie: &u64| self.truth.peer(*cookie) == Some(gone.addr()) && self.is_in_a_process(*cookie);
        let healed = victims.iter().copied().filter(can).collect();
        Ok(Some(Found { victims, healed }))
    }

    /// False of one that is in flight and nowhere else: nobody has a descriptor of it.
    fn is_in_a_process(&self, cookie: u64) -> bool {
        self.is_shown(cookie) || self.forks.iter().any(|fork| fork.cookies.contains(&cookie))
    }

    fn is_shown(&self, cookie: u64) -> bool {
        self.slots.values().any(|slot| slot.cookie == cookie && !slot.handles.is_empty())
    }
}

/// The event, as it is sent.
fn event(gone: Place, to: Place, how: &serde_json::Value) -> Result<serde_json::Value> {
    let backend = |place| Named { protocol: Protocol::Udp, place }.backend();
    let mut event = json!({"type": "backend-deleted", "backend": backend(gone)?, "to": backend(to)?});
    let fields = event.as_object_mut().context("no object")?;
    fields.extend(how.as_object().context("no object")?.clone());
    Ok(event)
}
