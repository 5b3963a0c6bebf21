//! Limits on what one event may do, and how fast.
//!
//! Two limits, both off by default:
//! * *victims per event*: an event that would destroy more is refused as a whole. It guards against a control
//!   plane that has lost its mind. A reconcile, whose victims nobody has named, always has such a limit.
//! * *destroys per second*: each destroyed TCP connection is a RST on the wire and usually a new connection
//!   right after it. [`Pacer`] spreads them.

use std::num::NonZeroU64;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::plural::{counted, plural};

/// The limit that refuses an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Limit {
    /// What the service allows one event (`--max-victims`).
    MaxVictims,
    /// What the event allows itself (its own `max_victims`).
    OfTheEvent,
    /// What the service allows a reconcile (`--reconcile-max`).
    ReconcileMax,
    /// A reconcile of the whole machine that names neither networks nor a place of sockets nor a number.
    Unrestricted,
}

/// What the limits had to do with an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Guarded {
    /// Most victims this event may have, if that is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_victims: Option<u64>,
    /// Where `max_victims` comes from, or why the event is refused without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
    /// Most destroys per second, if that is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rate: Option<NonZeroU64>,
    /// Victims that were counted before any was destroyed, if their number is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<u64>,
    /// The event had more victims than allowed, and nothing was destroyed; in a dry run: it would
    /// be refused.
    pub refused: bool,
    /// Nanoseconds that were waited so that the rate is kept; part of the phases `destroy` and
    /// `other`.
    pub paced_ns: u64,
}

impl Guarded {
    /// True if there is a limit at all, so that a report has something to say about it.
    pub const fn any(&self) -> bool {
        self.max_victims.is_some() || self.max_rate.is_some() || self.limit.is_some()
    }

    /// Takes over a limit if it is lower than the one so far.
    pub fn lower(&mut self, max_victims: u64, limit: Limit) {
        if self.max_victims.is_none_or(|most| max_victims < most) {
            self.max_victims = Some(max_victims);
            self.limit = Some(limit);
        }
    }

    /// Whether an event with this many victims must be refused; the text says why and what to do.
    pub fn refusal(&self, victims: u64) -> Option<String> {
        if self.limit == Some(Limit::Unrestricted) {
            return Some(
                "refused: a reconcile of the whole machine ends every connection to what is not named, and nothing was \
                 destroyed; name the networks that your backends are in (\"within\", --within), or the most sockets it \
                 may destroy (\"max_victims\", --max-victims)"
                    .to_owned(),
            );
        }
        let most = self.max_victims.filter(|most| victims > *most)?;
        let (whose, step) = match self.limit {
            Some(Limit::ReconcileMax) => ("one reconcile may have", "raise --reconcile-max of the service"),
            Some(Limit::OfTheEvent) => {
                ("this event allows itself", "raise its \"max_victims\" (--max-victims)")
            }
            _ => ("one event may have", "raise --max-victims"),
        };
        Some(format!(
            "refused: {} {} more than the {most} that {whose}, and nothing was destroyed; if it is \
             right, {step}",
            counted(victims, "victim"),
            plural(victims, "is", "are")
        ))
    }
}

/// How many sockets one reconcile may destroy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReconcileMax {
    /// A tenth of the connected sockets, and 100 at least.
    #[default]
    Tenth,
    /// This many.
    Fixed(u64),
}

impl ReconcileMax {
    /// The number, where this many sockets are connected.
    pub const fn of(self, connected: u64) -> u64 {
        match self {
            Self::Fixed(most) => most,
            Self::Tenth if connected / 10 > 100 => connected / 10,
            Self::Tenth => 100,
        }
    }
}

/// Keeps a rate of destroys: a bucket of tokens that fills with time and holds what one batch may
/// take.
///
/// It has no clock. Time is a [`Duration`] since any fixed moment and must not go back; if it does,
/// it stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pacer {
    rate: NonZeroU64,
    /// When the bucket is full again. Full means: a batch may go at once.
    full_at: Duration,
}

/// How much of a second's destroys may go at once.
const BATCHES_PER_SECOND: u64 = 20;

impl Pacer {
    /// At most `rate` destroys per second, in batches of a twentieth of that.
    pub const fn new(rate: NonZeroU64) -> Self {
        Self { rate, full_at: Duration::ZERO }
    }

    /// Destroys per second.
    pub const fn rate(&self) -> NonZeroU64 {
        self.rate
    }

    /// How many may go at once, at most: a twentieth of a second's worth, and one at least.
    pub fn batch(&self) -> u64 {
        (self.rate.get() / BATCHES_PER_SECOND).max(1)
    }

    /// How long to wait from `now` on until the next batch may go.
    pub fn wait(&self, now: Duration) -> Duration {
        self.full_at.saturating_sub(now)
    }

    /// Takes note of `destroyed` at `now`. `destroyed` may be more than a batch: the next waits
    /// accordingly.
    pub fn spend(&mut self, now: Duration, destroyed: u64) {
        let nanos = u128::from(destroyed) * 1_000_000_000 / u128::from(self.rate.get());
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.full_at = self.full_at.max(now).saturating_add(cost);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pacer(rate: u64) -> Pacer {
        Pacer::new(NonZeroU64::new(rate).unwrap())
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_batch_goes_at_once_and_the_next_waits_for_its_share() {
        let mut pacer = pacer(1000);
        assert_eq!((pacer.batch(), pacer.wait(ms(7))), (50, ms(0)));
        pacer.spend(ms(7), 50);
        assert_eq!(pacer.wait(ms(7)), ms(50));
        assert_eq!(pacer.wait(ms(40)), ms(17));
        assert_eq!(pacer.wait(ms(60)), ms(0));
        // Time that was not used is not saved up.
        pacer.spend(ms(10_000), 10);
        assert_eq!(pacer.wait(ms(10_000)), ms(10));
    }

    #[test]
    fn slow_rates_go_one_by_one() {
        let mut pacer = pacer(2);
        assert_eq!(pacer.batch(), 1);
        pacer.spend(ms(0), 1);
        assert_eq!(pacer.wait(ms(0)), ms(500));
    }

    #[test]
    fn too_many_victims_are_refused() {
        let guarded = Guarded { max_victims: Some(10), ..Guarded::default() };
        assert_eq!(guarded.refusal(10), None);
        assert_eq!(
            guarded.refusal(11).unwrap(),
            "refused: 11 victims are more than the 10 that one event may have, and nothing was destroyed; if it is \
             right, raise --max-victims"
        );
        assert_eq!(Guarded::default().refusal(u64::MAX), None);
        assert!(guarded.any() && !Guarded::default().any());
    }

    #[test]
    fn the_lowest_limit_counts_and_is_named() {
        let mut guarded = Guarded::default();
        guarded.lower(100, Limit::ReconcileMax);
        guarded.lower(100, Limit::MaxVictims);
        assert_eq!((guarded.max_victims, guarded.limit), (Some(100), Some(Limit::ReconcileMax)));
        assert!(guarded.refusal(101).unwrap().ends_with("raise --reconcile-max of the service"));
        guarded.lower(7, Limit::OfTheEvent);
        assert!(
            guarded.refusal(8).unwrap().starts_with("refused: 8 victims are more than the 7 that this event")
        );
        let whole = Guarded { limit: Some(Limit::Unrestricted), ..Guarded::default() };
        assert!(whole.any() && whole.refusal(0).unwrap().contains("--within"));
    }

    #[test]
    fn a_reconcile_may_end_a_tenth_or_a_hundred() {
        let most = |connected| ReconcileMax::default().of(connected);
        assert_eq!([0, 999, 1000, 1009, 1010, 42_820].map(most), [100, 100, 100, 100, 101, 4282]);
        assert_eq!(ReconcileMax::Fixed(7).of(42_820), 7);
    }

    proptest! {
        /// A caller that waits so long never destroys more than the rate and one batch in any time.
        #[test]
        fn the_rate_is_kept(rate in 1_u64..100_000, idle in prop::collection::vec(0_u64..200_000_000, 1..50)) {
            let mut pacer = pacer(rate);
            let mut now = Duration::ZERO;
            let mut done = 0_u64;
            for ns in idle {
                now += pacer.wait(now) + Duration::from_nanos(ns);
                prop_assert_eq!(pacer.wait(now), Duration::ZERO);
                pacer.spend(now, pacer.batch());
                done += pacer.batch();
                let allowed = now.as_nanos() * u128::from(rate) / 1_000_000_000 + u128::from(pacer.batch());
                prop_assert!(u128::from(done) <= allowed + 1, "{} of {}", done, allowed);
            }
        }
    }
}
