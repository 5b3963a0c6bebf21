//! Settings of a reaper.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use skreap_bpf::Config;
use skreap_core::{ActionRules, ReconcileMax, Unconnected, VictimAction};

use crate::engine::select::EngineChoice;
use crate::engine::{PoolOptions, Scope, StateMask};
use crate::upkeep::revive::REVIVING_MAX;

/// How long an event waits for pending connects, if nothing is said.
pub const PENDING_WAIT: Duration = Duration::from_millis(20);

/// Default delay between the first incomplete backend and the healing of the index.
pub const HEAL_AFTER: Duration = Duration::from_secs(60);

/// Longer is no use, and must be short enough to be added to a time.
const PENDING_WAIT_MAX: Duration = Duration::from_secs(3600);

/// How long an event waits for pending connects.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingWait(pub(super) Duration);

impl Default for PendingWait {
    fn default() -> Self {
        Self(PENDING_WAIT)
    }
}

/// How long incomplete backends wait for the first healing.
#[derive(Clone, Copy, Debug)]
pub(super) struct HealAfter(pub(super) Duration);

impl Default for HealAfter {
    fn default() -> Self {
        Self(HEAL_AFTER)
    }
}

/// How many sockets may wait for a second look.
#[derive(Clone, Copy, Debug)]
pub(super) struct MostReviving(pub(super) u64);

impl Default for MostReviving {
    fn default() -> Self {
        Self(REVIVING_MAX)
    }
}

/// Settings of a [`Reaper`](crate::Reaper).
#[derive(Clone, Debug, Default)]
pub struct Builder {
    pub(super) cgroup: Option<PathBuf>,
    pub(super) config: Config,
    pub(super) engine: EngineChoice,
    pub(super) unconnected: Unconnected,
    pub(super) states: StateMask,
    pub(super) scope: Scope,
    pub(super) pin: Option<PathBuf>,
    pub(super) scan_known: bool,
    pub(super) max_victims: Option<u64>,
    pub(super) max_rate: Option<NonZeroU64>,
    pub(super) reconcile_max: ReconcileMax,
    pub(super) attribute: bool,
    pub(super) results: bool,
    pub(super) no_bootstrap: bool,
    pub(super) pending_wait: PendingWait,
    pub(super) pool: PoolOptions,
    pub(super) victim_action: VictimAction,
    pub(super) no_revive: bool,
    pub(super) reviving_max: MostReviving,
    pub(super) action_rules: Option<ActionRules>,
    pub(super) heal_after: HealAfter,
    pub(super) leave_order: bool,
    pub(super) frontends: bool,
    pub(super) grace: bool,
    pub(super) ready_for_selectors: bool,
}

impl Builder {
    /// The cgroup2 directory whose sockets (and those of the cgroups below it) are indexed. Default: the root
    /// of the hierarchy, wherever it is mounted.
    #[must_use]
    pub fn cgroup(mut self, path: impl Into<PathBuf>) -> Self {
        self.cgroup = Some(path.into());
        self
    }

    /// Sizes of the index.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// The engine; `auto` by default.
    #[must_use]
    pub fn engine(mut self, engine: EngineChoice) -> Self {
        self.engine = engine;
        self
    }

    /// Policy for UDP sockets that only ever sent to the backend; they are preserved by default.
    #[must_use]
    pub fn unconnected(mut self, policy: Unconnected) -> Self {
        self.unconnected = policy;
        self
    }

    /// TCP states whose sockets are destroyed; by default all in which there is something to destroy.
    #[must_use]
    pub fn states(mut self, states: StateMask) -> Self {
        self.states = states;
        self
    }

    /// Which netns an engine that scans visits; all by default.
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// A directory on a bpf filesystem in which index and hooks are pinned: they stay when the reaper is dropped
    /// or its process killed, and the next one with the same settings takes them over. Default: none.
    #[must_use]
    pub fn pin(mut self, directory: impl Into<PathBuf>) -> Self {
        self.pin = Some(directory.into());
        self
    }

    /// A scanning engine visits only the netns in which the index has sockets of the target, and
    /// queries the index before each scan. Off by default.
    #[must_use]
    pub fn scan_known(mut self, known: bool) -> Self {
        self.scan_known = known;
        self
    }

    /// Maximum number of victims of one event; one with more is refused and destroys nothing. The
    /// victims are counted before any is destroyed, so each event costs two walks. No limit by
    /// default.
    #[must_use]
    pub fn max_victims(mut self, most: Option<u64>) -> Self {
        self.max_victims = most;
        self
    }

    /// Most sockets one reconcile may destroy; by default a tenth of the connected ones, of those that its selectors select if
    /// it has any, and 100 at least. One with more is refused, and the report says what it would have done.
    #[must_use]
    pub fn reconcile_max(mut self, most: ReconcileMax) -> Self {
        self.reconcile_max = most;
        self
    }

    /// Whether every report lists its victims and whose they are, as reports of dry runs and of failures always do. The
    /// victims are found once before any is destroyed. Off by default.
    #[must_use]
    pub fn attribute(mut self, attribute: bool) -> Self {
        self.attribute = attribute;
        self
    }

    /// Whether every report has what came of each victim, and whose it was: [`Report::results`](skreap_core::Report::results).
    /// The victims are found once before any is destroyed, as for [`attribute`](Self::attribute). Off by default.
    #[must_use]
    pub fn results(mut self, results: bool) -> Self {
        self.results = results;
        self
    }

    /// Most sockets destroyed per second, spread over the second. No limit by default.
    #[must_use]
    pub fn max_rate(mut self, per_second: Option<NonZeroU64>) -> Self {
        self.max_rate = per_second;
        self
    }

    /// Whether to search every netns once for pre-existing sockets; on by default.
    #[must_use]
    pub fn bootstrap(mut self, bootstrap: bool) -> Self {
        self.no_bootstrap = !bootstrap;
        self
    }

    /// Longest time that an event waits for sockets whose `connect()` to the backend is pending;
    /// zero: not at all. 20 ms by default, an hour at most. It waits only while there are such
    /// sockets.
    #[must_use]
    pub fn pending_wait(mut self, bound: Duration) -> Self {
        self.pending_wait = PendingWait(bound.min(PENDING_WAIT_MAX));
        self
    }

    /// How long an event waits for a socket whose owner holds its lock, so that the kernel cannot destroy it; one second by
    /// default, an hour at most. Then the socket is reported as failed with `ETIMEDOUT`, and still destroyed as soon as
    /// its owner lets go, which is logged and counted ([`HeldStatus`](skreap_core::HeldStatus)). All others are destroyed
    /// without waiting for it.
    #[must_use]
    pub fn victim_timeout(mut self, bound: Duration) -> Self {
        self.pool.victim_timeout = bound.min(PENDING_WAIT_MAX);
        self
    }

    /// Most threads that destroy, with those that wait for a socket whose owner holds its lock; 128 by default, one at
    /// least. While all of them wait, other sockets are not destroyed: they are reported as failed with `EAGAIN` at
    /// once.
    #[must_use]
    pub fn destroyers_max(mut self, most: NonZeroUsize) -> Self {
        self.pool.destroyers_max = most.get();
        self
    }

    /// Interval at which the thread of [`Reaper::start_audits`](crate::Reaper::start_audits) checks whether the index lacks
    /// sockets, and then heals it; a minute by default. After a healing that did not help it waits
    /// twice as long.
    #[must_use]
    pub fn heal_after(mut self, wait: Duration) -> Self {
        self.heal_after = HealAfter(wait);
        self
    }

    /// Leaves the hooks where they were attached, also when another program is attached after them:
    /// for programs that arrange the order otherwise. Off by default: the hooks become last again.
    #[must_use]
    pub fn leave_order(mut self, leave: bool) -> Self {
        self.leave_order = leave;
        self
    }

    /// What is done with the victims of events that do not say; they are destroyed by default.
    #[must_use]
    pub fn victim_action(mut self, action: VictimAction) -> Self {
        self.victim_action = action;
        self
    }

    /// Rules that give the victims of events on backends their actions, unless the event says one or selects its sockets;
    /// then [`victim_action`](Self::victim_action) says nothing. None by default.
    #[must_use]
    pub fn action_rules(mut self, rules: Option<ActionRules>) -> Self {
        self.action_rules = rules;
        self
    }

    /// Whether events may have sockets revived or moved, which connects sockets of other processes. On by default; what
    /// it needs is loaded with the first such event.
    #[must_use]
    pub fn revive(mut self, allow: bool) -> Self {
        self.no_revive = !allow;
        self
    }

    /// How many destroyed sockets may wait for a second look; [`REVIVING_MAX`](crate::REVIVING_MAX) by default. Those of an
    /// event that would exceed it are told to be lost at once. It bounds the memory.
    #[must_use]
    pub fn reviving_max(mut self, most: u64) -> Self {
        self.reviving_max = MostReviving(most);
        self
    }

    /// Records the address that each client named before a load balancer translated it, so that events
    /// can mean only the clients of some frontends ([`Event::through`](skreap_core::Event)). A second
    /// program runs before all others on each hook. Needs Linux 6.15. Off by default.
    #[must_use]
    pub fn frontends(mut self, record: bool) -> Self {
        self.frontends = record;
        self
    }

    /// Whether the program that finds the sockets of [selectors](skreap_core::Selector) is loaded right after the start, on a
    /// thread of its own. Otherwise the first event that needs it waits for that, some tens of milliseconds. Off by
    /// default; engines that scan need no such program.
    #[must_use]
    pub fn ready_for_selectors(mut self, ready: bool) -> Self {
        self.ready_for_selectors = ready;
        self
    }

    /// Waits for an RCU grace period before waiting events are handled, so that every hook that has
    /// read the load balancer's old map has recorded its socket. For dataplanes that do not wait
    /// for one themselves between the change of their map and the event. Costs some milliseconds
    /// each time. Off by default.
    #[must_use]
    pub fn grace(mut self, grace: bool) -> Self {
        self.grace = grace;
        self
    }
}
