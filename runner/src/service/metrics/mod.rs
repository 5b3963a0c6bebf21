//! Metrics for Prometheus, over HTTP.
//!
//! A thread of its own answers each scrape from the data of the [`Monitor`]. It costs the reaper
//! nothing, and a scraper that is slow, or that never ends its request, delays no other for longer
//! than [`DEADLINE`]. `docs/metrics.md` describes each metric.

mod durations;
mod families;
pub(crate) mod http;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use prometheus_client::registry::Registry;

use crate::observe::monitor::Monitor;
use crate::service::source::{Access, Bound, Stop};

/// Default address of the metrics.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:9745";
/// A scrape that is not over by then is given up.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// Concurrent scrapes; one more gets 503.
pub const SCRAPES_MAX: usize = 4;

/// Where metrics are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP address. Every process that can reach it can read the metrics, which name no backend
    /// and no client.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:")
            && !path.is_empty()
        {
            return Ok(Self::Unix(path.into()));
        }
        if let Ok(port) = text.parse() {
            return Ok(Self::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)));
        }
        text.parse()
            .map(Self::Tcp)
            .map_err(|_| format!("write an address and port such as {DEFAULT_ADDRESS}, a port, or unix:PATH"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// Says whether metrics could be served there now, so that a start that must fail does so before anything is attached.
    ///
    /// # Errors
    /// The errno of listening, with the address.
    pub fn check(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => TcpListener::bind(socket).map(drop),
            Self::Unix(path) => Bound::check(path),
        }
        .map_err(|e| self.named(&e))
    }

    fn named(&self, e: &io::Error) -> io::Error {
        io::Error::new(e.kind(), format!("{self}: {e}"))
    }
}

/// A running server of metrics; it ends with its `stop`.
#[derive(Debug)]
pub struct Server {
    thread: thread::JoinHandle<()>,
    address: Address,
}

impl Server {
    /// Listens and serves the metrics of `monitor` until `stop` is given. `access` applies to a
    /// unix socket: owner and mode of the file decide who may read.
    ///
    /// # Errors
    /// The errno of listening, with the address.
    pub fn start(address: &Address, access: &Access, monitor: &Monitor, stop: &Stop) -> io::Result<Self> {
        let named = |e: io::Error| address.named(&e);
        let (listener, address) = match address {
            Address::Tcp(socket) => {
                let listener = TcpListener::bind(socket).map_err(named)?;
                let bound = Address::Tcp(listener.local_addr().map_err(named)?);
                (http::Listener::Tcp(listener), bound)
            }
            Address::Unix(path) => {
                (http::Listener::Unix(Bound::bind(path, access).map_err(named)?), address.clone())
            }
        };
        tracing::info!(%address, "serving metrics");
        let durations = durations::Durations::new();
        let timed = durations.clone();
        monitor.time_events(Box::new(move |phases| timed.observe(phases)));
        let mut registry = Registry::with_prefix("skreap");
        registry.register_collector(Box::new(families::Families::new(monitor.clone(), durations)));
        let stop = stop.clone();
        let thread = thread::Builder::new()
            .name("metrics".to_owned())
            .spawn(move || http::serve(&listener, &Arc::new(registry), &stop))?;
        Ok(Self { thread, address })
    }

    /// Where it listens; with port 0, the port that was given.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Waits until it has ended. Scrapes that are under way are left behind.
    pub fn wait(self) {
        if self.thread.join().is_err() {
            tracing::error!("the server of metrics panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let tcp = |text: &str| Address::Tcp(text.parse().unwrap());
        assert_eq!("9745".parse(), Ok(tcp(DEFAULT_ADDRESS)));
        assert_eq!("[::1]:80".parse(), Ok(tcp("[::1]:80")));
        assert_eq!("unix:/run/m".parse(), Ok(Address::Unix("/run/m".into())));
        for bad in ["", "unix:", "localhost:80", "10.0.0.1", "1.2.3.4:99999"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
