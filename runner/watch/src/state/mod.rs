//! Which backends there are, and which are gone: a function of a stream of changes and of time, without I/O.
//!
//! A backend is looked at from two sides. *Is it named at all?* If no slice names it any more it is gone, and all its
//! sockets with it. *Which Services keep it?* If one has lost it and the backend is still named, clients of that
//! Service's frontends have to leave, and nobody else. Both are decided only when they have held for the settle time:
//! slices are rebalanced by two changes, and between them living backends are in none.
//!
//! Time is that of the source: each change carries the moment it was received, and [`State::advance`] is called with
//! that moment before the change is applied. A source that lags therefore decides as one that does not.

mod action;
mod change;
mod decision;
mod entry;
mod policy;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use skreap_core::{Backend, Protocol};

pub use action::{Action, UnknownAction};
pub use change::{Change, Conditions, Kind, Member, Name, Object, Service, Slice};
pub use decision::{Clients, Decision};
pub use entry::Holder;
pub use policy::{Policy, UdpTerminating, When};

use entry::{Entry, Holding, Place};

/// An action and its destination.
type Treatment = (Action, Option<Backend>);

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Complete lists.
    pub lists: u64,
    /// Backends, or backends of a Service, that came back within the settle time.
    pub returned: u64,
    /// Backends that are another instance at the address of an earlier one. Nothing is destroyed: see `docs/fleet.md`.
    pub replaced: u64,
    /// Departures from Services without frontends: their clients are connected to the backend itself.
    pub no_frontend: u64,
    /// Departures that concern Services with action `none`.
    pub action_none: u64,
}

/// A Service, also one that is deleted and has backends that are not decided yet.
#[derive(Debug, Default)]
struct Known {
    service: Service,
    deleted: bool,
    /// Holdings that name it.
    holdings: usize,
}

/// A list that is not complete.
#[derive(Debug)]
struct Listing {
    kind: Kind,
    objects: HashMap<Name, Object>,
}

/// Everything known, see the module.
#[derive(Debug)]
pub struct State {
    policy: Policy,
    now: Duration,
    slices: HashMap<Name, Vec<Backend>>,
    services: HashMap<Name, Known>,
    backends: HashMap<Backend, Entry>,
    /// When something of a backend may be decided.
    due: BTreeSet<(Duration, Backend)>,
    listings: Vec<Listing>,
    /// Since when the watch of slices has worked without a break, from the list on.
    live_since: Option<Duration>,
    /// The watch of slices works: only then does silence mean that nothing has changed.
    live: bool,
    counts: Counts,
}

impl State {
    /// Nothing is known.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            now: Duration::ZERO,
            slices: HashMap::new(),
            services: HashMap::new(),
            backends: HashMap::new(),
            due: BTreeSet::new(),
            listings: Vec::new(),
            live_since: None,
            live: false,
            counts: Counts::default(),
        }
    }

    /// What was counted.
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// True when the slices were listed and the settle time is over since: a list may be made while they are rewritten, and
    /// lack backends that live.
    pub fn settled(&self) -> bool {
        self.live && self.settled_at().is_some_and(|at| at <= self.now)
    }

    fn settled_at(&self) -> Option<Duration> {
        self.live_since.map(|since| since + self.policy.settle)
    }

    /// True while the watch of slices works.
    pub const fn live(&self) -> bool {
        self.live
    }

    /// Number of backends that are known, also of those that are not decided.
    pub fn backends(&self) -> usize {
        self.backends.len()
    }

    /// Number of slices.
    pub fn slices(&self) -> usize {
        self.slices.len()
    }

    /// Backends that some slice names, and those of which it is not decided that they are gone.
    pub fn living(&self) -> impl Iterator<Item = Backend> + '_ {
        self.backends.keys().copied()
    }

    /// The moment of the next decision, or the one from which the list has [settled](Self::settled), if no change comes
    /// before it.
    pub fn next_due(&self) -> Option<Duration> {
        let decision = self.due.first().map(|(at, _)| *at);
        let settled = self.settled_at().filter(|at| *at > self.now);
        decision.into_iter().chain(settled).min().filter(|_| self.live)
    }

    /// Goes on to this moment of the source's time, and returns what is decided by then.
    pub fn advance(&mut self, now: Duration) -> Vec<Decision> {
        self.now = self.now.max(now);
        let mut decisions = Vec::new();
        while let Some((at, backend)) = self.due.first().copied()
            && self.live
            && at <= self.now
        {
            self.due.pop_first();
            self.decide(backend, at, &mut decisions);
        }
        decisions
    }

    /// Takes a change in, at the moment of the last [`advance`](Self::advance).
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::ListBegun(kind) => {
                self.listings.retain(|listing| listing.kind != kind);
                self.listings.push(Listing { kind, objects: HashMap::new() });
            }
            Change::Listed(name, object) => {
                let kind = object.kind();
                if let Some(listing) = self.listings.iter_mut().find(|listing| listing.kind == kind) {
                    listing.objects.insert(name, object);
                }
            }
            Change::Unlisted(kind, name) => {
                for listing in self.listings.iter_mut().filter(|listing| listing.kind == kind) {
                    listing.objects.remove(&name);
                }
            }
            Change::ListComplete(kind) => self.complete(kind),
            Change::Put(name, Object::Slice(slice)) => {
                let touched = self.put_slice(name, slice);
                self.look_at(touched);
            }
            Change::Put(name, Object::Service(service)) => self.put_service(name, service),
            Change::Gone(Kind::Slices, name) => {
                let touched = self.remove_slice(&name);
                self.look_at(touched);
            }
            Change::Gone(Kind::Services, name) => self.remove_service(&name),
            Change::Lost(Kind::Slices) => self.live = false,
            Change::Resumed(Kind::Slices) => self.restart_settling(),
            Change::Lost(Kind::Services) | Change::Resumed(Kind::Services) => {}
        }
    }

    fn complete(&mut self, kind: Kind) {
        let Some(at) = self.listings.iter().position(|listing| listing.kind == kind) else { return };
        let objects = self.listings.swap_remove(at).objects;
        self.counts.lists += 1;
        match kind {
            Kind::Services => {
                let old: Vec<Name> =
                    self.services.keys().filter(|name| !objects.contains_key(*name)).cloned().collect();
                old.iter().for_each(|name| self.remove_service(name));
                for (name, object) in objects {
                    if let Object::Service(service) = object {
                        self.put_service(name, service);
                    }
                }
            }
            Kind::Slices => {
                let old: Vec<Name> =
                    self.slices.keys().filter(|name| !objects.contains_key(*name)).cloned().collect();
                let mut touched = HashSet::new();
                for name in &old {
                    touched.extend(self.remove_slice(name));
                }
                for (name, object) in objects {
                    if let Object::Slice(slice) = object {
                        touched.extend(self.put_slice(name, slice));
                    }
                }
                self.look_at(touched);
                self.restart_settling();
            }
        }
    }

    /// What has been missing since before the watch broke has settled only when it stays away for the whole time again.
    fn restart_settling(&mut self) {
        self.live = true;
        self.live_since = Some(self.now);
        let at = self.now + self.policy.settle;
        for (_, backend) in std::mem::take(&mut self.due) {
            if let Some(entry) = self.backends.get_mut(&backend) {
                entry.restart_settling(self.now);
                self.due.insert((at, backend));
            }
        }
    }

    /// Puts a slice in the place of an earlier one of its name; returns the backends of both.
    fn put_slice(&mut self, name: Name, slice: Slice) -> HashSet<Backend> {
        let mut touched = self.remove_slice(&name);
        let mut backends = Vec::with_capacity(slice.members.len());
        for member in slice.members {
            let keeps = self.policy.keeps(member.backend.protocol(), member.conditions);
            let holder = slice.service.clone().map(|service| Holder { service, port: member.port });
            let place = Place { slice: name.clone(), holder, keeps, instance: member.instance };
            self.backends.entry(member.backend).or_default().places.push(place);
            touched.insert(member.backend);
            backends.push(member.backend);
        }
        self.slices.insert(name, backends);
        touched
    }

    /// Takes a slice away; returns its backends.
    fn remove_slice(&mut self, name: &Name) -> HashSet<Backend> {
        let backends: HashSet<Backend> = self.slices.remove(name).into_iter().flatten().collect();
        for backend in &backends {
            if let Some(entry) = self.backends.get_mut(backend) {
                entry.places.retain(|place| place.slice != *name);
            }
        }
        backends
    }

    fn put_service(&mut self, name: Name, service: Service) {
        let known = self.services.entry(name).or_default();
        let earlier = std::mem::replace(&mut known.service, service);
        known.deleted = false;
        // A port that is taken from the Service keeps its frontends: its backends are about to leave.
        for (port, frontends) in earlier.frontends {
            known.service.frontends.entry(port).or_insert(frontends);
        }
    }

    /// A deleted Service is remembered until its backends are decided: they leave after it.
    fn remove_service(&mut self, name: &Name) {
        if let Some(known) = self.services.get_mut(name) {
            known.deleted = true;
            if known.holdings == 0 {
                self.services.remove(name);
            }
        }
    }

    /// Compares what slices say of these backends with what was known of them.
    fn look_at(&mut self, backends: HashSet<Backend>) {
        for backend in backends {
            let Some(entry) = self.backends.get_mut(&backend) else { continue };
            let look = entry.look(self.now);
            self.counts.returned += u64::from(look.returned);
            self.counts.replaced += u64::from(look.replaced);
            if look.left {
                self.due.insert((self.now + self.policy.settle, backend));
            }
            for holder in look.new {
                self.services.entry(holder.service).or_default().holdings += 1;
            }
            for holder in look.forgotten {
                self.release(&holder);
            }
        }
    }

    /// A backend does not name the holder any more.
    fn release(&mut self, holder: &Holder) {
        if let Some(known) = self.services.get_mut(&holder.service) {
            known.holdings -= 1;
            if known.holdings == 0 && known.deleted {
                self.services.remove(&holder.service);
            }
        }
    }

    /// Decides what of this backend has settled at `at`.
    fn decide(&mut self, backend: Backend, at: Duration, decisions: &mut Vec<Decision>) {
        let settle = self.policy.settle;
        let Some(entry) = self.backends.get_mut(&backend) else { return };
        if let Some(since) = entry.absent.filter(|since| *since + settle <= at) {
            let holders: Vec<Holder> = entry.holdings.drain(..).map(|(holder, _)| holder).collect();
            self.backends.remove(&backend);
            self.decide_gone(backend, since, &holders, decisions);
            holders.iter().for_each(|holder| self.release(holder));
            return;
        }
        let (left, forgotten) = entry.settled(at, settle);
        let kept: Vec<Holder> = entry.holders_in(Holding::In).cloned().collect();
        for (holder, since) in left {
            let others: Vec<Backend> = kept.iter().flat_map(|holder| self.frontends(holder)).collect();
            let mut frontends = self.frontends(&holder);
            frontends.retain(|frontend| !others.contains(frontend));
            self.decide_left(backend, since, &holder, frontends, decisions);
        }
        forgotten.iter().for_each(|holder| self.release(holder));
    }

    /// The backend is gone everywhere.
    fn decide_gone(
        &mut self,
        backend: Backend,
        since: Duration,
        holders: &[Holder],
        decisions: &mut Vec<Decision>,
    ) {
        let treatments: BTreeSet<Treatment> =
            holders.iter().map(|holder| self.treatment(holder, backend)).collect();
        let scoped = holders.iter().any(|holder| {
            self.services.get(&holder.service).is_some_and(|known| known.service.only_its_clients)
        });
        if scoped || treatments.len() > 1 {
            // Services that want different things get them, each for its own clients.
            for holder in holders {
                let frontends = self.frontends(holder);
                self.decide_left(backend, since, holder, frontends, decisions);
            }
            return;
        }
        let (action, to) = treatments.first().copied().unwrap_or((self.policy.action, None));
        if action == Action::None {
            self.counts.action_none += 1;
            return;
        }
        let service = holders.first().map(|holder| holder.service.clone());
        decisions.push(Decision { backend, clients: Clients::All, action, to, service, since });
    }

    /// The backend has left one Service.
    fn decide_left(
        &mut self,
        backend: Backend,
        since: Duration,
        holder: &Holder,
        frontends: Vec<Backend>,
        decisions: &mut Vec<Decision>,
    ) {
        let (action, to) = self.treatment(holder, backend);
        if action == Action::None {
            self.counts.action_none += 1;
        } else if frontends.is_empty() {
            self.counts.no_frontend += 1;
        } else {
            let service = Some(holder.service.clone());
            let clients = Clients::Through(frontends);
            decisions.push(Decision { backend, clients, action, to, service, since });
        }
    }

    /// What of a decision still holds, for one that was not carried out at once. A backend that is back is no longer
    /// gone, and a frontend that leads to it again is spared.
    pub fn confirm(&self, decision: &Decision) -> Option<Decision> {
        let Some(entry) = self.backends.get(&decision.backend) else { return Some(decision.clone()) };
        match &decision.clients {
            Clients::All if entry.places.is_empty() => Some(decision.clone()),
            Clients::All => None,
            Clients::Through(frontends) => {
                let kept: Vec<Backend> =
                    entry.holders_in(Holding::In).flat_map(|holder| self.frontends(holder)).collect();
                let mut left = frontends.clone();
                left.retain(|frontend| !kept.contains(frontend));
                let clients = Clients::Through(left);
                (clients != Clients::Through(Vec::new())).then(|| Decision { clients, ..decision.clone() })
            }
        }
    }

    /// What the Service wants done with its clients, and the frontend that they are connected to then. Without one,
    /// which has to be of UDP and of the backend's family, sockets can only be destroyed.
    fn treatment(&self, holder: &Holder, backend: Backend) -> Treatment {
        let known = self.services.get(&holder.service);
        let action = known.and_then(|known| known.service.action).unwrap_or(self.policy.action);
        if !action.connects_anew() {
            return (action, None);
        }
        // The state of a TCP connection is lost with its peer.
        let alike = |frontend: &Backend| {
            (backend.protocol(), frontend.protocol()) == (Protocol::Udp, Protocol::Udp)
                && frontend.addr().is_ipv4() == backend.addr().is_ipv4()
        };
        match self.frontends(holder).into_iter().find(alike) {
            Some(to) => (action, Some(to)),
            None => (Action::Destroy, None),
        }
    }

    fn frontends(&self, holder: &Holder) -> Vec<Backend> {
        let known = self.services.get(&holder.service);
        known.and_then(|known| known.service.frontends.get(&holder.port)).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
