//! What a service is seen to do: written by the reaper, upkeep and the service, read by those who ask.

pub mod listing;
pub mod monitor;
pub(crate) mod observer;
pub mod status;
