//! Actions: what an event does with its victims, besides destroying them.

use std::collections::HashSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize, Serializer};

use crate::backend::{Backend, Protocol};
use crate::limits::MAX_BACKENDS;
use crate::text::names;

/// Milliseconds from the destroy to the revive, if nothing is said.
pub const REVIVE_AFTER_MS: u32 = 3000;
/// Longest time from the destroy to the revive: an hour.
pub const REVIVE_AFTER_MAX_MS: u32 = 3_600_000;

/// Ports of protocols whose two ends share state: HTTP/3 and other QUIC (443), DNS over TLS and QUIC (853), STUN and TURN
/// (3478), IPsec through NAT (4500), CoAP (5683, 5684). A client that is connected to another server there goes on
/// talking without any error, and without an answer.
pub const STATEFUL_PORTS: [u16; 6] = [443, 853, 3478, 4500, 5683, 5684];

/// The fields beside `action`, each with the actions that take it.
pub const ACTION_FIELDS: [(&str, &[ActionName]); 6] = [
    ("to", &[ActionName::Revive, ActionName::Move]),
    ("spread", &[ActionName::Revive, ActionName::Move]),
    ("force", &[ActionName::Revive, ActionName::Move]),
    ("after_ms", &[ActionName::Revive]),
    ("tcp", &[ActionName::Move]),
    ("else", &[ActionName::Move]),
];

/// What is done with the victims of an event. On the wire the field `action` of the event, with the fields of each
/// variant beside it: `{…,"action":"revive","to":"udp://10.0.0.2:53"}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "action", rename_all = "lowercase")]
pub enum VictimAction {
    /// They are destroyed.
    #[default]
    Destroy,
    /// They are destroyed, and UDP sockets that have no peer some time later are connected to a living backend.
    Revive(Revive),
    /// UDP sockets are connected to a living backend in place of the destroy.
    Move(Move),
    /// They are counted only.
    None,
}

/// What is done with the victims of an event, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ActionName {
    /// They are destroyed.
    Destroy,
    /// They are destroyed, and UDP sockets that have no peer some time later are connected to a living backend.
    Revive,
    /// UDP sockets are connected to a living backend in place of the destroy.
    Move,
    /// They are counted only.
    None,
}

/// A second look at destroyed sockets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Revive {
    /// Where they are connected to.
    #[serde(flatten)]
    pub to: Destinations,
    /// Milliseconds from the destroy to the revive.
    #[serde(skip_serializing_if = "is_usual_wait")]
    pub after_ms: u32,
}

/// Another peer in place of the destroy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Move {
    /// Where they are connected to.
    #[serde(flatten)]
    pub to: Destinations,
    /// What is done with TCP sockets, which cannot be moved.
    #[serde(skip_serializing_if = "Instead::is_destroy")]
    pub tcp: Instead,
    /// What is done with UDP sockets that could not be moved.
    #[serde(rename = "else", skip_serializing_if = "Instead::is_destroy")]
    pub otherwise: Instead,
}

/// What is done with a socket that cannot be moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Instead {
    /// It is destroyed.
    #[default]
    Destroy,
    /// It is left alone.
    Spare,
}

/// Which of several destinations a socket is connected to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Spread {
    /// One after the other.
    #[default]
    Even,
    /// By the cookie of the socket: one socket always has the same destination.
    Cookie,
}

/// Living backends, or the virtual address in front of them, which a load balancer then translates as usual.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Destinations {
    #[serde(rename = "to", serialize_with = "one_or_several")]
    backends: Vec<Backend>,
    #[serde(skip_serializing_if = "Spread::is_even")]
    spread: Spread,
    /// Also to and from [`STATEFUL_PORTS`].
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    force: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_usual_wait(after_ms: &u32) -> bool {
    *after_ms == REVIVE_AFTER_MS
}

fn one_or_several<S: Serializer>(backends: &[Backend], serializer: S) -> Result<S::Ok, S::Error> {
    match backends {
        [one] => one.serialize(serializer),
        several => several.serialize(serializer),
    }
}

names!(ActionName, "an action", Destroy => "destroy", Revive => "revive", Move => "move", None => "none");

names!(Instead, "what is done instead", Destroy => "destroy", Spare => "spare");

impl Instead {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    const fn is_destroy(&self) -> bool {
        matches!(self, Self::Destroy)
    }
}

names!(Spread, "a spread", Even => "even", Cookie => "cookie");

impl Spread {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    const fn is_even(&self) -> bool {
        matches!(self, Self::Even)
    }
}

impl VictimAction {
    /// Its name.
    pub const fn name(&self) -> ActionName {
        match self {
            Self::Destroy => ActionName::Destroy,
            Self::Revive(_) => ActionName::Revive,
            Self::Move(_) => ActionName::Move,
            Self::None => ActionName::None,
        }
    }

    /// Where sockets are connected to.
    pub const fn to(&self) -> Option<&Destinations> {
        match self {
            Self::Revive(revive) => Some(&revive.to),
            Self::Move(to_move) => Some(&to_move.to),
            Self::Destroy | Self::None => None,
        }
    }

    /// True if TCP sockets are destroyed.
    pub fn destroys_tcp(&self) -> bool {
        match self {
            Self::Destroy | Self::Revive(_) => true,
            Self::Move(to_move) => to_move.tcp == Instead::Destroy,
            Self::None => false,
        }
    }

    /// True if the sockets of this deleted backend are destroyed all the same: they, or those that they would be connected
    /// to, have one of [`STATEFUL_PORTS`], and nothing forces it.
    pub fn spares_state_of(&self, backend: &Backend) -> bool {
        let stateful = |to: &Destinations| is_stateful(backend) || to.backends.iter().any(is_stateful);
        backend.protocol() == Protocol::Udp && self.to().is_some_and(|to| !to.force && stateful(to))
    }

    /// Checks that the sockets of these deleted backends have somewhere to go.
    ///
    /// # Errors
    /// [`ActionError`] names the backend at fault.
    pub fn check(&self, gone: &[Backend]) -> Result<(), ActionError> {
        let Some(to) = self.to() else {
            return Ok(());
        };
        let all: HashSet<Backend> = gone.iter().map(|backend| backend.without_zone()).collect();
        if let Some(deleted) = to.backends.iter().find(|backend| all.contains(backend)) {
            return Err(ActionError::Deleted(*deleted));
        }
        if !gone.is_empty() && gone.iter().all(|backend| backend.protocol() == Protocol::Tcp) {
            return Err(ActionError::NoUdp(to.backends[0]));
        }
        let udp = || gone.iter().filter(|backend| backend.protocol() == Protocol::Udp);
        if let Some(backend) = udp().chain(&to.backends).find(|backend| !to.force && is_stateful(backend)) {
            return Err(ActionError::Stateful { backend: *backend, action: self.name() });
        }
        let fits = |backend: &&Backend| to.backends.iter().any(|to| same_family(to.addr(), backend.addr()));
        udp().find(|backend| !fits(backend)).map_or(Ok(()), |left| Err(ActionError::Family(*left)))
    }
}

/// True if it has one of [`STATEFUL_PORTS`].
pub(crate) fn is_stateful(backend: &Backend) -> bool {
    STATEFUL_PORTS.contains(&backend.port())
}

fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

impl Destinations {
    /// Checks that every destination is a UDP backend that any socket of its family can be connected to.
    ///
    /// # Errors
    /// [`ActionError`] names the one at fault.
    pub fn new(backends: Vec<Backend>, spread: Spread) -> Result<Self, ActionError> {
        if backends.is_empty() {
            return Err(ActionError::Nowhere);
        }
        if backends.len() > MAX_BACKENDS {
            return Err(ActionError::TooMany(backends.len()));
        }
        for backend in &backends {
            if backend.protocol() != Protocol::Udp {
                return Err(ActionError::NotUdp(*backend));
            }
            if backend.is_link_local() {
                return Err(ActionError::LinkLocal(*backend));
            }
        }
        Ok(Self { backends, spread, force: false })
    }

    /// The same destinations, also to and from [`STATEFUL_PORTS`] if `force`.
    #[must_use]
    pub fn forced(self, force: bool) -> Self {
        Self { force, ..self }
    }

    /// True if state that the two ends share is no obstacle.
    pub const fn is_forced(&self) -> bool {
        self.force
    }

    /// The destinations as they were given.
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// Those that are not in `gone`, for the sockets of one event.
    pub fn without(&self, gone: &HashSet<Backend>) -> Directions {
        let mut directions = Directions { spread: self.spread, v4: Turns::default(), v6: Turns::default() };
        for to in self.backends.iter().filter(|to| !gone.contains(*to)) {
            directions.of_family(to.addr()).backends.push(*to);
        }
        directions
    }
}

/// The living destinations, and whose turn it is: see [`Destinations::without`].
#[derive(Clone, Debug)]
pub struct Directions {
    spread: Spread,
    v4: Turns,
    v6: Turns,
}

/// Destinations of one family. Each family has turns of its own: sockets of two families may come alternately.
#[derive(Clone, Debug, Default)]
struct Turns {
    backends: Vec<Backend>,
    next: usize,
}

impl Directions {
    const fn of_family(&mut self, addr: IpAddr) -> &mut Turns {
        if addr.is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }

    /// The destination of the socket with this cookie, whose peer was `from`; `None` if there is none of its family.
    pub fn of(&mut self, from: IpAddr, cookie: u64) -> Option<Backend> {
        let spread = self.spread;
        let Turns { backends, next } = self.of_family(from);
        let turn = match spread {
            Spread::Even => {
                *next = next.wrapping_add(1);
                next.wrapping_sub(1)
            }
            // Cookies are a counter: neighbours would share a destination without the multiplication (Knuth's).
            Spread::Cookie => usize::try_from(cookie.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).ok()?,
        };
        backends.get(turn.checked_rem(backends.len())?).copied()
    }
}

/// Why sockets cannot be revived or moved as asked, and what to write instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ActionError {
    /// No destination.
    #[error("\"to\" is empty; write a living backend, such as \"udp://10.0.0.2:53\"")]
    Nowhere,
    /// Too many destinations.
    #[error("\"to\" has {0} entries; write at most {MAX_BACKENDS}")]
    TooMany(usize),
    /// A destination of another protocol.
    #[error("{0} is no UDP backend, and only UDP sockets are revived or moved; write udp://…")]
    NotUdp(Backend),
    /// A link-local destination.
    #[error(
        "{0} is link-local, and every link may have a host of that address; write another living backend"
    )]
    LinkLocal(Backend),
    /// A destination that is deleted by the same event.
    #[error("{0} is deleted by this event; write a living backend")]
    Deleted(Backend),
    /// A port of a protocol whose two ends share state.
    #[error(
        "{backend}: port {} is one of a protocol whose two ends share state, and a client that is connected to another server goes on without any error and without an answer; leave \"action\" out, or add \"force\":true (--force) to {action} all the same",
        .backend.port()
    )]
    Stateful {
        /// Deleted, or a destination.
        backend: Backend,
        /// What was to be done.
        action: ActionName,
    },
    /// No deleted backend is of the destination's protocol.
    #[error(
        "{0} is a UDP backend, and all deleted ones are TCP, whose sockets can only be destroyed; leave \"action\" out"
    )]
    NoUdp(Backend),
    /// A destination whose sockets the event selects.
    #[error(
        "{0} is selected by the event itself: what is connected to it would be destroyed; add it to \"except\" (--except-to), or write another living backend"
    )]
    Selected(Backend),
    /// A deleted backend without a destination of its family.
    #[error(
        "the sockets of {0} have no destination of their address family; write one, or send an event of its own for it"
    )]
    Family(Backend),
}

#[cfg(test)]
mod tests;
