//! The second look at destroyed UDP sockets: whichever still has no peer is connected to a living backend.
//!
//! A program that answers an error by connecting again is well within milliseconds. One that never does would send into
//! nothing for ever. So some seconds after the destroy its socket is given a peer, unless its owner has done so, has closed
//! it, or goes on with it by sending to addresses.
//!
//! All of this happens on a thread of its own, and none of it waits for the owner of a socket for long (`engine/connect`).

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use skreap_bpf::{Index, Sent, SentLooker, Victim};
use skreap_core::{Backend, Connected, Revive, Revived, Reviving, nanos};

use crate::engine::EngineError;
use crate::engine::connect::{Connector, Wanted};
use crate::observe::monitor::Monitor;

/// With nothing to revive the thread wakes up this seldom.
const IDLE: Duration = Duration::from_secs(3600);

/// Called with what came of the sockets of one event.
pub type Told = Box<dyn FnOnce(Revived) + Send>;

/// The destroyed sockets of one event.
#[derive(Debug)]
pub struct Revival {
    id: String,
    victims: Vec<Victim>,
    how: Revive,
    /// Backends that are no destinations.
    gone: HashSet<Backend>,
    destroyed: Instant,
}

impl Revival {
    /// Of what has just been destroyed; `None` if that is nothing.
    pub(crate) fn new(id: &str, mut victims: Vec<Victim>, how: &Revive, gone: &[Backend]) -> Option<Self> {
        // One after the other, whatever order they were found in.
        victims.sort_unstable_by_key(Victim::cookie);
        let gone = gone.iter().map(|backend| backend.without_zone()).collect();
        let (id, how, destroyed) = (id.to_owned(), how.clone(), Instant::now());
        (!victims.is_empty()).then_some(Self { id, victims, how, gone, destroyed })
    }

    /// What the report of the event says of it.
    pub(crate) fn announced(&self) -> Reviving {
        Reviving { sockets: self.victims.len() as u64, after_ms: self.how.after_ms }
    }

    fn due(&self) -> Instant {
        self.destroyed + Duration::from_millis(self.how.after_ms.into())
    }

    /// What is told of it if nobody can look.
    pub(crate) fn lost(&self) -> Revived {
        self.all(Connected::Lost)
    }

    /// With the same end for all.
    fn all(&self, end: Connected) -> Revived {
        let mut revived = Revived::default();
        self.victims.iter().for_each(|_| revived.add(end));
        revived
    }
}

struct Order {
    revival: Revival,
    told: Option<Told>,
}

/// The thread that looks again.
#[derive(Debug)]
pub(crate) struct Reviver {
    /// `None` when it is to end.
    orders: Option<Sender<Order>>,
    waiting: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Reviver {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`EngineError`] with the errno of making it.
    pub(crate) fn start(index: &Index, monitor: Monitor) -> Result<Self, EngineError> {
        let (orders, ordered) = unbounded();
        let waiting = Arc::new(AtomicU64::new(0));
        let (sent, connector) = (index.sent_looker()?, Connector::new(index)?);
        let state = State { sent, monitor, connector, waiting: Arc::clone(&waiting) };
        let thread =
            thread::Builder::new().name("skreap-revive".to_owned()).spawn(move || state.serve(&ordered));
        let what = "cannot start the thread that revives".to_owned();
        let thread = thread.map_err(|source| EngineError::Io { what, source })?;
        Ok(Self { orders: Some(orders), waiting, thread: Some(thread) })
    }

    /// Looks again at these when it is time, and calls `told` afterwards.
    pub(crate) fn order(&self, revival: Revival, told: Option<Told>) {
        self.waiting.fetch_add(revival.victims.len() as u64, Ordering::AcqRel);
        if let Some(orders) = &self.orders {
            // The thread ends when it can get no more orders.
            let _ = orders.send(Order { revival, told });
        }
    }

    pub(crate) fn has_waiting(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Sockets that wait for their second look.
    pub(crate) fn waiting(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.waiting)
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
    waiting: Arc<AtomicU64>,
}

impl State {
    fn serve(mut self, ordered: &Receiver<Order>) {
        let mut orders: Vec<Order> = Vec::new();
        loop {
            let due = orders.iter().map(|order| order.revival.due()).min();
            let until = due.unwrap_or_else(|| Instant::now() + IDLE);
            match ordered.recv_deadline(until) {
                Ok(order) => {
                    orders.push(order);
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let now = Instant::now();
            for order in orders.extract_if(.., |order| order.revival.due() <= now) {
                let revived = self.revive(&order.revival);
                self.tell(order, revived);
            }
        }
        for order in orders {
            let lost = order.revival.lost();
            tracing::warn!(
                id = %order.revival.id,
                "{} destroyed sockets are not looked at again, as the service ends: what their owners do not connect \
                 again has no peer",
                lost.sockets
            );
            self.tell(order, lost);
        }
    }

    fn tell(&self, order: Order, mut revived: Revived) {
        revived.after_ns = nanos(order.revival.destroyed.elapsed());
        self.waiting.fetch_sub(revived.sockets, Ordering::AcqRel);
        tracing::info!(
            id = %order.revival.id, sockets = revived.sockets, revived = revived.revived, healed = revived.healed,
            closed = revived.closed, failed = revived.all_failed(), "looked again at destroyed sockets"
        );
        self.monitor.revived(&revived);
        if let Some(told) = order.told {
            told(revived);
        }
    }

    fn revive(&mut self, revival: &Revival) -> Revived {
        let mut revived = Revived::default();
        let mut wanted = Vec::with_capacity(revival.victims.len());
        let mut turn = 0;
        for victim in &revival.victims {
            match self.look(victim, revival, &mut turn) {
                Ok(one) => wanted.push(one),
                Err(end) => revived.add(end),
            }
        }
        if wanted.is_empty() {
            return revived;
        }
        match self.connector.run(&wanted) {
            Ok(ends) => {
                for (one, end) in wanted.iter().zip(ends) {
                    revived.add(self.explain(one, end));
                }
            }
            Err(e) => {
                tracing::warn!(id = %revival.id, "cannot revive {} sockets: {e}", wanted.len());
                wanted.iter().for_each(|_| revived.add(Connected::Failed(libc::EOPNOTSUPP)));
            }
        }
        revived
    }

    /// What is to be connected, or what is known of it already.
    fn look(&self, victim: &Victim, revival: &Revival, turn: &mut usize) -> Result<Wanted, Connected> {
        match self.sent.look(victim.cookie()) {
            Ok(Sent::Never) => {}
            Ok(Sent::Gone) => return Err(Connected::Closed),
            Ok(Sent::Perhaps) => return Err(Connected::Changed),
            Err(e) => {
                tracing::warn!("cannot look up the record of a socket: {e}");
                return Err(Connected::Failed(libc::EIO));
            }
        }
        let was = SocketAddr::new(victim.daddr().to_canonical(), victim.dport());
        let to = revival.how.to.of(was.ip(), victim.cookie(), &revival.gone, turn);
        let to = to.ok_or(Connected::Nowhere)?;
        Ok(Wanted { cookie: victim.cookie(), was, connected: false, to, ifindex: victim.ifindex() })
    }

    /// No process had it open: it may have been closed in the meantime.
    fn explain(&self, wanted: &Wanted, end: Connected) -> Connected {
        let is_closed = || matches!(self.sent.look(wanted.cookie), Ok(Sent::Gone));
        if end == Connected::Unreachable && is_closed() { Connected::Closed } else { end }
    }
}
