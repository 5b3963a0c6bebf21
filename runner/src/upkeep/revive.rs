//! The second look at destroyed UDP sockets: whichever still has no peer is connected to a living backend.
//!
//! A program that answers an error by connecting again is well within milliseconds. One that never does would send into
//! nothing for ever. So some seconds after the destroy its socket is given a peer, unless its owner has done so, has closed
//! it, or goes on with it by sending to addresses.
//!
//! All of this happens on a thread of its own, and none of it waits for the owner of a socket for long (`engine/connect`).

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use parking_lot::Mutex;
use skreap_bpf::{Index, RevivingCount, Sent, SentLooker, Victim};
use skreap_core::{
    Backend, Connected, Directions, REVIVE_AFTER_MAX_MS, Revive, Revived, Reviving, SocketTuple, nanos,
};

use crate::engine::connect::{Connector, Wanted};
use crate::engine::{EngineError, tuple};
use crate::observe::monitor::Monitor;

/// With nothing to revive the thread wakes up this seldom.
const IDLE: Duration = Duration::from_secs(3600);
/// Sockets that wait for a second look, at most: each takes less than 100 bytes.
pub const REVIVING_MAX: u64 = 1 << 20;

/// Called with what came of the sockets of one event.
pub type Told = Box<dyn FnOnce(Revived) + Send>;

/// The destroyed sockets of one event.
#[derive(Debug)]
pub struct Revival {
    id: String,
    /// Those that are still to be looked at; empty when all were.
    parts: Vec<Part>,
    /// Backends that are no destinations.
    gone: HashSet<Backend>,
    destroyed: Instant,
}

/// Those that are looked at together.
#[derive(Debug)]
struct Part {
    victims: Vec<Victim>,
    how: Revive,
}

impl Revival {
    /// Of what has just been destroyed, each with how it is revived; `None` if that is nothing.
    pub(crate) fn new(id: &str, parts: Vec<(Vec<Victim>, Revive)>, gone: &[Backend]) -> Option<Self> {
        let parts: Vec<Part> = parts
            .into_iter()
            .filter(|(victims, _)| !victims.is_empty())
            .map(|(mut victims, how)| {
                // One after the other, whatever order they were found in.
                victims.sort_unstable_by_key(Victim::cookie);
                Part { victims, how }
            })
            .collect();
        let gone = gone.iter().map(|backend| backend.without_zone()).collect();
        (!parts.is_empty()).then(|| Self { id: id.to_owned(), parts, gone, destroyed: Instant::now() })
    }

    fn sockets(&self) -> u64 {
        self.parts.iter().map(|part| part.victims.len() as u64).sum()
    }

    /// What the report of the event says of it.
    pub(crate) fn announced(&self) -> Reviving {
        let after_ms = self.parts.iter().map(|part| part.how.after_ms).max().unwrap_or_default();
        Reviving::new(self.sockets(), after_ms)
    }

    fn due_of(&self, part: &Part) -> Instant {
        self.destroyed + Duration::from_millis(part.how.after_ms.into())
    }

    /// When the next of them are looked at.
    fn due(&self) -> Option<Instant> {
        self.parts.iter().map(|part| self.due_of(part)).min()
    }

    /// Takes those out that are to be looked at now.
    fn take_due(&mut self) -> Vec<Part> {
        let now = Instant::now();
        let (due, later) =
            std::mem::take(&mut self.parts).into_iter().partition(|part| self.due_of(part) <= now);
        self.parts = later;
        due
    }

    /// What is told of it if nobody can look.
    pub(crate) fn lost(&self) -> Revived {
        let mut revived = Revived::default();
        (0..self.sockets()).for_each(|_| revived.add(Connected::Lost));
        revived
    }
}

/// What came of one socket that was looked at again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevivedSocket {
    /// As it was before it was destroyed.
    pub socket: SocketTuple,
    /// What came of it.
    pub end: Connected,
    /// Where it is connected to, if it was revived.
    pub to: Option<Backend>,
}

/// The second look at the sockets of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevivedEvent {
    /// Id of the event.
    pub id: String,
    /// How many came to what.
    pub revived: Revived,
    /// Each of them.
    pub sockets: Vec<RevivedSocket>,
}

/// Backends that were deleted of late, and when: none of them is a destination of what was destroyed before. Clones are the
/// same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deleted(Arc<Mutex<HashMap<Backend, Instant>>>);

impl Deleted {
    /// With more of them, those are forgotten that no second look can be about any more.
    const MANY: usize = 16_384;

    pub(crate) fn add(&self, backends: &[Backend]) {
        let now = Instant::now();
        let mut all = self.0.lock();
        if all.len() + backends.len() > Self::MANY {
            let longest = Duration::from_millis(REVIVE_AFTER_MAX_MS.into());
            all.retain(|_, deleted| now.duration_since(*deleted) <= longest);
        }
        all.extend(backends.iter().map(|backend| (backend.without_zone(), now)));
    }

    /// It lives again.
    pub(crate) fn remove(&self, backend: &Backend) {
        self.0.lock().remove(&backend.without_zone());
    }

    fn since(&self, when: Instant) -> Vec<Backend> {
        let all = self.0.lock();
        all.iter().filter(|(_, deleted)| **deleted >= when).map(|(backend, _)| *backend).collect()
    }
}

/// What came of second looks, for those who want every socket named. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct RevivedEvents(Option<Arc<Mutex<Vec<RevivedEvent>>>>);

impl RevivedEvents {
    /// `on`: something is kept.
    pub(crate) fn new(on: bool) -> Self {
        Self(on.then(Arc::default))
    }

    fn is_on(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn take(&self) -> Vec<RevivedEvent> {
        self.0.as_ref().map(|events| std::mem::take(&mut *events.lock())).unwrap_or_default()
    }
}

struct Order {
    revival: Revival,
    told: Option<Told>,
    /// There was no room for more.
    refused: bool,
    /// Of the parts that were looked at.
    revived: Revived,
    /// Each of them, if that is wanted.
    sockets: Option<Vec<RevivedSocket>>,
}

/// How many sockets wait for their second look.
#[derive(Debug)]
struct Waiting {
    sockets: Arc<AtomicU64>,
    /// The same, for the next service if this one is killed.
    pinned: Mutex<Option<RevivingCount>>,
}

impl Waiting {
    /// So many more; returns how many there were.
    fn add(&self, sockets: u64) -> u64 {
        let before = self.sockets.fetch_add(sockets, Ordering::AcqRel);
        self.pin();
        before
    }

    /// So many fewer.
    fn done(&self, sockets: u64) {
        self.sockets.fetch_sub(sockets, Ordering::AcqRel);
        self.pin();
    }

    fn pin(&self) {
        if let Some(pinned) = &*self.pinned.lock()
            && let Err(e) = pinned.set(self.sockets.load(Ordering::Acquire))
        {
            tracing::warn!("the next service will not know how many sockets wait for a second look: {e}");
        }
    }
}

impl Order {
    /// Nobody looks again at what is left of it.
    fn lose(&mut self) {
        for part in std::mem::take(&mut self.revival.parts) {
            part.victims.iter().for_each(|victim| self.add(victim, Connected::Lost, None));
        }
    }

    fn add(&mut self, victim: &Victim, end: Connected, to: Option<Backend>) {
        self.revived.add(end);
        if let Some(sockets) = &mut self.sockets {
            let to = to.filter(|_| end == Connected::Done);
            sockets.push(RevivedSocket { socket: tuple(victim), end, to });
        }
    }
}

/// What a [`Reviver`] takes on.
#[derive(Debug)]
pub(crate) struct RevivingLimits {
    /// How many sockets may wait for their second look.
    pub(crate) most: u64,
    /// Where the next service finds how many there were; none without pins.
    pub(crate) pinned: Option<RevivingCount>,
}

/// The thread that looks again.
#[derive(Debug)]
pub(crate) struct Reviver {
    /// `None` when it is to end.
    orders: Option<Sender<Order>>,
    waiting: Arc<Waiting>,
    /// How many may wait.
    most: u64,
    /// Every socket is to be named.
    named: bool,
    thread: Option<JoinHandle<()>>,
}

impl Reviver {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`EngineError`] with the errno of making it.
    pub(crate) fn start(
        index: &Index,
        monitor: Monitor,
        events: RevivedEvents,
        deleted: Deleted,
        limits: RevivingLimits,
    ) -> Result<Self, EngineError> {
        let (orders, ordered) = unbounded();
        let RevivingLimits { most, pinned } = limits;
        let waiting = Arc::new(Waiting { sockets: Arc::default(), pinned: Mutex::new(pinned) });
        let (sent, connector) = (index.sent_looker()?, Connector::new(index)?);
        let named = events.is_on();
        let state = State { sent, monitor, connector, waiting: Arc::clone(&waiting), events, deleted };
        let thread =
            thread::Builder::new().name("skreap-revive".to_owned()).spawn(move || state.serve(&ordered));
        let what = "cannot start the thread that revives".to_owned();
        let thread = thread.map_err(|source| EngineError::Io { what, source })?;
        Ok(Self { orders: Some(orders), waiting, most, named, thread: Some(thread) })
    }

    /// Looks again at these when it is time, and calls `told` afterwards.
    pub(crate) fn order(&self, revival: Revival, told: Option<Told>) {
        let more = revival.sockets();
        let refused = self.waiting.add(more).saturating_add(more) > self.most;
        if refused {
            tracing::warn!(
                id = %revival.id,
                "{more} destroyed sockets are not looked at again, as {} may wait for that: what their owners do not \
                 connect again has no peer; choose a shorter after_ms",
                self.most
            );
        }
        if let Some(orders) = &self.orders {
            // The thread ends when it can get no more orders.
            let sockets = self.named.then(Vec::new);
            let _ = orders.send(Order { revival, told, refused, revived: Revived::default(), sockets });
        }
    }

    pub(crate) fn has_waiting(&self) -> bool {
        self.waiting.sockets.load(Ordering::Acquire) > 0
    }

    /// Sockets that wait for their second look.
    pub(crate) fn waiting(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.waiting.sockets)
    }
}

impl Drop for Reviver {
    /// What still waits is told to be lost.
    fn drop(&mut self) {
        self.orders = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that revives sockets panicked");
        }
    }
}

struct State {
    sent: SentLooker,
    monitor: Monitor,
    connector: Connector,
    waiting: Arc<Waiting>,
    events: RevivedEvents,
    deleted: Deleted,
}

impl State {
    fn serve(mut self, ordered: &Receiver<Order>) {
        let mut orders: Vec<Order> = Vec::new();
        loop {
            let due = orders.iter().filter_map(|order| order.revival.due()).min();
            let until = due.unwrap_or_else(|| Instant::now() + IDLE);
            match ordered.recv_deadline(until) {
                Ok(mut order) => {
                    if order.refused {
                        order.lose();
                        self.tell(order);
                    } else {
                        orders.push(order);
                    }
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            for order in &mut orders {
                for part in order.revival.take_due() {
                    self.revive(order, &part);
                }
            }
            for order in orders.extract_if(.., |order| order.revival.due().is_none()) {
                self.tell(order);
            }
        }
        for mut order in orders {
            tracing::warn!(
                id = %order.revival.id,
                "{} destroyed sockets are not looked at again, as the service ends: what their owners do not connect \
                 again has no peer",
                order.revival.sockets()
            );
            order.lose();
            self.tell(order);
        }
    }

    fn tell(&self, order: Order) {
        let Order { revival, told, mut revived, sockets, .. } = order;
        revived.after_ns = nanos(revival.destroyed.elapsed());
        tracing::info!(
            id = %revival.id, sockets = revived.sockets, revived = revived.revived, healed = revived.healed,
            closed = revived.closed, failed = revived.all_failed(), "looked again at destroyed sockets"
        );
        self.monitor.revived(&revived);
        if let (Some(events), Some(sockets)) = (&self.events.0, sockets) {
            events.lock().push(RevivedEvent { id: revival.id, revived: revived.clone(), sockets });
        }
        // Whoever sees that nothing waits sees what came of it as well.
        self.waiting.done(revived.sockets);
        if let Some(told) = told {
            told(revived);
        }
    }

    fn revive(&mut self, order: &mut Order, part: &Part) {
        let (mut wanted, mut victims) = (Vec::with_capacity(part.victims.len()), Vec::new());
        order.revival.gone.extend(self.deleted.since(order.revival.destroyed));
        let mut to = part.how.to.without(&order.revival.gone);
        for victim in &part.victims {
            match self.look(victim, &mut to) {
                Ok(one) => {
                    wanted.push(one);
                    victims.push(victim);
                }
                Err(end) => order.add(victim, end, None),
            }
        }
        if wanted.is_empty() {
            return;
        }
        let ends = self.connector.run(&wanted).unwrap_or_else(|e| {
            tracing::warn!(id = %order.revival.id, "cannot revive {} sockets: {e}", wanted.len());
            vec![Connected::Failed(libc::EOPNOTSUPP); wanted.len()]
        });
        for ((victim, one), end) in victims.into_iter().zip(&wanted).zip(ends) {
            order.add(victim, self.explain(one, end), Some(one.to));
        }
    }

    /// What is to be connected, or what is known of it already.
    fn look(&self, victim: &Victim, to: &mut Directions) -> Result<Wanted, Connected> {
        let only_look = match self.sent.look(victim.cookie()) {
            Ok(Sent::Never) => false,
            // Closed; or the index had no room for it, and it may have sent to an address.
            Ok(Sent::Gone) => true,
            Ok(Sent::Perhaps) => return Err(Connected::Changed),
            Err(e) => {
                tracing::warn!("cannot look up the record of a socket: {e}");
                return Err(Connected::Failed(libc::EIO));
            }
        };
        let to = to.of(victim.peer().ip(), victim.cookie()).ok_or(Connected::Nowhere)?;
        let wanted = Wanted { only_look, ..Wanted::new(victim, to) };
        Ok(Wanted { connected: false, bind_to: bound_to(victim), ..wanted })
    }

    /// No process had it open: it may have been closed in the meantime.
    fn explain(&self, wanted: &Wanted, end: Connected) -> Connected {
        let is_closed = || matches!(self.sent.look(wanted.cookie), Ok(Sent::Gone));
        if end == Connected::Unreachable && is_closed() { Connected::Closed } else { end }
    }
}

/// The interface that the program has bound the socket to (`SO_BINDTODEVICE`); 0: none. A connect to a link-local address
/// binds a socket to its link, as long as it has that peer: that is nobody's choice for another peer.
fn bound_to(victim: &Victim) -> u32 {
    let by_its_peer = match victim.daddr() {
        IpAddr::V6(peer) => peer.is_unicast_link_local(),
        IpAddr::V4(_) => false,
    };
    if by_its_peer { 0 } else { victim.ifindex() }
}
