//! The victims that an event has chosen already.

use std::collections::{HashMap, HashSet};

use skreap_bpf::{PendingConnect, Relation, Victim};
use skreap_core::{Backend, Outcome, Protocol, Skipped, Target, Through, Unconnected};

use super::EngineError;
use super::assign::{Assigner, Facts};
use super::link::Link;
use super::selection::Rules;

/// The victims of one event so far: a sender becomes one of them only once.
///
/// A UDP socket that sends without connecting is recorded under each backend it has sent to. A
/// destroy leaves no trace in it: if it is bound to its port, or has sent again since, it looks as
/// before. So the backends of an event, and the repeated walks for pending connects, share one of
/// these. It never spares a socket that is *connected* to the target: a socket that is connected
/// after a destroy has connected anew.
///
/// Used for UDP targets under [`Unconnected::Destroy`] only, empty otherwise. It lacks sockets that
/// a scan with iterators has destroyed, because that scan reports failures only.
#[derive(Debug, Default)]
pub struct Chosen {
    senders: HashSet<u64>,
    link: Option<Link>,
    /// The connected UDP victims, if they are wanted.
    remembered: Option<HashMap<u64, Victim>>,
    through: Through,
    rules: Option<Rules>,
    /// Gives each victim its action, if rules of the service do.
    assigner: Option<Box<Assigner>>,
    /// One list for each target: sockets that may be connecting to it. `None`: nobody wants them.
    watched: Option<Vec<Vec<PendingConnect>>>,
    /// Those that a rule spares, and those on another link, by cookie and backend: several passes meet them.
    spared: HashSet<(u64, Backend)>,
    other_link: HashSet<(u64, Backend)>,
    /// Victims although the frontend that they came through is not known.
    frontend_unknown: HashSet<u64>,
}

/// Sockets that an event has left alone so far, each counted once, however many passes have met it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeftAlone {
    spared: u64,
    other_link: u64,
}

impl LeftAlone {
    /// Adds to the outcome of earlier passes what has come since.
    pub(crate) fn note_since(self, earlier: Self, outcome: &mut Outcome) {
        let (spared, other_link) = (self.spared - earlier.spared, self.other_link - earlier.other_link);
        outcome.visited += spared + other_link;
        outcome.skipped.spared += spared;
        outcome.skipped.other_link += other_link;
    }
}

/// What was taken out of the victims of a walk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sifted {
    /// Senders that the event has had before.
    pub(super) again: u64,
    /// On another link than the event is about.
    pub(super) other_link: u64,
    /// Spared by a rule.
    pub(super) spared: u64,
}

impl Sifted {
    /// Counts it among what was skipped.
    pub(super) fn note(self, skipped: &mut Skipped) {
        skipped.no_peer += self.again;
        skipped.other_link += self.other_link;
        skipped.spared += self.spared;
    }
}

impl Chosen {
    /// True if a socket can be found a second time for this target.
    pub(super) fn matters(target: &Target) -> bool {
        target.unconnected == Unconnected::Destroy && target.backend.protocol() == Protocol::Udp
    }

    /// Of an event whose selectors say more of its sockets than their backend.
    #[must_use]
    pub(crate) fn with_rules(self, rules: Option<Rules>) -> Self {
        Self { rules, ..self }
    }

    /// What the selectors of the event say.
    pub(crate) fn rules(&self) -> Option<&Rules> {
        self.rules.as_ref()
    }

    /// From now on this says of each victim what is done with it. An engine that destroys in the step in which it finds
    /// has to list them first then.
    pub(crate) fn set_assigner(&mut self, assigner: Assigner) {
        self.assigner = Some(Box::new(assigner));
    }

    /// What said so, with all that it has decided.
    pub(crate) fn take_assigner(&mut self) -> Option<Assigner> {
        self.assigner.take().map(|assigner| *assigner)
    }

    /// From now on an engine that [can](super::Engine::watches) begins to watch the sockets that may be connecting to the
    /// target, in the walk for its victims.
    pub(crate) fn watch(&mut self) {
        self.watched = Some(Vec::new());
    }

    /// Room for what a walk watches, if it is to watch.
    pub(super) fn room_for_watched(&self) -> Option<Vec<PendingConnect>> {
        self.watched.as_ref().map(|_| Vec::new())
    }

    /// Adds the list of a target. A walk that failed adds one too, so that each target has its own.
    pub(super) fn add_watched(&mut self, sockets: Option<Vec<PendingConnect>>) {
        if let Some(watched) = &mut self.watched {
            watched.push(sockets.unwrap_or_default());
        }
    }

    /// Ends that. What is watched, target by target.
    pub(crate) fn take_watched(&mut self) -> Option<Vec<Vec<PendingConnect>>> {
        self.watched.take()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.senders.is_empty()
    }

    pub(super) fn add(&mut self, cookie: u64) {
        self.senders.insert(cookie);
    }

    /// For an event that means only the clients of some frontends.
    #[must_use]
    pub fn through(through: &Through) -> Self {
        Self { through: through.clone(), ..Self::default() }
    }

    /// The frontends that victims have to have come through.
    pub(crate) fn frontends(&self) -> &Through {
        &self.through
    }

    /// From now on only sockets on this link are victims; `None`: on any. An engine that destroys
    /// in the step in which it finds has to list them first then.
    pub fn set_link(&mut self, link: Option<Link>) {
        self.link = link;
    }

    /// Remembers the connected UDP sockets among the victims from now on. An engine that destroys in the step in which
    /// it finds has to list them first then.
    pub(crate) fn remember(&mut self) {
        self.remembered.get_or_insert_default();
    }

    /// True if it does.
    pub(crate) fn remembers(&self) -> bool {
        self.remembered.is_some()
    }

    /// Remembers these, which another than an engine has found.
    pub(crate) fn add_remembered(&mut self, victims: Vec<Victim>) {
        if let Some(remembered) = &mut self.remembered {
            remembered.extend(victims.into_iter().map(|victim| (victim.cookie(), victim)));
        }
    }

    /// True if victims have to be listed before they are destroyed.
    pub(super) fn lists(&self) -> bool {
        self.link.is_some() || self.remembered.is_some() || self.assigner.is_some()
    }

    /// What was remembered.
    pub(crate) fn take_remembered(&mut self) -> Vec<Victim> {
        self.remembered.take().unwrap_or_default().into_values().collect()
    }

    /// The link that victims have to be on.
    pub(crate) fn link(&self) -> Option<Link> {
        self.link
    }

    /// True if the socket may be a victim as far as its link goes. A connect to a link-local
    /// address binds the socket to the link; of a socket that only sends the link is not known.
    pub(crate) fn on_link(&self, victim: &Victim) -> bool {
        self.link.is_none_or(|link| link.netns == victim.netns() && link.ifindex == victim.ifindex())
    }

    /// Takes out the sockets on other links, those that a rule spares, and the senders that have been victims before;
    /// remembers the other senders. Those that were victims before are counted as what a destroyed
    /// socket is: without a peer.
    pub(super) fn sift(&mut self, target: &Target, victims: &mut Vec<Victim>) -> Sifted {
        let found = victims.len();
        let elsewhere = victims.iter().filter(|victim| !self.on_link(victim)).map(Victim::cookie);
        let elsewhere: Vec<(u64, Backend)> = elsewhere.map(|cookie| (cookie, target.backend)).collect();
        self.other_link.extend(elsewhere);
        victims.retain(|victim| self.on_link(victim));
        let other_link = (found - victims.len()) as u64;
        let spared = self.spare(target, victims);
        if let Some(remembered) = &mut self.remembered {
            let connected = victims.iter().filter(|victim| {
                victim.protocol() == Some(Protocol::Udp) && victim.relation() == Relation::Connected
            });
            remembered.extend(connected.map(|victim| (victim.cookie(), *victim)));
        }
        if !Self::matters(target) {
            return Sifted { again: 0, other_link, spared };
        }
        let found = victims.len();
        victims.retain(|victim| self.admits(victim.cookie(), victim.relation()));
        Sifted { again: (found - victims.len()) as u64, other_link, spared }
    }

    /// Takes note of those of these victims whose frontend is not known; `unknown`: [whose](skreap_bpf::Walker::unknown_frontends)
    /// it is not.
    pub(super) fn note_unknown(&mut self, unknown: Option<&HashSet<u64>>, victims: &[Victim]) {
        if let Some(unknown) = unknown {
            let cookies = victims.iter().map(Victim::cookie);
            self.frontend_unknown.extend(cookies.filter(|cookie| unknown.contains(cookie)));
        }
    }

    /// How many these are.
    pub(crate) fn take_unknown(&mut self) -> u64 {
        std::mem::take(&mut self.frontend_unknown).len() as u64
    }

    /// Keeps each socket once, and of the senders, if there are `senders`, those that were no victims before. Returns how many
    /// were taken out.
    pub(super) fn take_once(&mut self, senders: bool, victims: &mut Vec<Victim>) -> u64 {
        let found = victims.len();
        let mut seen = HashSet::with_capacity(found);
        victims.retain(|victim| {
            let may_come_again = senders && victim.protocol() == Some(Protocol::Udp);
            let admitted = !may_come_again || self.admits(victim.cookie(), victim.relation());
            seen.insert(victim.cookie()) && admitted
        });
        (found - victims.len()) as u64
    }

    /// Takes out those that a rule spares.
    pub(super) fn spare(&mut self, target: &Target, victims: &mut Vec<Victim>) -> u64 {
        self.spare_of(target, victims, |victim| *victim)
    }

    /// As [`spare`](Self::spare), for what has a victim in it. All are asked about in one go.
    pub(super) fn spare_of<T>(
        &mut self,
        target: &Target,
        all: &mut Vec<T>,
        victim_of: impl Fn(&T) -> Victim,
    ) -> u64 {
        if let Some(assigner) = &mut self.assigner {
            assigner.assign(target.backend, &all.iter().map(&victim_of).collect::<Vec<_>>());
        }
        self.take_spared(target, all, victim_of)
    }

    /// As [`spare`](Self::spare), for sockets of which `facts` knows what rules ask.
    ///
    /// # Errors
    /// [`EngineError`] if that could not be asked: nothing was decided, or taken out.
    pub(super) fn spare_by(
        &mut self,
        facts: &mut dyn Facts,
        target: &Target,
        victims: &mut Vec<Victim>,
    ) -> Result<u64, EngineError> {
        if let Some(assigner) = &mut self.assigner {
            assigner.assign_by(facts, target.backend, victims)?;
        }
        Ok(self.take_spared(target, victims, |victim| *victim))
    }

    fn take_spared<T>(&mut self, target: &Target, all: &mut Vec<T>, victim_of: impl Fn(&T) -> Victim) -> u64 {
        let Some(assigner) = &self.assigner else {
            return 0;
        };
        let found = all.len();
        all.retain(|one| {
            let victim = victim_of(one);
            let spared = assigner.spares(&victim, &target.backend);
            if spared {
                self.spared.insert((victim.cookie(), target.backend));
            }
            !spared
        });
        (found - all.len()) as u64
    }

    /// What the event has left alone so far.
    pub(crate) fn left_alone(&self) -> LeftAlone {
        LeftAlone { spared: self.spared.len() as u64, other_link: self.other_link.len() as u64 }
    }

    fn admits(&mut self, cookie: u64, relation: Relation) -> bool {
        self.senders.insert(cookie) || relation != Relation::Unconnected
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_connection_after_a_destroy_is_a_new_one() {
        let mut chosen = Chosen::default();
        assert!(chosen.is_empty() && chosen.admits(7, Relation::Unconnected));
        assert!(!chosen.admits(7, Relation::Unconnected));
        assert!(chosen.admits(7, Relation::Connected) && chosen.admits(7, Relation::Connected));
        assert!(!chosen.admits(7, Relation::Unconnected) && chosen.admits(8, Relation::Unconnected));
    }

    #[test]
    fn nothing_is_kept_where_nothing_can_come_again() {
        for (backend, unconnected, matters) in [
            ("udp://10.0.0.1:53", Unconnected::Destroy, true),
            ("udp://10.0.0.1:53", Unconnected::Preserve, false),
            ("tcp://10.0.0.1:53", Unconnected::Destroy, false),
        ] {
            let target = Target { backend: backend.parse().unwrap(), unconnected, dry_run: false };
            assert_eq!(Chosen::matters(&target), matters, "{target:?}");
        }
    }

    #[test]
    fn what_several_passes_leave_alone_is_counted_once() {
        let mut chosen = Chosen::default();
        let backend: Backend = "udp://10.0.0.1:53".parse().unwrap();
        chosen.spared.extend([(1, backend), (2, backend)]);
        let walk = chosen.left_alone();
        chosen.spared.extend([(2, backend), (3, backend)]);
        chosen.other_link.extend([(4, backend), (5, backend)]);
        let mut outcome = Outcome::new(skreap_core::EngineName::Netlink);
        chosen.left_alone().note_since(walk, &mut outcome);
        assert_eq!((outcome.visited, outcome.skipped.spared, outcome.skipped.other_link), (3, 1, 2));
        assert_eq!(outcome.balanced(false), Ok(()));
    }

    proptest! {
        /// However the sockets of an event are found, a sender that was a victim is none again.
        #[test]
        fn senders_are_admitted_once(found in prop::collection::vec((0..12_u64, any::<bool>()), 0..60)) {
            let mut chosen = Chosen::default();
            let mut times: HashMap<u64, u32> = HashMap::new();
            for (cookie, connected) in found {
                let relation = if connected { Relation::Connected } else { Relation::Unconnected };
                let before = times.entry(cookie).or_default();
                prop_assert_eq!(chosen.admits(cookie, relation), connected || *before == 0);
                *before += 1;
            }
        }
    }
}
