//! What is known of one backend.

use std::time::Duration;

use super::change::Name;

/// A port of a Service, which backends serve.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder {
    /// The Service.
    pub service: Name,
    /// Name of its port.
    pub port: Name,
}

/// A mention in a slice.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) slice: Name,
    pub(super) holder: Option<Holder>,
    /// Clients may stay.
    pub(super) keeps: bool,
    pub(super) instance: Option<Name>,
}

/// How a backend stands with a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holding {
    /// It is one of those that clients may stay with.
    In,
    /// It is not any more, since then; not settled.
    Leaving(Duration),
    /// It is not, and that is decided.
    Out,
}

/// One backend.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) places: Vec<Place>,
    pub(super) holdings: Vec<(Holder, Holding)>,
    /// No slice names it, since then.
    pub(super) absent: Option<Duration>,
    /// Who it was when clients could last stay: nearly always one, so that a list is smaller than a set.
    instances: Vec<Name>,
}

/// What a look at an entry has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// Something begins to settle.
    pub(super) left: bool,
    /// Something that was settling is back.
    pub(super) returned: bool,
    /// It is somebody else at the same address.
    pub(super) replaced: bool,
    /// Holders that were not known before.
    pub(super) new: Vec<Holder>,
    /// Holders that nothing names any more.
    pub(super) forgotten: Vec<Holder>,
}

impl Entry {
    /// Brings holdings and absence up to what the places say.
    pub(super) fn look(&mut self, now: Duration) -> Look {
        let mut look = Look::default();
        for holder in self.places.iter().filter_map(|place| place.holder.as_ref()) {
            if !self.holdings.iter().any(|(known, _)| known == holder) {
                self.holdings.push((holder.clone(), Holding::Out));
                look.new.push(holder.clone());
            }
        }
        let present = !self.places.is_empty();
        let places = &self.places;
        self.holdings.retain_mut(|(holder, holding)| {
            let named = |place: &&Place| place.holder.as_ref() == Some(&*holder);
            let keeps = places.iter().filter(named).any(|place| place.keeps);
            match *holding {
                Holding::In if !keeps => {
                    *holding = Holding::Leaving(now);
                    look.left = true;
                }
                Holding::Leaving(_) if keeps => {
                    *holding = Holding::In;
                    look.returned = true;
                }
                Holding::Out if keeps => *holding = Holding::In,
                // While the backend is absent it is still to be known whose it was.
                Holding::Out if present && !places.iter().any(|place| named(&place)) => {
                    look.forgotten.push(holder.clone());
                    return false;
                }
                _ => {}
            }
            true
        });
        match (present, self.absent) {
            (false, None) => {
                self.absent = Some(now);
                look.left = true;
            }
            (true, Some(_)) => {
                self.absent = None;
                look.returned = true;
            }
            _ => {}
        }
        look.replaced = self.replaced();
        look
    }

    /// Takes in who it is now; true if that is nobody who it was.
    fn replaced(&mut self) -> bool {
        let keeping = self.places.iter().filter(|place| place.keeps);
        let mut instances: Vec<Name> = keeping.filter_map(|place| place.instance.clone()).collect();
        instances.sort_unstable();
        instances.dedup();
        if instances.is_empty() || instances == self.instances {
            return false;
        }
        let replaced =
            !self.instances.is_empty() && self.instances.iter().all(|instance| !instances.contains(instance));
        self.instances = instances;
        replaced
    }

    /// Everything that settles has begun to at this moment.
    pub(super) fn restart_settling(&mut self, now: Duration) {
        for (_, holding) in &mut self.holdings {
            if let Holding::Leaving(since) = holding {
                *since = now;
            }
        }
        if let Some(since) = &mut self.absent {
            *since = now;
        }
    }

    /// The holders that have lost it, with the moment of that, now decided; and those of them that nothing names any
    /// more, which are forgotten.
    pub(super) fn settled(
        &mut self,
        at: Duration,
        settle: Duration,
    ) -> (Vec<(Holder, Duration)>, Vec<Holder>) {
        let (mut left, mut forgotten) = (Vec::new(), Vec::new());
        let places = &self.places;
        self.holdings.retain_mut(|(holder, holding)| {
            let Holding::Leaving(since) = *holding else { return true };
            if since + settle > at {
                return true;
            }
            *holding = Holding::Out;
            left.push((holder.clone(), since));
            // While the backend is absent it is still to be known whose it was.
            let named = places.iter().any(|place| place.holder.as_ref() == Some(&*holder));
            let keep = named || places.is_empty();
            if !keep {
                forgotten.push(holder.clone());
            }
            keep
        });
        (left, forgotten)
    }

    /// The holders that stand so with it.
    pub(super) fn holders_in(&self, standing: Holding) -> impl Iterator<Item = &Holder> {
        self.holdings.iter().filter(move |(_, holding)| *holding == standing).map(|(holder, _)| holder)
    }
}
