//! The changes that a source reports, typed, without I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use skreap_core::Backend;

use super::action::Action;

/// Name of an object: `namespace/name` in Kubernetes, the key in etcd.
pub type Name = Arc<str>;

/// The two kinds of objects, each with a list and a watch of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Sets of backends.
    Slices,
    /// What clients call the backends by.
    Services,
}

/// What is said of one endpoint; absent where nothing is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Conditions {
    /// Load balancers may choose it. True for every endpoint of a Service that publishes addresses that are not ready.
    pub ready: Option<bool>,
    /// It works, whether it terminates or not.
    pub serving: Option<bool>,
    /// Its deletion has begun. That does not say that it ends soon.
    pub terminating: Option<bool>,
}

/// A backend in a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Address, port and protocol.
    pub backend: Backend,
    /// Name of the Service's port that leads to it; empty if it has none.
    pub port: Name,
    /// Its conditions.
    pub conditions: Conditions,
    /// Who it is: two backends of one address, one after the other, differ in this. Unknown if `None`.
    pub instance: Option<Name>,
}

/// A set of backends. An address may be in several slices at a time, or twice in one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// The Service it belongs to. The backends of a slice without one are alive, and nobody's.
    pub service: Option<Name>,
    /// Its backends.
    pub members: Vec<Member>,
}

/// What clients call backends by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// The frontends of each port, by the port's name.
    pub frontends: BTreeMap<Name, Vec<Backend>>,
    /// What is to be done when a backend has left; the default of the command line if `None`.
    pub action: Option<Action>,
    /// Only clients of its frontends are concerned, also when the backend is gone everywhere.
    pub only_its_clients: bool,
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A slice.
    Slice(Slice),
    /// A Service.
    Service(Service),
}

impl Object {
    /// Its kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Slice(_) => Kind::Slices,
            Self::Service(_) => Kind::Services,
        }
    }
}

/// One thing that a watch has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A list begins. Nothing is forgotten before it is complete; an unfinished list before it never was.
    ListBegun(Kind),
    /// One object of the list.
    Listed(Name, Object),
    /// An object that was listed is gone before the list is complete.
    Unlisted(Kind, Name),
    /// The list is complete: what it does not name does not exist.
    ListComplete(Kind),
    /// The object is there, or has changed.
    Put(Name, Object),
    /// The object is gone.
    Gone(Kind, Name),
    /// The watch has broken: what is not heard of since says nothing.
    Lost(Kind),
    /// The watch goes on where it broke, and reports what it has missed.
    Resumed(Kind),
}
