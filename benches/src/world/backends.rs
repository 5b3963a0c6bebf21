//! The backends of a world: ten that live, and the one that will be gone.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use skreap::core::Protocol;
use skreap_testbed::{Echo, Mode, Netns};

/// Port of every backend.
const PORT: u16 = 5353;
/// The backend that the victims are connected to.
pub const GONE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)), PORT);
/// A backend without clients.
pub const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 2)), PORT);
/// How many other backends the other sockets are connected to.
pub const LIVING: u32 = 10;
/// Time limit for the backend to accept its queue.
const PATIENCE: Duration = Duration::from_secs(10);

/// Living backend `number`, of [`LIVING`].
pub const fn living(number: u32) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(living_ip(number)), PORT)
}

const fn living_ip(number: u32) -> Ipv4Addr {
    Ipv4Addr::new(10, 96, 1, 1 + number as u8)
}

/// Every address that a netns needs.
pub fn addresses() -> impl Iterator<Item = Ipv4Addr> {
    (0..LIVING).map(living_ip).chain([Ipv4Addr::new(10, 96, 0, 1)])
}

/// The listeners. UDP needs none: its sockets are connected and nothing is ever sent.
pub struct Backends {
    _living: Vec<Echo>,
    gone: Option<Echo>,
    /// Total of connections that the deleted backend must have accepted.
    expected: u64,
}

impl Backends {
    /// Listens in every netns. All backends are frozen: the kernel completes the handshakes, no
    /// backend accepts, and no thread of this process runs while an engine is measured.
    ///
    /// # Errors
    /// When one cannot listen.
    pub fn start(proto: Protocol, netns: &[Netns]) -> Result<Self> {
        if proto == Protocol::Udp {
            return Ok(Self { _living: Vec::new(), gone: None, expected: 0 });
        }
        let netns: Vec<&Netns> = netns.iter().collect();
        let start = |addr| Echo::start(proto, addr, &netns, Mode::Frozen);
        let living = (0..LIVING).map(|number| start(living(number))).collect::<Result<_>>()?;
        Ok(Self { _living: living, gone: Some(start(GONE)?), expected: 0 })
    }

    /// So many sockets have connected to the backend that will be gone.
    pub fn expect(&mut self, count: u32) {
        self.expected += u64::from(count);
    }

    /// Accepts the connections of closed victims, so that they do not fill the accept queue.
    ///
    /// # Errors
    /// When they do not come.
    pub fn drain(&mut self) -> Result<()> {
        let Some(gone) = &self.gone else { return Ok(()) };
        gone.set_mode(Mode::Silent);
        let deadline = Instant::now() + PATIENCE;
        while gone.accepted() < self.expected {
            if Instant::now() > deadline {
                bail!("{} of {} connections were accepted by {GONE}", gone.accepted(), self.expected);
            }
            thread::sleep(Duration::from_micros(200));
        }
        gone.set_mode(Mode::Frozen);
        Ok(())
    }
}
