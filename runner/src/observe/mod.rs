//! The observable state of a service: written by the reaper, upkeep and the service, read by
//! clients.

pub mod clients;
pub mod listing;
pub mod monitor;
pub(crate) mod observer;
pub mod status;
mod totals;
