//! What becomes of three kinds of clients when their server is deleted, for each action.
//!
//! Each kind has a server of its own, which freezes as a machine that hangs, and is deleted a moment later; and another one
//! where a new `connect()` leads, as behind a load balancer. All clients are real processes with one connected UDP socket.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::Serialize;

use skreap::choice::EngineChoice;
use skreap::core::{
    ActionName, Backend, Destinations, EngineName, Event, Instead, Move, Protocol, Revive, Spread,
    VictimAction,
};
use skreap::source::Stop;
use skreap::{Reaper, probe};
use skreap_testbed::{self as testbed, Cgroup, Client, Echo, Family, Mode, Netns, OpenSpec, SpawnOptions};

use super::step::go_on;

/// From the freeze of the server to its deletion.
const FROZEN: Duration = Duration::from_millis(300);
/// How long clients are watched after the deletion, beside the time to a second look.
const WATCHED: Duration = Duration::from_secs(4);
/// How long the one that asks waits for an answer, before it asks again.
const ASKS_AGAIN_MS: u64 = 2000;
/// How long the one that waits hears nothing, before it says again that it is there.
const WAITS_MS: u64 = 3000;
/// From one question, and from one message, to the next.
const ASKS_EACH: Duration = Duration::from_millis(50);
const TELLS_EACH: Duration = Duration::from_millis(20);

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Asks, and after an error asks again at once, on a new connection: a resolver.
    Asks,
    /// Tells, ignores errors and never connects again: logs, metrics, flows.
    Tells,
    /// Has said that it is there, and waits to be told; after an error it says so again, on a new connection: an observer.
    Waits,
}

const KINDS: [Kind; 3] = [Kind::Asks, Kind::Tells, Kind::Waits];

/// What one client has seen since its server was deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Calls that failed.
    pub errors: u64,
    /// Messages that it sent, or tried to.
    pub sent: u64,
    /// Those of them that no living server has received.
    pub lost: u64,
    /// Nanoseconds until a living server had its message, or it had that one's answer; `None`: not while it was watched.
    pub well_ns: Option<u64>,
}

/// One action.
#[derive(Clone, Debug, Serialize)]
pub struct Healing {
    /// The action.
    pub action: ActionName,
    /// What its client has seen, kind by kind.
    pub asks: Seen,
    /// As above.
    pub tells: Seen,
    /// As above.
    pub waits: Seen,
}

/// All actions that were asked for.
#[derive(Clone, Debug, Serialize)]
pub struct Healings {
    /// Kernel release.
    pub kernel: String,
    /// The engine in use.
    pub engine: EngineName,
    /// Milliseconds from the destroy to the second look.
    pub after_ms: u32,
    /// Each of them, in their order.
    pub actions: Vec<Healing>,
}

/// Watches the clients through one deletion for each action.
pub(super) fn run(
    actions: &[ActionName],
    after_ms: u32,
    engine: EngineChoice,
    stop: &Stop,
) -> anyhow::Result<Healings> {
    testbed::sweep()?;
    let cgroup = Cgroup::create("demo")?;
    let netns = Netns::create("demo-0")?;
    for server in [address(Kind::Asks, 1), address(Kind::Asks, 2)] {
        netns.add_address(server.ip())?;
    }
    let mut reaper = Reaper::builder().bootstrap(false).cgroup(cgroup.path()).engine(engine).build()?;
    let mut done = Vec::new();
    for action in actions {
        go_on(stop)?;
        let play = Play::build(&cgroup, &netns)?;
        let [asks, tells, waits] = play.run(&mut reaper, *action, after_ms)?;
        done.push(Healing { action: *action, asks, tells, waits });
    }
    let engine = reaper.engine();
    Ok(Healings { kernel: probe::kernel_release(), engine, after_ms, actions: done })
}

/// Server 1 is the one that is deleted.
fn address(kind: Kind, server: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 98, 0, server)), 1000 + kind as u16)
}

fn backend(kind: Kind, server: u8) -> anyhow::Result<Backend> {
    let addr = address(kind, server);
    Ok(Backend::new(Protocol::Udp, addr.ip(), addr.port())?)
}

/// One client with its two servers.
struct Scene {
    kind: Kind,
    client: Client,
    socket: u32,
    dead: Echo,
    living: Echo,
    /// When its server was deleted.
    deleted: OnceLock<Instant>,
}

struct Play(Vec<Scene>);

impl Play {
    fn build(cgroup: &Cgroup, netns: &Netns) -> anyhow::Result<Self> {
        let scene = |kind: Kind| -> anyhow::Result<Scene> {
            let start = |server| Echo::start(Protocol::Udp, address(kind, server), &[netns], Mode::Echo);
            let (dead, living) = (start(1)?, start(2)?);
            let options = SpawnOptions { label: "demo-client", cgroup: Some(cgroup), netns: Some(netns) };
            let mut client = Client::spawn(&options)?;
            let socket = client.open(OpenSpec::new(Protocol::Udp, Family::V4))?;
            client.connect(socket, dead.addr())?;
            Ok(Scene { kind, client, socket, dead, living, deleted: OnceLock::new() })
        };
        KINDS.into_iter().map(scene).collect::<anyhow::Result<_>>().map(Self)
    }

    /// What each kind has seen.
    fn run(self, reaper: &mut Reaper, action: ActionName, after_ms: u32) -> anyhow::Result<[Seen; 3]> {
        let mut scenes = self.0;
        let after = if action == ActionName::Revive { after_ms } else { 0 };
        let watched = WATCHED + Duration::from_millis(after.into());
        let seen = thread::scope(|scope| -> anyhow::Result<Vec<Seen>> {
            let mut frozen = Vec::new();
            let mut watching = Vec::new();
            for scene in &mut scenes {
                let Scene { kind, client, socket, dead, living, deleted } = scene;
                let mut owner =
                    Owner { client, socket: *socket, dead, living, deleted, watched, seen: Seen::default() };
                frozen.push((*kind, &*dead, &*deleted));
                let kind = *kind;
                watching.push(scope.spawn(move || owner.watch(kind)));
            }
            // Everybody is well first.
            thread::sleep(FROZEN);
            frozen.iter().for_each(|(_, dead, ..)| dead.set_mode(Mode::Frozen));
            thread::sleep(FROZEN);
            let deletions: Vec<anyhow::Result<()>> = frozen
                .into_iter()
                .map(|(kind, _, deleted)| {
                    // Also where it fails: who watches must come to an end.
                    let _ = deleted.set(Instant::now());
                    delete(reaper, kind, action, after_ms)
                })
                .collect();
            deletions.into_iter().collect::<anyhow::Result<()>>()?;
            watching
                .into_iter()
                .map(|thread| thread.join().ok().context("a thread that watches a client panicked")?)
                .collect()
        })?;
        seen.try_into().ok().context("not three clients")
    }
}

/// Has the server of these clients deleted.
fn delete(reaper: &mut Reaper, kind: Kind, action: ActionName, after_ms: u32) -> anyhow::Result<()> {
    let mut event = Event::deleted(backend(kind, 1)?);
    event.victim_action = Some(to(action, backend(kind, 2)?, after_ms)?);
    let report = reaper.handle(&event);
    let moved = report.moved.as_ref().map_or(0, |moved| moved.moved);
    if report.victims + moved != 1 || report.error.is_some() {
        bail!("{kind:?}: one socket was to be found, and the report is {report:?}");
    }
    Ok(())
}

fn to(action: ActionName, living: Backend, after_ms: u32) -> anyhow::Result<VictimAction> {
    let to = Destinations::new(vec![living], Spread::Even)?;
    let (tcp, otherwise) = (Instead::Destroy, Instead::Destroy);
    Ok(match action {
        ActionName::Destroy => VictimAction::Destroy,
        ActionName::Revive => VictimAction::Revive(Revive { to, after_ms }),
        ActionName::Move => VictimAction::Move(Move { to, tcp, otherwise }),
        ActionName::None => bail!("nothing is done with the sockets; choose destroy, revive or move"),
    })
}

/// What drives one client.
struct Owner<'a> {
    client: &'a mut Client,
    socket: u32,
    dead: &'a Echo,
    living: &'a Echo,
    deleted: &'a OnceLock<Instant>,
    watched: Duration,
    seen: Seen,
}

impl Owner<'_> {
    fn watch(&mut self, kind: Kind) -> anyhow::Result<Seen> {
        match kind {
            Kind::Asks => self.asks(),
            Kind::Tells => self.tells(),
            Kind::Waits => self.waits(),
        }?;
        self.seen.lost = self.seen.sent.saturating_sub(self.living.received());
        Ok(self.seen)
    }

    fn over(&self) -> bool {
        self.deleted.get().is_some_and(|at| at.elapsed() >= self.watched)
    }

    fn is_deleted(&self) -> bool {
        self.deleted.get().is_some()
    }

    /// Everything works again.
    fn well(&mut self) {
        if let Some(at) = self.deleted.get() {
            self.seen.well_ns.get_or_insert(u64::try_from(at.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
    }

    fn send(&mut self) -> bool {
        let deleted = self.is_deleted();
        self.seen.sent += u64::from(deleted);
        let sent = self.client.send_bytes(self.socket, b"x").is_ok();
        self.seen.errors += u64::from(!sent && deleted);
        sent
    }

    /// One answer; `None`: an error, `Some(false)`: none came in time.
    fn answered(&mut self, timeout_ms: u64) -> Option<bool> {
        match self.client.recv(self.socket, timeout_ms) {
            Ok(_) => Some(true),
            Err(e) if e.errno() == Some(libc::EAGAIN) => Some(false),
            Err(_) => {
                self.seen.errors += u64::from(self.is_deleted());
                None
            }
        }
    }

    /// As a load balancer would lead it.
    fn connect(&mut self) -> anyhow::Result<()> {
        let to = if self.is_deleted() { self.living } else { self.dead };
        Ok(self.client.connect(self.socket, to.addr())?)
    }

    fn asks(&mut self) -> anyhow::Result<()> {
        while !self.over() {
            if !self.send() {
                self.connect()?;
                continue;
            }
            match self.answered(ASKS_AGAIN_MS) {
                Some(true) => {
                    if self.living.received() > 0 {
                        self.well();
                    }
                    thread::sleep(ASKS_EACH);
                }
                Some(false) => {}
                None => self.connect()?,
            }
        }
        Ok(())
    }

    fn tells(&mut self) -> anyhow::Result<()> {
        while !self.over() {
            self.send();
            let next = Instant::now() + TELLS_EACH;
            while Instant::now() < next {
                if self.living.received() > 0 {
                    self.well();
                }
                thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    fn waits(&mut self) -> anyhow::Result<()> {
        // Says that it is there.
        self.send();
        self.answered(WAITS_MS);
        while !self.over() {
            match self.answered(WAITS_MS) {
                Some(true) => continue,
                Some(false) => {}
                None => self.connect()?,
            }
            if self.send() && self.answered(WAITS_MS) == Some(true) && self.living.received() > 0 {
                self.well();
            }
        }
        Ok(())
    }
}
