//! What is to be done about a backend.

use std::time::Duration;

use skreap_core::Backend;

use super::action::Action;
use super::change::Name;

/// Whose sockets are concerned.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Clients {
    /// All that are connected to the backend.
    All,
    /// Those of them that have named one of these frontends.
    Through(Vec<Backend>),
}

/// A backend is gone, or has left a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The backend.
    pub backend: Backend,
    /// Whose sockets are concerned.
    pub clients: Clients,
    /// What is done to them.
    pub action: Action,
    /// Where they are connected to, if the action does that.
    pub to: Option<Backend>,
    /// The Service it has left, or one of those it was in.
    pub service: Option<Name>,
    /// When the change was received.
    pub since: Duration,
}
