//! The forms of an event that all mean the sockets of one backend.

use serde_json::{Value, json};

use crate::worker::{backend_addr, backend_name, refuge};

/// How an event says that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Deleted,
    /// A deletion of those who named the backend itself, which is everybody, and of those of whom that is not known.
    Direct,
    /// By a selector that names one backend, which is a walk of one bucket.
    Exact,
    /// By one that does not, which is a pass over the index.
    Pass,
    Policy,
    /// The sockets of UDP are connected to a backend that lives, at once or a moment after their destroy.
    Move,
    Revive,
}

/// Milliseconds from a destroy to the second look.
const AFTER_MS: u64 = 50;

impl Form {
    /// That of the `n`th event.
    pub fn of(n: u64, protocol: usize, frontends: bool) -> Self {
        match n % 8 {
            2 if protocol == 0 => Self::Move,
            6 if protocol == 0 => Self::Revive,
            1 => Self::Exact,
            3 => Self::Pass,
            5 => Self::Policy,
            7 if frontends => Self::Direct,
            _ => Self::Deleted,
        }
    }

    /// True if a selector says it.
    pub fn selects(self) -> bool {
        matches!(self, Self::Exact | Self::Pass | Self::Policy)
    }

    /// True if it leaves its sockets with a peer.
    pub fn heals(self) -> bool {
        matches!(self, Self::Move | Self::Revive)
    }

    pub fn request(self, id: &str, protocol: usize, backend: usize) -> Value {
        let name = backend_name(protocol, backend);
        let (addr, port) = backend_addr(backend);
        // Nobody is connected to those.
        let others = "192.0.2.0/24";
        let refuge = backend_name(protocol, refuge(backend));
        let protocol = ["udp", "tcp"][protocol];
        let selector = |to: &[&str]| json!({"protocol": protocol, "to": to, "ports": [port]});
        let mut request = match self {
            Self::Deleted => json!({"type": "backend-deleted", "backend": name}),
            Self::Move => {
                json!({"type": "backend-deleted", "backend": name, "action": "move", "to": refuge})
            }
            Self::Revive => json!({"type": "backend-deleted", "backend": name, "action": "revive",
                                   "to": refuge, "after_ms": AFTER_MS}),
            Self::Direct => json!({"type": "backend-deleted", "backend": name, "frontend": "direct",
                                   "unknown_frontend": "destroy"}),
            Self::Exact => json!({"type": "terminate", "where": selector(&[&addr])}),
            Self::Pass => json!({"type": "terminate", "where": selector(&[&addr, others])}),
            Self::Policy => {
                json!({"type": "policy", "where": selector(&[&addr]), "allow": [{"to": [others]}]})
            }
        };
        request["id"] = json!(id);
        request
    }
}

/// True if this kernel can record frontends.
pub fn has_frontends() -> bool {
    skreap::probe::all().features.iter().any(|found| found.feature == "frontends" && found.works)
}

/// A deletion of those who came to the backend through a virtual address that there is not: it may destroy nobody.
pub fn of_nobody(id: &str, protocol: usize, backend: usize) -> Value {
    let protocol_name = ["udp", "tcp"][protocol];
    let host = if backend % 2 == 0 { "127.178.0.1" } else { "[fd78::1]" };
    json!({"id": id, "type": "backend-deleted", "backend": backend_name(protocol, backend),
           "frontend": format!("{protocol_name}://{host}:53")})
}
