//! A port, or a range of ports.

use std::fmt;
use std::str::FromStr;

use crate::error::excerpt;
use crate::text::serde_as_text;

/// Ports from the first to the last, both included, such as `8000-9000`; a single port is written as `53`. Never
/// port 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The ports from `first` to `last`, in host byte order.
    ///
    /// # Errors
    /// [`PortsError::Zero`] and [`PortsError::Order`].
    pub fn new(first: u16, last: u16) -> Result<Self, PortsError> {
        match (first, last) {
            (0, _) | (_, 0) => Err(PortsError::Zero),
            _ if first > last => Err(PortsError::Order { first, last }),
            _ => Ok(Self { first, last }),
        }
    }

    /// The first port.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The last port.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// True if the port is one of them.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// The port, if there is only one.
    pub fn single(self) -> Option<u16> {
        (self.first == self.last).then_some(self.first)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.single() {
            Some(port) => port.fmt(f),
            None => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl FromStr for PortRange {
    type Err = PortsError;

    fn from_str(text: &str) -> Result<Self, PortsError> {
        let port = |part: &str| {
            let plain = part.bytes().all(|b| b.is_ascii_digit()) && (part == "0" || !part.starts_with('0'));
            part.parse().ok().filter(|_| plain).ok_or_else(|| PortsError::Syntax(excerpt(text)))
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Self::new(port(first)?, port(last)?)
    }
}

serde_as_text!(PortRange);

/// Why something is not a range of ports, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PortsError {
    /// Neither PORT nor FIRST-LAST.
    #[error("{0} is not a port or a range of ports; write one such as 53 or 8000-9000")]
    Syntax(String),
    /// Port 0.
    #[error("port 0 is that of sockets without a peer; write ports from 1 to 65535")]
    Zero,
    /// Upside down.
    #[error("the range {first}-{last} ends before it begins; write {last}-{first}")]
    Order {
        /// As it was written.
        first: u16,
        /// As it was written.
        last: u16,
    },
}
