//! The result of one victim.

use crate::event::Event;
use crate::revived::Connected;
use crate::socket::SocketTuple;

/// An event as it was sent, and what came of each of its victims.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Results {
    /// The event.
    pub event: Event,
    /// Its victims, but for those that their owners closed first.
    pub sockets: Vec<SocketResult>,
    /// Nanoseconds from its arrival to its confirmation, which the report's phases leave out; 0 if it did not wait for one.
    pub unconfirmed_ns: u64,
}

impl Results {
    /// An event, and what came of its victims.
    pub const fn new(event: Event, sockets: Vec<SocketResult>) -> Self {
        Self { event, sockets, unconfirmed_ns: 0 }
    }
}

/// One victim of an event, and what came of it. Not part of a report's wire form.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SocketResult {
    /// The socket, with whose it is as far as that was found before the event.
    pub socket: SocketTuple,
    /// What came of it.
    pub result: SocketEnd,
    /// Nanoseconds from the arrival of the event, or from its confirmation if it has waited for one.
    pub after_ns: u64,
}

/// What came of a victim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SocketEnd {
    /// It was destroyed.
    Destroyed,
    /// It could not be destroyed: positive error number.
    Failed(i32),
    /// It was not tried: the event had too many victims.
    Refused,
    /// It was to be moved, and was not destroyed afterwards.
    Moved(Connected),
}

impl SocketResult {
    /// A victim, and what came of it.
    pub const fn new(socket: SocketTuple, result: SocketEnd, after_ns: u64) -> Self {
        Self { socket, result, after_ns }
    }
}
