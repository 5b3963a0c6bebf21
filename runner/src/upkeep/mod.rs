//! Keeps the index right while the machine changes: the search for pre-existing sockets, the order of the hooks, healing,
//! audits.

pub mod audit;
pub mod bootstrap;
mod first_order;
pub(crate) mod heal;
pub mod hook_order;
pub(crate) mod revive;
