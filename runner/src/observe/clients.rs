//! How many clients there are and were.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Clients of the unix sockets. Shared by all sources of a service.
#[derive(Debug, Default)]
pub struct Clients {
    connected: AtomicU64,
    accepted: AtomicU64,
    refused_uid: AtomicU64,
    refused_full: AtomicU64,
    refused_lines: AtomicU64,
}

/// A snapshot of [`Clients`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ClientCounts {
    /// Connected now.
    pub connected: u64,
    /// Accepted since the start.
    pub accepted: u64,
    /// Refused since the start: user not allowed.
    pub refused_uid: u64,
    /// Sent away since the start: too many clients.
    pub refused_full: u64,
    /// Lines that were no request, of all sources.
    pub refused_lines: u64,
}

/// Why a client is sent away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SentAway {
    Uid,
    Full,
}

impl Clients {
    /// The numbers now.
    #[must_use]
    pub fn counts(&self) -> ClientCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ClientCounts {
            connected: get(&self.connected),
            accepted: get(&self.accepted),
            refused_uid: get(&self.refused_uid),
            refused_full: get(&self.refused_full),
            refused_lines: get(&self.refused_lines),
        }
    }

    pub(crate) fn enter(self: &Arc<Self>) -> Connected {
        self.connected.fetch_add(1, Ordering::Relaxed);
        self.accepted.fetch_add(1, Ordering::Relaxed);
        Connected(Arc::clone(self))
    }

    pub(crate) fn sent_away(&self, why: SentAway) {
        let counter = match why {
            SentAway::Uid => &self.refused_uid,
            SentAway::Full => &self.refused_full,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn line_refused(&self) {
        self.refused_lines.fetch_add(1, Ordering::Relaxed);
    }
}

/// A client counts as connected while this value lives.
#[derive(Debug)]
pub(crate) struct Connected(Arc<Clients>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connected.fetch_sub(1, Ordering::Relaxed);
    }
}
